#include "control/inherited.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "base/limits.h"

namespace guard::control {

namespace {

int option_of(int fd, int option) {
  int value = -1;
  socklen_t size = sizeof value;
  return ::getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

/// A socket that was shut down still says that it listens, but has hung up.
bool has_hung_up(int fd) {
  pollfd state{fd, 0, 0};
  return ::poll(&state, 1, 0) != 0;
}

/// What keeps the descriptor from being a listening socket born here; empty: nothing.
std::string wrong_with(int fd) {
  struct stat st{};
  if (::fstat(fd, &st) < 0) return "it is not open";
  if (!S_ISSOCK(st.st_mode)) return "it is no socket";
  if (option_of(fd, SO_DOMAIN) != AF_UNIX) return "it is no unix socket";
  if (option_of(fd, SO_TYPE) != SOCK_STREAM) return "it is no stream socket";
  if (option_of(fd, SO_ACCEPTCONN) != 1) return "it does not listen";
  if (born_name(fd).empty()) return "it was not born here";
  if (has_hung_up(fd)) return "it was shut down";
  return {};
}

bool same_socket(const OwnedFd& a, const OwnedFd& b) {
  struct stat first{}, second{};
  return ::fstat(a.get(), &first) == 0 && ::fstat(b.get(), &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

}  // namespace

Inherited::Inherited(std::vector<InheritedFd> passed, DescriptorStore* store, Logger& log)
    : store_(store), log_(log) {
  for (InheritedFd& one : passed) sort(std::move(one));
  if (refused_ > limits::log_lines_per_event) {
    log_.log(LogLevel::warning, "descriptors_refused", {{"count", refused_}});
  }
}

Inherited::~Inherited() {
  if (sockets_.empty()) return;
  log_.log(LogLevel::notice, "inherited_sockets_closed",
           {{"count", sockets_.size()}, {"reason", "the resume file does not list them"}});
  for (const auto& [name, sockets] : sockets_) give_up(name, sockets);
}

void Inherited::sort(InheritedFd passed) {
  if (const std::string wrong = wrong_with(passed.fd.get()); !wrong.empty()) return refuse(passed, wrong);
  std::vector<OwnedFd>& sockets = sockets_[born_name(passed.fd.get())];
  // A second copy is closed and nothing else: shutting it down would shut down the first.
  if (std::ranges::any_of(sockets, [&](const OwnedFd& one) { return same_socket(one, passed.fd); })) return;
  sockets.push_back(std::move(passed.fd));
}

/// Closed, not shut down: whatever it is, it may be somebody's. Under its name it is not passed again;
/// without one, and under the name that systemd gives to what has none, others would be forgotten with it.
void Inherited::refuse(const InheritedFd& passed, const std::string& why) {
  if (refused_++ < limits::log_lines_per_event) {
    log_.log(LogLevel::warning, "descriptor_refused", {{"name", passed.name}, {"reason", why}});
  }
  const bool nameless = passed.name.empty() || passed.name == "stored" || passed.name == "unknown";
  // The name of one of ours may meanwhile be that of a newer one.
  if (store_ != nullptr && !nameless && !is_private_name(passed.name)) store_->forget(passed.name);
}

/// Shut down, so that a store that knows no names drops its copies too, and clients that wait try again.
void Inherited::give_up(const std::string& name, const std::vector<OwnedFd>& sockets) {
  for (const OwnedFd& one : sockets) ::shutdown(one.get(), SHUT_RDWR);
  if (store_ != nullptr) store_->forget(name);
}

std::optional<BornSocket> Inherited::take(const SocketSpec& spec) {
  auto node = sockets_.extract(private_name(spec.path));
  if (!node) return std::nullopt;
  std::vector<OwnedFd>& sockets = node.mapped();
  std::string why = "several sockets claim to be it";
  if (sockets.size() == 1) {
    auto adopted = adopt_socket(spec, sockets.front());
    if (adopted) return BornSocket{std::move(sockets.front()), *adopted};
    why = std::move(adopted.error().message);
  }
  log_.log(LogLevel::notice, "inherited_socket_unusable", {{"path", spec.path}, {"reason", why}});
  give_up(node.key(), sockets);
  return std::nullopt;
}

}  // namespace guard::control
