// The thread around a Store. Group commit without a timer: whatever was submitted while the last batch was
// being synced is the next batch.
//
// The thread sleeps in one wait. After limits::journal_quiet without requests it does the store's idle work,
// then waits without a time limit; while the journal is failed it wakes up to revive it.
//
// A disk may hang: then that thread hangs, and nobody else. The loop thread takes only mutexes that are never
// held during a call to the disk. What both use is shared, so that the thread may be left behind.
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
  void work(std::vector<Request>& taken);
  void serve(std::vector<Request>& taken);
  /// Sleeps until there are requests, or something to do without. Returns false at the end.
  bool take(std::vector<Request>& taken);
  /// `lasted`: how long the batches since the last call took, if there were any.
  void publish(Clock::duration lasted = {}) {
    Stats now = store->stats();
    if (lasted > Clock::duration{} && now.batches > batches) batch_times.record(lasted);
    batches = now.batches;
    now.batch_times = batch_times;
    const std::lock_guard lock(mutex);
    figures = now;
  }

  /// Marks a call to the disk.
  void begin() { busy_since = Clock::now().time_since_epoch().count(); }
  void end();
  bool stalled() const {
    const auto since = busy_since.load();
    return since != 0 && Clock::now().time_since_epoch() - Clock::duration(since) > limits::journal_stall;
  }
  /// Any thread but the one that hangs; says so once.
  void report_stall() {
    if (stalled() && !stall_reported.exchange(true)) {
      store->logger().log(LogLevel::error, "disk_stalled",
                          {{"seconds", static_cast<int>(limits::journal_stall.count())}});
    }
  }

  // Of the journal thread.
  std::unique_ptr<Store> store;
  std::function<void(std::vector<Completion>)> on_complete;
  bool idle_work_left = true;
  std::uint64_t batches = 0;
  Histogram batch_times;
  Clock::time_point next_revival{};

  std::mutex mutex;  ///< of everything below; held for a few instructions only
  std::condition_variable wake;
  std::vector<Request> queue;
  bool waiting = false;
  bool stop = false;
  bool ended = false;
  Stats figures;

  std::mutex completing;                 ///< held while on_complete runs, which does not block
  std::atomic<bool> left_behind{false};  ///< nobody is there any more; set under `completing`

  /// Since when the call to the disk under way has been; 0 = there is none. Of steady_clock.
  std::atomic<Clock::rep> busy_since{0};
  std::atomic<bool> stall_reported{false};
};

void Journal::Impl::end() {
  const auto since = busy_since.exchange(0);
  if (!stall_reported.exchange(false)) return;
  const auto lasted = Clock::now().time_since_epoch() - Clock::duration(since);
  store->logger().log(LogLevel::notice, "disk_stall_over",
                      {{"seconds", std::chrono::duration_cast<std::chrono::seconds>(lasted).count()}});
}

void Journal::Impl::run() {
  std::vector<Request> taken;
  while (!left_behind && take(taken)) work(taken);
  if (left_behind) return;
  begin();
  store->seal();
  end();
  {
    const std::lock_guard lock(mutex);
    ended = true;
  }
  wake.notify_all();
}

void Journal::Impl::work(std::vector<Request>& taken) {
  if (!taken.empty()) {
    serve(taken);
    if (left_behind) return;
    // Not only when all is quiet: in a long outage it never is. What comes meanwhile is one larger batch.
    begin();
    store->grow_ahead();
    idle_work_left = true;
  } else if (store->stats().state == State::failed) {
    begin();
    store->revive();
    next_revival = Clock::now() + limits::journal_retry;
  } else {
    begin();
    idle_work_left = store->idle_work();
  }
  end();
  publish();
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
    const Clock::time_point began = Clock::now();
    begin();
    auto completions = store->run(std::move(part));
    end();
    publish(Clock::now() - began);
    const std::lock_guard lock(completing);
    if (left_behind) return;
    on_complete(std::move(completions));
    from = to;
  }
}

Journal::Journal(std::unique_ptr<Store> store, std::function<void(std::vector<Completion>)> on_complete)
    : impl_(std::make_shared<Impl>(std::move(store), std::move(on_complete))) {
  thread_ = std::thread([impl = impl_] { impl->run(); });
}

Journal::~Journal() {
  {
    std::unique_lock lock(impl_->mutex);
    impl_->stop = true;
    impl_->wake.notify_all();
    while (!impl_->wake.wait_for(lock, limits::journal_quiet, [this] { return impl_->ended; })) {
      if (impl_->stalled()) break;
    }
    if (impl_->ended) {
      lock.unlock();
      thread_.join();
      return;
    }
  }
  impl_->report_stall();
  {
    const std::lock_guard lock(impl_->completing);
    impl_->left_behind = true;
  }
  impl_->store->mute();
  thread_.detach();
}

void Journal::submit(std::vector<Request> requests) {
  if (requests.empty()) return;
  impl_->report_stall();
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
  impl_->report_stall();
  Stats stats;
  {
    const std::lock_guard lock(impl_->mutex);
    stats = impl_->figures;
  }
  if (impl_->stalled()) stats.state = State::stalled;
  return stats;
}

}  // namespace guard::journal
