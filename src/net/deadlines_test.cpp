#include "net/deadlines.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

namespace guard::net {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class Deadline final : public Deadlines::Item {
 public:
  Deadline(std::vector<std::string>& fired, std::string name) : fired_(fired), name_(std::move(name)) {}
  void on_deadline() override {
    fired_.push_back(name_);
    if (then) then();
  }
  std::function<void()> then;

 private:
  std::vector<std::string>& fired_;
  std::string name_;
};

using Names = std::vector<std::string>;

struct DeadlinesTest : testing::Test {
  int wakes = 0;
  Deadlines deadlines{[this] { ++wakes; }};
  Names fired;
  Deadline a{fired, "a"}, b{fired, "b"}, c{fired, "c"};
};

TEST_F(DeadlinesTest, NothingStartedNeverAsksForAWakeUp) {
  deadlines.list(seconds(10));
  deadlines.expire(Time(seconds(5)));
  EXPECT_EQ(deadlines.next(), Time::max());
  EXPECT_EQ(wakes, 0);
}

TEST_F(DeadlinesTest, ItemsExpireInTheOrderInWhichTheyStartedAndNotBeforeTheirTime) {
  auto& list = deadlines.list(seconds(10));
  deadlines.start(list, a, seconds(1));
  deadlines.start(list, b, seconds(2));
  deadlines.start(list, c, seconds(3));
  EXPECT_EQ(deadlines.next(), seconds(11));
  deadlines.expire(seconds(11) - Time(1));
  EXPECT_EQ(fired, Names{});
  deadlines.expire(seconds(12));
  EXPECT_EQ(fired, (Names{"a", "b"}));
  EXPECT_EQ(deadlines.next(), seconds(13));
  deadlines.expire(seconds(100));
  EXPECT_EQ(fired, (Names{"a", "b", "c"}));
  EXPECT_EQ(deadlines.next(), Time::max());
}

TEST_F(DeadlinesTest, StartingAgainForgetsTheEarlierStartAlsoInAnotherList) {
  auto& slow = deadlines.list(seconds(600));
  auto& quick = deadlines.list(seconds(10));
  deadlines.start(quick, a, seconds(0));
  deadlines.start(quick, b, seconds(0));
  deadlines.start(slow, a, seconds(1));
  deadlines.expire(seconds(20));
  EXPECT_EQ(fired, Names{"b"});
  EXPECT_EQ(deadlines.next(), seconds(601));
}

TEST_F(DeadlinesTest, AStoppedItemDoesNotExpireWhereverItStoodInTheList) {
  auto& list = deadlines.list(seconds(1));
  for (Deadline* stopped : {&a, &b, &c}) {
    fired.clear();
    for (Deadline* item : {&a, &b, &c}) deadlines.start(list, *item, seconds(0));
    Deadlines::stop(*stopped);
    Deadlines::stop(*stopped);
    deadlines.expire(seconds(1));
    EXPECT_EQ(fired.size(), 2u);
  }
}

TEST_F(DeadlinesTest, StartingAndStoppingAThousandTimesAsksForOneWakeUp) {
  auto& idle = deadlines.list(seconds(600));
  auto& body = deadlines.list(seconds(30));
  deadlines.start(idle, a, seconds(0));
  EXPECT_EQ(wakes, 1);
  for (int i = 0; i < 1000; ++i) {
    deadlines.start(body, a, milliseconds(i));
    deadlines.start(idle, a, milliseconds(i));
  }
  EXPECT_EQ(wakes, 2) << "the shorter length asks once for something earlier, and then never again";
  deadlines.expire(seconds(30));
  EXPECT_EQ(deadlines.next(), milliseconds(600'999));
}

TEST_F(DeadlinesTest, AnExpiringItemMayStartOrDestroyOthersAndItself) {
  auto& list = deadlines.list(seconds(1));
  std::optional<Deadline> doomed(std::in_place, fired, "doomed");
  deadlines.start(list, a, seconds(0));
  deadlines.start(list, *doomed, seconds(0));
  deadlines.start(list, c, seconds(0));
  a.then = [&] {
    doomed.reset();
    deadlines.start(list, a, seconds(1));
    deadlines.start(list, b, seconds(1));
  };
  deadlines.expire(seconds(1));
  EXPECT_EQ(fired, (Names{"a", "c"}));
  a.then = nullptr;
  deadlines.expire(seconds(2));
  EXPECT_EQ(fired, (Names{"a", "c", "a", "b"}));
}

TEST(Deadlines, AnItemMayOutliveThemOnceTheyAreGone) {
  Names fired;
  Deadline item(fired, "item");
  {
    Deadlines deadlines([] {});
    deadlines.start(deadlines.list(seconds(1)), item, seconds(0));
  }
  Deadlines::stop(item);
  EXPECT_EQ(fired, Names{});
}

}  // namespace
}  // namespace guard::net
