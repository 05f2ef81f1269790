// The fist point: a file that switches buffering off, so that tests of a whole host see failures of xapi as
// they are.
#pragma once

#include <string>
#include <utility>

namespace guard::daemon {

class FistPoint {
 public:
  explicit FistPoint(std::string path) : path_(std::move(path)) {}

  /// Whether a regular file of root's, or of the user this process runs as, stands there. Anybody can write
  /// in the directory of the default path; what others make there, links included, says nothing. One lstat(2)
  /// of a path in a directory that is in memory: about a microsecond, so that it may be asked on the loop
  /// thread.
  bool is_set() const;

 private:
  std::string path_;
};

}  // namespace guard::daemon
