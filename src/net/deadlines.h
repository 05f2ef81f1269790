// Deadlines of constant length for very many waiters, without a system call when one is set or cleared.
//
// All waiters with the same length stand in one list in the order in which they started, which is the order
// in which they expire; so starting and stopping are a few pointer writes, and only the heads of the lists
// are ever looked at. Whoever owns a Deadlines keeps one timer: it is told when an earlier wake-up than the
// one already asked for is needed, and never told to cancel one (a wake-up that finds nothing is harmless
// and rare: a list asks again at most once per its length).
//
// Thread: one thread only. No Boost type appears here.
#pragma once

#include <functional>
#include <map>
#include <memory>

#include "guard/env.h"

namespace guard::net {

class Deadlines {
 public:
  class List;

  /// Something that can expire. Stops itself when destroyed; must not outlive its Deadlines while started.
  class Item {
   public:
    Item() = default;
    virtual ~Item();
    Item(const Item&) = delete;
    Item& operator=(const Item&) = delete;

    /// Called once per start() that is not followed by stop(); the item is stopped by then and may be
    /// started again, or destroyed, from within.
    virtual void on_deadline() = 0;

   private:
    friend class Deadlines;
    List* list_ = nullptr;  ///< null = not started
    Item* before_ = nullptr;
    Item* after_ = nullptr;
    Time expires_{};
  };

  /// `wake_earlier` is called whenever next() has become earlier.
  explicit Deadlines(std::function<void()> wake_earlier);
  ~Deadlines();
  Deadlines(const Deadlines&) = delete;

  /// The list of all deadlines of this length, which is more than zero; lives as long as the Deadlines.
  List& list(std::chrono::milliseconds length);

  /// The item expires `length of list` after `now`; an earlier start of it is forgotten. `now` never goes
  /// back.
  void start(List& list, Item& item, Time now);
  static void stop(Item& item);

  /// Calls on_deadline() of everything that is due.
  void expire(Time now);

  /// When expire() has to be called next; Time::max() = never.
  Time next() const { return next_; }

 private:
  std::map<std::chrono::milliseconds, std::unique_ptr<List>> lists_;
  std::function<void()> wake_earlier_;
  Time next_ = Time::max();
};

}  // namespace guard::net
