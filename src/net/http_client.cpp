#include "net/http_client.h"

#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

namespace guard::net {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;

namespace {

/// Bytes taken from the socket at once; an ordinary answer is a few hundred.
constexpr std::size_t read_chunk = 16 * limits::KiB;
/// Between attempts to connect while the backlog of the listening socket is full.
constexpr std::chrono::milliseconds backlog_retry{20};
/// How long an answer is waited for after the other side refused the rest of a request: xapi closes a
/// connection on which a too large request comes, and the page that says so may stand in our buffer.
constexpr std::chrono::seconds refusal_grace{1};

struct ConnectAttempt {
  int fd = -1;
  int error = 0;
};

/// connect(2) on a unix socket never waits when non-blocking: it succeeds, fails, or says EAGAIN when the
/// backlog is full. (Asio's own connect takes that EAGAIN for "in progress" and then reports success.)
ConnectAttempt connect_unix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return {-1, ENAMETOOLONG};
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return {-1, errno};
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return {fd, 0};
  const int error = errno;
  ::close(fd);
  return {-1, error};
}

}  // namespace

struct HttpClient::Impl : std::enable_shared_from_this<HttpClient::Impl> {
  using Parser = http::response_parser<http::string_body>;

  Impl(Loop& the_loop, Options the_options)
      : loop(the_loop), options(std::move(the_options)), socket(loop.context()), timer(loop.context()) {
    head_start = "POST " + options.target + " HTTP/1.1\r\n" + options.headers_before_length;
  }

  Loop& loop;
  const Options options;
  std::string head_start;  ///< the same for every request without a line of its own

  // The connection. `generation` goes up when one is opened or closed, so that late handlers of an earlier
  // one know that they are late.
  asio::posix::stream_descriptor socket;
  std::uint64_t generation = 0;
  beast::flat_buffer input;

  // The call under way.
  bool busy = false;
  HttpCall call;
  std::function<void(HttpResult)> done;
  std::string head;
  std::size_t written = 0;    ///< bytes of head and body the kernel has taken on this connection
  bool refused = false;       ///< the other side takes no more bytes
  bool reused = false;        ///< the connection stood before the call
  bool any_input = false;     ///< a byte of an answer has come
  Sent sent = Sent::nothing;  ///< the most that was sent on any connection
  bool was_connected = false;
  unsigned connects = 0;
  std::optional<Parser> parser;

  asio::steady_timer timer;
  std::uint64_t timer_round = 0;

  std::size_t request_size() const { return head.size() + call.body.size(); }
  bool all_written() const { return written == request_size(); }

  void start();
  void connect();
  void send();
  void note_sent();
  void wait_readable();
  void wait_writable();
  void on_readable();
  void feed();
  void on_end_of_input();
  void complete();
  void lost(std::string_view what, int error);
  void fail(Error error);
  void fail_soon(Error error);
  void finish(Result<HttpAnswer> answer);
  void close();
  bool still_open();
  void arm(Time when);
  void disarm() { ++timer_round, timer.cancel(); }
  void on_timer();
};

HttpClient::HttpClient(Loop& loop, Options options)
    : impl_(std::make_shared<Impl>(loop, std::move(options))) {}

HttpClient::~HttpClient() {
  impl_->done = nullptr;
  impl_->busy = false;
  impl_->disarm();
  impl_->close();
}

void HttpClient::post(HttpCall call, std::function<void(HttpResult)> done) {
  assert(!impl_->busy);
  impl_->call = std::move(call);
  impl_->done = std::move(done);
  impl_->start();
}

bool HttpClient::busy() const { return impl_->busy; }
bool HttpClient::connected() const { return impl_->socket.is_open(); }
void HttpClient::disconnect() {
  assert(!impl_->busy);
  impl_->close();
}

void HttpClient::Impl::start() {
  busy = true;
  head = call.line.empty() ? head_start : call.line + " HTTP/1.1\r\n" + options.headers_before_length;
  head += std::to_string(call.body.size());
  head += options.headers_after_length;
  sent = Sent::nothing;
  connects = 0;
  reused = socket.is_open() && still_open();
  was_connected = reused;
  if (reused) {
    written = 0;
    refused = any_input = false;
    send();
  } else if (call.same_connection) {
    fail_soon({Errc::unavailable, 0, "the connection is closed"});
  } else {
    connect();
  }
}

/// Not from within post(): its caller may have more to do before it can take the result.
void HttpClient::Impl::fail_soon(Error error) {
  asio::post(loop.context(), [self = shared_from_this(), round = generation, error = std::move(error)] {
    if (self->busy && self->generation == round) self->fail(error);
  });
}

/// Whether the kept connection can be used: nothing to read and no end of file.
bool HttpClient::Impl::still_open() {
  char byte = 0;
  const ssize_t n = ::recv(socket.native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
  close();
  return false;
}

void HttpClient::Impl::connect() {
  assert(!socket.is_open());
  const ConnectAttempt attempt = connect_unix(options.socket_path);
  if (attempt.fd < 0) {
    if (attempt.error == EAGAIN) {
      arm(std::min(call.send_by, loop.now() + backlog_retry));
      return;
    }
    Error error{Errc::unavailable, attempt.error,
                "cannot connect: " + std::generic_category().message(attempt.error)};
    return fail_soon(std::move(error));
  }
  ++generation;
  ++connects;
  was_connected = true;
  socket.assign(attempt.fd);
  written = 0;
  refused = any_input = false;
  wait_readable();
  send();
}

void HttpClient::Impl::send() {
  while (!all_written()) {
    std::array<iovec, 2> parts{};
    int count = 0;
    if (written < head.size()) {
      parts[count++] = {head.data() + written, head.size() - written};
      parts[count++] = {call.body.data(), call.body.size()};
    } else {
      const std::size_t offset = written - head.size();
      parts[count++] = {call.body.data() + offset, call.body.size() - offset};
    }
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = static_cast<std::size_t>(count);
    const ssize_t n = ::sendmsg(socket.native_handle(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      written += static_cast<std::size_t>(n);
      note_sent();
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      arm(call.send_by);
      wait_writable();
      return;
    } else if (errno != EINTR) {
      // Nothing more can be sent; but the reason may stand in our buffer, and the reader will find it.
      refused = true;
      arm(std::min(call.send_by, loop.now() + refusal_grace));
      return;
    }
  }
  if (call.answer_by) {
    arm(*call.answer_by);
  } else {
    disarm();
  }
}

void HttpClient::Impl::note_sent() { sent = std::max(sent, all_written() ? Sent::everything : Sent::part); }

void HttpClient::Impl::wait_writable() {
  socket.async_wait(asio::posix::descriptor_base::wait_write,
                    [self = shared_from_this(), round = generation](const error_code& error) {
                      if (self->generation == round && self->busy && !error) self->send();
                    });
}

/// One wait is always pending while the connection stands, also between calls: so the end of the connection
/// is noticed when it comes, and an answer that comes before the request was sent completely is seen.
void HttpClient::Impl::wait_readable() {
  socket.async_wait(asio::posix::descriptor_base::wait_read,
                    [self = shared_from_this(), round = generation](const error_code& error) {
                      if (self->generation == round && !error) self->on_readable();
                    });
}

void HttpClient::Impl::on_readable() {
  const auto space = input.prepare(read_chunk);
  const ssize_t n = ::recv(socket.native_handle(), space.data(), space.size(), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
    wait_readable();
  } else if (!busy) {
    close();  // the end of an idle connection, or bytes that nobody asked for
  } else if (n == 0) {
    on_end_of_input();
  } else if (n < 0) {
    lost("connection lost", errno);
  } else {
    input.commit(static_cast<std::size_t>(n));
    any_input = true;
    feed();
  }
}

void HttpClient::Impl::feed() {
  if (!parser) {
    parser.emplace();
    parser->header_limit(static_cast<std::uint32_t>(options.max_header));
    parser->body_limit(options.max_body);
  }
  while (input.size() > 0 && !parser->is_done()) {
    error_code error;
    const std::size_t used = parser->put(input.data(), error);
    input.consume(used);
    if (error == http::error::need_more) break;
    if (error) {
      fail({Errc::invalid, 0, "not an HTTP answer: " + error.message()});
      return;
    }
    if (parser->is_header_done() && !parser->eager()) {
      // Whom we call always says how long its answer is; Beast's reader of chunks asserts on some splits.
      if (parser->chunked()) return fail({Errc::invalid, 0, "not an HTTP answer we take: chunked"});
      parser->eager(true);
      continue;
    }
    if (used == 0) break;
  }
  if (parser->is_done()) {
    complete();
  } else {
    wait_readable();
  }
}

void HttpClient::Impl::on_end_of_input() {
  if (parser && parser->is_header_done()) {
    error_code error;
    parser->put_eof(error);  // an answer without a length ends here
    if (!error && parser->is_done()) {
      complete();
      return;
    }
  }
  lost("connection closed without a complete answer", 0);
}

void HttpClient::Impl::complete() {
  HttpAnswer answer{parser->get().result_int(), std::move(parser->get().body())};
  // 1xx would be followed by another answer; nothing here asks for one.
  if (answer.status < 200) {
    fail({Errc::invalid, 0, "not an HTTP answer: status " + std::to_string(answer.status)});
    return;
  }
  const bool keep = parser->keep_alive() && all_written() && input.size() == 0;
  parser.reset();
  if (keep) {
    wait_readable();
  } else {
    close();
  }
  finish(std::move(answer));
}

/// The connection broke under the call.
void HttpClient::Impl::lost(std::string_view what, int error) {
  const bool again =
      reused && !any_input && !call.same_connection && (sent != Sent::everything || call.repeatable);
  close();
  if (again) {
    reused = false;
    connect();
    return;
  }
  Error failure{Errc::unavailable, error, std::string(what)};
  if (error != 0) failure.message += ": " + std::generic_category().message(error);
  fail(std::move(failure));
}

void HttpClient::Impl::fail(Error error) {
  close();
  finish(std::unexpected(std::move(error)));
}

void HttpClient::Impl::finish(Result<HttpAnswer> answer) {
  disarm();
  busy = false;
  call = {};
  HttpResult result{std::move(answer), sent, was_connected, connects};
  // Last, because the callback may post the next call or destroy the client.
  std::exchange(done, nullptr)(std::move(result));
}

void HttpClient::Impl::close() {
  ++generation;
  error_code ignored;
  if (socket.is_open()) socket.close(ignored);
  input = {};
  parser.reset();
}

void HttpClient::Impl::arm(Time when) {
  timer.expires_after(when - loop.now());
  timer.async_wait([self = shared_from_this(), round = ++timer_round](const error_code& error) {
    if (self->timer_round == round && self->busy && !error) self->on_timer();
  });
}

void HttpClient::Impl::on_timer() {
  const Time now = loop.now();
  if (!socket.is_open() && now < call.send_by) {
    connect();
  } else if (!socket.is_open()) {
    fail({Errc::timeout, EAGAIN, "cannot connect in time: too many are waiting to be accepted"});
  } else if (refused && now < call.send_by) {
    lost("connection refused the request", EPIPE);
  } else if (!all_written()) {
    fail({Errc::timeout, 0, "the request was not taken in time"});
  } else {
    fail({Errc::timeout, 0, "no answer in time"});
  }
}

}  // namespace guard::net
