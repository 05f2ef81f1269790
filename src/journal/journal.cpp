// The thread around a Store. Group commit without a timer: whatever was submitted while the last batch was
// being synced is the next batch.
//
// The thread sleeps in one wait. After limits::journal_quiet without requests it does the store's idle work,
// then waits without a time limit; while the journal is failed it wakes up to revive it.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "journal/format.h"

namespace guard::journal {

namespace {

using Clock = std::chrono::steady_clock;

std::size_t bytes_of(const Request& request) {
  const auto* entry = std::get_if<Entry>(&request);
  return record_header_max + (entry != nullptr ? entry->value.size() : 0);
}

}  // namespace

struct Journal::Impl {
  Impl(std::unique_ptr<Store> opened, std::function<void(std::vector<Completion>)> done)
      : store(std::move(opened)), on_complete(std::move(done)), figures(store->stats()) {}

  void run();
  void serve(std::vector<Request>& taken);
  /// Sleeps until there are requests, or something to do without. Returns false at the end.
  bool take(std::vector<Request>& taken);
  void publish() {
    const Stats now = store->stats();
    const std::lock_guard lock(mutex);
    figures = now;
  }

  // Of the journal thread.
  std::unique_ptr<Store> store;
  std::function<void(std::vector<Completion>)> on_complete;
  bool idle_work_left = true;
  Clock::time_point next_revival{};

  std::mutex mutex;  ///< of everything below; held for a few instructions only
  std::condition_variable wake;
  std::vector<Request> queue;
  bool waiting = false;
  bool stop = false;
  Stats figures;

  /// Since when the batch under way has been; 0 = there is none. Of steady_clock.
  std::atomic<Clock::rep> busy_since{0};
  std::thread thread;  ///< last: starts when everything else is there
};

void Journal::Impl::run() {
  std::vector<Request> taken;
  while (take(taken)) {
    if (!taken.empty()) {
      serve(taken);
      // Not only when all is quiet: in a long outage it never is. What comes meanwhile is one larger batch.
      store->grow_ahead();
      idle_work_left = true;
    } else if (store->stats().state == State::failed) {
      busy_since = Clock::now().time_since_epoch().count();
      store->revive();
      busy_since = 0;
      next_revival = Clock::now() + limits::journal_retry;
      publish();
    } else {
      idle_work_left = store->idle_work();
      publish();
    }
  }
  store->seal();
}

bool Journal::Impl::take(std::vector<Request>& taken) {
  taken.clear();
  const bool failed = store->stats().state == State::failed;
  std::unique_lock lock(mutex);
  const auto ready = [this] { return stop || !queue.empty(); };
  waiting = true;
  if (failed) {
    wake.wait_until(lock, std::max(next_revival, Clock::now()), ready);
  } else if (idle_work_left) {
    wake.wait_for(lock, limits::journal_quiet, ready);
  } else {
    wake.wait(lock, ready);
  }
  waiting = false;
  if (queue.empty()) return !stop;
  std::swap(taken, queue);
  return true;
}

void Journal::Impl::serve(std::vector<Request>& taken) {
  busy_since = Clock::now().time_since_epoch().count();
  for (std::size_t from = 0; from < taken.size();) {
    std::size_t to = from;
    std::size_t bytes = 0;
    while (to < taken.size() && (to == from || bytes + bytes_of(taken[to]) <= limits::journal_batch)) {
      bytes += bytes_of(taken[to++]);
    }
    std::vector<Request> part;
    if (from == 0 && to == taken.size()) {
      part.swap(taken);
      from = 0;
      to = 0;
    } else {
      part.assign(std::move_iterator(taken.begin() + static_cast<std::ptrdiff_t>(from)),
                  std::move_iterator(taken.begin() + static_cast<std::ptrdiff_t>(to)));
    }
    auto completions = store->run(std::move(part));
    publish();
    on_complete(std::move(completions));
    busy_since = Clock::now().time_since_epoch().count();
    from = to;
  }
  busy_since = 0;
}

Journal::Journal(std::unique_ptr<Store> store, std::function<void(std::vector<Completion>)> on_complete)
    : impl_(std::make_unique<Impl>(std::move(store), std::move(on_complete))) {
  impl_->thread = std::thread([impl = impl_.get()] { impl->run(); });
}

Journal::~Journal() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->wake.notify_one();
  impl_->thread.join();
}

void Journal::submit(std::vector<Request> requests) {
  if (requests.empty()) return;
  bool sleeping = false;
  {
    const std::lock_guard lock(impl_->mutex);
    if (impl_->queue.empty()) {
      impl_->queue = std::move(requests);
    } else {
      impl_->queue.insert(impl_->queue.end(), std::move_iterator(requests.begin()),
                          std::move_iterator(requests.end()));
    }
    sleeping = std::exchange(impl_->waiting, false);
  }
  if (sleeping) impl_->wake.notify_one();
}

Stats Journal::stats() const {
  Stats stats;
  {
    const std::lock_guard lock(impl_->mutex);
    stats = impl_->figures;
  }
  const auto since = impl_->busy_since.load();
  if (since != 0 && Clock::now().time_since_epoch() - Clock::duration(since) > limits::journal_stall) {
    stats.state = State::stalled;
  }
  return stats;
}

}  // namespace guard::journal
