// Notices at once that xapi is back: its socket file appears anew when it starts.
// Thread: the loop thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "net/loop.h"

namespace guard::upstream {

class SocketWatch {
 public:
  /// Watches the directory of `path` (inotify); `appeared` is called on the loop thread when a file of that
  /// name is created, renamed into place, or gets its mode or owner (which a server sets when it listens).
  /// It is a hint only: a directory that does not exist yet, or a system without inotify, means no calls.
  SocketWatch(net::Loop& loop, const std::string& path, std::function<void()> appeared);
  ~SocketWatch();
  SocketWatch(const SocketWatch&) = delete;

  /// Tries again to watch when the directory was missing or has been removed; cheap when it is watched.
  /// Returns whether it is watched.
  bool ensure();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace guard::upstream
