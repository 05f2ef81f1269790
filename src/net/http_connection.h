// One connection of the HTTP server; for http_server.cpp and http_connection.cpp only. The contract that
// users see is in http_server.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "guard/result.h"
#include "net/chunk_decoder.h"
#include "net/deadlines.h"
#include "net/http_server.h"
#include "net/request_head.h"

namespace guard::net {

class Connection;

/// What the connections of one server share. They hold it while they are open, so that a handler may destroy
/// the Server from which it is called.
struct ConnectionHost {
  ConnectionHost(Loop& l, ServerLimits lim, Reply large, Server::Handler h);
  virtual ~ConnectionHost() = default;
  /// The connection has closed itself and waits for nothing any more.
  virtual void ended(Connection& connection) = 0;

  Loop& loop;
  Deadlines& deadlines;
  const ServerLimits bounds;
  const Reply too_large;
  const Server::Handler handler;
  Deadlines::List& idle_list;
  Deadlines::List& header_list;
  Deadlines::List& body_list;
  Deadlines::List& linger_list;
  Deadlines::List& grace_list;
  bool draining = false;
};

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
  /// Takes the connected `fd`, also when it fails. Call run() next.
  static Result<std::shared_ptr<Connection>> open(std::shared_ptr<ConnectionHost> host, int fd,
                                                  std::uint64_t id);
  ~Connection() override = default;

  /// Reads and handles requests until there is something to wait for, then waits for it.
  void run();
  void close();
  void begin_drain();

  void send(Reply reply) override;
  void drop() override { close(); }
  void on_deadline() override { close(); }

 private:
  struct Io;
  enum class Phase { idle, head, body, chunked, handling, writing, lingering, closed };

  Connection(std::shared_ptr<ConnectionHost> host, std::unique_ptr<Io> io, std::uint64_t id);
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
  void wait_within(Deadlines::List& list) { host_->deadlines.start(list, *this, host_->loop.now()); }

  std::shared_ptr<ConnectionHost> host_;  ///< null once closed
  std::unique_ptr<Io> io_;                ///< null once closed, so that a late Responder can outlive the loop
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

}  // namespace guard::net
