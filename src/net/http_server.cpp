#include "net/http_server.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <optional>
#include <vector>

#include "net/chunk_decoder.h"
#include "net/deadlines.h"
#include "net/request_head.h"

namespace guard::net {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

// The concrete executor spares an indirect call per operation.
using Executor = asio::io_context::executor_type;
using Socket = asio::basic_stream_socket<asio::generic::stream_protocol, Executor>;
using Descriptor = asio::posix::basic_stream_descriptor<Executor>;

constexpr std::string_view continue_reply = "HTTP/1.1 100 Continue\r\n\r\n";

class Connection;

}  // namespace

/// The listening half, and what all connections share. Connections hold it while they are open, so that a
/// handler may destroy the Server it is called from.
struct Server::Impl final : Deadlines::Item, std::enable_shared_from_this<Server::Impl> {
  Impl(Loop& l, int fd, ServerLimits lim, Reply big, Handler h, Logger& lg, std::string name);

  void accept_soon();
  void accept_all();
  bool accepted(int fd);
  void on_deadline() override { accept_soon(); }
  void pause_accepting(int error);
  void ended(Connection& connection);
  void drain(std::function<void()> done);
  void report_drained();
  void shut_down();

  Loop& loop;
  Deadlines& deadlines;
  const ServerLimits bounds;
  const Reply too_large;
  const Handler handler;
  Logger& log;
  const std::string label;
  Deadlines::List& idle_list;
  Deadlines::List& header_list;
  Deadlines::List& body_list;
  Deadlines::List& linger_list;
  Deadlines::List& grace_list;
  Deadlines::List& retry_list;

  Descriptor listener;
  bool accepting = false;       ///< a wait for a new connection is under way
  bool accept_paused = false;   ///< out of descriptors or memory
  bool listener_ended = false;  ///< shut down
  std::vector<std::shared_ptr<Connection>> connections;
  std::uint64_t last_connection = 0;
  bool draining = false;
  std::function<void()> drained;
};

namespace {

/// One connection, and the sink of its one Responder.
///
/// Phase       what is awaited                       deadline   left by
/// idle        the first byte of a request           idle       bytes -> head; end of file -> closed
/// head        the rest of its head                  header     complete -> body, chunked or handling
/// body        the rest of a body of known length    body       complete -> handling
/// chunked     the rest of a chunked body            body       complete -> handling
/// handling    the answer of the handler             none       send -> writing; drop -> closed
/// writing     room for the rest of the answer       body       written -> idle, lingering or closed
/// lingering   the end of a body that is too large   linger     end of file, bound -> closed
/// closed      nothing
class Connection final : public Responder::Sink,
                         public Deadlines::Item,
                         public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<Server::Impl> server, Socket socket, std::uint64_t id);
  ~Connection() override = default;

  /// Reads and handles requests until there is something to wait for, then waits for it.
  void run();
  void close();
  void begin_drain();

  void send(Reply reply) override;
  void drop() override { close(); }
  void on_deadline() override { close(); }

 private:
  enum class Phase { idle, head, body, chunked, handling, writing, lingering, closed };

  bool step();
  bool step_head();
  bool begin_body();
  bool step_chunks();
  bool dispatch();
  bool refuse_large();
  void read_more();
  void received(std::size_t bytes);
  void write();
  void written();
  void idle_in_drain();
  bool send_continue();

  std::string_view pending() const { return {buffer_.get() + begin_, end_ - begin_}; }
  void wait_within(Deadlines::List& list) { server_->deadlines.start(list, *this, server_->loop.now()); }

  std::shared_ptr<Server::Impl> server_;  ///< null once closed
  std::optional<Socket> socket_;  ///< empty once closed, so that a late Responder can outlive the loop
  const std::uint64_t id_;
  Phase phase_ = Phase::idle;
  bool reading_ = false;  ///< a receive is under way
  bool running_ = false;  ///< run() is on the stack
  bool fresh_ = true;     ///< not a byte was received yet

  // What was received and not yet consumed: buffer_[begin_, end_).
  const std::size_t capacity_;
  const std::unique_ptr<char[]> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;

  RequestHead head_;
  ChunkDecoder chunks_;
  std::string body_;
  std::size_t body_have_ = 0;  ///< of body_, while its length is known
  std::size_t lingered_ = 0;

  bool is_head_request_ = false;
  bool close_after_ = false;
  bool linger_after_ = false;
  Reply reply_;
  std::size_t sent_ = 0;  ///< of reply_, head and body together
};

Connection::Connection(std::shared_ptr<Server::Impl> server, Socket socket, std::uint64_t id)
    : server_(std::move(server)),
      socket_(std::move(socket)),
      id_(id),
      capacity_(std::max(limits::read_buffer, server_->bounds.max_header)),
      buffer_(std::make_unique_for_overwrite<char[]>(capacity_)),
      head_(server_->bounds.max_header) {
  wait_within(server_->idle_list);
}

void Connection::run() {
  if (running_) return;
  const auto self = shared_from_this();
  running_ = true;
  while (step()) {
  }
  running_ = false;
  if (phase_ != Phase::closed && phase_ != Phase::handling && phase_ != Phase::writing) read_more();
}

/// Does what can be done without waiting; false when something has to be waited for.
bool Connection::step() {
  switch (phase_) {
    case Phase::idle:
      if (begin_ == end_) {
        if (server_->draining) idle_in_drain();
        return false;
      }
      phase_ = Phase::head;
      head_.reset();
      [[fallthrough]];
    case Phase::head:
      return step_head();
    case Phase::body:
      if (body_have_ < body_.size()) return false;
      return dispatch();
    case Phase::chunked:
      return step_chunks();
    case Phase::handling:
    case Phase::writing:
    case Phase::lingering:
    case Phase::closed:
      return false;
  }
  return false;
}

bool Connection::step_head() {
  const auto progress = head_.put(pending());
  begin_ += progress.consumed;
  switch (progress.status) {
    case RequestHead::Status::complete:
      return begin_body();
    case RequestHead::Status::malformed:
      close();
      return false;
    case RequestHead::Status::more:
      return false;
  }
  return false;
}

/// After the head.
bool Connection::begin_body() {
  const auto& found = head_.found();
  is_head_request_ = found.method == "HEAD";
  close_after_ = found.close;
  body_.clear();
  if (found.framing == RequestHead::Framing::none) return dispatch();
  if (found.framing == RequestHead::Framing::length) {
    if (found.length > server_->bounds.max_body) return refuse_large();
    // Nobody reads the bytes behind what has arrived until they are received, so they need no zeros.
    body_have_ = std::min<std::size_t>(pending().size(), found.length);
    body_.resize_and_overwrite(found.length, [this](char* bytes, std::size_t size) {
      std::memcpy(bytes, pending().data(), body_have_);
      return size;
    });
    begin_ += body_have_;
    if (body_have_ == body_.size()) return dispatch();
    phase_ = Phase::body;
  } else {
    chunks_.reset(server_->bounds.max_body);
    phase_ = Phase::chunked;
  }
  // A client that has begun to send its body does not wait for us.
  if (found.expects_continue && begin_ == end_ && body_have_ == 0 && !send_continue()) return false;
  wait_within(server_->body_list);
  return phase_ == Phase::chunked && begin_ != end_;
}

bool Connection::step_chunks() {
  const auto progress = chunks_.put(pending(), body_);
  begin_ += progress.consumed;
  switch (progress.status) {
    case ChunkDecoder::Status::complete:
      return dispatch();
    case ChunkDecoder::Status::too_large:
      return refuse_large();
    case ChunkDecoder::Status::malformed:
      close();
      return false;
    case ChunkDecoder::Status::more:
      return false;
  }
  return false;
}

/// Hands a complete request over; true when it was answered at once and the connection goes on.
bool Connection::dispatch() {
  Deadlines::stop(*this);
  phase_ = Phase::handling;
  auto& found = head_.found();
  Request request;
  request.method = std::move(found.method);
  request.path = std::move(found.path);
  request.has_length = found.framing != RequestHead::Framing::none;
  request.body = std::move(body_);
  request.connection = id_;
  body_have_ = 0;
  const auto server = server_;
  server->handler(std::move(request), Responder(shared_from_this()));
  return phase_ == Phase::idle || phase_ == Phase::head;
}

/// Answers a body over the limit, and then reads on for a while: a client that is still sending would
/// otherwise see its own write fail and never look for the answer.
bool Connection::refuse_large() {
  phase_ = Phase::handling;
  body_ = std::string();
  body_have_ = 0;
  linger_after_ = true;
  Reply reply = server_->too_large;
  reply.close = true;
  send(std::move(reply));
  return false;
}

bool Connection::send_continue() {
  const auto sent = ::send(socket_->native_handle(), continue_reply.data(), continue_reply.size(),
                           MSG_NOSIGNAL | MSG_DONTWAIT);
  // Only a client that does not read its answers has no room for 25 bytes.
  if (sent == static_cast<ssize_t>(continue_reply.size())) return true;
  close();
  return false;
}

void Connection::read_more() {
  if (reading_) return;
  reading_ = true;
  asio::mutable_buffer space;
  if (phase_ == Phase::body) {
    space = asio::buffer(body_.data() + body_have_, body_.size() - body_have_);
  } else {
    // Only a head can be pending here, and one that fills the buffer was refused.
    if (begin_ == end_ || phase_ == Phase::lingering) {
      begin_ = end_ = 0;
    } else if (end_ == capacity_) {
      std::memmove(buffer_.get(), buffer_.get() + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
    }
    assert(end_ < capacity_);
    space = asio::buffer(buffer_.get() + end_, capacity_ - end_);
  }
  socket_->async_receive(space, [self = shared_from_this()](error_code error, std::size_t bytes) {
    self->reading_ = false;
    if (self->phase_ == Phase::closed) return;
    if (error) return self->close();
    self->received(bytes);
  });
}

void Connection::received(std::size_t bytes) {
  fresh_ = false;
  if (phase_ == Phase::body) {
    body_have_ += bytes;
  } else if (phase_ == Phase::lingering) {
    lingered_ += bytes;
    if (lingered_ >= limits::linger_bytes) return close();
  } else {
    end_ += bytes;
  }
  const bool first_bytes = phase_ == Phase::idle;
  run();
  if (first_bytes && phase_ == Phase::head) wait_within(server_->header_list);
}

void Connection::send(Reply reply) {
  if (phase_ != Phase::handling) return;
  reply_ = std::move(reply);
  if (is_head_request_) reply_.body = Value();
  sent_ = 0;
  close_after_ = close_after_ || reply_.close;
  phase_ = Phase::writing;
  write();
}

void Connection::write() {
  const std::string_view head = reply_.head;
  const std::string_view body = reply_.body.view();
  while (sent_ < head.size() + body.size()) {
    const auto head_sent = std::min(sent_, head.size());
    const auto body_sent = sent_ - head_sent;
    // sendmsg does not write through these pointers.
    iovec parts[2] = {{const_cast<char*>(head.data()) + head_sent, head.size() - head_sent},
                      {const_cast<char*>(body.data()) + body_sent, body.size() - body_sent}};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    const auto sent = ::sendmsg(socket_->native_handle(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      sent_ += static_cast<std::size_t>(sent);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      wait_within(server_->body_list);
      socket_->async_wait(Socket::wait_write, [self = shared_from_this()](error_code error) {
        if (self->phase_ == Phase::closed) return;
        if (error) return self->close();
        self->write();
      });
      return;
    } else if (errno != EINTR) {
      return close();
    }
  }
  written();
}

/// After the last byte of an answer.
void Connection::written() {
  reply_ = Reply();
  if (linger_after_) {
    ::shutdown(socket_->native_handle(), SHUT_WR);
    phase_ = Phase::lingering;
    wait_within(server_->linger_list);
  } else if (close_after_) {
    return close();
  } else {
    phase_ = begin_ == end_ ? Phase::idle : Phase::head;
    if (phase_ == Phase::head) head_.reset();
    wait_within(phase_ == Phase::idle ? server_->idle_list : server_->header_list);
  }
  run();
}

void Connection::begin_drain() {
  // A receive that has ended but not been reported yet is reported before what is posted now.
  server_->loop.post([self = shared_from_this()] {
    if (self->phase_ == Phase::idle) self->idle_in_drain();
  });
}

/// Between two requests while the server drains: what the client has already sent is still answered.
void Connection::idle_in_drain() {
  char byte = 0;
  const auto waiting = ::recv(socket_->native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (waiting > 0) return;  // the receive that is or will be under way finds it
  const bool empty = waiting < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
  if (!empty || !fresh_) return close();
  wait_within(server_->grace_list);
}

void Connection::close() {
  if (phase_ == Phase::closed) return;
  const auto self = shared_from_this();
  phase_ = Phase::closed;
  Deadlines::stop(*this);
  socket_.reset();
  const auto server = std::exchange(server_, nullptr);
  reply_ = Reply();
  server->ended(*this);
}

}  // namespace

Server::Impl::Impl(Loop& l, int fd, ServerLimits lim, Reply big, Handler h, Logger& lg, std::string name)
    : loop(l),
      deadlines(l.deadlines()),
      bounds(lim),
      too_large(std::move(big)),
      handler(std::move(h)),
      log(lg),
      label(std::move(name)),
      idle_list(deadlines.list(lim.idle_deadline)),
      header_list(deadlines.list(lim.header_deadline)),
      body_list(deadlines.list(lim.body_deadline)),
      linger_list(deadlines.list(limits::linger_deadline)),
      grace_list(deadlines.list(limits::drain_grace)),
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
        return pause_accepting(errno);
    }
  }
}

/// Out of descriptors or memory: clients wait in the backlog until there are some again. Trying at once
/// would keep the loop busy for nothing.
void Server::Impl::pause_accepting(int error) {
  if (!accept_paused) {
    log.log(LogLevel::warning, "accept_paused", {{"socket", label}, {"error", std::strerror(error)}});
  }
  accept_paused = true;
  deadlines.start(retry_list, *this, loop.now());
}

bool Server::Impl::accepted(int fd) {
  int family = AF_UNIX;
  socklen_t size = sizeof family;
  ::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size);
  Socket socket(loop.context().get_executor());
  error_code error;
  socket.assign(asio::generic::stream_protocol(family, 0), fd, error);
  if (error) {
    ::close(fd);
    pause_accepting(error.value());
    return false;
  }
  if (std::exchange(accept_paused, false)) log.log(LogLevel::notice, "accept_resumed", {{"socket", label}});
  const std::uint64_t id = ++last_connection;
  if (log.enabled(LogLevel::debug)) {
    ucred peer{};
    size = sizeof peer;
    ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size);
    log.log(LogLevel::debug, "connection_accepted",
            {{"socket", label}, {"connection", id}, {"pid", peer.pid}, {"uid", peer.uid}, {"gid", peer.gid}});
  }
  connections.push_back(std::make_shared<Connection>(shared_from_this(), std::move(socket), id));
  const auto connection = connections.back();
  connection->run();
  return true;
}

/// A connection has closed itself.
void Server::Impl::ended(Connection& connection) {
  const auto at = std::find_if(connections.begin(), connections.end(),
                               [&](const auto& one) { return one.get() == &connection; });
  assert(at != connections.end());
  std::iter_swap(at, connections.end() - 1);
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
