// A one-shot timer that can be set anew and cancelled. Nothing happens, and nothing wakes up, while it is not
// set. Thread: the loop thread.
#pragma once

#include <functional>
#include <memory>

#include "guard/env.h"
#include "net/loop.h"

namespace guard::upstream {

class Timer {
 public:
  explicit Timer(net::Loop& loop);
  /// Cancels.
  ~Timer();
  Timer(const Timer&) = delete;

  /// Runs `work` on the loop thread at or shortly after `when`, never from within this call; replaces what
  /// was set before. `work` may set the timer anew or destroy it.
  void set(Time when, std::function<void()> work);
  void cancel();
  bool is_set() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace guard::upstream
