// For the tests of the buffer: an upstream as an embedder may write it, with everything that may go wrong,
// and a directory that is gone afterwards.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "guard/buffer.h"

namespace guard::buffer {

/// Keeps contents in memory. Any thread may call; answers come on threads of its own unless `in_place`.
class TestUpstream final : public Upstream {
 public:
  enum class Mode {
    up,
    down,        ///< refuses, and so does the probe
    silent,      ///< keeps calls until answer_all()
    throwing,    ///< acts, then throws instead of answering
    forgetful,   ///< acts, then drops the callback
    repeating,   ///< answers each call twice
    bad_owner,   ///< the owner cannot be written or read
    bad_payload  ///< the value cannot be written
  };

  ~TestUpstream() override {
    answer_all();
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  UpstreamLimits limits() const override {
    if (limits_throw) throw 5;
    return {limit, 0, durable};
  }
  void set_events(UpstreamEvents* events) override {
    if (on_set_events) on_set_events(events != nullptr);
    const std::lock_guard lock(events_mutex_);
    events_ = events;
  }
  void deliver(Delivery delivery, std::function<void(Outcome)> done) override {
    ++deliveries;
    call([this, delivery = std::move(delivery), done = std::move(done)] { act(delivery, done); });
  }
  void fetch(Owner owner, std::function<void(Fetched)> done) override {
    call([this, owner, done = std::move(done)] {
      Fetched fetched;
      fetched.epoch = 1;
      fetched.reason = reason;
      fetched.upstream_suspect = mode == Mode::down;
      if (mode == Mode::bad_owner) fetched.kind = Outcome::Kind::lane;
      if (mode == Mode::up || mode == Mode::repeating) {
        fetched.kind = Outcome::Kind::delivered;
        const std::lock_guard lock(mutex_);
        fetched.contents = contents_[owner.vm];
      }
      if (mode == Mode::throwing) throw std::runtime_error("fetch");
      if (mode == Mode::forgetful) return;
      done(fetched);
      if (mode == Mode::repeating) done(fetched);
    });
  }
  void probe(std::function<void(Outcome)> done) override {
    ++probes;
    call([this, done = std::move(done)] {
      Outcome outcome;
      outcome.reason = reason;
      if (mode == Mode::throwing) throw std::runtime_error("probe");
      if (mode == Mode::forgetful) return;
      if (mode != Mode::down) outcome.kind = Outcome::Kind::delivered;
      done(outcome);
      if (mode == Mode::repeating) done(outcome);
    });
  }

  Value value(Key key) {
    const std::lock_guard lock(mutex_);
    return contents_[key.owner][key.slot];
  }
  /// What was kept in mode `silent` is answered now, and nothing is kept any more.
  void answer_all() {
    std::vector<std::function<void()>> kept;
    {
      const std::lock_guard lock(mutex_);
      if (mode == Mode::silent) mode = Mode::up;
      std::swap(kept, kept_);
    }
    for (auto& work : kept) work();
  }
  std::size_t kept() {
    const std::lock_guard lock(mutex_);
    return kept_.size();
  }
  void report(Epoch ended) {
    const std::lock_guard lock(events_mutex_);
    if (events_ == nullptr) return;
    events_->session_ended(ended);
    events_->sign_of_life();
  }

  std::atomic<Mode> mode = Mode::up;
  std::atomic<bool> in_place = false;
  std::atomic<unsigned> deliveries = 0;
  std::atomic<unsigned> probes = 0;
  std::size_t limit = std::size_t{1} << 20;
  bool durable = false;  ///< what it has accepted
  bool limits_throw = false;
  std::string reason = "away";  ///< set before the buffer is opened
  std::function<void(bool set)> on_set_events;

 private:
  void call(std::function<void()> work) {
    if (mode == Mode::throwing || in_place) return work();
    {
      const std::lock_guard lock(mutex_);
      if (mode == Mode::silent) return kept_.push_back(std::move(work));
      if (threads_.size() < 3) threads_.emplace_back([this] { serve(); });
      queue_.push_back(std::move(work));
    }
    wake_.notify_one();
  }
  void serve() {
    for (;;) {
      std::function<void()> work;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return ending_ || !queue_.empty(); });
        if (queue_.empty()) return;
        work = std::move(queue_.front());
        queue_.pop_front();
      }
      try {
        work();
      } catch (const std::runtime_error&) {
        // The mode has changed since the call: on a thread of its own, an upstream has to catch, and what is
        // left is a callback that was dropped.
      }
    }
  }
  void act(const Delivery& delivery, const std::function<void(Outcome)>& done) {
    Outcome outcome;
    outcome.epoch = 1;
    outcome.reason = reason;
    outcome.upstream_suspect = mode == Mode::down;
    if (mode == Mode::bad_owner) outcome.kind = Outcome::Kind::lane;
    if (mode == Mode::bad_payload) outcome.kind = Outcome::Kind::payload;
    if (mode != Mode::down && mode != Mode::bad_owner && mode != Mode::bad_payload) {
      const std::lock_guard lock(mutex_);
      Contents& standing = contents_[delivery.owner.vm];
      for (const SlotWrite& write : delivery.writes) standing[write.slot] = write.value;
      outcome.kind = Outcome::Kind::delivered;
      outcome.contents = standing;
    }
    if (mode == Mode::throwing) throw std::runtime_error("deliver");
    if (mode == Mode::forgetful) return;
    done(outcome);
    if (mode == Mode::repeating) done(outcome);
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::map<Uuid, Contents> contents_;
  std::vector<std::function<void()>> kept_;
  std::deque<std::function<void()>> queue_;
  std::vector<std::thread> threads_;
  bool ending_ = false;
  std::mutex events_mutex_;
  UpstreamEvents* events_ = nullptr;
};

class TestDir {
 public:
  TestDir() {
    std::string place = ::testing::TempDir() + "guard-buffer-XXXXXX";
    if (::mkdtemp(place.data()) == nullptr) throw std::runtime_error("mkdtemp " + place);
    path_ = place;
  }
  ~TestDir() { std::filesystem::remove_all(path_); }
  TestDir(const TestDir&) = delete;
  std::string path() const { return path_ + "/state"; }

 private:
  std::string path_;
};

/// Small files, and patience that a busy machine does not exhaust.
inline BufferOptions test_options() {
  BufferOptions options;
  options.journal_size = std::uint64_t{4} << 20;
  options.journal_max = std::uint64_t{8} << 20;
  options.read_timeout = std::chrono::minutes(1);
  options.close_timeout = std::chrono::minutes(1);
  return options;
}

inline Key key_of(unsigned owner, unsigned slot = 0) {
  Key key;
  key.owner.bytes = {static_cast<std::uint8_t>(owner >> 8), static_cast<std::uint8_t>(owner)};
  key.slot = Slot{static_cast<std::uint8_t>(slot)};
  return key;
}

/// Why a call failed; nullopt when it did not.
template <class T>
std::optional<Errc> failure(const Result<T>& result) {
  return result ? std::optional<Errc>() : result.error().code;
}

/// Waits until `condition()`; false when it is not so after a long time.
inline bool eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace guard::buffer
