#include "net/loop.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "net/deadlines.h"
#include "net/socket_test_support.h"

namespace guard::net {
namespace {

using std::chrono::milliseconds;

TEST(Loop, RunsWhatIsPostedFromAnotherThreadInOrder) {
  Loop loop;
  std::vector<int> order;
  std::thread poster([&] {
    for (int i = 0; i < 1000; ++i) loop.post([&, i] { order.push_back(i); });
    loop.post([&] { loop.stop(); });
  });
  loop.run();
  poster.join();
  ASSERT_EQ(order.size(), 1000u);
  EXPECT_TRUE(std::ranges::is_sorted(order));
}

TEST(Loop, AStopBeforeRunMakesItReturnAtOnceAndTheNextRunWorks) {
  Loop loop;
  loop.stop();
  loop.run();
  bool ran = false;
  loop.post([&] {
    ran = true;
    loop.stop();
  });
  loop.run();
  EXPECT_TRUE(ran);
}

TEST(Loop, WorkForATimeRunsInTheOrderOfTimesAndNeverBefore) {
  Loop loop;
  std::string order;
  const Time start = loop.now();
  loop.at(start + milliseconds(40), [&] {
    EXPECT_GE(loop.now(), start + milliseconds(40));
    order += "c";
    loop.stop();
  });
  loop.at(start + milliseconds(20), [&] { order += "a"; });
  loop.at(start + milliseconds(20), [&] { order += "b"; });
  loop.at(start, [&] { order += "0"; });
  loop.run();
  EXPECT_EQ(order, "0abc");
}

TEST(Loop, WorkForATimeMayAskForMoreAtTheSameTime) {
  Loop loop;
  int left = 100;
  const Time start = loop.now();
  std::function<void()> again = [&] {
    if (--left == 0) return loop.stop();
    loop.at(start, again);
  };
  loop.at(start, again);
  loop.run();
  EXPECT_EQ(left, 0);
}

TEST(Loop, AnEarlierDeadlineOvertakesTheTimerAlreadySet) {
  struct Stop final : Deadlines::Item {
    explicit Stop(Loop& l) : loop(l) {}
    void on_deadline() override { loop.stop(); }
    Loop& loop;
  };
  Loop loop;
  Stop stop(loop);
  loop.at(loop.now() + std::chrono::hours(1), [] { FAIL(); });
  const Time start = loop.now();
  loop.deadlines().start(loop.deadlines().list(milliseconds(20)), stop, start);
  loop.run();
  EXPECT_GE(loop.now() - start, milliseconds(20));
  EXPECT_LT(loop.now() - start, std::chrono::seconds(5));
}

TEST(Loop, ExceptionsOfHandlersLeaveRun) {
  Loop loop;
  loop.post([] { throw std::runtime_error("no"); });
  EXPECT_THROW(loop.run(), std::runtime_error);
}

TEST(Loop, TerminationSignalsArriveOnTheLoopEachTime) {
  Loop loop;
  int seen = 0;
  loop.on_terminate([&] {
    if (++seen == 2) return loop.stop();
    std::raise(SIGINT);
  });
  std::raise(SIGTERM);
  loop.run();
  EXPECT_EQ(seen, 2);
}

TEST(Loop, SleepsWhileNothingHappens) {
  test::LoopThread thread;
  const auto switches = [&] {
    return thread.run([] {
      rusage usage{};
      ::getrusage(RUSAGE_THREAD, &usage);
      return usage.ru_nvcsw;
    });
  };
  thread.run([&] { thread.loop().at(thread.loop().now() + std::chrono::hours(1), [] {}); });
  const auto before = switches();
  std::this_thread::sleep_for(milliseconds(500));
  // One for the sleep itself and one for the question that ended it.
  EXPECT_LE(switches() - before, 3);
}

}  // namespace
}  // namespace guard::net
