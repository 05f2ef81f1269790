// `xapi-guardctl journal ...` and `quarantine ...`: a state directory as files, with and without a daemon.
// Each prints to standard output, says what went wrong on standard error, and returns the exit status.
#pragma once

#include <string>

namespace guard::cli {

struct JournalArguments {
  std::string directory;  ///< as find_journal() takes it
  bool records = false;   ///< list every record
  bool force = false;     ///< set aside although it can be read
};

/// Shows what is in the journal. 0 when it could be read, whatever was found; 3 when it cannot.
int journal_inspect(const JournalArguments& arguments, bool json);
/// Says whether all is as it was written: 0 good, 1 damaged or lost, 3 cannot be read.
int journal_verify(const JournalArguments& arguments, bool json);
/// Moves a journal that cannot be read out of the way (docs/decisions/0017). While a daemon holds the state
/// directory it is the daemon, at `control_socket`, that does it or refuses; else it is done here, under the
/// daemon's lock. 0 done; 1 refused, also because it can be read and holds live entries; 3 cannot.
int journal_set_aside(const JournalArguments& arguments, const std::string& control_socket, bool json);

/// Lists what is kept of damaged ranges: of the daemon at `control_socket`, or, when `directory` is not
/// empty, of that state or journal directory.
int quarantine_list(const std::string& directory, const std::string& control_socket, bool json);
/// Removes it. A directory in use is refused.
int quarantine_purge(const std::string& directory, const std::string& control_socket, bool json);

}  // namespace guard::cli
