#include "daemon/fist_point.h"

#include <sys/stat.h>
#include <unistd.h>

namespace guard::daemon {

bool FistPoint::is_set() const {
  struct stat found{};
  if (::lstat(path_.c_str(), &found) != 0) return false;
  return S_ISREG(found.st_mode) && (found.st_uid == 0 || found.st_uid == ::geteuid());
}

}  // namespace guard::daemon
