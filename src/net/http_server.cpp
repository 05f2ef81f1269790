#include "net/http_server.h"

#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>
#include <cassert>
#include <cerrno>
#include <utility>
#include <vector>

#include "net/deadlines.h"
#include "net/http_connection.h"

namespace guard::net {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

using Descriptor = asio::posix::basic_stream_descriptor<asio::io_context::executor_type>;

}  // namespace

/// The listening half.
struct Server::Impl final : ConnectionHost, Deadlines::Item, std::enable_shared_from_this<Server::Impl> {
  Impl(Loop& l, int fd, ServerLimits lim, Reply big, Handler h, Logger& lg, std::string name);

  void accept_soon();
  void accept_all();
  bool accepted(int fd);
  void on_deadline() override { accept_soon(); }
  void log_peer(int fd);
  void pause_accepting(const Error& error);
  void ended(Connection& connection) override;
  void drain(std::function<void()> done);
  void report_drained();
  void shut_down();

  Logger& log;
  const std::string label;
  Deadlines::List& retry_list;

  Descriptor listener;
  bool accepting = false;       ///< a wait for a new connection is under way
  bool accept_paused = false;   ///< out of descriptors or memory
  bool listener_ended = false;  ///< shut down
  std::vector<std::shared_ptr<Connection>> connections;
  std::uint64_t last_connection = 0;
  std::function<void()> drained;
};

Server::Impl::Impl(Loop& l, int fd, ServerLimits lim, Reply big, Handler h, Logger& lg, std::string name)
    : ConnectionHost(l, lim, std::move(big), std::move(h)),
      log(lg),
      label(std::move(name)),
      retry_list(deadlines.list(limits::accept_retry)),
      listener(l.context().get_executor(), fd) {
  listener.native_non_blocking(true);
}

/// Waits for the next connection, if one may be accepted.
void Server::Impl::accept_soon() {
  if (accepting || draining || listener_ended || connections.size() >= bounds.max_connections) return;
  accepting = true;
  listener.async_wait(Descriptor::wait_read, [self = shared_from_this()](error_code error) {
    self->accepting = false;
    if (!error) self->accept_all();
  });
}

void Server::Impl::accept_all() {
  while (!draining && !listener_ended && connections.size() < bounds.max_connections) {
    const int fd = ::accept4(listener.native_handle(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      if (accepted(fd)) continue;
      return;
    }
    switch (errno) {
      case EINTR:
      case ECONNABORTED:
        continue;
      case EAGAIN:
        return accept_soon();
      // Shut down, or not a listening socket: there will never be another connection.
      case EINVAL:
      case EBADF:
      case ENOTSOCK:
      case EOPNOTSUPP:
        listener_ended = true;
        return;
      default:
        return pause_accepting(Error::system("accept", errno));
    }
  }
}

/// Out of descriptors or memory: clients wait in the backlog until there are some again. Trying at once
/// would keep the loop busy for nothing.
void Server::Impl::pause_accepting(const Error& error) {
  if (!accept_paused) {
    log.log(LogLevel::warning, "accept_paused", {{"socket", label}, {"error", error.message}});
  }
  accept_paused = true;
  deadlines.start(retry_list, *this, loop.now());
}

bool Server::Impl::accepted(int fd) {
  auto connection = Connection::open(shared_from_this(), fd, last_connection + 1);
  if (!connection) {
    pause_accepting(connection.error());
    return false;
  }
  if (std::exchange(accept_paused, false)) log.log(LogLevel::notice, "accept_resumed", {{"socket", label}});
  ++last_connection;
  if (log.enabled(LogLevel::debug)) log_peer(fd);
  connections.push_back(*connection);
  (*connection)->run();
  return true;
}

void Server::Impl::log_peer(int fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size);
  log.log(LogLevel::debug, "connection_accepted",
          {{"socket", label},
           {"connection", last_connection},
           {"pid", peer.pid},
           {"uid", peer.uid},
           {"gid", peer.gid}});
}

void Server::Impl::ended(Connection& connection) {
  const auto at = std::find_if(connections.begin(), connections.end(),
                               [&](const auto& one) { return one.get() == &connection; });
  assert(at != connections.end());
  std::swap(*at, connections.back());
  connections.pop_back();
  accept_soon();
  if (draining && connections.empty()) report_drained();
}

void Server::Impl::report_drained() {
  loop.post([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self && self->drained) std::exchange(self->drained, nullptr)();
  });
}

void Server::Impl::drain(std::function<void()> done) {
  assert(!draining);
  draining = true;
  Deadlines::stop(*this);
  listener.cancel();
  drained = std::move(done);
  if (connections.empty()) report_drained();
  const auto open = connections;
  for (const auto& connection : open) connection->begin_drain();
}

void Server::Impl::shut_down() {
  draining = true;
  drained = nullptr;
  Deadlines::stop(*this);
  listener.close();
  const auto open = connections;
  for (const auto& connection : open) connection->close();
}

Server::Server(Loop& loop, int listening_fd, ServerLimits limits, Reply too_large, Handler handler,
               Logger& log, std::string label)
    : impl_(std::make_shared<Impl>(loop, listening_fd, limits, std::move(too_large), std::move(handler), log,
                                   std::move(label))) {
  impl_->accept_soon();
}

Server::~Server() { impl_->shut_down(); }

void Server::drain(std::function<void()> drained) { impl_->drain(std::move(drained)); }

unsigned Server::connections() const { return static_cast<unsigned>(impl_->connections.size()); }

void Server::shutdown_listener() {
  impl_->listener_ended = true;
  ::shutdown(impl_->listener.native_handle(), SHUT_RDWR);
}

int Server::listening_fd() const { return impl_->listener.native_handle(); }

}  // namespace guard::net
