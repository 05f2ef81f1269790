// An HTTP/1.1 server on one listening unix (or loopback TCP) socket, with every bound of limits.h.
//
// Everything runs on the thread of the Loop given. No Boost type appears here.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "guard/types.h"
#include "net/loop.h"

namespace guard::net {

/// A complete request. Requests that are not complete, not parsable or over a limit never get here.
struct Request {
  std::string method;       ///< as sent: "GET", "PUT", "M-SEARCH"
  std::string path;         ///< path component only, percent-decoded; the query is cut off
  bool has_length = false;  ///< Content-Length or chunked was given
  std::string body;
  std::uint64_t connection = 0;  ///< which connection of this server it came on, counting from 1
};

/// An answer, byte for byte. `head` is everything up to and including the blank line.
struct Reply {
  std::string head;
  Value body;          ///< sent after the head without a copy
  bool close = false;  ///< close the connection afterwards, also if the client did not ask for it
};

/// Sends the one answer to a request. Move-only; when it is destroyed unused, the connection is closed
/// without an answer. Outlives the server safely: sending then does nothing.
class Responder {
 public:
  class Sink {
   public:
    virtual ~Sink() = default;
    virtual void send(Reply reply) = 0;
    virtual void drop() = 0;
  };
  explicit Responder(std::shared_ptr<Sink> sink) : sink_(std::move(sink)) {}
  Responder(Responder&&) noexcept = default;
  Responder& operator=(Responder&&) = delete;
  ~Responder() {
    if (sink_) sink_->drop();
  }
  void operator()(Reply reply) { std::exchange(sink_, nullptr)->send(std::move(reply)); }

 private:
  std::shared_ptr<Sink> sink_;
};

struct ServerLimits {
  std::size_t max_body = limits::max_body_vtpm;
  std::size_t max_header = limits::max_header;
  unsigned max_connections = limits::connections_per_socket;
  std::chrono::milliseconds header_deadline = limits::header_deadline;
  std::chrono::milliseconds body_deadline = limits::body_deadline;
  std::chrono::milliseconds idle_deadline = limits::idle_deadline;
  std::chrono::milliseconds drain_grace = limits::drain_grace;
};

/// Serves one listening socket. Requests of one connection are handled one after the other, in order; those
/// of different connections concurrently. Pipelined requests are answered in order. A connection over
/// max_connections is not accepted until another one ends. What is not a complete, well-formed request
/// within the limits ends with a close and no answer, except that a body over max_body (declared or
/// counted) is answered with `too_large` and then closed. Never answers 400, 408, 431, nor "100 Continue"
/// without `Expect`. The only bytes a client ever sees are Replies and that interim response.
///
/// Deadlines end a connection without an answer: the idle one runs while no byte of a request is there, the
/// header one from its first byte on, the body one from the end of its head on, and again while a client
/// does not take its answer. None runs while a handler works: an answer comes when it comes.
class Server {
 public:
  using Handler = std::function<void(Request, Responder)>;

  /// Takes ownership of `listening_fd` (bound and listening, any flags). `too_large` is the answer to a body
  /// over the limit. The connection closes after an answer when the request was HTTP/1.0 or said
  /// `Connection: close`; replies to HEAD go out without their body. `label` names the socket in log lines.
  /// The handler may answer at once, later, or never (by dropping the Responder), and may destroy the Server.
  /// Throws std::system_error when the kernel cannot watch another descriptor.
  Server(Loop& loop, int listening_fd, ServerLimits limits, Reply too_large, Handler handler, Logger& log,
         std::string label = {});
  /// Closes the listening socket and all connections at once; pending Responders become harmless.
  ~Server();
  Server(const Server&) = delete;

  /// Stops accepting and closes idle connections; calls `drained` once every request already received was
  /// answered. New connections stay in the backlog of the socket, which is left open until destruction. A
  /// request of which some bytes have arrived counts as received and may still be completed within its
  /// deadlines; a connection that has not sent anything yet gets `drain_grace` to do so. `drained` is
  /// called on the loop thread, not before drain() has returned, and not at all if the Server is destroyed.
  /// Call it once.
  void drain(std::function<void()> drained);

  unsigned connections() const;
  /// Shuts the listening socket down (shutdown(2)), as destroying a device socket demands: a stored
  /// duplicate in systemd's descriptor store then hangs up and is dropped.
  void shutdown_listener();
  int listening_fd() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace guard::net
