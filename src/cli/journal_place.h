// Which directory an operator means who names a journal.
#pragma once

#include <memory>
#include <string>

#include "guard/env.h"
#include "guard/result.h"

namespace guard::cli {

/// A journal as named on the command line: the state directory of a daemon, or the directory that holds the
/// files `a` and `b` (also one that was set aside, or a copy).
struct JournalPlace {
  std::string journal;    ///< the directory with the two files
  std::string state_dir;  ///< the state directory it belongs to; empty when it is nobody's `journal`
};

/// Finds out by looking. A directory with an entry `journal` is a state directory; one with `a` or `b` is a
/// journal, and the journal of the directory above it if it is called `journal`; so is anything else called
/// `journal`. Errors: invalid when it has both or neither, not_found when there is nothing.
Result<JournalPlace> find_journal(const std::string& directory);

/// A state directory that nobody uses, and the lock that keeps it so.
struct LockedState {
  std::unique_ptr<Directory> state;
  std::shared_ptr<void> lock;
};
/// Errors: busy when a daemon uses it.
Result<LockedState> lock_state(const std::string& state_dir);

}  // namespace guard::cli
