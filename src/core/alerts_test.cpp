// Alerts: on their way in, in the journal, on their way out.
#include "core/alerts.h"

#include <gtest/gtest.h>

#include "testing/core_bench.h"

namespace guard {
namespace {

using namespace core;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using testing::Bench;
using testing::vm;
using Kind = UefiOutcome::Kind;

Owner uefi(std::uint8_t n) {
  Owner owner;
  owner.vm.bytes[15] = n;
  owner.device = Device::uefi;
  return owner;
}

Config with_alerts() {
  Config config;
  config.takes_alerts = true;
  return config;
}

struct AlertBench : Bench {
  AlertBench() : Bench(with_alerts()) {}
  const Actions& alert(RequestId request, Owner owner = uefi(1), std::string body = "text") {
    return step(AlertArrived{request, owner, 5, Value(std::move(body))});
  }
  const Actions& raised(const RaiseAlert& call, Outcome::Kind kind, bool suspect = false) {
    Outcome outcome;
    outcome.kind = kind;
    outcome.reason = "because";
    outcome.upstream_suspect = suspect;
    return step(AlertRaised{call.owner, call.call, outcome});
  }
  const Actions& durable(const Commit& commit, CommitDone::Result result = CommitDone::Result::durable) {
    return step(CommitDone{commit.owner, commit.slot, commit.sequence, result});
  }
  /// One that is durable in the journal, with the upstream down.
  Commit journaled(RequestId request, Owner owner = uefi(1), std::string body = "text") {
    alert(request, owner, std::move(body));
    const Commit commit = one<Commit>();
    durable(commit);
    return commit;
  }
  const Actions& up() { return step(ProbeDone{true, "", 1}); }
  /// The same; then the upstream is back, and its text is asked for.
  Commit journaled_then_up(RequestId request) {
    go_down();
    const Commit commit = journaled(request);
    up();
    return commit;
  }
  const Actions& read(const core::ReadBack& wanted, Value value) {
    return step(ValueRead{wanted.owner, wanted.slot, wanted.sequence, std::move(value)});
  }
  Kind answer() { return one<AnswerAlert>().outcome.kind; }
};

TEST(Alerts, AreRaisedDirectWithTheDiskUntouched) {
  AlertBench b;
  b.alert(1);
  const RaiseAlert call = b.one<RaiseAlert>();
  EXPECT_EQ(call.alert.vm, uefi(1).vm);
  EXPECT_EQ(call.alert.priority, 5);
  EXPECT_EQ(call.alert.body.view(), "text");
  EXPECT_TRUE(b.all<Commit>().empty());
  EXPECT_TRUE(b.all<AnswerAlert>().empty()) << "not before it has arrived";
  b.raised(call, Outcome::Kind::delivered);
  EXPECT_EQ(b.answer(), Kind::done);
  EXPECT_TRUE(b.core.at_rest());
  EXPECT_FALSE(b.core.next_wake());
}

TEST(Alerts, GoToTheJournalWhenTheUpstreamDoesNotTakeThemNow) {
  for (const Outcome::Kind kind : {Outcome::Kind::transient, Outcome::Kind::unknown}) {
    AlertBench b;
    b.alert(1);
    b.raised(b.one<RaiseAlert>(), kind);
    EXPECT_TRUE(b.all<AnswerAlert>().empty());
    const Commit commit = b.one<Commit>();
    EXPECT_TRUE(commit.alert);
    EXPECT_EQ(commit.slot, Slot::nvram);
    EXPECT_EQ(unpack_alert(commit.value)->first, 5);
    EXPECT_EQ(unpack_alert(commit.value)->second.view(), "text");
    b.durable(commit);
    EXPECT_EQ(b.answer(), Kind::done);
    EXPECT_EQ(b.core.pending_entries(), 1u);
    EXPECT_EQ(b.core.mode(), Mode::engaged);
    ASSERT_EQ(b.core.pending().size(), 1u);
    EXPECT_TRUE(b.core.pending()[0].alert);
  }
}

TEST(Alerts, AreRefusedWhenTheUpstreamNeverTakesThem) {
  for (const Outcome::Kind kind : {Outcome::Kind::lane, Outcome::Kind::payload}) {
    AlertBench b;
    b.alert(1);
    b.raised(b.one<RaiseAlert>(), kind);
    EXPECT_EQ(b.answer(), Kind::refused);
    EXPECT_TRUE(b.all<Commit>().empty()) << "what cannot be delivered is not accepted (P7)";
  }
  Bench nobody;
  nobody.step(AlertArrived{1, uefi(1), 5, Value("text")});
  EXPECT_EQ(nobody.one<AnswerAlert>().outcome.kind, Kind::refused) << "an upstream that takes none";
  AlertBench b;
  b.alert(1, uefi(1), std::string(limits::alert_body, 'x'));
  EXPECT_EQ(b.all<RaiseAlert>().size(), 1u);
  b.alert(2, uefi(1), std::string(limits::alert_body + 1, 'x'));
  EXPECT_EQ(b.answer(), Kind::refused);
}

TEST(Alerts, ACallWithoutAnAnswerSendsThemToTheJournalAndStillCountsWhenItComes) {
  AlertBench b;
  b.alert(1);
  const RaiseAlert call = b.one<RaiseAlert>();
  b.after(limits::direct_timeout);
  const Commit commit = b.one<Commit>();
  b.durable(commit);
  EXPECT_EQ(b.answer(), Kind::done);
  EXPECT_TRUE(b.all<core::ReadBack>().empty()) << "one call at a time";
  b.raised(call, Outcome::Kind::delivered);
  const Remove removal = b.one<Remove>();
  EXPECT_TRUE(removal.alert);
  EXPECT_EQ(removal.up_to, commit.sequence);
  b.step(RemovalDone{uefi(1), Slot::nvram, removal.up_to, true});
  EXPECT_EQ(b.core.pending_entries(), 0u);
  EXPECT_EQ(b.core.mode(), Mode::direct);
  EXPECT_TRUE(b.core.at_rest());
}

TEST(Alerts, AnAnswerThatComesBeforeTheCommitIsDoneEndsBoth) {
  AlertBench b;
  b.alert(1);
  const RaiseAlert call = b.one<RaiseAlert>();
  b.after(limits::direct_timeout);
  const Commit commit = b.one<Commit>();
  b.raised(call, Outcome::Kind::delivered);
  EXPECT_EQ(b.answer(), Kind::done);
  b.durable(commit);
  EXPECT_TRUE(b.all<AnswerAlert>().empty());
  EXPECT_EQ(b.one<Remove>().up_to, commit.sequence);
}

TEST(Alerts, AFullOrFailingJournalIsUnavailable) {
  for (const auto result : {CommitDone::Result::full, CommitDone::Result::failed}) {
    AlertBench b;
    b.go_down();
    b.alert(1);
    b.durable(b.one<Commit>(), result);
    EXPECT_EQ(b.answer(), Kind::unavailable);
    b.alert(2);
    EXPECT_EQ(b.all<Commit>().size(), 1u) << "its place is free again";
  }
}

TEST(Alerts, NoneReplacesAnotherAndAllAreDeliveredInOrder) {
  AlertBench b;
  b.go_down();
  for (RequestId i = 1; i <= 3; ++i) b.journaled(i, uefi(1), "text " + std::to_string(i));
  EXPECT_EQ(b.core.snapshot().alerts, 3u);
  b.up();
  for (int i = 1; i <= 3; ++i) {
    const auto wanted = b.one<core::ReadBack>();
    b.read(wanted, pack_alert(5, Value("text " + std::to_string(i))));
    const RaiseAlert call = b.one<RaiseAlert>();
    EXPECT_EQ(call.alert.body.view(), "text " + std::to_string(i));
    b.raised(call, Outcome::Kind::delivered);
    const Remove removal = b.one<Remove>();
    EXPECT_EQ(removal.up_to, wanted.sequence);
    if (i < 3) {
      const auto next = b.one<core::ReadBack>();
      b.step(RemovalDone{uefi(1), Slot::nvram, removal.up_to, true});
      b.actions = {next};
    } else {
      b.step(RemovalDone{uefi(1), Slot::nvram, removal.up_to, true});
    }
  }
  EXPECT_EQ(b.core.snapshot().alerts, 0u);
}

TEST(Alerts, TheSeventeenthOfAVmIsRefusedWithOneLine) {
  AlertBench b;
  b.go_down();
  std::vector<Commit> commits;
  for (RequestId i = 1; i <= limits::alerts_per_vm; ++i) commits.push_back(b.journaled(i));
  b.alert(17);
  EXPECT_EQ(b.answer(), Kind::refused);
  EXPECT_EQ(b.one<Report>().what, Report::What::alerts_full);
  b.alert(18);
  EXPECT_EQ(b.answer(), Kind::refused);
  EXPECT_TRUE(b.all<Report>().empty()) << "once until there is room";
  b.alert(19, uefi(2));
  EXPECT_EQ(b.all<Commit>().size(), 1u) << "another VM has its own sixteen";
  EXPECT_EQ(b.core.pending_entries(), 17u) << "with the write of go_down()";
}

TEST(Alerts, ACallThatHangsDelaysNeitherOtherVmsNorTheVariables) {
  AlertBench b;
  b.step(SocketOpened{uefi(1)});
  b.alert(1, uefi(1));
  b.alert(2, uefi(2));
  b.alert(3, uefi(3));
  EXPECT_EQ(b.all<RaiseAlert>().size(), 0u) << "two at once";
  EXPECT_EQ(b.all<Commit>().size(), 1u);
  b.durable(b.one<Commit>());
  b.write(uefi(1), 4, "variables", Slot::nvram);
  b.deliver_done(b.one<Deliver>(), Outcome::Kind::delivered);
  EXPECT_EQ(b.one<AnswerWrite>().status, WriteStatus::accepted);
  b.after(limits::direct_timeout);
  EXPECT_EQ(b.all<Commit>().size(), 2u);
  ASSERT_EQ(b.all<core::ReadBack>().size(), 1u) << "those that hang count no more";
  EXPECT_EQ(b.one<core::ReadBack>().owner, uefi(3));
}

TEST(Alerts, WhatTheUpstreamRefusesLaterIsHeldAndKept) {
  AlertBench b;
  const Commit commit = b.journaled_then_up(1);
  b.read(b.one<core::ReadBack>(), commit.value);
  b.raised(b.one<RaiseAlert>(), Outcome::Kind::lane);
  EXPECT_EQ(b.one<Report>().what, Report::What::lane_held);
  ASSERT_EQ(b.core.snapshot().held.size(), 1u);
  EXPECT_EQ(b.core.pending_entries(), 2u) << "with the write of go_down()";
  EXPECT_TRUE(b.all<core::ReadBack>().empty()) << "at its own pace";
  b.after(minutes(5));
  b.read(b.one<core::ReadBack>(), commit.value);
  b.raised(b.one<RaiseAlert>(), Outcome::Kind::lane);
  EXPECT_TRUE(b.all<Report>().empty()) << "once per reason";
  b.step(Discard{7, uefi(1), std::nullopt});
  b.step(RemovalDone{uefi(1), Slot::nvram, b.one<Remove>().up_to, true});
  EXPECT_TRUE(b.one<Done>().ok);
  EXPECT_EQ(b.one<Done>().entries, 1u);
  EXPECT_TRUE(b.core.snapshot().held.empty());
}

TEST(Alerts, ATextThatCannotBeReadBackIsTriedAgainOrReportedLost) {
  AlertBench b;
  const Commit commit = b.journaled_then_up(1);
  const auto wanted = b.one<core::ReadBack>();
  ValueRead failed{wanted.owner, wanted.slot, wanted.sequence, std::nullopt, ValueRead::Trouble::failed};
  b.step(failed);
  EXPECT_TRUE(b.all<core::ReadBack>().empty());
  b.after(seconds(2));
  const auto again = b.one<core::ReadBack>();
  failed.trouble = ValueRead::Trouble::damaged;
  b.step(failed);
  EXPECT_EQ(b.one<Report>().what, Report::What::alert_lost);
  EXPECT_EQ(b.one<Remove>().up_to, again.sequence);
  EXPECT_EQ(again.sequence, commit.sequence);
}

TEST(Alerts, GoOnWhenAStalledJournalAnswersAgain) {
  AlertBench b;
  b.go_down();
  b.journaled(1);
  b.write(vm(7), 2, "x");
  const Commit hanging = b.one<Commit>();
  b.after(limits::journal_stall);
  ASSERT_TRUE(b.core.stalled());
  b.up();
  EXPECT_TRUE(b.all<core::ReadBack>().empty()) << "nothing more is given to the journal";
  b.durable(hanging);
  ASSERT_FALSE(b.core.stalled());
  EXPECT_EQ(b.one<core::ReadBack>().owner, uefi(1));
}

TEST(Alerts, ARemovalThatFailsIsRepeated) {
  AlertBench b;
  const Commit commit = b.journaled_then_up(1);
  b.read(b.one<core::ReadBack>(), commit.value);
  b.raised(b.one<RaiseAlert>(), Outcome::Kind::delivered);
  b.step(RemovalDone{uefi(1), Slot::nvram, b.one<Remove>().up_to, false});
  EXPECT_TRUE(b.all<core::ReadBack>().empty()) << "it has arrived";
  b.after(limits::removal_retry);
  b.step(RemovalDone{uefi(1), Slot::nvram, b.one<Remove>().up_to, true});
  EXPECT_EQ(b.core.snapshot().alerts, 0u);
}

TEST(Alerts, RecoveredOnesAreDelivered) {
  AlertBench b;
  const Value packed = pack_alert(-3, Value("text"));
  b.core.recover(uefi(1), RecoveredAlert{7, packed.size(), b.now});
  EXPECT_EQ(b.core.pending_entries(), 1u);
  b.step(Kick{});
  b.read(b.one<core::ReadBack>(), packed);
  const RaiseAlert call = b.one<RaiseAlert>();
  EXPECT_EQ(call.alert.priority, -3);
  b.raised(call, Outcome::Kind::delivered);
  EXPECT_EQ(b.one<Remove>().up_to, 7u);
  b.alert(1);
  EXPECT_EQ(b.one<Commit>().sequence, 8u) << "sequences go on, and it waits behind the removal";
}

TEST(Alerts, AStopSavesWhatIsUnderWay) {
  AlertBench b;
  b.alert(1);
  b.step(Stop{});
  EXPECT_FALSE(b.core.at_rest());
  b.after(limits::direct_timeout);
  b.durable(b.one<Commit>());
  EXPECT_EQ(b.answer(), Kind::done);
  EXPECT_TRUE(b.core.at_rest()) << "whatever becomes of the call";
}

TEST(Alerts, APackedAlertIsReadBackAsItWas) {
  for (const std::int64_t priority : {std::int64_t{0}, std::int64_t{-1}, INT64_MIN, INT64_MAX}) {
    const auto back = unpack_alert(pack_alert(priority, Value("body")));
    ASSERT_TRUE(back);
    EXPECT_EQ(back->first, priority);
    EXPECT_EQ(back->second.view(), "body");
  }
  EXPECT_FALSE(unpack_alert(Value("short")));
}

}  // namespace
}  // namespace guard
