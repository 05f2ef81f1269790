// What somebody should look at: told once while it lasts, again when it comes again, and never too much.
#include "core/concerns.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "testing/core_bench.h"

namespace guard {
namespace {

using namespace core;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using testing::Bench;
using testing::vm;
using What = Report::What;

const Owner host{*Uuid::parse("0a000000-0000-4000-8000-000000000001"), Device::vtpm};

Config with_concerns(bool known_host = true) {
  Config config;
  config.takes_alerts = true;
  config.concerns = true;
  config.pending_alert = minutes(15);
  if (known_host) config.host = host.vm;
  // Tests of these have their own place; here they would be one trouble more.
  config.journal_stall = {};
  config.retain = {};
  return config;
}

struct ConcernBench : Bench {
  explicit ConcernBench(Config config = with_concerns()) : Bench(config) {}

  std::vector<Report> reports(What what) const {
    std::vector<Report> found;
    for (const Report& report : all<Report>()) {
      if (report.what == what) found.push_back(report);
    }
    return found;
  }
  const Actions& raised(const RaiseAlert& call, Outcome::Kind kind = Outcome::Kind::delivered) {
    Outcome outcome;
    outcome.kind = kind;
    outcome.reason = "because";
    return step(AlertRaised{call.owner, call.call, outcome});
  }
  const Actions& up() { return step(ProbeDone{true, "", 1}); }
  /// Sleeps as the shell does, from one wake to the next, for so long; answers every message that was sent
  /// meanwhile.
  std::vector<RaiseAlert> sleep(Time time) {
    std::vector<RaiseAlert> sent;
    const Time end = now + time;
    for (unsigned steps = 0;; ++steps) {
      EXPECT_LT(steps, 100'000u) << "it wakes up without end";
      const auto wake = core.next_wake();
      now = std::min(end, std::max(now, wake.value_or(end)));
      step(Tick{});
      answer_probes();
      for (const RaiseAlert& call : all<RaiseAlert>()) {
        sent.push_back(call);
        raised(call);
      }
      if (now == end) return sent;
    }
  }
  void answer_probes() {
    if (all<Probe>().empty()) return;
    step(ProbeDone{false, "away", 0});
  }
  /// A lane whose delivery was refused for a reason of its own.
  void hold(Owner owner) {
    journal(owner, 1, "value");
    up();
    const auto calls = all<Deliver>();
    for (const Deliver& call : calls) {
      if (call.delivery.owner == owner) {
        deliver_done(call, Outcome::Kind::lane);
      } else {
        deliver_done(call, Outcome::Kind::delivered);
      }
    }
  }
};

// --- Pending ----------------------------------------------------------------------------------------------

TEST(Concerns, DataThatIsPendingForLongIsToldOnceAndTheMessageComesWhenXapiIsBack) {
  ConcernBench b;
  b.go_down();
  b.journal(vm(1), 1, "a");
  EXPECT_TRUE(b.sleep(minutes(15) - seconds(1)).empty());
  EXPECT_EQ(b.core.snapshot().messages, 0u);
  EXPECT_TRUE(b.sleep(minutes(60)).empty()) << "nobody is there to be told";
  EXPECT_EQ(b.core.snapshot().messages, 1u);
  b.up();
  const RaiseAlert call = b.one<RaiseAlert>();
  EXPECT_EQ(call.alert.name, "XAPI_GUARD_PENDING");
  EXPECT_TRUE(call.alert.about_host);
  EXPECT_EQ(call.alert.vm, host.vm);
  EXPECT_EQ(call.alert.priority, 3);
  EXPECT_NE(call.alert.body.view().find("2 entries of 2 VMs"), std::string_view::npos)
      << call.alert.body.view();
  b.raised(call);
  EXPECT_EQ(b.reports(What::message_created).size(), 1u);
  EXPECT_EQ(b.core.counters().messages_created, 1u);
  EXPECT_EQ(b.core.snapshot().messages, 0u);
}

TEST(Concerns, TheLineOfTheLogDoesNotWaitForXapi) {
  ConcernBench b;
  b.go_down();
  b.now += minutes(15);
  b.step(Tick{});
  ASSERT_EQ(b.reports(What::pending_long).size(), 1u);
  EXPECT_EQ(b.reports(What::pending_long)[0].number, 15u * 60'000);
  for (int i = 0; i < 10; ++i) {
    b.now += minutes(15);
    b.step(Tick{});
    EXPECT_TRUE(b.reports(What::pending_long).empty()) << "it lasts";
  }
}

TEST(Concerns, PendingDataIsToldAgainAfterItWasDelivered) {
  ConcernBench b;
  for (int outage = 0; outage < 3; ++outage) {
    b.go_down();
    b.sleep(minutes(20));
    b.up();
    const auto messages = b.all<RaiseAlert>();
    ASSERT_EQ(messages.size(), 1u) << outage;
    const auto deliveries = b.all<Deliver>();
    b.raised(messages[0]);
    for (const Deliver& call : deliveries) b.deliver_done(call, Outcome::Kind::delivered);
    const auto removals = b.all<Remove>();
    for (const Remove& remove : removals) {
      b.step(RemovalDone{remove.owner, remove.slot, remove.up_to, true});
    }
    EXPECT_EQ(b.core.pending_entries(), 0u);
  }
}

TEST(Concerns, AWriteThatTakesThePlaceOfAnOldOneMakesItYoung) {
  ConcernBench b;
  b.go_down();
  for (int minute = 0; minute < 40; ++minute) {
    b.sleep(minutes(1));
    b.journal(vm(99), 1, "newer");
  }
  EXPECT_EQ(b.core.snapshot().messages, 0u);
}

TEST(Concerns, WhatRecoveryFoundKeepsItsAge) {
  ConcernBench b;
  RecoveredEntry old;
  old.slot = Slot::permall;
  old.sequence = 5;
  old.since = b.now - minutes(16);
  b.core.recover(vm(1), old, b.now);
  b.step(Kick{});
  EXPECT_EQ(b.reports(What::pending_long).size(), 1u);
}

TEST(Concerns, NothingWakesUpWhileNothingIsWrong) {
  ConcernBench b;
  Config silent = with_concerns();
  silent.concerns = false;
  ConcernBench other(silent);
  for (ConcernBench* one : {&b, &other}) {
    one->up();
    EXPECT_EQ(one->core.next_wake(), std::nullopt);
    one->write(vm(1), 1, "a");
    one->deliver_done(one->one<Deliver>(), Outcome::Kind::delivered);
  }
  EXPECT_EQ(b.core.next_wake(), other.core.next_wake());
}

TEST(Concerns, ZeroSwitchesTheAlertForPendingDataOffAndNoneElse) {
  Config config = with_concerns();
  config.pending_alert = {};
  ConcernBench b(config);
  b.go_down();
  b.sleep(minutes(600));
  EXPECT_EQ(b.core.snapshot().messages, 0u);
  b.step(DamageFound{1});
  EXPECT_EQ(b.core.snapshot().messages, 1u);
}

// --- Held -------------------------------------------------------------------------------------------------

TEST(Concerns, ALaneThatIsHeldForAMinuteIsToldOnItsVm) {
  ConcernBench b;
  b.go_down();
  b.hold(vm(1));
  ASSERT_TRUE(b.core.lane(vm(1))->held());
  std::vector<RaiseAlert> sent;
  for (int i = 0; i < 30; ++i) {
    b.now += seconds(10);
    b.step(Tick{});
    const auto deliveries = b.all<Deliver>();
    for (const RaiseAlert& call : b.all<RaiseAlert>()) sent.push_back(call);
    const auto raises = b.all<RaiseAlert>();
    for (const Deliver& call : deliveries) b.deliver_done(call, Outcome::Kind::lane);
    for (const RaiseAlert& call : raises) b.raised(call);
    if (i == 4) {
      EXPECT_TRUE(sent.empty()) << "not a minute yet";
    }
  }
  ASSERT_EQ(sent.size(), 1u) << "once while it lasts";
  EXPECT_EQ(sent[0].alert.name, "XAPI_GUARD_HELD");
  EXPECT_FALSE(sent[0].alert.about_host);
  EXPECT_EQ(sent[0].alert.vm, vm(1).vm);
  EXPECT_EQ(sent[0].alert.priority, 3);
  EXPECT_NE(sent[0].alert.body.view().find("because"), std::string_view::npos);
}

TEST(Concerns, ALaneThatIsHeldForASecondIsNobodysConcern) {
  ConcernBench b;
  b.go_down();
  b.hold(vm(1));
  b.now += seconds(5);
  b.step(Tick{});
  const auto deliveries = b.all<Deliver>();
  ASSERT_EQ(deliveries.size(), 1u);
  b.deliver_done(deliveries[0], Outcome::Kind::delivered);
  const auto removals = b.all<Remove>();
  for (const Remove& remove : removals) b.step(RemovalDone{remove.owner, remove.slot, remove.up_to, true});
  EXPECT_TRUE(b.sleep(minutes(5)).empty());
}

TEST(Concerns, AMessageOnAVmThatXapiDoesNotKnowGoesToTheHost) {
  for (const bool known_host : {true, false}) {
    ConcernBench b(with_concerns(known_host));
    b.go_down();
    b.hold(vm(1));
    b.now += seconds(61);
    b.step(Tick{});
    const RaiseAlert first = b.one<RaiseAlert>();
    EXPECT_FALSE(first.alert.about_host);
    b.raised(first, Outcome::Kind::lane);
    if (known_host) {
      const RaiseAlert second = b.one<RaiseAlert>();
      EXPECT_TRUE(second.alert.about_host);
      EXPECT_EQ(second.alert.vm, host.vm);
      EXPECT_NE(second.alert.body.view().find(vm(1).vm.str()), std::string_view::npos);
      b.raised(second, Outcome::Kind::payload);
    }
    EXPECT_TRUE(b.all<RaiseAlert>().empty()) << "no third";
    EXPECT_EQ(b.reports(What::message_dropped).size(), 1u);
    EXPECT_EQ(b.core.snapshot().messages, 0u);
  }
}

// --- Conflicts, journal, damage ---------------------------------------------------------------------------

TEST(Concerns, AConflictIsToldOnItsVm) {
  ConcernBench b;
  b.go_down();
  b.journal(vm(1), 1, "a");
  b.up();
  for (const Deliver& call : b.all<Deliver>()) {
    if (call.delivery.owner != vm(1)) continue;
    b.deliver_done(call, Outcome::Kind::conflict);
    break;
  }
  const RaiseAlert call = b.one<RaiseAlert>();
  EXPECT_EQ(call.alert.name, "XAPI_GUARD_CONFLICT");
  EXPECT_EQ(call.alert.vm, vm(1).vm);
  EXPECT_EQ(call.alert.priority, 2);
}

TEST(Concerns, AJournalThatFailsIsToldOnceWhileItDoes) {
  ConcernBench b;
  b.up();
  b.step(JournalUnread{"no such device"});
  const RaiseAlert call = b.one<RaiseAlert>();
  EXPECT_EQ(call.alert.name, "XAPI_GUARD_JOURNAL_FAILED");
  for (int i = 0; i < 5; ++i) b.step(JournalUnread{"no such device"});
  EXPECT_EQ(b.core.snapshot().messages, 1u);
}

TEST(Concerns, AFailedCommitIsAFailedJournal) {
  ConcernBench b;
  b.go_down();
  b.write(vm(1), 1, "a");
  const Commit commit = b.one<Commit>();
  b.step(CommitDone{vm(1), Slot::permall, commit.sequence, CommitDone::Result::failed});
  EXPECT_EQ(b.core.snapshot().messages, 1u);
  b.up();
  const auto messages = b.all<RaiseAlert>();
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(messages[0].alert.name, "XAPI_GUARD_JOURNAL_FAILED");
  EXPECT_TRUE(messages[0].alert.about_host);
}

TEST(Concerns, WhatComesAndGoesIsToldNoMoreThanEveryFiveMinutes) {
  ConcernBench b;
  b.up();
  std::size_t sent = 0;
  for (int second = 0; second < 3600; second += 10) {
    b.now += seconds(10);
    b.step(JournalUnread{"no such device"});
    for (const RaiseAlert& call : b.all<RaiseAlert>()) {
      ++sent;
      b.raised(call);
      break;
    }
    b.step(JournalRead{});
  }
  EXPECT_EQ(sent, 12u);
}

TEST(Concerns, DamageIsToldOnTheHostWithTheNumberOfRecords) {
  ConcernBench b;
  b.up();
  b.step(DamageFound{3});
  const RaiseAlert call = b.one<RaiseAlert>();
  EXPECT_EQ(call.alert.name, "XAPI_GUARD_DAMAGE");
  EXPECT_TRUE(call.alert.body.view().starts_with("3 damaged records"));
}

// --- Messages ---------------------------------------------------------------------------------------------

TEST(Concerns, OneMessageIsSentAtATimeAndTriedAgainWhenXapiCouldNot) {
  ConcernBench b;
  b.up();
  b.step(DamageFound{1});
  const RaiseAlert first = b.one<RaiseAlert>();
  b.step(JournalUnread{"gone"});
  EXPECT_TRUE(b.all<RaiseAlert>().empty());
  b.raised(first, Outcome::Kind::transient);
  EXPECT_TRUE(b.all<RaiseAlert>().empty()) << "not at once";
  EXPECT_EQ(b.core.snapshot().messages, 2u);
  const auto sent = b.sleep(minutes(1));
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].alert.name, "XAPI_GUARD_DAMAGE");
}

TEST(Concerns, AMessageWithoutAnAnswerIsNotSentTwice) {
  ConcernBench b;
  b.up();
  b.step(DamageFound{1});
  b.raised(b.one<RaiseAlert>(), Outcome::Kind::unknown);
  EXPECT_EQ(b.reports(What::message_unconfirmed).size(), 1u);
  EXPECT_TRUE(b.sleep(minutes(60)).empty());
}

TEST(Concerns, HowManyWaitIsBounded) {
  ConcernBench b;
  b.go_down();
  for (unsigned i = 1; i <= limits::concerns_waiting + 20; ++i) {
    b.journal(Owner{vm(static_cast<std::uint8_t>(i)).vm, Device::vtpm}, i, "v");
  }
  b.up();
  std::vector<Deliver> waiting;
  std::size_t dropped = 0;
  for (unsigned round = 0; round < 200; ++round) {
    const auto calls = b.all<Deliver>();
    waiting.insert(waiting.end(), calls.begin(), calls.end());
    if (waiting.empty()) break;
    const Deliver call = waiting.back();
    waiting.pop_back();
    // Each conflict makes room for the next delivery.
    b.deliver_done(call, Outcome::Kind::conflict);
    dropped += b.reports(What::message_dropped).size();
  }
  EXPECT_EQ(b.core.snapshot().messages, limits::concerns_waiting);
  EXPECT_EQ(dropped, 21u) << "20 too many, and the one that was there first";
}

TEST(Concerns, WithoutAHostOrATakerThereAreOnlyLinesOfTheLog) {
  Config no_taker = with_concerns();
  no_taker.takes_alerts = false;
  for (const Config& config : {with_concerns(false), no_taker}) {
    ConcernBench b(config);
    b.go_down();
    b.step(DamageFound{1});
    b.now += minutes(16);
    b.step(Tick{});
    EXPECT_EQ(b.reports(What::pending_long).size(), 1u);
    EXPECT_EQ(b.core.snapshot().messages, 0u);
  }
}

TEST(Concerns, ACoreThatWasNotAskedSaysNothing) {
  ConcernBench b{Config{}};
  b.go_down();
  b.step(DamageFound{1});
  b.step(JournalUnread{"gone"});
  b.sleep(minutes(60));
  EXPECT_EQ(b.core.snapshot().messages, 0u);
}

TEST(Concerns, AnOrderlyStopWaitsForTheMessageUnderWayAndSendsNoOther) {
  ConcernBench b;
  b.up();
  b.step(DamageFound{1});
  const RaiseAlert call = b.one<RaiseAlert>();
  b.step(JournalUnread{"gone"});
  b.step(Stop{});
  EXPECT_FALSE(b.core.at_rest());
  b.raised(call);
  EXPECT_TRUE(b.all<RaiseAlert>().empty());
  EXPECT_TRUE(b.core.at_rest());
}

}  // namespace
}  // namespace guard
