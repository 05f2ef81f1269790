#include "daemon/notify.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

#include "base/limits.h"

namespace guard::daemon {

Notifier::Notifier(std::string socket) : socket_(std::move(socket)) {
  if (socket_.empty() || socket_.size() >= sizeof(sockaddr_un::sun_path)) return;
  if (socket_.front() != '/' && socket_.front() != '@') return;
  fd_ = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd_ < 0) return;
  const timeval patience{.tv_sec = limits::notify_patience.count(), .tv_usec = 0};
  (void)::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
}

Notifier::~Notifier() {
  if (fd_ >= 0) ::close(fd_);
}

Result<> Notifier::send(std::string_view lines, int descriptor) const {
  auto sent = send_with(lines, descriptor, hangs_ ? MSG_DONTWAIT : 0);
  hangs_ = !sent && sent.error().os_errno == EAGAIN;
  return sent;
}

Result<> Notifier::send_now(std::string_view lines) const { return send_with(lines, -1, MSG_DONTWAIT); }

/// Addressed anew each time instead of connected: the socket file is another one when systemd was executed
/// anew.
Result<> Notifier::send_with(std::string_view lines, int descriptor, int flags) const {
  if (fd_ < 0) return {};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket_.data(), socket_.size());
  if (socket_.front() == '@') address.sun_path[0] = '\0';
  iovec text{const_cast<char*>(lines.data()), lines.size()};
  msghdr message{};
  message.msg_name = &address;
  message.msg_namelen = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_.size());
  message.msg_iov = &text;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (descriptor >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(head), &descriptor, sizeof(int));
  }
  for (;;) {
    if (::sendmsg(fd_, &message, flags | MSG_NOSIGNAL) >= 0) return {};
    if (errno != EINTR) return std::unexpected(Error::system("notify " + socket_, errno));
  }
}

}  // namespace guard::daemon
