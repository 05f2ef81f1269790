// For tests: a descriptor store that behaves like systemd's, of this process.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "control/descriptor_store.h"
#include "control/inherited.h"
#include "control/socket_birth.h"

namespace guard::control {

inline ino_t inode_of(int fd) {
  struct stat st{};
  return ::fstat(fd, &st) == 0 ? st.st_ino : 0;
}

class TestStore final : public DescriptorStore {
 public:
  /// Versions before 233 know no names and so no removal.
  enum class Names { known, unknown };
  explicit TestStore(Names names = Names::known) : names_(names) {}

  void keep(const std::string& name, int fd) override {
    // What is there already is not stored again.
    if (std::ranges::any_of(kept, [&](const auto& one) { return inode_of(one.fd.get()) == inode_of(fd); }))
      return;
    kept.push_back({OwnedFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0)), names_ == Names::known ? name : ""});
  }
  void forget(const std::string& name) override {
    forgotten.push_back(name);
    if (names_ == Names::known) std::erase_if(kept, [&](const auto& one) { return one.name == name; });
  }
  /// What has hung up is dropped; the number of what is left.
  std::size_t size() {
    std::erase_if(kept, [](const auto& one) {
      pollfd state{one.fd.get(), 0, 0};
      return ::poll(&state, 1, 0) != 0;
    });
    return kept.size();
  }
  /// What the next process gets.
  std::vector<InheritedFd> pass() {
    std::vector<InheritedFd> passed;
    for (const auto& one : kept)
      passed.push_back({OwnedFd(::fcntl(one.fd.get(), F_DUPFD_CLOEXEC, 0)), one.name});
    return passed;
  }

  std::vector<InheritedFd> kept;
  std::vector<std::string> forgotten;

 private:
  Names names_;
};

}  // namespace guard::control
