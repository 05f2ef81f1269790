// UEFI variables in their lane: the update flag, and the map around the value.
#include <gtest/gtest.h>

#include "testing/core_bench.h"

namespace guard {
namespace {

using namespace core;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Bench;

const Owner uefi{*Uuid::parse("3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"), Device::uefi};

struct NvramBench : Bench {
  NvramBench() { step(SocketOpened{uefi}); }
  const Actions& set(RequestId request, std::string bytes, UpdateFlag flag) {
    return step(WriteArrived{request, uefi, Slot::nvram, Value(std::move(bytes)), flag});
  }
  const Actions& get(RequestId request) { return step(ReadArrived{request, uefi, Slot::nvram}); }
  const Actions& durable(const Commit& commit) {
    return step(CommitDone{uefi, Slot::nvram, commit.sequence, CommitDone::Result::durable});
  }
  const Actions& fetched(const Fetch& fetch, std::string value, Epoch epoch = 1) {
    Fetched answer;
    answer.kind = Outcome::Kind::delivered;
    answer.epoch = epoch;
    answer.contents[Slot::nvram] = Value(std::move(value));
    answer.contents.nvram_map = {{"before", Value("b")}, {"EFI-variables", Value()}, {"after", Value("a")}};
    return step(FetchDone{uefi, fetch.call, answer});
  }
  /// Of this device; the bench has another VM with something pending.
  Deliver delivery() const {
    for (const Deliver& call : all<Deliver>()) {
      if (call.delivery.owner == uefi) return call;
    }
    ADD_FAILURE() << "no delivery";
    return {};
  }
  const Actions& up() { return step(ProbeDone{true, "", 1}); }
  /// Takes a value while the upstream is away, then lets it come back: the value is on its way.
  Deliver pending_on_its_way(std::string value) {
    go_down();
    set(1, std::move(value), UpdateFlag::no);
    durable(one<Commit>());
    up();
    return delivery();
  }
};

const std::vector<UpdateFlag> flags{UpdateFlag::unspecified, UpdateFlag::yes, UpdateFlag::no};
UpdateFlag expected(UpdateFlag older, UpdateFlag newer) { return newer == UpdateFlag::no ? older : newer; }

TEST(Nvram, TheFlagTravelsWithADirectWrite) {
  for (const UpdateFlag flag : flags) {
    NvramBench b;
    b.set(1, "value", flag);
    const Deliver call = b.one<Deliver>();
    ASSERT_EQ(call.delivery.writes.size(), 1u);
    EXPECT_EQ(call.delivery.writes[0].update, flag);
    EXPECT_FALSE(call.delivery.writes[0].accepted_before);
    b.deliver_done(call, Outcome::Kind::delivered);
    EXPECT_EQ(b.one<AnswerWrite>().status, WriteStatus::accepted);
  }
}

TEST(Nvram, AValueInTheJournalInheritsTheFlagOfWhatItReplacesOnlyForNo) {
  for (const UpdateFlag older : flags) {
    for (const UpdateFlag newer : flags) {
      NvramBench b;
      b.go_down();
      b.set(1, "old", older);
      const Commit first = b.one<Commit>();
      EXPECT_EQ(first.update, older);
      b.durable(first);
      b.set(2, "new", newer);
      const Commit second = b.one<Commit>();
      EXPECT_EQ(second.update, expected(older, newer)) << name_of(older) << ", " << name_of(newer);
      b.durable(second);
      b.up();
      const SlotWrite write = b.delivery().delivery.writes.at(0);
      EXPECT_EQ(write.value.view(), "new");
      EXPECT_EQ(write.update, expected(older, newer));
    }
  }
}

TEST(Nvram, AValueThatWaitedForACommitInherits) {
  for (const UpdateFlag older : flags) {
    for (const UpdateFlag newer : flags) {
      NvramBench b;
      b.go_down();
      b.set(1, "first", UpdateFlag::no);
      const Commit first = b.one<Commit>();
      b.set(2, "superseded", older);
      b.set(3, "newest", newer);
      b.durable(first);
      const Commit second = b.one<Commit>();
      EXPECT_EQ(second.value.view(), "newest");
      EXPECT_EQ(second.update, expected(older, newer)) << name_of(older) << ", " << name_of(newer);
    }
  }
}

TEST(Nvram, AValueThatReplacesADirectOneOnItsWayToTheJournalInherits) {
  for (const UpdateFlag older : flags) {
    for (const UpdateFlag newer : flags) {
      NvramBench b;
      b.set(1, "sent", older);
      const Deliver call = b.one<Deliver>();
      b.set(2, "newest", newer);
      b.deliver_done(call, Outcome::Kind::transient);
      EXPECT_EQ(b.one<Commit>().update, expected(older, newer)) << name_of(older) << ", " << name_of(newer);
    }
  }
}

TEST(Nvram, AFlagThatHasArrivedIsNotInherited) {
  NvramBench b;
  b.set(1, "sent", UpdateFlag::yes);
  const Deliver call = b.one<Deliver>();
  b.set(2, "next", UpdateFlag::no);
  b.deliver_done(call, Outcome::Kind::delivered);
  EXPECT_EQ(b.one<Deliver>().delivery.writes.at(0).update, UpdateFlag::no);
}

TEST(Nvram, AfterTheEndOfASessionTheFlagOfTheAcceptedValueCountsAsPending) {
  NvramBench b;
  b.set(1, "accepted", UpdateFlag::yes);
  b.deliver_done(b.one<Deliver>(), Outcome::Kind::delivered);
  b.step(SessionEnded{1});
  const auto calls = b.all<Deliver>();
  ASSERT_EQ(calls.size(), 1u) << "it is compared";
  EXPECT_EQ(calls[0].delivery.writes.at(0).update, UpdateFlag::yes);
  EXPECT_TRUE(calls[0].delivery.writes.at(0).accepted_before);
  b.set(2, "newer", UpdateFlag::no);
  EXPECT_EQ(b.one<Commit>().update, UpdateFlag::yes) << "the upstream may have lost both";
}

TEST(Nvram, RecoveredEntriesKeepTheirFlag) {
  NvramBench b;
  RecoveredEntry entry;
  entry.slot = Slot::nvram;
  entry.sequence = 7;
  entry.size = 5;
  entry.digest = digest_of("value");
  entry.update = UpdateFlag::yes;
  b.core.recover(uefi, entry, b.now);
  b.step(Kick{});
  b.step(ProbeDone{true, "", 1});
  b.step(ValueRead{uefi, Slot::nvram, 7, Value("value"), ValueRead::Trouble::none});
  EXPECT_EQ(b.one<Deliver>().delivery.writes.at(0).update, UpdateFlag::yes);
}

TEST(Nvram, AReadGivesTheWholeMapOfTheUpstream) {
  NvramBench b;
  b.get(1);
  b.fetched(b.one<Fetch>(), "V");
  const AnswerRead answer = b.one<AnswerRead>();
  EXPECT_EQ(answer.result.source, ReadResult::Source::upstream);
  EXPECT_EQ(answer.result.value.view(), "V");
  ASSERT_EQ(answer.map.size(), 3u);
  EXPECT_EQ(answer.map[2].first, "after");
}

TEST(Nvram, WhileTheUpstreamIsAwayAKnownMapIsServedAndAnUnknownOneIsNot) {
  NvramBench b;
  b.get(1);
  b.fetched(b.one<Fetch>(), "V");
  b.go_down();
  b.get(2);
  EXPECT_EQ(b.one<AnswerRead>().result.source, ReadResult::Source::known);
  EXPECT_EQ(b.one<AnswerRead>().map.size(), 3u);
  b.step(SessionEnded{1});
  b.get(3);
  EXPECT_EQ(b.one<AnswerRead>().result.source, ReadResult::Source::none) << "never an empty map";
}

TEST(Nvram, APendingValueIsLaidOverWhatIsKnownOfTheRest) {
  NvramBench b;
  b.get(1);
  b.fetched(b.one<Fetch>(), "V");
  b.go_down();
  b.set(2, "W", UpdateFlag::no);
  b.durable(b.one<Commit>());
  b.get(3);
  EXPECT_EQ(b.one<AnswerRead>().result.source, ReadResult::Source::pending);
  EXPECT_EQ(b.one<AnswerRead>().result.value.view(), "W");
  EXPECT_EQ(b.one<AnswerRead>().map.size(), 3u);
}

TEST(Nvram, APendingValueIsAnsweredAloneWhereTheRestCannotBeKnown) {
  NvramBench b;
  b.go_down();
  b.set(1, "W", UpdateFlag::no);
  b.durable(b.one<Commit>());
  b.get(2);
  const AnswerRead answer = b.one<AnswerRead>();
  EXPECT_EQ(answer.result.source, ReadResult::Source::pending);
  EXPECT_EQ(answer.result.value.view(), "W");
  EXPECT_TRUE(answer.map.empty());
}

TEST(Nvram, APendingValueWaitsForTheRestWhereTheUpstreamCanTellIt) {
  NvramBench b;
  const Deliver delivery = b.pending_on_its_way("W");
  b.get(2);
  EXPECT_TRUE(b.all<AnswerRead>().empty());
  const Fetch fetch = b.one<Fetch>();
  b.fetched(fetch, "V");
  EXPECT_EQ(b.one<AnswerRead>().result.value.view(), "W") << "of the value the pending one counts";
  EXPECT_EQ(b.one<AnswerRead>().map.size(), 3u);
  b.get(3);
  EXPECT_EQ(b.one<AnswerRead>().map.size(), 3u) << "now it is known";
  b.deliver_done(delivery, Outcome::Kind::delivered);
}

TEST(Nvram, AReadOfTheRestThatBeganBeforeTheDeliveryDoesNotTellTheValue) {
  NvramBench b;
  const Deliver delivery = b.pending_on_its_way("W");
  b.get(2);
  const Fetch early = b.one<Fetch>();
  b.deliver_done(delivery, Outcome::Kind::delivered);
  b.step(RemovalDone{uefi, Slot::nvram, b.one<Remove>().up_to, true});
  b.fetched(early, "V");
  EXPECT_TRUE(b.all<AnswerRead>().empty()) << "what it read is older than what was acknowledged";
  b.fetched(b.one<Fetch>(), "W");
  EXPECT_EQ(b.one<AnswerRead>().result.value.view(), "W");
}

TEST(Nvram, WhenTheUpstreamCannotTellTheRestThePendingValueIsAnsweredAllTheSame) {
  NvramBench b;
  b.go_down();
  b.set(1, "W", UpdateFlag::no);
  b.durable(b.one<Commit>());
  b.up();
  b.get(2);
  const Fetch fetch = b.one<Fetch>();
  b.step(FetchDone{uefi, fetch.call, Fetched{}});
  EXPECT_EQ(b.one<AnswerRead>().result.source, ReadResult::Source::pending);
  EXPECT_TRUE(b.one<AnswerRead>().map.empty());
}

TEST(Nvram, AVmsTwoDevicesDoNotWaitForEachOther) {
  NvramBench b;
  const Owner vtpm{uefi.vm, Device::vtpm};
  b.write(vtpm, 1, "state");
  const Deliver hangs = b.one<Deliver>();
  b.set(2, "V", UpdateFlag::no);
  b.deliver_done(b.one<Deliver>(), Outcome::Kind::delivered);
  EXPECT_EQ(b.one<AnswerWrite>().request, 2u);
  b.deliver_done(hangs, Outcome::Kind::delivered);
}

}  // namespace
}  // namespace guard
