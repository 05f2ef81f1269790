// Kept-alive connections to xapi, shared by all calls, so that hung calls starve nobody.
//
// Calls get a connection in the order in which they came. At most `counted` connections are busy with calls
// that are younger than `overdue`; a call that is overdue keeps its connection (an update is never given up)
// but counts no more, so that the next call may open another one. Only `ceiling` bounds them all, so that
// descriptors are bounded even if every VM's call hangs.
//
// Thread: the loop thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <list>
#include <optional>
#include <string>

#include "base/limits.h"
#include "guard/env.h"
#include "net/http_client.h"
#include "net/loop.h"
#include "upstream/timer.h"

namespace guard::upstream {

struct PoolOptions {
  net::HttpClient::Options http;
  std::size_t counted = limits::upstream_connections;
  std::size_t ceiling = limits::upstream_ceiling;
  std::chrono::milliseconds overdue = limits::direct_timeout;
  std::chrono::milliseconds idle = limits::upstream_idle;
};

class ConnectionPool {
 public:
  ConnectionPool(net::Loop& loop, PoolOptions options);
  /// Closes all connections; calls that wait or are under way end without their callbacks.
  ~ConnectionPool();
  ConnectionPool(const ConnectionPool&) = delete;

  /// Queues a call; `done` comes exactly once, never before submit() has returned. A call that has no
  /// connection by its `send_by` ends as a time-out with Sent::nothing. An `urgent` call does not wait: for
  /// the few on which all others depend. The callback must not destroy the pool.
  void submit(net::HttpCall call, bool urgent, std::function<void(net::HttpResult)> done);

  std::size_t waiting() const { return queue_.size(); }
  std::size_t busy() const { return busy_.size(); }
  std::size_t idle() const { return idle_.size(); }

 private:
  struct Waiting {
    net::HttpCall call;
    std::function<void(net::HttpResult)> done;
  };
  struct Connection {
    Connection(net::Loop& loop, const net::HttpClient::Options& options) : client(loop, options) {}
    net::HttpClient client;
    Time since{};  ///< start of its call, or of its idleness
  };
  using Connections = std::list<Connection>;

  void start(Waiting waiting);
  void finished(Connections::iterator connection, std::function<void(net::HttpResult)> done,
                net::HttpResult result);
  void pump();
  bool may_start(Time now) const;
  std::size_t counted(Time now) const;
  void expire_waiting(Time now);
  void set_queue_timer(Time now);
  void keep_idle(Connections::iterator connection);
  void close_idle();

  net::Loop& loop_;
  const PoolOptions options_;
  Connections busy_;  ///< in the order of the start of their calls
  Connections idle_;  ///< longest idle first
  std::deque<Waiting> queue_;
  Timer queue_timer_;  ///< set only while calls wait
  Time queue_wake_{};  ///< what it is set to
  Timer idle_timer_;   ///< set only while there are idle connections
};

}  // namespace guard::upstream
