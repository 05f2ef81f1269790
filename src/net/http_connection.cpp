#include "net/http_connection.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

namespace guard::net {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

// The concrete executor spares an indirect call per operation.
using Socket = asio::basic_stream_socket<asio::generic::stream_protocol, asio::io_context::executor_type>;

constexpr std::string_view continue_reply = "HTTP/1.1 100 Continue\r\n\r\n";

}  // namespace

struct Connection::Io {
  explicit Io(Loop& loop) : socket(loop.context().get_executor()) {}
  Socket socket;
};

ConnectionHost::ConnectionHost(Loop& l, ServerLimits lim, Reply large, Server::Handler h)
    : loop(l),
      deadlines(l.deadlines()),
      bounds(lim),
      too_large(std::move(large)),
      handler(std::move(h)),
      idle_list(deadlines.list(lim.idle_deadline)),
      header_list(deadlines.list(lim.header_deadline)),
      body_list(deadlines.list(lim.body_deadline)),
      linger_list(deadlines.list(limits::linger_deadline)),
      grace_list(deadlines.list(lim.drain_grace)) {}

Result<std::shared_ptr<Connection>> Connection::open(std::shared_ptr<ConnectionHost> host, int fd,
                                                     std::uint64_t id) {
  int family = AF_UNIX;
  socklen_t size = sizeof family;
  ::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size);
  auto io = std::make_unique<Io>(host->loop);
  error_code error;
  io->socket.assign(asio::generic::stream_protocol(family, 0), fd, error);
  if (error) {
    ::close(fd);
    return std::unexpected(Error::system("watch a connection", error.value()));
  }
  return std::shared_ptr<Connection>(new Connection(std::move(host), std::move(io), id));
}

Connection::Connection(std::shared_ptr<ConnectionHost> host, std::unique_ptr<Io> io, std::uint64_t id)
    : host_(std::move(host)),
      io_(std::move(io)),
      id_(id),
      capacity_(std::max(limits::read_buffer, host_->bounds.max_header)),
      buffer_(std::make_unique_for_overwrite<char[]>(capacity_)),
      head_(host_->bounds.max_header) {
  wait_within(host_->idle_list);
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
        if (host_->draining) idle_in_drain();
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
    if (found.length > host_->bounds.max_body) return refuse_large();
    const auto length = static_cast<std::size_t>(found.length);
    body_have_ = std::min(pending().size(), length);
    // Nobody reads the bytes behind what has arrived until they are received, so they need no zeros. The
    // size that libstdc++ 12 passes can be larger than the one asked for.
    body_.resize_and_overwrite(length, [this, length](char* bytes, std::size_t) {
      std::memcpy(bytes, pending().data(), body_have_);
      return length;
    });
    begin_ += body_have_;
    if (body_have_ == body_.size()) return dispatch();
    phase_ = Phase::body;
  } else {
    chunks_.reset(host_->bounds.max_body);
    phase_ = Phase::chunked;
  }
  // A client that has begun to send its body does not wait for us.
  if (found.expects_continue && begin_ == end_ && body_have_ == 0 && !send_continue()) return false;
  wait_within(host_->body_list);
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
  const auto host = host_;
  host->handler(std::move(request), Responder(shared_from_this()));
  return phase_ == Phase::idle || phase_ == Phase::head;
}

/// Answers a body over the limit, and then reads on for a while: a client that is still sending would
/// otherwise see its own write fail and never look for the answer.
bool Connection::refuse_large() {
  phase_ = Phase::handling;
  body_ = std::string();
  body_have_ = 0;
  linger_after_ = true;
  Reply reply = host_->too_large;
  reply.close = true;
  send(std::move(reply));
  return false;
}

bool Connection::send_continue() {
  const auto sent = ::send(io_->socket.native_handle(), continue_reply.data(), continue_reply.size(),
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
  io_->socket.async_receive(space, [self = shared_from_this()](error_code error, std::size_t bytes) {
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
  if (first_bytes && phase_ == Phase::head) wait_within(host_->header_list);
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
    const auto sent = ::sendmsg(io_->socket.native_handle(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      sent_ += static_cast<std::size_t>(sent);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      wait_within(host_->body_list);
      io_->socket.async_wait(Socket::wait_write, [self = shared_from_this()](error_code error) {
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
    ::shutdown(io_->socket.native_handle(), SHUT_WR);
    phase_ = Phase::lingering;
    wait_within(host_->linger_list);
  } else if (close_after_) {
    return close();
  } else {
    phase_ = begin_ == end_ ? Phase::idle : Phase::head;
    if (phase_ == Phase::head) head_.reset();
    wait_within(phase_ == Phase::idle ? host_->idle_list : host_->header_list);
  }
  run();
}

void Connection::begin_drain() {
  // A receive that has ended but not been reported yet is reported before what is posted now.
  host_->loop.post([self = shared_from_this()] {
    if (self->phase_ == Phase::idle) self->idle_in_drain();
  });
}

/// Between two requests while the server drains: what the client has already sent is still answered.
void Connection::idle_in_drain() {
  char byte = 0;
  const auto waiting = ::recv(io_->socket.native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (waiting > 0) return;  // the receive that is or will be under way finds it
  const bool empty = waiting < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
  if (!empty || !fresh_) return close();
  wait_within(host_->grace_list);
}

void Connection::close() {
  if (phase_ == Phase::closed) return;
  const auto self = shared_from_this();
  phase_ = Phase::closed;
  Deadlines::stop(*this);
  io_.reset();
  const auto host = std::exchange(host_, nullptr);
  reply_ = Reply();
  host->ended(*this);
}

}  // namespace guard::net
