// Who holds a lock, found without taking it.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace guard::cli {

/// A line of /proc/locks that says that a whole file is locked exclusively (flock).
struct LockLine {
  pid_t pid = 0;  ///< 0 or less when the holder is out of sight (another pid namespace)
  ino_t inode = 0;
};
/// The lines of /proc/locks that matter here; the rest is skipped. Pure.
std::vector<LockLine> parse_locks(std::string_view text);

/// The process that holds an exclusive flock on the file `path`; nullopt when nobody is known to. Takes no
/// lock itself, not even for a moment: that could make a daemon that starts just then give up. A holder in
/// another pid namespace is not seen.
std::optional<pid_t> lock_holder(const std::string& path);

}  // namespace guard::cli
