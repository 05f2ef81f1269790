// The lane and the core, rule by rule.
#include <gtest/gtest.h>

#include "testing/core_bench.h"

namespace guard {
namespace {

using namespace core;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Bench;
using testing::vm;

TEST(Lane, SendsAWriteDirectlyAndLeavesTheDiskAlone) {
  Bench bench;
  bench.step(SocketOpened{vm(1)});
  bench.write(vm(1), 1, "a");
  const Deliver first = bench.one<Deliver>();
  EXPECT_FALSE(first.delivery.base);
  bench.deliver_done(first, Outcome::Kind::delivered);
  EXPECT_EQ(bench.one<AnswerWrite>().status, WriteStatus::accepted);
  EXPECT_TRUE(bench.all<Commit>().empty());
  bench.write(vm(1), 2, "b");
  EXPECT_TRUE(bench.one<Deliver>().delivery.base)
      << "the second write is merged into what is known: one call";
}

TEST(Lane, CommitsADirectWriteThatIsNotAnsweredInTime) {
  Bench bench;
  bench.write(vm(1), 1, "a");
  const Deliver call = bench.one<Deliver>();
  EXPECT_EQ(bench.core.next_wake(), bench.now + milliseconds(500));
  bench.after(milliseconds(499));
  EXPECT_TRUE(bench.actions.empty());
  bench.after(milliseconds(1));
  const Commit commit = bench.one<Commit>();
  EXPECT_EQ(bench.all<Probe>().size(), 1u);
  bench.step(CommitDone{vm(1), Slot::permall, commit.sequence, CommitDone::Result::durable});
  EXPECT_EQ(bench.one<AnswerWrite>().status, WriteStatus::accepted);
  EXPECT_TRUE(bench.all<Deliver>().empty()) << "in doubt: no second update";
  bench.deliver_done(call, Outcome::Kind::delivered);
  EXPECT_EQ(bench.one<Remove>().up_to, commit.sequence) << "the late answer delivered the entry";
}

TEST(Lane, AnswersAllClientsOfSupersededValuesByTheNewest) {
  Bench bench;
  bench.go_down();
  bench.write(vm(1), 1, "a");
  const Commit first = bench.one<Commit>();
  bench.write(vm(1), 2, "b");
  bench.write(vm(1), 3, "c");
  EXPECT_TRUE(bench.all<Commit>().empty()) << "one commit of a slot at a time";
  bench.step(CommitDone{vm(1), Slot::permall, first.sequence, CommitDone::Result::durable});
  EXPECT_EQ(bench.one<AnswerWrite>().request, 1u);
  const Commit second = bench.one<Commit>();
  EXPECT_EQ(second.value, Value("c"));
  bench.step(CommitDone{vm(1), Slot::permall, second.sequence, CommitDone::Result::durable});
  EXPECT_EQ(bench.all<AnswerWrite>().size(), 2u);
}

TEST(Lane, IsAnsweredByALateDeliveryAlsoWhenTheJournalFails) {
  Bench bench;
  bench.write(vm(1), 1, "a");
  const Deliver call = bench.one<Deliver>();
  bench.after(milliseconds(500));
  const Commit commit = bench.one<Commit>();
  bench.deliver_done(call, Outcome::Kind::delivered);
  EXPECT_EQ(bench.one<AnswerWrite>().status, WriteStatus::accepted);
  bench.step(CommitDone{vm(1), Slot::permall, commit.sequence, CommitDone::Result::failed});
  EXPECT_TRUE(bench.all<AnswerWrite>().empty());
  bench.write(vm(1), 2, "b");
  EXPECT_TRUE(bench.all<Deliver>().empty()) << "the failed commit may be on the disk: not direct";
}

TEST(Lane, RetainsWhatArrivedLateAfterItsCommitFailed) {
  Bench bench;
  bench.write(vm(1), 1, "a");
  const Deliver call = bench.one<Deliver>();
  bench.after(milliseconds(500));
  const Commit commit = bench.one<Commit>();
  bench.step(CommitDone{vm(1), Slot::permall, commit.sequence, CommitDone::Result::failed});
  EXPECT_NE(bench.one<AnswerWrite>().status, WriteStatus::accepted);
  EXPECT_FALSE(bench.core.lane(vm(1))->retained(Slot::permall));
  bench.deliver_done(call, Outcome::Kind::delivered);
  EXPECT_TRUE(bench.core.lane(vm(1))->retained(Slot::permall))
      << "it replaced upstream what was acknowledged before: if the upstream forgets it, somebody must know";
}

TEST(Lane, RefusesWhatCanNeverFitTogetherWithTheOtherSlots) {
  Config config;
  Bench bench(config);
  bench.step(SocketOpened{vm(1)});
  const std::size_t limit = (1 << 20) - 2;
  bench.write(vm(1), 1, std::string(limit - 10, 'A'));
  bench.deliver_done(bench.one<Deliver>(), Outcome::Kind::delivered);
  bench.write(vm(1), 2, std::string(11, 'A'), Slot::volatilestate);
  EXPECT_EQ(bench.one<AnswerWrite>().status, WriteStatus::too_large);
  bench.write(vm(1), 3, std::string(10, 'A'), Slot::volatilestate);
  EXPECT_EQ(bench.all<Deliver>().size(), 1u);
}

TEST(Lane, RefusesAVmThatIsGoneWithoutJournalingAndAtOnceWhenThatIsCertain) {
  Bench bench;
  bench.step(SocketOpened{vm(1)});
  for (int i = 0; i < 3; ++i) {
    bench.write(vm(1), 1, "a");
    const auto calls = bench.all<Deliver>();
    ASSERT_EQ(calls.size(), 1u);
    bench.deliver_done(calls.front(), Outcome::Kind::lane);
    EXPECT_EQ(bench.one<AnswerWrite>().status, WriteStatus::unavailable);
    EXPECT_TRUE(bench.all<Commit>().empty());
    bench.now += seconds(20);
  }
  bench.now -= seconds(20);
  bench.write(vm(1), 2, "b");
  EXPECT_TRUE(bench.all<Deliver>().empty());
  EXPECT_EQ(bench.one<AnswerWrite>().status, WriteStatus::unavailable);
  ASSERT_EQ(bench.core.snapshot().held.size(), 1u);
  EXPECT_TRUE(bench.core.snapshot().held.front().permanent);
}

TEST(Lane, AnswersReadsFromWhatIsPendingThenUpstreamThenKnownThenNotAtAll) {
  Bench bench;
  bench.step(SocketOpened{vm(1)});
  bench.step(ReadArrived{1, vm(1), Slot::permall});
  Fetched fetched;
  fetched.kind = Outcome::Kind::delivered;
  fetched.epoch = 1;
  fetched.contents[Slot::permall] = Value("P");
  bench.step(FetchDone{vm(1), bench.one<Fetch>().call, fetched});
  EXPECT_EQ(bench.one<AnswerRead>().result.source, ReadResult::Source::upstream);
  bench.go_down();
  bench.step(ReadArrived{2, vm(1), Slot::permall});
  EXPECT_EQ(bench.one<AnswerRead>().result.source, ReadResult::Source::known);
  EXPECT_EQ(bench.one<AnswerRead>().result.value, Value("P"));
  bench.journal(vm(1), 3, "Q");
  bench.step(ReadArrived{4, vm(1), Slot::permall});
  EXPECT_EQ(bench.one<AnswerRead>().result.source, ReadResult::Source::pending);
  EXPECT_EQ(bench.one<AnswerRead>().result.value, Value("Q"));
  bench.step(ReadArrived{5, vm(2), Slot::permall});
  EXPECT_EQ(bench.one<AnswerRead>().result.source, ReadResult::Source::none) << "unknown is not absent (P4)";
}

TEST(Core, ReportsAnOutageTwiceHoweverManyLanesSeeIt) {
  Bench bench;
  std::vector<Deliver> calls;
  for (std::uint8_t i = 1; i <= 10; ++i) {
    bench.write(vm(i), i, "a");
    calls.push_back(bench.one<Deliver>());
  }
  std::size_t reports = 0;
  const auto count = [&] {
    for (const Report& report : bench.all<Report>()) {
      reports += report.what == Report::What::upstream_down || report.what == Report::What::upstream_up;
    }
  };
  for (const Deliver& call : calls) {
    bench.deliver_done(call, Outcome::Kind::transient, 1, true);
    count();
  }
  EXPECT_EQ(reports, 1u);
  for (int i = 0; i < 20; ++i) {
    bench.after(seconds(6));
    count();
    if (bench.all<Probe>().empty()) continue;
    bench.step(ProbeDone{false, "still down"});
    count();
  }
  bench.step(SignOfLife{});
  bench.step(ProbeDone{true, ""});
  count();
  EXPECT_EQ(reports, 2u);
}

TEST(Core, DeliversOldestFirstAndAtMostEightAtATime) {
  Bench bench;
  bench.go_down();
  for (std::uint8_t i = 1; i <= 20; ++i) bench.journal(vm(i), i, "a");
  bench.after(seconds(1));
  bench.step(ProbeDone{true, ""});
  const auto calls = bench.all<Deliver>();
  ASSERT_EQ(calls.size(), 8u);
  EXPECT_EQ(calls[0].delivery.owner, vm(99));
  EXPECT_EQ(calls[1].delivery.owner, vm(1));
  bench.deliver_done(calls[0], Outcome::Kind::delivered);
  EXPECT_EQ(bench.one<Deliver>().delivery.owner, vm(8));
  // Calls that hang stop counting after direct-timeout: eight hung lanes cannot stop the others (P5).
  bench.after(milliseconds(500));
  EXPECT_EQ(bench.all<Deliver>().size(), 8u);
}

TEST(Core, MergesAllSlotsOfAVmIntoOneDelivery) {
  Bench bench;
  bench.go_down();
  bench.journal(vm(1), 1, "a");
  bench.write(vm(1), 2, "v", Slot::volatilestate);
  const Commit commit = bench.one<Commit>();
  bench.step(CommitDone{vm(1), Slot::volatilestate, commit.sequence, CommitDone::Result::durable});
  bench.after(seconds(1));
  bench.step(ProbeDone{true, ""});
  ASSERT_EQ(bench.all<Deliver>().size(), 2u);
  const Deliver call = bench.all<Deliver>()[1];
  EXPECT_EQ(call.delivery.writes.size(), 2u);
  bench.deliver_done(call, Outcome::Kind::delivered);
  EXPECT_EQ(bench.all<Remove>().size(), 2u);
  bench.write(vm(1), 3, "b");
  EXPECT_TRUE(bench.all<Deliver>().empty()) << "not direct before the removal is durable";
}

TEST(Core, HoldsOneLaneAndDeliversTheOthers) {
  Bench bench;
  bench.go_down();
  bench.journal(vm(1), 1, "a");
  bench.after(seconds(1));
  bench.step(ProbeDone{true, ""});
  const auto calls = bench.all<Deliver>();
  ASSERT_EQ(calls.size(), 2u);
  bench.deliver_done(calls[0], Outcome::Kind::delivered);
  bench.step(RemovalDone{vm(99), Slot::permall, bench.one<Remove>().up_to, true});
  bench.deliver_done(calls[1], Outcome::Kind::lane);
  EXPECT_EQ(bench.core.snapshot().held.size(), 1u);
  EXPECT_EQ(bench.core.snapshot().pending_entries, 1u) << "kept, not dropped (P7)";
  bench.write(vm(2), 2, "b");
  EXPECT_EQ(bench.all<Deliver>().size(), 1u) << "another VM goes direct";
  bench.after(seconds(2));
  ASSERT_EQ(bench.all<Deliver>().size(), 1u) << "retried at its own pace";
  bench.deliver_done(bench.one<Deliver>(), Outcome::Kind::delivered);
  EXPECT_TRUE(bench.core.snapshot().held.empty());
}

/// `count` pending entries, then the mode.
Mode mode_with(unsigned count) {
  Bench bench;
  bench.go_down();  // one entry
  for (unsigned i = 1; i < count; ++i) {
    Owner owner = vm(1);
    owner.vm.bytes[0] = static_cast<std::uint8_t>(i >> 8);
    owner.vm.bytes[1] = static_cast<std::uint8_t>(i);
    bench.journal(owner, i, "a");
  }
  EXPECT_EQ(bench.core.pending_entries(), count);
  return bench.core.mode();
}

TEST(Core, IsEngagedUpToTheCapacityOfTheQueueAndDisengagedBeyond) {
  EXPECT_EQ(mode_with(511), Mode::engaged);
  EXPECT_EQ(mode_with(512), Mode::engaged);
  EXPECT_EQ(mode_with(513), Mode::disengaged);
}

TEST(Core, StaysEngagedWhenAnEntryIsReplacedInAFullQueue) {
  Config config;
  config.queue_entries = 2;
  Bench bench(config);
  bench.go_down();
  bench.journal(vm(1), 1, "a");
  bench.journal(vm(1), 2, "b");
  EXPECT_EQ(bench.core.pending_entries(), 2u);
  EXPECT_EQ(bench.core.mode(), Mode::engaged);
  bench.journal(vm(2), 3, "c");
  EXPECT_EQ(bench.core.mode(), Mode::disengaged);
  bench.journal(vm(2), 4, "d");
  EXPECT_EQ(bench.core.mode(), Mode::disengaged) << "until nothing is pending";
}

TEST(Core, AsksAtOnceAndThenNowAndAgainWhetherTheSessionOfADoubtStillLives) {
  Bench bench;
  bench.write(vm(1), 1, "a");
  bench.deliver_done(bench.one<Deliver>(), Outcome::Kind::unknown, 7);
  EXPECT_EQ(bench.all<Probe>().size(), 1u);
  bench.step(ProbeDone{true, ""});
  bench.after(seconds(4));
  EXPECT_TRUE(bench.all<Probe>().empty());
  bench.after(seconds(1));
  EXPECT_EQ(bench.all<Probe>().size(), 1u);
}

TEST(Core, ReadsValuesBackThatTheQueueDidNotCarryAndReturnsToDirect) {
  Config config;
  config.queue_entries = 1;
  Bench bench(config);
  bench.step(SocketOpened{vm(1)});
  bench.go_down();
  bench.journal(vm(1), 1, "a");
  EXPECT_EQ(bench.core.mode(), Mode::disengaged);
  bench.after(seconds(1));
  bench.step(ProbeDone{true, ""});
  const core::ReadBack wanted = bench.one<core::ReadBack>();
  const Deliver carried = bench.one<Deliver>();
  bench.step(ValueRead{wanted.owner, wanted.slot, wanted.sequence, Value("a"), {}});
  const Deliver read_back = bench.one<Deliver>();
  EXPECT_EQ(read_back.delivery.writes[0].value, Value("a"));
  for (const Deliver& call : {carried, read_back}) {
    bench.deliver_done(call, Outcome::Kind::delivered);
    const Remove removal = bench.one<Remove>();
    bench.step(RemovalDone{removal.owner, removal.slot, removal.up_to, true});
  }
  EXPECT_EQ(bench.core.mode(), Mode::direct);
  bench.write(vm(1), 5, "b");
  EXPECT_TRUE(bench.all<Deliver>().empty()) << "the value delivered last is retained in the journal";
  const Remove release = bench.one<Remove>();
  EXPECT_FALSE(release.retained);
  bench.step(RemovalDone{release.owner, release.slot, release.up_to, true});
  EXPECT_EQ(bench.all<Deliver>().size(), 1u);
}

/// A core as after a restart: entries of three slots, their values on the disk only, the upstream down.
void recover_three(Bench& bench) {
  for (const Slot slot : {Slot::permall, Slot::savestate, Slot::volatilestate}) {
    RecoveredEntry entry;
    entry.slot = slot;
    entry.sequence = static_cast<Sequence>(slot) + 1;
    entry.size = 4;
    bench.core.recover(vm(1), entry, bench.now);
  }
  bench.step(Kick{});
  for (const core::ReadBack& wanted : bench.all<core::ReadBack>()) {
    bench.step(ValueRead{wanted.owner, wanted.slot, wanted.sequence, Value("old"), {}});
  }
  const auto calls = bench.all<Deliver>();
  ASSERT_EQ(calls.size(), 1u);
  bench.deliver_done(calls.front(), Outcome::Kind::transient, 1, true);
}

/// The sequences of the deliveries that begin as soon as a core starts anew with one entry, an update of an
/// older value under way.
std::size_t deliveries_after_restart(bool ends_with_process, Time later) {
  Config config;
  config.upstream.ends_with_process = ends_with_process;
  Bench bench(config);
  RecoveredEntry entry;
  entry.sequence = 7;
  entry.size = 4;
  entry.digest = Value("newv").digest();
  bench.core.recover(vm(1), entry, bench.now);
  bench.core.recover_doubt(vm(1), {{Slot::permall, Value("oldv").digest(), 5}}, bench.now);
  std::size_t deliveries = 0;
  for (const Time wait : {Time{}, later}) {
    bench.after(wait);
    const auto wanted = bench.all<core::ReadBack>();
    deliveries += bench.all<Deliver>().size();
    for (const core::ReadBack& read : wanted) {
      bench.step(ValueRead{read.owner, read.slot, read.sequence, Value("newv"), {}});
      deliveries += bench.all<Deliver>().size();
    }
  }
  return deliveries;
}

TEST(Lane, DeliversAtOnceAfterARestartOverAnUpstreamWhoseUpdatesEndWithTheirProcess) {
  EXPECT_EQ(deliveries_after_restart(true, Time{}), 1u);
  EXPECT_EQ(deliveries_after_restart(false, Time{}), 0u);
  EXPECT_EQ(deliveries_after_restart(false, Config{}.doubt_window), 1u);
}

TEST(Lane, NeverRemovesWhatItDidNotSend) {
  Bench bench;
  recover_three(bench);
  // A client reads permall back from the disk while its replacement is being committed, and so does a
  // delivery: both find the entry gone. That is one value less to wait for, not two.
  bench.write(vm(1), 1, "new");
  const Commit commit = bench.one<Commit>();
  bench.step(ReadArrived{2, vm(1), Slot::permall});
  bench.after(seconds(10));
  bench.step(ProbeDone{true, ""});
  ASSERT_EQ(bench.all<core::ReadBack>().size(), 3u);
  bench.step(CommitDone{vm(1), Slot::permall, commit.sequence, CommitDone::Result::durable});
  using Trouble = ValueRead::Trouble;
  bench.step(ValueRead{vm(1), Slot::permall, 1, std::nullopt, Trouble::gone});
  bench.step(ValueRead{vm(1), Slot::permall, 1, std::nullopt, Trouble::gone});
  bench.step(ValueRead{vm(1), Slot::savestate, 2, Value("old"), Trouble::none});
  EXPECT_TRUE(bench.all<Deliver>().empty()) << "volatilestate is still being read";
  bench.step(ValueRead{vm(1), Slot::volatilestate, 3, Value("old"), Trouble::none});
  EXPECT_EQ(bench.one<Deliver>().delivery.writes.size(), 2u);
}

TEST(Lane, IsHeldInSightWhenAnEntryIsDamagedAndReleasedByANewerWrite) {
  Bench bench;
  recover_three(bench);
  bench.after(seconds(10));
  bench.step(ProbeDone{true, ""});
  using Trouble = ValueRead::Trouble;
  bench.step(ValueRead{vm(1), Slot::permall, 1, Value("old"), Trouble::none});
  bench.step(ValueRead{vm(1), Slot::savestate, 2, Value("old"), Trouble::none});
  bench.step(ValueRead{vm(1), Slot::volatilestate, 3, std::nullopt, Trouble::damaged});
  EXPECT_TRUE(bench.all<Deliver>().empty()) << "half a TPM is worse than an old one";
  ASSERT_EQ(bench.core.snapshot().held.size(), 1u);
  EXPECT_NE(bench.core.snapshot().held.front().reason.find("volatilestate cannot be read back"),
            std::string::npos);
  bench.write(vm(1), 9, "", Slot::volatilestate);
  const Commit commit = bench.one<Commit>();
  bench.step(CommitDone{vm(1), Slot::volatilestate, commit.sequence, CommitDone::Result::durable});
  EXPECT_TRUE(bench.core.snapshot().held.empty());
  EXPECT_EQ(bench.all<core::ReadBack>().size(), 2u) << "delivered again, the rest read back";
}

TEST(Lane, CountsWhatIsDurableNotWhatAHangingCallStillCarries) {
  Bench bench;
  const std::string large(600'000, 'A');
  bench.write(vm(1), 1, large, Slot::volatilestate);
  bench.after(milliseconds(500));
  Commit commit = bench.one<Commit>();
  bench.step(CommitDone{vm(1), commit.slot, commit.sequence, CommitDone::Result::durable});
  bench.write(vm(1), 2, "", Slot::volatilestate);
  commit = bench.one<Commit>();
  bench.step(CommitDone{vm(1), commit.slot, commit.sequence, CommitDone::Result::durable});
  bench.write(vm(1), 3, large);
  EXPECT_EQ(bench.all<Commit>().size(), 1u) << "it fits: the other state was deleted";
}

TEST(Core, EndsDoubtWhenTheSessionTurnsOutToBeOver) {
  Bench bench;
  bench.write(vm(1), 1, "a");
  bench.deliver_done(bench.one<Deliver>(), Outcome::Kind::unknown, 7);
  const Commit commit = bench.one<Commit>();
  bench.step(CommitDone{vm(1), Slot::permall, commit.sequence, CommitDone::Result::durable});
  EXPECT_TRUE(bench.all<Deliver>().empty());
  EXPECT_EQ(bench.core.snapshot().doubt, 1u);
  bench.step(SessionEnded{7});
  const Deliver call = bench.one<Deliver>();
  EXPECT_TRUE(call.delivery.verify) << "the first update after doubt is read back";
  EXPECT_FALSE(call.delivery.base);
}

TEST(Core, KeepsALaneInDoubtForTheWholeWindowOtherwise) {
  Bench bench;
  bench.write(vm(1), 1, "a");
  bench.deliver_done(bench.one<Deliver>(), Outcome::Kind::unknown, 7);
  const Commit commit = bench.one<Commit>();
  bench.step(CommitDone{vm(1), Slot::permall, commit.sequence, CommitDone::Result::durable});
  bench.after(seconds(119));
  EXPECT_TRUE(bench.all<Deliver>().empty());
  bench.after(seconds(1));
  EXPECT_EQ(bench.all<Deliver>().size(), 1u);
}

TEST(Core, SpreadsRetriesWithJitterBetweenHalfAndTheWholeStep) {
  Random random{42};
  Backoff backoff;
  Time step = milliseconds(100);
  for (int i = 0; i < 12; ++i) {
    const Time delay = backoff.next(milliseconds(100), seconds(5), random);
    EXPECT_GE(delay, step / 2);
    EXPECT_LE(delay, step);
    step = std::min<Time>(step * 2, seconds(5));
  }
}

TEST(Core, ForgetsLanesThatHoldNothing) {
  Bench bench;
  bench.step(SocketOpened{vm(1)});
  EXPECT_EQ(bench.core.snapshot().lanes, 1u);
  bench.step(SocketClosed{vm(1)});
  EXPECT_EQ(bench.core.snapshot().lanes, 0u);
}

TEST(Core, ForgetsAHeldLaneWhenItsSocketIsGoneAndNothingIsPending) {
  Bench bench;
  bench.step(SocketOpened{vm(1)});
  bench.write(vm(1), 1, "a");
  bench.deliver_done(bench.one<Deliver>(), Outcome::Kind::lane);
  EXPECT_EQ(bench.core.snapshot().held.size(), 1u);
  bench.step(SocketClosed{vm(1)});
  EXPECT_EQ(bench.core.snapshot().lanes, 0u);
  EXPECT_TRUE(bench.core.snapshot().held.empty());
}

TEST(Core, CountsAnAnswerToNoCallAsItsOwnBugAndSurvives) {
  Bench bench;
  bench.step(DeliverDone{vm(1), 77, Outcome{}});
  EXPECT_EQ(bench.core.counters().invariants, 1u);
}

}  // namespace
}  // namespace guard
