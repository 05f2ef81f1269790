#include "buffer/loop.h"

#include <algorithm>
#include <utility>

namespace guard::buffer {

void Loop::post(std::function<void()> work) {
  bool sleeping = false;
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;  // `work` is destroyed by the caller, after the lock
    posted_.push_back(std::move(work));
    sleeping = std::exchange(waiting_, false);
  }
  if (sleeping) wake_.notify_one();
}

void Loop::at(Time when, std::function<void()> work) {
  appointments_.push_back({when, next_order_++, std::move(work)});
  std::push_heap(appointments_.begin(), appointments_.end(), later);
}

void Loop::run() noexcept {
  {
    const std::lock_guard lock(mutex_);
    thread_ = std::this_thread::get_id();
  }
  while (!stopped_) {
    for (auto& work : take()) {
      work();
      work = nullptr;  // what it holds ends with it, not with its neighbours
      if (stopped_) break;
    }
    if (!stopped_) run_due();
  }
  end();
}

bool Loop::on_this_thread() const {
  const std::lock_guard lock(mutex_);
  return thread_ == std::this_thread::get_id();
}

bool Loop::later(const Appointment& a, const Appointment& b) {
  return a.when != b.when ? a.when > b.when : a.order > b.order;
}

std::vector<std::function<void()>> Loop::take() {
  std::vector<std::function<void()>> taken;
  std::unique_lock lock(mutex_);
  const auto ready = [this] { return !posted_.empty(); };
  if (!ready()) {
    waiting_ = true;
    if (appointments_.empty()) {
      wake_.wait(lock, ready);
    } else {
      wake_.wait_until(lock, std::chrono::steady_clock::time_point(appointments_.front().when), ready);
    }
    waiting_ = false;
  }
  std::swap(taken, posted_);
  return taken;
}

void Loop::run_due() {
  const Time when = now();
  // What is asked for meanwhile waits for the next round, so that nothing can keep the loop in here.
  const std::uint64_t end = next_order_;
  while (!appointments_.empty() && appointments_.front().when <= when && appointments_.front().order < end) {
    std::pop_heap(appointments_.begin(), appointments_.end(), later);
    const auto work = std::move(appointments_.back().work);
    appointments_.pop_back();
    work();
    if (stopped_) return;
  }
}

void Loop::end() {
  std::vector<std::function<void()>> left;
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    std::swap(left, posted_);
  }
  appointments_.clear();
}

}  // namespace guard::buffer
