// For the tests of this folder: a directory of one's own, short enough for socket paths, and a client socket.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "control/socket_birth.h"

namespace guard::control {

/// Where fsync costs nothing; the resume file's usual place is in memory too.
inline const std::string memory = ::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";

/// An empty directory, removed with everything in it.
class TestDir {
 public:
  explicit TestDir(const std::string& base = "/tmp") : path_(base + "/guard-XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr) throw std::runtime_error("mkdtemp");
  }
  ~TestDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TestDir(const TestDir&) = delete;

  const std::string& path() const { return path_; }
  friend std::string operator/(const TestDir& dir, const std::string& name) { return dir.path_ + "/" + name; }
  /// Everything in it, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_))
      names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::string path_;
};

/// A blocking connection to a unix socket; empty when it cannot be had.
inline OwnedFd connect_to(const std::string& path) {
  OwnedFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return {};
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) return {};
  return fd;
}

}  // namespace guard::control
