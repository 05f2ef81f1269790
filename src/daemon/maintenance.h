// What operators do to the state directory of a running daemon: look into the quarantine, empty it, set aside
// a journal that cannot be read. The files are touched on the worker thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/log.h"
#include "control/commands.h"
#include "daemon/state_dir.h"
#include "daemon/worker.h"

namespace guard::daemon {

/// Thread: the loop thread. The objects given outlive it; `worker` ends before it.
class Maintenance {
 public:
  using Done = control::Operations::Done;

  Maintenance(StateDir& state_dir, Worker& worker, Logger& log)
      : state_dir_(state_dir), worker_(worker), log_(log) {}

  void quarantine_list(Done done);
  void quarantine_purge(Done done);
  /// Sets the journal of this daemon aside, if `directory` is its state directory and the journal could not
  /// be read so far; the next attempt to open it then begins an empty one.
  void set_journal_aside(const std::string& directory, Done done);

  /// What the quarantine held when it was last looked at, bytes, and what was added since. `added` is the
  /// journal's own count of what it put there; when it has changed a new look is begun.
  std::uint64_t quarantine_bytes(std::uint64_t added);
  /// Looks at once, on the calling thread. Only as long as nothing else here has been called.
  void look_first();

 private:
  void measured(std::uint64_t bytes, std::uint64_t added);
  void look();

  StateDir& state_dir_;
  Worker& worker_;
  Logger& log_;
  bool looked_ = false;
  bool looking_ = false;
  std::uint64_t bytes_ = 0;       ///< as of the last look
  std::uint64_t added_then_ = 0;  ///< the journal's count when that look began
  std::uint64_t added_now_ = 0;
};

}  // namespace guard::daemon
