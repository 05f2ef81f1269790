// The loop thread: one Asio io_context behind a small face, so that other headers need not know Boost.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "guard/env.h"

namespace boost::asio {
class io_context;
}

namespace guard::net {

class Deadlines;

/// Wakes up only for I/O, posted work, signals and the earliest of what at() and deadlines() wait for: one
/// timer in all, set only when something earlier than it turns up. An idle loop sleeps.
class Loop {
 public:
  Loop();
  ~Loop();
  Loop(const Loop&) = delete;

  /// Runs until stop(); exceptions of handlers leave it. May be called again afterwards; a stop() that came
  /// before makes it return at once.
  void run();
  /// Any thread.
  void stop();
  /// Any thread: runs `work` on the loop thread, in order of posting.
  void post(std::function<void()> work);
  /// Loop thread: runs `work` at or shortly after `when` (steady clock, see now()). One-shot.
  void at(Time when, std::function<void()> work);
  /// Loop thread: calls `handler` on the loop thread for SIGTERM and SIGINT.
  void on_terminate(std::function<void()> handler);
  Time now() const;

  /// Loop thread: deadlines of constant length, for what is started and stopped per request.
  Deadlines& deadlines();

  /// For src/net and src/upstream implementation files only.
  boost::asio::io_context& context();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace guard::net
