// What is kept for inspection: damaged ranges in `quarantine`, and whole journals that could not be read.
// Nothing here is ever read back by the guard, and nothing of it is deleted unless an operator says so.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "guard/env.h"
#include "guard/result.h"

namespace guard::journal {

/// What a recovery and a switch keep of damaged ranges, by name.
struct Quarantine {
  struct Kept {
    std::string name;
    std::uint64_t bytes = 0;
  };
  std::vector<Kept> files;  ///< at most limits::quarantine_listed
  std::uint64_t omitted = 0;
  std::uint64_t bytes = 0;  ///< of all files
};

/// Looks into the quarantine of the journal in `journal`; changes nothing. None is an empty one.
Result<Quarantine> list_quarantine(Directory& journal);

struct Purged {
  std::uint64_t files = 0;
  std::uint64_t bytes = 0;  ///< freed
  std::uint64_t left = 0;   ///< could not be removed
  std::string first_error;  ///< of those
};

/// Removes every file in the quarantine, durably. May run beside a Store that fills it: what is being
/// written at that moment goes, or stays, whole.
Result<Purged> purge_quarantine(Directory& journal);

/// The same for all that a state directory keeps: what its journal does, and files of an imported cache tree,
/// in `quarantine` beside it. Errors: also when there is no journal.
Result<Quarantine> list_quarantines(Directory& state);
Result<Purged> purge_quarantines(Directory& state);

/// Moves the journal of the state directory `state` out of the way, whole and unread: `journal` becomes
/// `journal.set-aside-<UTC>`, where nothing looks for it. Durable on success. The caller holds the lock of
/// the state directory, and no Store is open. Returns the new name. Errors: not_found when there is no
/// `journal`.
Result<std::string> set_aside(Directory& state, std::chrono::system_clock::time_point now);

/// Names of journals that were set aside, oldest first.
Result<std::vector<std::string>> list_set_aside(Directory& state);

}  // namespace guard::journal
