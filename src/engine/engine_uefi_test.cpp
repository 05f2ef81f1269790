// UEFI variables and alerts through the whole engine: a real journal on a simulated disk, which forgets what
// was not synced when the power is cut.
#include <gtest/gtest.h>

#include "engine/engine.h"
#include "engine/place_test.h"

namespace guard::engine {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Kind = UefiOutcome::Kind;

/// Keeps variables and alerts in memory; answers before the call returns.
class TestUpstream final : public Upstream, public UefiUpstream {
 public:
  UpstreamLimits limits() const override { return {1 << 20, 1 << 20, false}; }
  void set_events(UpstreamEvents* events) override { events_ = events; }
  UefiUpstream* uefi() override { return this; }
  void deliver(Delivery delivery, std::function<void(Outcome)> done) override {
    Outcome outcome = answer();
    if (up) {
      for (const SlotWrite& write : delivery.writes) {
        contents[write.slot] = write.value;
        flags.push_back(write.update);
      }
      outcome.contents = contents;
    }
    done(std::move(outcome));
  }
  void fetch(Owner, std::function<void(Fetched)> done) override {
    Fetched fetched;
    fetched.kind = up ? Outcome::Kind::delivered : Outcome::Kind::transient;
    fetched.reason = "down";
    fetched.upstream_suspect = !up;
    fetched.epoch = 1;
    if (up) fetched.contents = contents;
    done(std::move(fetched));
  }
  void probe(std::function<void(Outcome)> done) override { done(answer()); }
  void raise(Alert alert, std::function<void(Outcome)> done) override {
    if (up) alerts.push_back(std::move(alert));
    done(answer());
  }
  void certificates_state(Uuid, std::function<void(CertificatesState)> done) override {
    done({up ? Outcome::Kind::delivered : Outcome::Kind::transient, "down", !up, up ? "ok" : ""});
  }

  bool up = true;
  Contents contents;
  std::vector<UpdateFlag> flags;
  std::vector<Alert> alerts;
  UpstreamEvents* events_ = nullptr;

 private:
  Outcome answer() const {
    Outcome outcome;
    outcome.kind = up ? Outcome::Kind::delivered : Outcome::Kind::transient;
    outcome.reason = "down";
    outcome.upstream_suspect = !up;
    outcome.epoch = 1;
    return outcome;
  }
};

class EngineUefiTest : public ::testing::Test, protected EnginePlace {
 protected:
  EngineUefiTest() {
    vm.bytes[0] = 7;
    upstream.contents.nvram_map = {{"other", Value("x")}, {"EFI-variables", Value()}, {"last", Value("y")}};
    upstream.contents[Slot::nvram] = Value("first");
  }
  ~EngineUefiTest() override {
    access.reset();
    engine.reset();
  }
  void start() {
    engine = std::make_unique<Engine>(loop.host(), core::Config{}, upstream, null_logger());
    access = engine->open_uefi(vm);
    auto opened = store();
    const bool first_start = opened->recovery().created;
    engine->start(std::move(opened), notes(), first_start);
  }
  /// Ends it as kill -9 would, and cuts the power, too.
  void crash() {
    access.reset();
    engine.reset();
    disk.crash();
  }
  Kind set(const std::string& bytes, UpdateFlag flag) {
    std::optional<UefiOutcome> outcome;
    access->set_nvram(Value(bytes), flag, [&outcome](UefiOutcome got) { outcome = std::move(got); });
    loop.run_until([&outcome] { return outcome.has_value(); });
    return outcome->kind;
  }
  Kind alert(const std::string& body) {
    std::optional<UefiOutcome> outcome;
    access->alert(5, Value(body), [&outcome](UefiOutcome got) { outcome = std::move(got); });
    loop.run_until([&outcome] { return outcome.has_value(); });
    return outcome->kind;
  }
  NvramResult get() {
    std::optional<NvramResult> result;
    access->get_nvram([&result](NvramResult got) { result = std::move(got); });
    loop.run_until([&result] { return result.has_value(); });
    return *result;
  }
  SecurebootResult certificates() {
    std::optional<SecurebootResult> result;
    access->get_secureboot_state([&result](SecurebootResult got) { result = std::move(got); });
    loop.run_until([&result] { return result.has_value(); });
    return *result;
  }
  void drain() {
    bool drained = false;
    engine->drain(engine->now() + seconds(60), [&drained](bool all) { drained = all; });
    loop.run_and_pass_time_until([&drained] { return drained; });
  }

  TestUpstream upstream;
  Uuid vm;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<UefiAccess> access;
};

TEST_F(EngineUefiTest, WhatIsSetIsReadInItsPlaceInTheMap) {
  start();
  EXPECT_EQ(set("second", UpdateFlag::yes), Kind::done);
  EXPECT_EQ(upstream.flags, std::vector{UpdateFlag::yes});
  const NvramResult result = get();
  ASSERT_EQ(result.outcome.kind, Kind::done);
  ASSERT_EQ(result.entries.size(), 3u);
  EXPECT_EQ(result.entries[0].second.view(), "x");
  EXPECT_EQ(result.entries[1].first, "EFI-variables");
  EXPECT_EQ(result.entries[1].second.view(), "second");
  EXPECT_EQ(result.entries[2].first, "last");
  EXPECT_EQ(certificates().state, "ok");
}

TEST_F(EngineUefiTest, AVmWithoutVariablesGetsAnEmptyMapOnlyFromTheUpstream) {
  upstream.contents = {};
  start();
  EXPECT_EQ(get().outcome.kind, Kind::done);
  EXPECT_TRUE(get().entries.empty());
  EXPECT_EQ(set("first", UpdateFlag::unspecified), Kind::done);
  ASSERT_EQ(get().entries.size(), 1u);
  EXPECT_EQ(get().entries[0].first, "EFI-variables");
}

TEST_F(EngineUefiTest, WhatNobodyKnowsIsUnavailableAndNeverEmpty) {
  upstream.up = false;
  start();
  const NvramResult result = get();
  EXPECT_EQ(result.outcome.kind, Kind::unavailable);
  EXPECT_FALSE(result.outcome.reason.empty());
  EXPECT_EQ(certificates().outcome.kind, Kind::unavailable);
}

TEST_F(EngineUefiTest, BeforeTheJournalWasReadNothingIsTaken) {
  engine = std::make_unique<Engine>(loop.host(), core::Config{}, upstream, null_logger());
  access = engine->open_uefi(vm);
  EXPECT_EQ(set("x", UpdateFlag::no), Kind::unavailable);
  EXPECT_EQ(get().outcome.kind, Kind::unavailable);
  EXPECT_EQ(alert("text"), Kind::unavailable);
}

TEST_F(EngineUefiTest, ValuesAndAlertsThatNeverFitAreRefused) {
  start();
  EXPECT_EQ(set(std::string((1 << 20) + 1, 'x'), UpdateFlag::no), Kind::refused);
  EXPECT_EQ(alert(std::string(limits::alert_body + 1, 'x')), Kind::refused);
  EXPECT_TRUE(upstream.flags.empty());
  EXPECT_TRUE(upstream.alerts.empty());
}

TEST_F(EngineUefiTest, ADirectAlertDoesNotTouchTheDisk) {
  start();
  const auto batches = engine->journal_stats()->batches;
  EXPECT_EQ(alert("text"), Kind::done);
  ASSERT_EQ(upstream.alerts.size(), 1u);
  EXPECT_EQ(upstream.alerts[0].vm, vm);
  EXPECT_EQ(upstream.alerts[0].priority, 5);
  EXPECT_EQ(engine->journal_stats()->batches, batches);
}

TEST_F(EngineUefiTest, AfterACrashVariablesFlagAndAlertsAreDelivered) {
  upstream.up = false;
  start();
  EXPECT_EQ(set("old", UpdateFlag::yes), Kind::done);
  EXPECT_EQ(set("new", UpdateFlag::no), Kind::done);
  EXPECT_EQ(alert("one"), Kind::done);
  EXPECT_EQ(alert("two"), Kind::done);
  EXPECT_EQ(engine->snapshot().pending_entries, 3u);
  EXPECT_EQ(engine->snapshot().alerts, 2u);
  crash();
  start();
  EXPECT_EQ(engine->snapshot().pending_entries, 3u);
  const NvramResult pending = get();
  ASSERT_EQ(pending.entries.size(), 1u) << "the rest is not known, the upstream is away";
  EXPECT_EQ(pending.entries[0].second.view(), "new");
  EXPECT_TRUE(upstream.alerts.empty());
  upstream.up = true;
  loop.advance(seconds(130));  // the doubt window of a guard that was killed
  drain();
  EXPECT_EQ(upstream.contents[Slot::nvram].view(), "new");
  EXPECT_EQ(upstream.flags, std::vector{UpdateFlag::yes}) << "`no` has inherited it";
  ASSERT_EQ(upstream.alerts.size(), 2u);
  EXPECT_EQ(upstream.alerts[0].body.view(), "one");
  EXPECT_EQ(upstream.alerts[1].body.view(), "two");
  crash();
  start();
  EXPECT_EQ(engine->snapshot().alerts, 0u) << "what was delivered is gone from the journal";
  EXPECT_EQ(upstream.alerts.size(), 2u);
}

TEST_F(EngineUefiTest, AnOperatorGivesAlertsUp) {
  upstream.up = false;
  start();
  EXPECT_EQ(alert("one"), Kind::done);
  EXPECT_EQ(alert("two"), Kind::done);
  std::optional<Result<std::size_t>> done;
  engine->discard({vm, Device::uefi}, std::nullopt,
                  [&done](Result<std::size_t> got) { done = std::move(got); });
  loop.run_until([&done] { return done.has_value(); });
  ASSERT_TRUE(*done) << done->error().message;
  EXPECT_EQ(**done, 2u);
  EXPECT_EQ(engine->snapshot().pending_entries, 0u);
}

TEST_F(EngineUefiTest, AHandlerMayOutliveTheEngine) {
  start();
  engine.reset();
  access.reset();
}

}  // namespace
}  // namespace guard::engine
