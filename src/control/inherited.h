// Listening sockets that a descriptor store has kept for us, sorted by what they are. What was passed is not
// trusted: each descriptor is looked at, and the registry's file decides what becomes of it.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "control/descriptor_store.h"
#include "control/socket_birth.h"

namespace guard::control {

/// One descriptor as it was passed, with the name under which it was kept, empty when nobody knows.
struct InheritedFd {
  OwnedFd fd;
  std::string name;
};

/// Thread: one. Blocks for a few system calls per descriptor.
class Inherited {
 public:
  /// Sorts what was passed. Closed at once, and reported: what is no listening unix socket born here, and
  /// second copies of one socket. `store` may be null and outlives this object, as the logger does.
  Inherited(std::vector<InheritedFd> passed, DescriptorStore* store, Logger& log);
  /// Shuts down and closes whatever was not taken: the file that decides does not list it.
  ~Inherited();
  Inherited(const Inherited&) = delete;

  /// The socket of `spec`, if it was passed and is certainly the one clients reach at its path
  /// (adopt_socket). One that is not, and several different ones of one path, are shut down and forgotten:
  /// then the path has to be bound anew.
  std::optional<BornSocket> take(const SocketSpec& spec);

 private:
  void sort(InheritedFd passed);
  void refuse(const InheritedFd& passed, const std::string& why);
  void give_up(const std::string& name, const std::vector<OwnedFd>& sockets);

  DescriptorStore* store_;
  Logger& log_;
  std::map<std::string, std::vector<OwnedFd>> sockets_;  ///< by private name
  std::size_t refused_ = 0;
};

}  // namespace guard::control
