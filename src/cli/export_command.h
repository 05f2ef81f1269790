// `xapi-guardctl export-cache`: going back to the original daemon.
#pragma once

#include <string>

namespace guard::cli {

struct ExportArguments {
  std::string directory;  ///< where the tree goes: the original's state directory
  std::string state_dir;  ///< whose journal is exported; empty: `directory`
  bool lossy = false;
};

/// Writes what is pending as a cache tree and removes it from the journal (docs/decisions/0051). No daemon
/// may use the state directory. Prints to standard output; says what went wrong on standard error. 0 done; 1
/// refused, because a daemon uses it, or because of entries that cannot be exported, which are listed; 3
/// cannot.
int export_cache(const ExportArguments& arguments, bool json);

}  // namespace guard::cli
