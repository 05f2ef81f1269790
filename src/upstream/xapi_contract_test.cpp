// The xapi upstream against a xapi-sim that runs as a process of its own: the contract of every upstream, and
// the faults that only a xapi has.
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <random>

#include "net/scripted_peer.h"
#include "upstream/sim_process.h"
#include "upstream/upstream_contract.h"
#include "upstream/xapi_upstream.h"

namespace guard::upstream::testing {

namespace {

using Kind = Outcome::Kind;
using net::testing::run_until;
using std::chrono::milliseconds;
using std::chrono::seconds;

Uuid numbered(unsigned group, unsigned number) {
  Uuid uuid = *Uuid::parse("00000000-8f5b-4c0e-9d2b-6a1e5b7c0000");
  uuid.bytes[0] = static_cast<std::uint8_t>(group);
  uuid.bytes[14] = static_cast<std::uint8_t>(number >> 8);
  uuid.bytes[15] = static_cast<std::uint8_t>(number);
  return uuid;
}
Uuid vm_of(unsigned number) { return numbered(0xa0, number); }
Uuid vtpm_of(unsigned number) { return numbered(0xb0, number); }

std::vector<std::string> vm_arguments(unsigned count) {
  std::vector<std::string> arguments{"--host-uuid", numbered(0xd0, 1).str()};
  for (unsigned i = 0; i < count; ++i) {
    arguments.push_back("--vm");
    arguments.push_back(vm_of(i).str() + "=" + vtpm_of(i).str());
  }
  return arguments;
}

class XapiBackend final : public ContractBackend {
 public:
  XapiBackend() {
    sim_.start();
    XapiOptions options;
    options.uri = "unix:" + socket_.path();
    options.host = numbered(0xd0, 1);
    upstream_ = *make_xapi_upstream(loop_, options, null_logger());
  }
  net::Loop& loop() override { return loop_; }
  Upstream& upstream() override { return *upstream_; }
  Uuid vm(int which) override { return vm_of(static_cast<unsigned>(which)); }
  Uuid vtpm(const Uuid& vm) override {
    const wire::Json dump = sim_.control("sim.dump", {{"vm", vm.str()}, {"history", false}});
    const wire::Json& vtpm = dump.find("vms")->array()->front().find("vtpms")->array()->front();
    return *Uuid::parse(*vtpm.find("uuid")->string());
  }
  std::optional<Uuid> missing_vm() override { return vm_of(99); }
  std::string stored(const Uuid& vm) override { return sim_.contents(vm); }
  void store(const Uuid& vm, std::string packed) override { sim_.set_contents(vm, std::move(packed)); }
  void replace_vtpm(const Uuid& vm, const Uuid& vtpm, std::string packed) override {
    edit(vm, "replace_vtpm", {{"vtpm", vtpm.str()}, {"contents", std::move(packed)}});
  }
  void damage(const Uuid& vm) override { sim_.set_contents(vm, "two fields"); }
  bool still_damaged(const Uuid& vm) override { return sim_.contents(vm) == "two fields"; }
  std::string variables(const Uuid& vm) override {
    const wire::Json dump = sim_.control("sim.dump", {{"vm", vm.str()}, {"history", false}});
    const wire::Json* value = dump.find("vms")->array()->front().find("nvram")->find("EFI-variables");
    return value != nullptr ? *value->string() : "";
  }
  void store_variables(const Uuid& vm, std::string value) override {
    edit(vm, "set_nvram", {{"name", "EFI-variables"}, {"value", std::move(value)}});
  }
  std::optional<unsigned> alerts(const Uuid& vm) override {
    unsigned count = 0;
    const wire::Json dump = sim_.control("sim.dump");
    for (const wire::Json& message : *dump.find("messages")->array()) {
      if (*message.find("object")->string() == vm.str()) ++count;
    }
    return count;
  }
  bool run_elsewhere(const Uuid& vm) override {
    edit(vm, "set_power_state", {{"power_state", "Running"}});
    edit(vm, "set_resident_on", {{"host", numbered(0xd0, 2).str()}});
    return true;
  }
  void go_away() override {
    sim_.control("sim.flush");
    sim_.kill();
  }
  void come_back() override { sim_.start(); }

 private:
  void edit(const Uuid& vm, std::string action, wire::JsonObject more) {
    more.emplace_back("action", std::move(action));
    more.emplace_back("vm", vm.str());
    sim_.control("sim.edit", std::move(more));
  }

  net::testing::SocketPath socket_;
  net::Loop loop_;
  SimProcess sim_{XAPI_SIM, socket_.path(), socket_.directory() + "/store", vm_arguments(2)};
  std::unique_ptr<XapiUpstream> upstream_;
};

}  // namespace

BackendFactory xapi_backend() {
  return {"Xapi", [] { return std::make_unique<XapiBackend>(); }};
}

namespace {

constexpr unsigned vm_count = 64;

class XapiSimTest : public ::testing::Test {
 protected:
  struct Events final : UpstreamEvents {
    std::vector<Epoch> ended;
    void session_ended(Epoch epoch) override { ended.push_back(epoch); }
    void sign_of_life() override {}
  };

  XapiSimTest() {
    sim.start();
    XapiOptions options;
    options.uri = "unix:" + socket.path();
    options.direct_timeout = milliseconds(100);
    options.host = numbered(0xd0, 1);
    upstream = *make_xapi_upstream(loop, options, null_logger());
    upstream->set_events(&events);
  }
  static Delivery delivery_of(std::string permall, unsigned number = 0) {
    return {{vm_of(number), Device::vtpm},
            {{Slot::permall, 1, Value(std::move(permall)), {}, {}, false}},
            {},
            0,
            false};
  }
  static Delivery based(std::string permall, const Outcome& last, unsigned number = 0) {
    Delivery delivery = delivery_of(std::move(permall), number);
    delivery.base = last.contents;
    delivery.base_epoch = last.epoch;
    return delivery;
  }
  bool until(const std::function<bool()>& done) { return run_until(loop, done, seconds(20)); }
  Outcome deliver(Delivery delivery) {
    std::optional<Outcome> outcome;
    upstream->deliver(std::move(delivery), [&outcome](Outcome got) { outcome = std::move(got); });
    EXPECT_TRUE(until([&outcome] { return outcome.has_value(); }));
    return outcome ? std::move(*outcome) : Outcome{};
  }
  wire::JsonObject of_vm(unsigned number) { return {{"vm", vm_of(number).str()}}; }
  std::int64_t overlaps(unsigned number) {
    const wire::Json dump = sim.control("sim.dump", of_vm(number));
    return *dump.find("vms")->array()->front().find("vtpms")->array()->front().find("overlap_max")->integer();
  }

  net::testing::SocketPath socket;
  net::Loop loop;
  Events events;
  SimProcess sim{XAPI_SIM, socket.path(), socket.directory() + "/store", vm_arguments(vm_count)};
  std::unique_ptr<XapiUpstream> upstream;
};

TEST_F(XapiSimTest, ADirectWriteCostsOneCallOnAConnectionThatStands) {
  Outcome last = deliver(delivery_of("0"));
  ASSERT_EQ(last.kind, Kind::delivered) << last.reason;
  const std::int64_t before = sim.calls("VTPM.set_contents");
  const std::int64_t reads = sim.calls("VTPM.get_contents");
  for (int i = 1; i <= 50; ++i) {
    last = deliver(based(std::to_string(i), last));
    ASSERT_EQ(last.kind, Kind::delivered);
  }
  EXPECT_EQ(sim.calls("VTPM.set_contents"), before + 50);
  EXPECT_EQ(sim.calls("VTPM.get_contents"), reads);
  EXPECT_EQ(upstream->counters().connects, 1u);
  EXPECT_EQ(sim.contents(vm_of(0)), "50  ");
}

TEST_F(XapiSimTest, SixtyFourVmsWriteAtTheSameTimeOverFewConnectionsInOneSession) {
  std::vector<std::optional<Outcome>> last(vm_count);
  unsigned done = 0;
  constexpr int rounds = 20;
  std::function<void(unsigned, int)> next = [&](unsigned number, int round) {
    if (round == rounds) {
      ++done;
      return;
    }
    Delivery delivery = last[number] ? based(std::to_string(round), *last[number], number)
                                     : delivery_of(std::to_string(round), number);
    upstream->deliver(std::move(delivery), [&, number, round](Outcome outcome) {
      ASSERT_EQ(outcome.kind, Kind::delivered) << outcome.reason;
      last[number] = std::move(outcome);
      next(number, round + 1);
    });
  };
  for (unsigned i = 0; i < vm_count; ++i) next(i, 0);
  ASSERT_TRUE(until([&done] { return done == vm_count; }));
  EXPECT_EQ(sim.calls("session.login_with_password"), 1);
  EXPECT_EQ(sim.calls("VTPM.set_contents"), rounds * static_cast<int>(vm_count));
  EXPECT_LE(upstream->counters().connects, limits::upstream_connections);
  for (unsigned i = 0; i < vm_count; ++i) EXPECT_EQ(sim.contents(vm_of(i)), "19  ");
}

TEST_F(XapiSimTest, AReplyLostAfterTheEffectIsDoubtAndTheNextReadShowsTheValue) {
  const Outcome first = deliver(delivery_of("1"));
  sim.fault("VTPM.set_contents", "drop_reply");
  EXPECT_EQ(deliver(based("2", first)).kind, Kind::unknown);
  EXPECT_EQ(sim.contents(vm_of(0)), "2  ");
  Delivery again = delivery_of("2");
  again.verify = true;
  again.writes[0].known = {digest_of("1")};
  EXPECT_EQ(deliver(again).kind, Kind::delivered) << "one's own value is no conflict";
}

TEST_F(XapiSimTest, ALostRequestIsDoubtToo) {
  const Outcome first = deliver(delivery_of("1"));
  sim.fault("VTPM.set_contents", "drop_request");
  EXPECT_EQ(deliver(based("2", first)).kind, Kind::unknown);
  EXPECT_EQ(sim.contents(vm_of(0)), "1  ");
}

TEST_F(XapiSimTest, FailuresOfXapiEndAsTheirClassesSay) {
  Outcome last = deliver(delivery_of("1"));
  struct Row {
    std::string_view kind;
    wire::JsonObject more;
    Kind expected;
    bool suspect;
  };
  const std::vector<Row> rows{
      {"error", {{"error", wire::JsonArray{"INTERNAL_ERROR", "x"}}}, Kind::transient, false},
      {"error", {{"error", wire::JsonArray{"HOST_IS_SLAVE", "192.0.2.10"}}}, Kind::transient, true},
      {"error_v2", {{"error", wire::JsonArray{"HOST_STILL_BOOTING"}}}, Kind::transient, true},
      {"http_status", {{"status", 500}}, Kind::transient, false},
      {"garbage", {}, Kind::unknown, false},
      {"error",
       {{"error", wire::JsonArray{"HANDLE_INVALID", "secret", "OpaqueRef:1"}}},
       Kind::unknown,
       false},
      {"error", {{"error", wire::JsonArray{"INVALID_VALUE", "contents", "x"}}}, Kind::payload, false},
  };
  for (const Row& row : rows) {
    sim.fault("VTPM.set_contents", row.kind, row.more);
    const Outcome outcome = deliver(based("2", last));
    EXPECT_EQ(outcome.kind, row.expected) << row.kind << " " << outcome.reason;
    EXPECT_EQ(outcome.upstream_suspect, row.suspect) << outcome.reason;
    sim.control("sim.clear_faults");
    sim.set_contents(vm_of(0), "1  ");
    last = deliver(delivery_of("1b"));
    ASSERT_EQ(last.kind, Kind::delivered);
  }
}

TEST_F(XapiSimTest, AHungVmDelaysNobodyAndItsUpdateIsOutlived) {
  ASSERT_EQ(deliver(delivery_of("1", 0)).kind, Kind::delivered);
  Outcome other = deliver(delivery_of("1", 1));
  sim.fault("VTPM.set_contents", "hang", of_vm(0));
  std::optional<Outcome> hung;
  upstream->deliver(delivery_of("2", 0), [&hung](Outcome got) { hung = std::move(got); });
  ASSERT_TRUE(until([this] { return upstream->counters().of(Method::vtpm_get_contents).succeeded >= 3; }));
  Time slowest{};
  for (int i = 2; i < 100; ++i) {
    const Time start = loop.now();
    other = deliver(based(std::to_string(i), other, 1));
    ASSERT_EQ(other.kind, Kind::delivered);
    slowest = std::max(slowest, loop.now() - start);
  }
  EXPECT_LT(slowest, milliseconds(500));
  EXPECT_FALSE(hung);
  sim.control("sim.release", {{"action", "apply"}});
  ASSERT_TRUE(until([&hung] { return hung.has_value(); }));
  EXPECT_EQ(hung->kind, Kind::delivered);
  EXPECT_EQ(sim.contents(vm_of(0)), "2  ");
}

TEST_F(XapiSimTest, AHungUpdateWhoseConnectionIsDroppedIsDoubt) {
  ASSERT_EQ(deliver(delivery_of("1")).kind, Kind::delivered);
  sim.fault("VTPM.set_contents", "hang");
  std::optional<Outcome> hung;
  upstream->deliver(delivery_of("2"), [&hung](Outcome got) { hung = std::move(got); });
  run_until(loop, [&hung] { return hung.has_value(); }, milliseconds(200));
  ASSERT_FALSE(hung);
  sim.control("sim.release", {{"action", "drop"}});
  ASSERT_TRUE(until([&hung] { return hung.has_value(); }));
  EXPECT_EQ(hung->kind, Kind::unknown);
}

TEST_F(XapiSimTest, XapiKilledInMidCallMeansDoubtAndARestartMeansANewSession) {
  const Outcome first = deliver(delivery_of("1"));
  sim.control("sim.flush");
  sim.fault("VTPM.set_contents", "hang");
  std::optional<Outcome> hung;
  upstream->deliver(based("2", first), [&hung](Outcome got) { hung = std::move(got); });
  run_until(loop, [&hung] { return hung.has_value(); }, milliseconds(100));
  sim.kill();
  ASSERT_TRUE(until([&hung] { return hung.has_value(); }));
  EXPECT_EQ(hung->kind, Kind::unknown);
  EXPECT_TRUE(events.ended.empty()) << "nobody knows yet whether the session is over";
  sim.start();
  EXPECT_EQ(deliver(based("3", first)).kind, Kind::stale);
  EXPECT_EQ(events.ended, std::vector<Epoch>{first.epoch});
  Delivery next = delivery_of("3");
  next.writes[0].known = {digest_of("1"), digest_of("2")};
  EXPECT_EQ(deliver(next).kind, Kind::delivered);
}

TEST_F(XapiSimTest, WhatXapiHadAcceptedAndLostIsSeenToHaveGoneBack) {
  sim.set_contents(vm_of(0), "0  ");
  sim.control("sim.flush");
  const Outcome first = deliver(delivery_of("1"));
  ASSERT_EQ(first.kind, Kind::delivered);
  sim.kill();
  sim.start();
  std::optional<Fetched> fetched;
  upstream->fetch({vm_of(0), Device::vtpm}, [&fetched](Fetched got) { fetched = std::move(got); });
  ASSERT_TRUE(until([&fetched] { return fetched.has_value(); }));
  ASSERT_EQ(fetched->kind, Kind::delivered) << fetched->reason;
  EXPECT_EQ(fetched->contents[Slot::permall].view(), "0");
  EXPECT_GT(fetched->epoch, first.epoch);
  EXPECT_EQ(events.ended, std::vector<Epoch>{first.epoch});
}

TEST_F(XapiSimTest, AFrozenXapiFailsProbesInTimeAndAnswersWhatItWasSentWhenItThaws) {
  const Outcome first = deliver(delivery_of("1"));
  sim.freeze();
  std::optional<Outcome> update;
  upstream->deliver(based("2", first), [&update](Outcome got) { update = std::move(got); });
  std::optional<Outcome> probed;
  const Time start = loop.now();
  upstream->probe([&probed](Outcome got) { probed = std::move(got); });
  ASSERT_TRUE(until([&probed] { return probed.has_value(); }));
  EXPECT_EQ(probed->kind, Kind::transient);
  EXPECT_LT(loop.now() - start, limits::probe_timeout + seconds(1));
  EXPECT_FALSE(update);
  sim.thaw();
  ASSERT_TRUE(until([&update] { return update.has_value(); }));
  EXPECT_EQ(update->kind, Kind::delivered);
}

TEST_F(XapiSimTest, AVmThatGoesAwayOrGetsAnotherVtpmIsNoticed) {
  const Outcome first = deliver(delivery_of("1", 0));
  sim.control("sim.edit", {{"action", "replace_vtpm"},
                           {"vm", vm_of(0).str()},
                           {"vtpm", numbered(0xc0, 0).str()},
                           {"contents", "other"}});
  EXPECT_EQ(deliver(based("2", first)).kind, Kind::stale);
  Delivery next = delivery_of("2");
  next.writes[0].vtpm = first.contents->vtpm;
  EXPECT_EQ(deliver(next).kind, Kind::conflict);
  EXPECT_EQ(sim.contents(vm_of(0)), "other");
  const Outcome of_another = deliver(delivery_of("1", 1));
  sim.control("sim.edit", {{"action", "destroy_vtpm"}, {"vm", vm_of(1).str()}});
  EXPECT_EQ(deliver(based("2", of_another, 1)).kind, Kind::stale);
  EXPECT_EQ(deliver(delivery_of("2", 1)).kind, Kind::lane);
  ASSERT_EQ(deliver(delivery_of("1", 2)).kind, Kind::delivered);
  sim.control("sim.edit", {{"action", "delete_vm"}, {"vm", vm_of(2).str()}});
  EXPECT_EQ(deliver(delivery_of("2", 2)).kind, Kind::lane);
  EXPECT_EQ(deliver(delivery_of("2", 3)).kind, Kind::delivered) << "the others go on";
}

TEST_F(XapiSimTest, AVmThatRunsOnAnotherHostIsNotWrittenWhenThatIsAsked) {
  const auto edit = [this](std::string action, std::string name, std::string value) {
    sim.control("sim.edit",
                {{"action", std::move(action)}, {"vm", vm_of(0).str()}, {std::move(name), std::move(value)}});
  };
  const auto asked = [this](std::string value) {
    Delivery delivery = delivery_of(std::move(value));
    delivery.ask_residence = true;
    return deliver(std::move(delivery)).kind;
  };
  edit("set_power_state", "power_state", "Running");
  edit("set_resident_on", "host", numbered(0xd0, 2).str());
  EXPECT_EQ(asked("1"), Kind::elsewhere);
  EXPECT_EQ(sim.contents(vm_of(0)), "");
  EXPECT_EQ(deliver(delivery_of("2")).kind, Kind::delivered) << "nobody asked";
  edit("set_resident_on", "host", numbered(0xd0, 1).str());
  EXPECT_EQ(asked("3"), Kind::delivered) << "it runs here";
  EXPECT_EQ(asked("4"), Kind::delivered) << "and this host's reference is known now";
  edit("set_resident_on", "host", numbered(0xd0, 2).str());
  edit("set_power_state", "power_state", "Suspended");
  EXPECT_EQ(asked("5"), Kind::delivered) << "it runs nowhere";
  edit("set_power_state", "power_state", "Paused");
  EXPECT_EQ(asked("6"), Kind::elsewhere);
  EXPECT_TRUE(sim.contents(vm_of(0)).starts_with("5"));
}

TEST_F(XapiSimTest, AVmThatIsGoneWhenItsResidenceIsAskedIsATroubleOfItsLane) {
  ASSERT_EQ(deliver(delivery_of("1")).kind, Kind::delivered);
  sim.control("sim.edit", {{"action", "delete_vm"}, {"vm", vm_of(0).str()}});
  Delivery delivery = delivery_of("2");
  delivery.ask_residence = true;
  EXPECT_EQ(deliver(delivery).kind, Kind::lane);
}

/// A caller as careful as the guard: one update at a time, none while one is in doubt, base dropped on doubt
/// and on a new session. Each value is a number that only grows.
class Caller {
 public:
  Caller(XapiUpstream& upstream, unsigned number) : upstream_(upstream), number_(number) {}
  /// Ends with the next delivery.
  void finish() { finishing_ = true; }
  bool finished() const { return finished_; }
  bool in_doubt() const { return doubt_; }
  int delivered() const { return delivered_; }
  const std::map<Kind, int>& outcomes() const { return outcomes_; }
  /// The doubt has ended: whatever hung was dropped or took effect.
  void doubt_over() { doubt_ = false, next(); }
  void next() {
    if (finishing_ && delivered_ == value_) {
      finished_ = true;
      return;
    }
    if (value_ == delivered_) {
      // What stands there is the last value, or, as long as it is not delivered, this one.
      known_ = {digest_of(value_ == 0 ? "" : std::to_string(value_))};
      ++value_;
    }
    Delivery delivery;
    delivery.owner = {vm_of(number_), Device::vtpm};
    delivery.writes = {{Slot::permall, 1, Value(std::to_string(value_)), {}, known_, false}};
    delivery.verify = was_in_doubt_;
    if (base_) {
      delivery.base = base_;
      delivery.base_epoch = epoch_;
    }
    upstream_.deliver(std::move(delivery), [this](Outcome outcome) { ended(std::move(outcome)); });
  }

 private:
  void ended(Outcome outcome) {
    ++outcomes_[outcome.kind];
    base_.reset();
    switch (outcome.kind) {
      case Kind::delivered:
        base_ = std::move(outcome.contents);
        epoch_ = outcome.epoch;
        delivered_ = value_;
        was_in_doubt_ = false;
        return next();
      case Kind::unknown:
        doubt_ = was_in_doubt_ = true;
        return;
      case Kind::transient:
      case Kind::stale:
        return next();
      default:
        ADD_FAILURE() << name_of(outcome.kind) << " " << outcome.reason;
    }
  }

  XapiUpstream& upstream_;
  const unsigned number_;
  int value_ = 0;
  int delivered_ = 0;
  bool finishing_ = false;
  bool finished_ = false;
  bool doubt_ = false;
  bool was_in_doubt_ = false;
  std::vector<Digest> known_;
  std::optional<Contents> base_;
  Epoch epoch_ = 0;
  std::map<Kind, int> outcomes_;
};

TEST_F(XapiSimTest, UnderRandomFaultsNoVtpmEverGoesBackAndAllEndsDelivered) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  constexpr unsigned callers = 16;
  std::vector<std::unique_ptr<Caller>> all;
  for (unsigned i = 0; i < callers; ++i) all.push_back(std::make_unique<Caller>(*upstream, i));
  for (const auto& caller : all) caller->next();
  const std::vector<std::string_view> kinds{"delay", "hang",     "drop_reply", "drop_request",
                                            "error", "error_v2", "http_status"};
  const std::vector<std::string_view> methods{"*", "VTPM.set_contents", "VTPM.get_contents", "VM.get_by_uuid",
                                              "session.login_with_password"};
  const auto everybody_finished = [&all] {
    return std::all_of(all.begin(), all.end(), [](const auto& caller) { return caller->finished(); });
  };
  for (int round = 0; round < 400 && !everybody_finished(); ++round) {
    if (round == 100) {
      sim.control("sim.clear_faults");
      for (const auto& caller : all) caller->finish();
    }
    if (round < 100) {
      if (random() % 4 == 0) sim.control("sim.edit", {{"action", "end_sessions"}});
      sim.fault(methods[random() % methods.size()], kinds[random() % kinds.size()],
                {{"ms", 20}, {"status", 500}, {"error", wire::JsonArray{"INTERNAL_ERROR", "x"}}},
                1 + static_cast<int>(random() % 3));
    }
    run_until(loop, everybody_finished, milliseconds(20));
    // What hangs takes effect or is dropped, late, but before anybody sends a newer value.
    sim.control("sim.release", {{"action", random() % 2 == 0 ? "apply" : "drop"}});
    run_until(loop, everybody_finished, milliseconds(5));
    for (const auto& caller : all) {
      if (caller->in_doubt()) caller->doubt_over();
    }
  }
  ASSERT_TRUE(everybody_finished());
  std::map<Kind, int> outcomes;
  for (unsigned i = 0; i < callers; ++i) {
    EXPECT_EQ(sim.contents(vm_of(i)), std::to_string(all[i]->delivered()) + "  ");
    EXPECT_LE(overlaps(i), 1) << "two updates of one vTPM overlapped";
    for (const auto& [kind, count] : all[i]->outcomes()) outcomes[kind] += count;
  }
  for (const Kind kind : {Kind::delivered, Kind::transient, Kind::stale, Kind::unknown}) {
    EXPECT_GT(outcomes[kind], 0) << name_of(kind) << " never happened: the faults prove nothing";
  }
}

}  // namespace
}  // namespace guard::upstream::testing
