// The state directory: locked by one daemon at a time, home of the journal.
#pragma once

#include <memory>
#include <string>

#include "base/log.h"
#include "guard/env.h"
#include "journal/journal.h"

namespace guard::daemon {

class StateDir {
 public:
  StateDir(std::string path, journal::Options options, Logger& log)
      : path_(std::move(path)), options_(options), log_(log) {}

  /// Opens (creating it if missing) and locks the directory, once; Errc::busy when another process holds the
  /// lock. May be called again after a failure.
  Result<> lock();
  /// lock(), then recovers the journal. May be called again after a failure. Blocks; one thread at a time.
  Result<std::unique_ptr<journal::Store>> open_journal();

 private:
  std::string path_;
  journal::Options options_;
  Logger& log_;
  std::unique_ptr<Directory> dir_;
  std::shared_ptr<void> lock_;
};

}  // namespace guard::daemon
