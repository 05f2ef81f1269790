// systemd's notification protocol (sd_notify(3)): one datagram of KEY=VALUE lines to the socket that systemd
// names. Written by hand because its library has no static form.
#pragma once

#include <string>
#include <string_view>

namespace guard::daemon {

class Notifier {
 public:
  /// `socket` is the value of NOTIFY_SOCKET, empty when nobody listens; a leading '@' means the abstract name
  /// space.
  explicit Notifier(std::string socket) : socket_(std::move(socket)) {}
  /// Sends the lines; failures are ignored, as there is nobody to tell.
  void send(std::string_view lines) const;

 private:
  std::string socket_;
};

}  // namespace guard::daemon
