// What an entry knows of what it is delivered over (P14): bases, force, and what outlives a restart.
#include <gtest/gtest.h>

#include <algorithm>

#include "testing/core_bench.h"

namespace guard {
namespace {

using namespace core;
using std::chrono::minutes;
using std::chrono::seconds;
using testing::Bench;
using testing::vm;

bool knows(const std::vector<Digest>& known, const char* value) {
  return std::ranges::find(known, Value(value).digest()) != known.end();
}

RecoveredEntry recovered(Sequence sequence, const char* value, std::vector<Digest> known = {}) {
  RecoveredEntry entry;
  entry.sequence = sequence;
  entry.size = 1;
  entry.digest = Value(value).digest();
  entry.known = std::move(known);
  return entry;
}

/// Hands the value of the only read under way over; a delivery is the answer.
Deliver load(Bench& bench, const char* value) {
  const auto wanted = bench.one<core::ReadBack>();
  bench.step(ValueRead{wanted.owner, wanted.slot, wanted.sequence, Value(value), {}});
  return bench.one<Deliver>();
}

TEST(LaneBase, ContentsGoOverAnythingAlsoAfterARestartAndSoDoesWhatIsWrittenOnTop) {
  Bench first;
  first.go_down();
  first.step(ContentsSet{1, vm(1), {Value("a"), Value("b"), Value("c")}, {}});
  const Commit contents = first.one<Commit>();
  EXPECT_TRUE(contents.over_anything);
  first.step(CommitDone{vm(1), Slot::permall, contents.sequence, CommitDone::Result::durable});
  first.write(vm(1), 2, "d");
  EXPECT_TRUE(first.one<Commit>().over_anything);
  first.write(vm(2), 3, "e");
  EXPECT_FALSE(first.one<Commit>().over_anything);

  Bench second;
  RecoveredEntry entry = recovered(7, "d", {Value("old").digest()});
  entry.over_anything = true;
  second.core.recover(vm(1), entry, second.now);
  second.step(Kick{});
  EXPECT_TRUE(load(second, "d").delivery.writes[0].known.empty()) << "no check";
}

TEST(LaneBase, WhatWasDeliveredOverAnythingIsComparedWhenItComesFromTheJournalAgain) {
  Bench bench;
  RecoveredEntry entry = recovered(7, "d", {Value("old").digest()});
  entry.over_anything = true;
  entry.retained = true;
  bench.core.recover(vm(1), entry, bench.now);
  bench.step(Kick{});
  EXPECT_TRUE(knows(load(bench, "d").delivery.writes[0].known, "old"));
}

TEST(LaneBase, AValueToldToTheControlPlaneKnowsOwnValuesThatMayComeLate) {
  Bench bench;
  bench.step(SocketOpened{vm(1)});
  bench.write(vm(1), 1, "late");
  const Deliver late = bench.one<Deliver>();
  bench.write(vm(1), 2, "newer");
  bench.after(std::chrono::milliseconds(500));
  const Commit commit = bench.one<Commit>();
  bench.step(CommitDone{vm(1), Slot::permall, commit.sequence, CommitDone::Result::durable});
  bench.step(ContentsGet{3, vm(1)});
  const Fetch fetch = bench.one<Fetch>();
  Fetched fetched;
  fetched.kind = Outcome::Kind::delivered;
  fetched.epoch = 1;
  fetched.contents[Slot::permall] = Value("base");
  bench.step(FetchDone{vm(1), fetch.call, fetched});
  EXPECT_EQ(bench.one<AnswerContents>().contents[0], Value("newer"));
  bench.deliver_done(late, Outcome::Kind::transient);
  bench.after(seconds(5));
  const SlotWrite write = bench.one<Deliver>().delivery.writes[0];
  EXPECT_EQ(write.value, Value("newer"));
  EXPECT_TRUE(knows(write.known, "base"));
  EXPECT_TRUE(knows(write.known, "late"));
}

TEST(LaneBase, AValueThatStandsThereAfterItsComparisonIsTheBaseOfTheNext) {
  Bench bench;
  RecoveredEntry entry = recovered(7, "kept", {Value("old").digest()});
  entry.retained = true;
  bench.core.recover(vm(1), entry, bench.now);
  bench.step(Kick{});
  const Deliver compared = load(bench, "kept");
  Outcome outcome;
  outcome.kind = Outcome::Kind::delivered;
  outcome.epoch = 1;
  outcome.found = Contents{};
  (*outcome.found)[Slot::permall] = Value("kept");
  outcome.contents = outcome.found;
  bench.step(DeliverDone{vm(1), compared.call, outcome});
  bench.go_down();
  bench.write(vm(1), 2, "next");
  const Commit commit = bench.one<Commit>();
  EXPECT_TRUE(knows(commit.known, "kept"));
  EXPECT_TRUE(knows(commit.known, "old")) << "the upstream may go back to it";
}

TEST(LaneBase, ARetainedValueGoesBackToItsRecordWhenTheWriteForWhichItWasToEndIsRefused) {
  Bench bench;
  bench.step(SocketOpened{vm(1)});
  RecoveredEntry entry = recovered(7, "kept", {Value("old").digest()});
  entry.retained = true;
  bench.core.recover(vm(1), entry, bench.now);
  bench.step(Kick{});
  bench.deliver_done(load(bench, "kept"), Outcome::Kind::delivered);
  bench.write(vm(1), 2, "next");
  const Remove release = bench.one<Remove>();
  bench.after(seconds(6));
  EXPECT_EQ(bench.one<AnswerWrite>().status, WriteStatus::unavailable) << "the journal is stalled";
  bench.step(RemovalDone{vm(1), release.slot, release.up_to, false});
  bench.step(Stop{});
  EXPECT_TRUE(bench.all<Commit>().empty())
      << "the record is there: the same sequence cannot be written twice";
  ASSERT_NE(bench.core.lane(vm(1))->retained(Slot::permall), nullptr);
  EXPECT_TRUE(bench.core.lane(vm(1))->retained(Slot::permall)->journaled);
}

TEST(LaneBase, WhatWasSentLastIsKnownAlsoAfterAnOutageOverSeveralRestarts) {
  Bench first;
  first.step(SocketOpened{vm(1)});
  for (int i = 0; i < 20; ++i) {
    first.write(vm(1), 1, std::to_string(i));
    first.deliver_done(first.one<Deliver>(), Outcome::Kind::delivered);
  }
  // Without an answer: it may come to stand there late.
  first.write(vm(1), 2, "sent");
  first.deliver_done(first.one<Deliver>(), Outcome::Kind::unknown, 1, true);
  const Commit commit = first.one<Commit>();
  first.step(CommitDone{vm(1), Slot::permall, commit.sequence, CommitDone::Result::durable});
  first.write(vm(1), 3, "pending");
  Commit last = first.one<Commit>();
  EXPECT_TRUE(knows(last.known, "sent"));
  const char* pending = "pending";
  for (const char* newer : {"n1", "n2", "n3", "n4", "n5"}) {
    // The power was cut, so that no note of the update is left.
    Bench bench;
    bench.core.recover(vm(1), recovered(last.sequence, pending, last.known), bench.now);
    bench.step(Kick{});
    bench.step(ProbeDone{false, "away", 0});
    bench.write(vm(1), 1, newer);
    last = bench.one<Commit>();
    pending = newer;
    EXPECT_LE(last.known.size(), limits::known_digests);
    EXPECT_TRUE(knows(last.known, "sent")) << newer;
  }
}

TEST(LaneBase, AnEntryDeliveredBelowAFailedCommitStaysUntilTheSessionHasProvedAlive) {
  Bench bench;
  bench.core.recover(vm(1), recovered(7, "a"), bench.now);
  bench.step(Kick{});
  const auto wanted = bench.one<core::ReadBack>();
  bench.step(ProbeDone{true, "", 1});
  bench.write(vm(1), 1, "b");
  const Commit failing = bench.one<Commit>();
  bench.step(CommitDone{vm(1), Slot::permall, failing.sequence, CommitDone::Result::failed});
  bench.step(ValueRead{wanted.owner, wanted.slot, wanted.sequence, Value("a"), {}});
  bench.deliver_done(bench.one<Deliver>(), Outcome::Kind::delivered);
  EXPECT_TRUE(bench.all<Remove>().empty()) << "its removal would retain the failed commit";
  bench.after(minutes(16));
  EXPECT_TRUE(bench.all<Remove>().empty()) << "nobody knows that the session lived that long";
  EXPECT_EQ(bench.all<Probe>().size(), 1u);
  // It did not: the value may be forgotten, and is compared.
  bench.step(SessionEnded{1});
  EXPECT_EQ(bench.one<core::ReadBack>().sequence, 7u);
}

TEST(LaneBase, AStopWritesDownWhatIsRetainedAndThenWaitsForNothing) {
  Bench bench;
  for (std::uint8_t n = 1; n <= 3; ++n) {
    bench.write(vm(n), n, "accepted");
    bench.deliver_done(bench.one<Deliver>(), Outcome::Kind::delivered);
  }
  bench.step(Stop{});
  const Commit first =
      bench.one<Commit>();  // a disk of which nobody knows that it works is tried by one value
  bench.step(CommitDone{first.owner, first.slot, first.sequence, CommitDone::Result::durable});
  const Remove end = bench.one<Remove>();
  const auto others = bench.all<Commit>();
  EXPECT_EQ(others.size(), 2u);
  for (const Commit& commit : others) {
    bench.step(CommitDone{commit.owner, commit.slot, commit.sequence, CommitDone::Result::durable});
    const Remove removal = bench.one<Remove>();
    bench.step(RemovalDone{removal.owner, removal.slot, removal.up_to, true});
  }
  EXPECT_FALSE(bench.core.at_rest());
  bench.step(RemovalDone{end.owner, end.slot, end.up_to, true});
  EXPECT_TRUE(bench.core.at_rest()) << "without any time passing";
  for (std::uint8_t n = 1; n <= 3; ++n) {
    ASSERT_NE(bench.core.lane(vm(n))->retained(Slot::permall), nullptr);
    EXPECT_TRUE(bench.core.lane(vm(n))->retained(Slot::permall)->journaled);
  }
}

}  // namespace
}  // namespace guard
