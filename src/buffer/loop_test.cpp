// The buffer's loop: order, alarms, the end.
#include "buffer/loop.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

namespace guard::buffer {
namespace {

using std::chrono::milliseconds;

TEST(BufferLoop, RunsWhatManyThreadsPostAndKeepsTheOrderOfEach) {
  Loop loop;
  constexpr unsigned threads = 4, works = 500;
  std::vector<std::vector<unsigned>> seen(threads);
  unsigned left = threads * works;
  std::vector<std::thread> posters;
  for (unsigned t = 0; t < threads; ++t) {
    posters.emplace_back([&, t] {
      for (unsigned i = 0; i < works; ++i) {
        loop.post([&, t, i] {
          seen[t].push_back(i);
          if (--left == 0) loop.stop();
        });
      }
    });
  }
  loop.run();
  for (auto& poster : posters) poster.join();
  for (const auto& order : seen) {
    ASSERT_EQ(order.size(), works);
    EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
  }
}

TEST(BufferLoop, RunsAlarmsInTheOrderOfTheirTimesAndNeverEarly) {
  Loop loop;
  std::vector<int> seen;
  const Time start = Loop::now();
  loop.post([&] {
    loop.at(start + milliseconds(20), [&] {
      seen.push_back(3);
      EXPECT_GE(Loop::now(), start + milliseconds(20));
      loop.stop();
    });
    loop.at(start + milliseconds(10), [&] { seen.push_back(1); });
    loop.at(start + milliseconds(10), [&] { seen.push_back(2); });
  });
  loop.run();
  EXPECT_EQ(seen, (std::vector<int>{1, 2, 3}));
}

TEST(BufferLoop, WakesUpForWorkWhileItWaitsForAnAlarm) {
  Loop loop;
  std::thread poster;
  loop.post([&] {
    loop.at(Loop::now() + std::chrono::hours(1), [] { FAIL() << "an hour early"; });
    poster = std::thread([&] { loop.post([&] { loop.stop(); }); });
  });
  loop.run();
  poster.join();
}

TEST(BufferLoop, KeepsAnAlarmThatRenewsItselfFromHoldingUpPostedWork) {
  Loop loop;
  std::function<void()> again = [&] { loop.at(Loop::now(), again); };
  loop.post(again);
  loop.post([&] { loop.post([&] { loop.stop(); }); });
  loop.run();
}

TEST(BufferLoop, DestroysWhatIsLeftAtItsEndAndWhatComesLater) {
  Loop loop;
  const auto held = std::make_shared<int>();
  loop.post([&loop, held] {
    loop.at(Loop::now() + std::chrono::hours(1), [held] {});
    loop.stop();
  });
  loop.post([held] { FAIL() << "ran after stop()"; });
  EXPECT_FALSE(loop.on_this_thread());
  loop.run();
  EXPECT_TRUE(loop.on_this_thread());
  loop.post([held] { FAIL() << "ran after the end"; });
  EXPECT_EQ(held.use_count(), 1);
}

}  // namespace
}  // namespace guard::buffer
