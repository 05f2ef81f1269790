// `xapi-guardctl journal ...`: a journal as files, without the daemon. Each prints to standard output, says
// what went wrong on standard error, and returns the exit status.
#pragma once

#include <string>

namespace guard::cli {

struct JournalArguments {
  std::string directory;  ///< as find_journal() takes it
  bool records = false;   ///< list every record
};

/// Shows what is in the journal. 0 when it could be read, whatever was found; 3 when it cannot.
int journal_inspect(const JournalArguments& arguments, bool json);
/// Says whether all is as it was written: 0 good, 1 damaged or lost, 3 cannot be read.
int journal_verify(const JournalArguments& arguments, bool json);

}  // namespace guard::cli
