#include "upstream/connection_pool.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace guard::upstream {

ConnectionPool::ConnectionPool(net::Loop& loop, PoolOptions options)
    : loop_(loop), options_(std::move(options)), queue_timer_(loop), idle_timer_(loop) {}

ConnectionPool::~ConnectionPool() = default;

void ConnectionPool::submit(net::HttpCall call, bool urgent, std::function<void(net::HttpResult)> done) {
  Waiting waiting{std::move(call), std::move(done)};
  if (urgent || (queue_.empty() && may_start(loop_.now()))) {
    start(std::move(waiting));
    return;
  }
  const bool earlier = queue_.empty() || waiting.call.send_by < queue_wake_;
  queue_.push_back(std::move(waiting));
  if (earlier) set_queue_timer(loop_.now());
}

void ConnectionPool::start(Waiting waiting) {
  if (idle_.empty()) {
    busy_.emplace_back(loop_, options_.http);
  } else {
    // The one used last: the others may grow old and be closed.
    busy_.splice(busy_.end(), idle_, std::prev(idle_.end()));
    if (idle_.empty()) idle_timer_.cancel();
  }
  const auto connection = std::prev(busy_.end());
  connection->since = loop_.now();
  connection->client.post(std::move(waiting.call),
                          [this, connection, done = std::move(waiting.done)](net::HttpResult result) mutable {
                            finished(connection, std::move(done), std::move(result));
                          });
}

void ConnectionPool::finished(Connections::iterator connection, std::function<void(net::HttpResult)> done,
                              net::HttpResult result) {
  keep_idle(connection);
  pump();
  done(std::move(result));
}

void ConnectionPool::keep_idle(Connections::iterator connection) {
  if (!connection->client.connected() || idle_.size() >= options_.counted) {
    busy_.erase(connection);
    return;
  }
  connection->since = loop_.now();
  idle_.splice(idle_.end(), busy_, connection);
  if (!idle_timer_.is_set()) idle_timer_.set(loop_.now() + options_.idle, [this] { close_idle(); });
}

void ConnectionPool::close_idle() {
  const Time now = loop_.now();
  while (!idle_.empty() && idle_.front().since + options_.idle <= now) idle_.pop_front();
  if (!idle_.empty()) idle_timer_.set(idle_.front().since + options_.idle, [this] { close_idle(); });
}

std::size_t ConnectionPool::counted(Time now) const {
  std::size_t count = 0;
  for (auto connection = busy_.rbegin(); connection != busy_.rend(); ++connection) {
    if (connection->since + options_.overdue <= now) break;
    ++count;
  }
  return count;
}

bool ConnectionPool::may_start(Time now) const {
  return busy_.size() < options_.counted ||
         (busy_.size() < options_.ceiling && counted(now) < options_.counted);
}

void ConnectionPool::pump() {
  if (queue_.empty()) return;
  const Time now = loop_.now();
  while (!queue_.empty() && may_start(now)) {
    Waiting waiting = std::move(queue_.front());
    queue_.pop_front();
    start(std::move(waiting));
  }
  set_queue_timer(now);
}

/// Wakes up when the first of those waiting has waited too long, or the oldest counted call stops counting.
void ConnectionPool::set_queue_timer(Time now) {
  if (queue_.empty()) {
    queue_timer_.cancel();
    return;
  }
  Time next = queue_.front().call.send_by;
  for (const Waiting& waiting : queue_) next = std::min(next, waiting.call.send_by);
  if (busy_.size() < options_.ceiling) {
    for (const Connection& connection : busy_) {
      if (connection.since + options_.overdue <= now) continue;
      next = std::min(next, connection.since + options_.overdue);
      break;
    }
  }
  queue_wake_ = next;
  queue_timer_.set(next, [this] {
    expire_waiting(loop_.now());
    pump();
  });
}

void ConnectionPool::expire_waiting(Time now) {
  std::vector<Waiting> late;
  for (auto waiting = queue_.begin(); waiting != queue_.end();) {
    if (waiting->call.send_by <= now) {
      late.push_back(std::move(*waiting));
      waiting = queue_.erase(waiting);
    } else {
      ++waiting;
    }
  }
  for (Waiting& waiting : late) {
    waiting.done({std::unexpected(Error{Errc::timeout, 0, "no connection became free in time"})});
  }
}

}  // namespace guard::upstream
