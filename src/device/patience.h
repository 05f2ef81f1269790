// Requests that wait for their answer, for clients that never ask twice.
//
// An attempt that ends `unavailable` is repeated every `retry`; one that has not ended after `grace` counts
// as waiting, too. All that wait at one time share one period: it begins with the arrival of the first, and
// at its end, `length` later, they are given up together. From then until `renewed` after its begin an
// attempt that ends `unavailable` is the last one; one that does not end at all is given up `length` after
// its grace.
//
//   period   none --a request waits--> open --length--> used up --renewed--> none
//
// Thread: the loop thread.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "guard/lane.h"
#include "net/deadlines.h"
#include "net/loop.h"

namespace guard::device {

class Patience {
 public:
  struct Times {
    std::chrono::milliseconds length;
    std::chrono::milliseconds renewed;
    std::chrono::milliseconds grace;
    std::chrono::milliseconds retry;
  };
  /// What an attempt came to; `body` counts only if the outcome is `done`.
  using Answer = std::function<void(UefiOutcome outcome, std::string body)>;
  /// Tries once and calls its argument exactly once, possibly before it returns, possibly after it was given
  /// up.
  using Attempt = std::function<void(Answer)>;

  struct Question {
    /// Attempts of questions in order are made one at a time: the next one begins when the one before has
    /// ended. One that was given up ends with its attempt.
    bool in_order = false;
    Attempt attempt;
    std::function<void(bool first)>
        waits;    ///< called at most once: it has to wait, and a period began with it
    Answer done;  ///< called once, unless this object ends before; `unavailable` = it was given up
  };

  Patience(net::Loop& loop, Times times);
  /// Nobody is called any more.
  ~Patience();
  Patience(const Patience&) = delete;

  void ask(Question question);

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace guard::device
