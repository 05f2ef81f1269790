// systemd's notification protocol (sd_notify(3)): one datagram of KEY=VALUE lines to the socket that systemd
// names, with at most one descriptor beside it. Written by hand because its library has no static form.
#pragma once

#include <atomic>
#include <string>
#include <string_view>

#include "guard/result.h"

namespace guard::daemon {

/// Thread: any. Messages of one thread arrive in their order.
class Notifier {
 public:
  /// `socket` is the value of NOTIFY_SOCKET, empty when nobody listens; a leading '@' means the abstract name
  /// space.
  explicit Notifier(std::string socket);
  ~Notifier();
  Notifier(const Notifier&) = delete;

  /// Whether anybody is told anything.
  bool connected() const { return fd_ >= 0; }

  /// Sends the lines, and a duplicate of `descriptor` unless that is -1. Waits up to limits::notify_patience
  /// while the receiver's queue is full, but not again before the queue has had room: a receiver that hangs
  /// costs that time once. For what must arrive: READY, STOPPING, FDSTORE. Success when nobody listens.
  Result<> send(std::string_view lines, int descriptor = -1) const;

  /// Never waits: for what is repeated anyhow, on the loop thread.
  Result<> send_now(std::string_view lines) const;

 private:
  Result<> send_with(std::string_view lines, int descriptor, int flags) const;

  std::string socket_;
  int fd_ = -1;
  mutable std::atomic<bool> hangs_ = false;  ///< the last wait was in vain
};

}  // namespace guard::daemon
