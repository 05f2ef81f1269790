// What a lane does while buffering is switched off (Core::set_buffering).
#include <gtest/gtest.h>

#include "testing/core_bench.h"

namespace guard {
namespace {

using namespace core;
using testing::Bench;
using testing::vm;

TEST(LaneBufferingOff, ADirectWriteThatFailsIsRefused) {
  Bench bench;
  bench.step(SocketOpened{vm(1)});
  bench.core.set_buffering(false);
  bench.write(vm(1), 1, "fails");
  bench.deliver_done(bench.one<Deliver>(), Outcome::Kind::transient, 1, true);
  EXPECT_EQ(bench.one<AnswerWrite>().status, WriteStatus::unavailable) << "the failure is reported";
  EXPECT_TRUE(bench.all<Commit>().empty());
}

TEST(LaneBufferingOff, AWriteThatCannotGoDirectIsRefused) {
  Bench bench;
  bench.step(SocketOpened{vm(1)});
  bench.go_down();
  bench.core.set_buffering(false);
  bench.write(vm(1), 3, "down");
  EXPECT_EQ(bench.one<AnswerWrite>().status, WriteStatus::unavailable);
  EXPECT_TRUE(bench.all<Commit>().empty());
  bench.step(ContentsSet{4, vm(1), {Value("a"), Value("b"), Value("c")}, {}});
  EXPECT_EQ(bench.one<AnswerContents>().status, WriteStatus::unavailable);
  EXPECT_TRUE(bench.all<Commit>().empty());
  bench.core.set_buffering(true);
  bench.write(vm(1), 5, "buffered");
  EXPECT_EQ(bench.all<Commit>().size(), 1u);
}

TEST(LaneBufferingOff, AWriteWithoutAnAnswerIsRefusedAtTheDirectTimeout) {
  Bench bench;
  bench.step(SocketOpened{vm(1)});
  bench.core.set_buffering(false);
  bench.write(vm(1), 1, "late");
  const Deliver call = bench.one<Deliver>();
  bench.after(Time(limits::direct_timeout));
  EXPECT_EQ(bench.one<AnswerWrite>().status, WriteStatus::unavailable);
  EXPECT_TRUE(bench.all<Commit>().empty());
  EXPECT_TRUE(bench.core.lane(vm(1))->in_doubt());
  bench.deliver_done(call, Outcome::Kind::delivered);
  EXPECT_FALSE(bench.core.lane(vm(1))->in_doubt());
  bench.write(vm(1), 2, "next");
  EXPECT_EQ(bench.all<Deliver>().size(), 1u);
}

TEST(LaneBufferingOff, WhatIsPendingIsDelivered) {
  Bench bench;
  bench.step(SocketOpened{vm(1)});
  bench.go_down();
  bench.write(vm(1), 1, "pending");
  const Commit commit = bench.one<Commit>();
  bench.step(CommitDone{vm(1), Slot::permall, commit.sequence, CommitDone::Result::durable});
  bench.core.set_buffering(false);
  bench.step(SignOfLife{});
  bench.step(ProbeDone{true, "", 1});
  EXPECT_GE(bench.all<Deliver>().size(), 1u);
}

}  // namespace
}  // namespace guard
