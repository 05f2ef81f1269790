// Somebody outside this process who keeps its listening sockets while it is away, so that clients queue in
// their backlogs instead of being refused (P12): systemd, or nobody.
#pragma once

#include <string>

namespace guard::control {

/// Names are those of private_name(): the store may not know names at all, so nothing depends on them but
/// that forgetting is quick.
class DescriptorStore {
 public:
  virtual ~DescriptorStore() = default;
  /// Any thread: keeps a duplicate of `fd` until its socket is shut down or its name is forgotten. May block
  /// for a moment. Failure is the store's to report: the socket is then bound anew after a restart.
  virtual void keep(const std::string& name, int fd) = 0;
  /// Any thread: gives up whatever is kept under `name`.
  virtual void forget(const std::string& name) = 0;
};

}  // namespace guard::control
