// Which directory an operator means who names a journal.
#pragma once

#include <string>

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

}  // namespace guard::cli
