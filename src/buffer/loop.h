// The buffer's own thread: work in the order of posting, and alarms. Needs nothing but the standard library,
// so that a program that embeds the buffer needs nothing else.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "guard/env.h"

namespace guard::buffer {

class Loop {
 public:
  Loop() = default;
  Loop(const Loop&) = delete;

  /// Any thread: runs `work` on the loop's thread, in order of posting. Once the loop has ended, the work is
  /// destroyed without having run. Not bounded in itself: each of those who post bounds what he has under
  /// way.
  void post(std::function<void()> work);
  /// Loop thread: runs `work` at or shortly after `when` of now(). One-shot.
  void at(Time when, std::function<void()> work);
  static Time now() { return std::chrono::steady_clock::now().time_since_epoch(); }

  /// Makes the calling thread the loop's and runs until stop(); then what was posted or planned and has not
  /// run is destroyed. Exceptions of works end the process: they are our own bugs, those of callbacks are
  /// caught where they are called. Called once.
  void run() noexcept;
  /// Loop thread: run() ends after the work that is running.
  void stop() { stopped_ = true; }

  /// Any thread: whether it is the loop's own.
  bool on_this_thread() const;

 private:
  struct Appointment {
    Time when;
    std::uint64_t order;  ///< keeps works of the same time in the order in which they were asked for
    std::function<void()> work;
  };
  static bool later(const Appointment& a, const Appointment& b);
  /// Sleeps until there is something to do; returns what was posted.
  std::vector<std::function<void()>> take();
  void run_due();
  void end();

  // Of the loop's thread.
  bool stopped_ = false;
  std::vector<Appointment> appointments_;  ///< a heap, the earliest in front
  std::uint64_t next_order_ = 0;

  mutable std::mutex mutex_;  ///< of everything below; held for a few instructions only
  std::condition_variable wake_;
  std::vector<std::function<void()>> posted_;
  bool waiting_ = false;
  bool ended_ = false;
  std::thread::id thread_;
};

}  // namespace guard::buffer
