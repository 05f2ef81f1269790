// What a test of the engine stands on: a loop of the test's own, and a place for the journal and the notes.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "engine/call_notes.h"
#include "engine/engine.h"
#include "testing/sim_disk.h"

namespace guard::engine {

/// Runs posted work and alarms on the test's thread; its clock stands still until the test moves it.
class TestLoop {
 public:
  Host host() {
    Host host;
    host.post = [this](std::function<void()> work) {
      const std::lock_guard lock(mutex_);
      posted_.push_back(std::move(work));
      wake_.notify_one();
    };
    host.at = [this](Time when, std::function<void()> work) { alarms_.emplace(when, std::move(work)); };
    host.now = [this] { return now_; };
    host.wall_ms = [] { return std::int64_t{1'700'000'000'000}; };
    return host;
  }
  /// Runs what is posted until `done()`; fails the test when nothing comes for long.
  void run_until(const std::function<bool()>& done) {
    while (!done()) {
      ASSERT_TRUE(run_one(std::chrono::seconds(60))) << "nothing happens";
    }
  }
  /// The same for what may also need time: whenever nothing is posted the clock moves on. Fails the test when
  /// an hour of it was not enough.
  void run_and_pass_time_until(const std::function<bool()>& done) {
    const Time give_up = now_ + std::chrono::hours(1);
    while (!done()) {
      ASSERT_LT(now_, give_up) << "nothing happens";
      if (!run_one(std::chrono::milliseconds(20))) advance(std::chrono::milliseconds(500));
    }
  }
  void advance(Time time) {
    now_ += time;
    while (!alarms_.empty() && alarms_.begin()->first <= now_) {
      auto work = std::move(alarms_.begin()->second);
      alarms_.erase(alarms_.begin());
      work();
    }
  }

 private:
  /// False: nothing was posted for so long.
  bool run_one(std::chrono::milliseconds patience) {
    std::function<void()> work;
    {
      std::unique_lock lock(mutex_);
      if (!wake_.wait_for(lock, patience, [this] { return !posted_.empty(); })) return false;
      work = std::move(posted_.front());
      posted_.pop_front();
    }
    work();
    return true;
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> posted_;
  std::multimap<Time, std::function<void()>> alarms_;
  Time now_{std::chrono::seconds(1000)};
};

/// A simulated disk for the journal, which forgets at crash() what was not synced, and a directory of the
/// real file system for the notes; with the loop.
class EnginePlace {
 public:
  EnginePlace() { dir_ = ::mkdtemp(dir_.data()); }
  ~EnginePlace() { std::filesystem::remove_all(dir_); }
  EnginePlace(const EnginePlace&) = delete;
  EnginePlace& operator=(const EnginePlace&) = delete;

  std::unique_ptr<journal::Store> store() {
    auto opened = journal::Store::open(
        disk.root(), {.size = 4 << 20, .max_size = 8 << 20}, [this] { return ++salt_; }, null_logger());
    EXPECT_TRUE(opened) << opened.error().message;
    return std::move(*opened);
  }
  std::unique_ptr<CallNotes> notes() {
    auto opened = CallNotes::open(dir_, "test", 16);
    EXPECT_TRUE(opened) << opened.error().message;
    return std::move(*opened);
  }

  const std::string& dir() const { return dir_; }

  testing::SimDisk disk{1};
  TestLoop loop;

 private:
  std::string dir_ = (std::filesystem::temp_directory_path() / "engine_test.XXXXXX").string();
  std::uint64_t salt_ = 0;
};

}  // namespace guard::engine
