#include "testing/sim_upstream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

#include "wire/vtpm_contents.h"

namespace guard::testing {
namespace {

using Kind = Outcome::Kind;
using std::chrono::minutes;
using std::chrono::seconds;

const Uuid vm_a = *Uuid::parse("3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10");
const Uuid vm_b = *Uuid::parse("b1c0e5a3-8f5b-4c0e-9d2b-6a1e5b7c9d11");
const Uuid vtpm_a = *Uuid::parse("7c9e6679-7425-40de-944b-e07fc1f90ae7");
const Uuid vtpm_b = *Uuid::parse("8c9e6679-7425-40de-944b-e07fc1f90ae8");

class SimUpstreamTest : public ::testing::Test {
 protected:
  SimUpstreamTest() {
    sim.add_vm(vm_a, vtpm_a);
    sim.add_vm(vm_b, vtpm_b);
  }

  static Delivery delivery_of(std::string permall, const Uuid& vm = vm_a) {
    Delivery delivery;
    delivery.owner = {vm, Device::vtpm};
    SlotWrite write;
    write.sequence = 7;
    write.value = Value(std::move(permall));
    delivery.writes.push_back(std::move(write));
    return delivery;
  }
  static Delivery based(std::string permall, const Outcome& last) {
    Delivery delivery = delivery_of(std::move(permall));
    delivery.base = last.contents;
    delivery.base_epoch = last.epoch;
    return delivery;
  }

  /// Lets the world go on for so long, or until nothing more happens.
  void pass(Time how_long) {
    const Time end = now + how_long;
    for (auto next = sim.next_time(); next && *next <= end; next = sim.next_time()) {
      now = std::max(now, *next);
      sim.step(now, outputs);
    }
    now = end;
  }
  SimUpstream::CallId submit(Delivery delivery) {
    sim.submit(++last, std::move(delivery), now);
    return last;
  }
  std::optional<Outcome> outcome_of(SimUpstream::CallId id) const {
    for (const auto& output : outputs) {
      const auto* done = std::get_if<SimUpstream::DeliverDone>(&output);
      if (done != nullptr && done->call == id) return done->outcome;
    }
    return std::nullopt;
  }
  Outcome deliver(Delivery delivery) {
    const auto id = submit(std::move(delivery));
    pass(seconds(1));
    const auto outcome = outcome_of(id);
    EXPECT_TRUE(outcome);
    return outcome.value_or(Outcome());
  }
  Fetched fetch(const Uuid& vm = vm_a, Time how_long = seconds(1)) {
    sim.submit_fetch(++last, {vm, Device::vtpm}, now);
    pass(how_long);
    for (const auto& output : outputs) {
      const auto* done = std::get_if<SimUpstream::FetchDone>(&output);
      if (done != nullptr && done->call == last) return done->fetched;
    }
    ADD_FAILURE() << "the fetch was not answered";
    return {};
  }
  template <class What>
  std::size_t count() const {
    return static_cast<std::size_t>(std::ranges::count_if(
        outputs, [](const auto& output) { return std::holds_alternative<What>(output); }));
  }
  std::string stored(const Uuid& vm = vm_a) const {
    return std::string(sim.accepted({vm, Device::vtpm})[Slot::permall].view());
  }
  const std::vector<SimUpstream::Stood>& history() const { return sim.history({vm_a, Device::vtpm}); }
  unsigned may_act() const { return sim.may_still_act({vm_a, Device::vtpm}); }

  SimUpstream sim{SimUpstreamOptions()};
  Time now = seconds(1);
  SimUpstream::CallId last = 0;
  std::vector<SimUpstream::Output> outputs;
};

TEST_F(SimUpstreamTest, FaultsOfAnUpdateEndAsTheirNamesSay) {
  struct Row {
    SimFault fault;
    Kind kind;
    bool written;
  };
  for (const Row& row : {Row{SimFault::refuse_transient, Kind::transient, false},
                         {SimFault::refuse_lane, Kind::lane, false},
                         {SimFault::refuse_payload, Kind::payload, false},
                         {SimFault::drop_request, Kind::unknown, false},
                         {SimFault::drop_reply, Kind::unknown, true}}) {
    const Outcome before = deliver(delivery_of("before"));
    ASSERT_EQ(before.kind, Kind::delivered);
    sim.set_fault(row.fault, 1);
    EXPECT_EQ(deliver(based("after", before)).kind, row.kind) << name_of(row.fault);
    EXPECT_EQ(stored(), row.written ? "after" : "before") << name_of(row.fault);
    EXPECT_EQ(sim.drawn()[static_cast<std::size_t>(row.fault)], 1u);
    EXPECT_EQ(may_act(), 0u);
    sim.clear_faults();
  }
}

TEST_F(SimUpstreamTest, FaultsOfReadsAndProbesEndAsTheirNamesSay) {
  sim.set_fault(SimFault::read_fails, 1);
  EXPECT_EQ(fetch().kind, Kind::transient);
  EXPECT_FALSE(fetch().upstream_suspect);
  EXPECT_EQ(deliver(delivery_of("1")).kind, Kind::transient);
  sim.clear_faults();
  sim.set_fault(SimFault::read_suspect, 1);
  EXPECT_TRUE(fetch().upstream_suspect);
  sim.clear_faults();
  sim.set_fault(SimFault::read_hangs, 1);
  EXPECT_EQ(fetch(vm_a, seconds(11)).kind, Kind::transient);
  sim.clear_faults();
  sim.set_fault(SimFault::read_slow, 1);
  EXPECT_EQ(fetch(vm_a, seconds(3)).kind, Kind::delivered);
  sim.set_fault(SimFault::probe_fails, 1);
  sim.submit_probe(++last, now);
  pass(seconds(1));
  const auto* probe = std::get_if<SimUpstream::ProbeDone>(&outputs.back());
  ASSERT_NE(probe, nullptr);
  EXPECT_EQ(probe->outcome.kind, Kind::transient);
  EXPECT_TRUE(probe->outcome.upstream_suspect);
}

TEST_F(SimUpstreamTest, AFaultOfOneVmIsNobodyElses) {
  sim.set_fault(SimFault::refuse_lane, 1, vm_a);
  EXPECT_EQ(deliver(delivery_of("1", vm_a)).kind, Kind::lane);
  EXPECT_EQ(deliver(delivery_of("1", vm_b)).kind, Kind::delivered);
}

TEST_F(SimUpstreamTest, ACrashLosesWhatWasNotFlushedAndEndsTheSession) {
  ASSERT_EQ(deliver(delivery_of("old")).kind, Kind::delivered);
  pass(minutes(6));
  const Outcome last_outcome = deliver(delivery_of("new"));
  ASSERT_EQ(stored(), "new");
  EXPECT_EQ(sim.durable({vm_a, Device::vtpm})[Slot::permall].view(), "old");
  sim.crash(now);
  EXPECT_TRUE(deliver(delivery_of("x")).upstream_suspect) << "nobody listens";
  sim.start(now);
  EXPECT_EQ(stored(), "old");
  EXPECT_EQ(history().back().writer, SimUpstream::Writer::went_back);
  EXPECT_EQ(deliver(based("y", last_outcome)).kind, Kind::stale);
  EXPECT_EQ(count<SimUpstream::SessionEnded>(), 1u);
  EXPECT_EQ(count<SimUpstream::SignOfLife>(), 1u);
  EXPECT_GT(fetch().epoch, last_outcome.epoch);
}

TEST_F(SimUpstreamTest, AnOrderlyStopLosesNothing) {
  ASSERT_EQ(deliver(delivery_of("new")).kind, Kind::delivered);
  sim.stop(now);
  sim.start(now);
  EXPECT_EQ(stored(), "new");
}

TEST_F(SimUpstreamTest, ALateUpdateActsAfterItsCallerWasToldUnknown) {
  const Outcome first = deliver(delivery_of("1"));
  sim.set_fault(SimFault::act_late, 1);
  EXPECT_EQ(deliver(based("late", first)).kind, Kind::unknown);
  sim.clear_faults();
  EXPECT_EQ(may_act(), 1u);
  pass(seconds(101));
  EXPECT_EQ(stored(), "late");
  EXPECT_TRUE(history().back().late);
  EXPECT_EQ(may_act(), 0u);
}

TEST_F(SimUpstreamTest, ALateUpdateOfASessionThatIsOverNeverActs) {
  const Outcome first = deliver(delivery_of("1"));
  sim.set_fault(SimFault::act_late, 1);
  EXPECT_EQ(deliver(based("late", first)).kind, Kind::unknown);
  sim.clear_faults();
  sim.end_session();
  pass(seconds(101));
  EXPECT_EQ(stored(), "1");
}

TEST_F(SimUpstreamTest, LateEffectsOutliveTheGuard) {
  bool acted = false, lost = false;
  for (int i = 0; i < 64; ++i) {
    const std::string value = "v" + std::to_string(i);
    const Outcome first = deliver(delivery_of("first" + value));
    sim.set_fault(SimFault::hang, 1);
    submit(based(value, first));
    pass(seconds(1));
    ASSERT_EQ(sim.hanging(), 1u);
    const std::size_t told = outputs.size();
    sim.guard_died(now);
    sim.clear_faults();
    pass(seconds(101));
    EXPECT_EQ(outputs.size(), told) << "nobody is told";
    (stored() == value ? acted : lost) = true;
    EXPECT_EQ(may_act(), 0u);
  }
  EXPECT_TRUE(acted);
  EXPECT_TRUE(lost);
}

TEST_F(SimUpstreamTest, AnUpdateThatHangsEndsAsItIsReleased) {
  for (const auto how :
       {SimUpstream::Release::apply, SimUpstream::Release::apply_and_drop, SimUpstream::Release::drop}) {
    const Outcome first = deliver(delivery_of("1"));
    sim.set_fault(SimFault::hang, 1);
    const auto id = submit(based("2", first));
    pass(minutes(30));
    EXPECT_FALSE(outcome_of(id)) << "its connection is open";
    EXPECT_EQ(may_act(), 1u);
    sim.clear_faults();
    sim.release(how, vm_b, now);
    pass(seconds(1));
    EXPECT_FALSE(outcome_of(id)) << "it is of another VM";
    sim.release(how, std::nullopt, now);
    pass(seconds(1));
    ASSERT_TRUE(outcome_of(id));
    EXPECT_EQ(outcome_of(id)->kind, how == SimUpstream::Release::apply ? Kind::delivered : Kind::unknown);
    EXPECT_EQ(stored(), how == SimUpstream::Release::drop ? "1" : "2");
  }
}

TEST_F(SimUpstreamTest, TwoUpdatesThatOverlapBothActAndTheSecondIsUnknown) {
  const Outcome first = deliver(delivery_of("1"));
  sim.set_fault(SimFault::slow, 1);
  const auto slow = submit(based("slow", first));
  pass(seconds(1));
  sim.clear_faults();
  const auto fast = submit(based("fast", first));
  pass(seconds(3));
  EXPECT_EQ(outcome_of(fast)->kind, Kind::delivered);
  EXPECT_EQ(outcome_of(slow)->kind, Kind::unknown);
  EXPECT_EQ(stored(), "slow");
  EXPECT_TRUE(history().back().unseen);
}

TEST_F(SimUpstreamTest, AFrozenServerAnswersWhatItWasSentWhenItThaws) {
  const Outcome first = deliver(delivery_of("1"));
  sim.freeze();
  const auto update = submit(based("2", first));
  EXPECT_EQ(fetch(vm_a, seconds(11)).kind, Kind::transient);
  pass(minutes(5));
  EXPECT_FALSE(outcome_of(update));
  sim.thaw(now);
  pass(seconds(1));
  ASSERT_TRUE(outcome_of(update));
  EXPECT_EQ(outcome_of(update)->kind, Kind::delivered);
  EXPECT_EQ(stored(), "2");
}

TEST_F(SimUpstreamTest, WhatOthersDoIsSeenInTheHistory) {
  const Owner owner{vm_a, Device::vtpm};
  const Outcome first = deliver(delivery_of("1"));
  sim.edit(owner, Slot::permall, Value("theirs"), now);
  EXPECT_EQ(deliver(based("2", first)).kind, Kind::delivered) << "xapi does not compare a base";
  ASSERT_EQ(history().size(), 3u);
  EXPECT_EQ(history()[0].sequence, 7u);
  EXPECT_FALSE(history()[0].unseen);
  EXPECT_EQ(history()[1].writer, SimUpstream::Writer::somebody);
  EXPECT_TRUE(history()[2].unseen);
  sim.delete_vm(vm_a);
  EXPECT_EQ(fetch().kind, Kind::lane);
  EXPECT_EQ(deliver(based("3", first)).kind, Kind::stale);
  EXPECT_EQ(deliver(delivery_of("3")).kind, Kind::lane);
}

TEST_F(SimUpstreamTest, UpdatesCanFailWhenTheyAreReadBack) {
  sim.set_fault(SimFault::verify_differs, 1);
  Delivery delivery = delivery_of("1");
  delivery.verify = true;
  EXPECT_EQ(deliver(delivery).kind, Kind::unknown);
  EXPECT_EQ(deliver(delivery_of("2")).kind, Kind::delivered) << "nobody looks";
}

TEST_F(SimUpstreamTest, ACrashEndsEveryCallAndNoneActsAfterwards) {
  const Outcome first = deliver(delivery_of("1"));
  sim.set_fault(SimFault::hang, 1);
  const auto hung = submit(based("2", first));
  pass(seconds(1));
  const auto reading = submit(delivery_of("3", vm_b));
  sim.flush();
  sim.crash(now);
  sim.clear_faults();
  pass(seconds(200));
  EXPECT_EQ(outcome_of(hung)->kind, Kind::unknown);
  EXPECT_EQ(outcome_of(reading)->kind, Kind::transient);
  EXPECT_EQ(sim.calls_under_way(), 0u);
  EXPECT_EQ(stored(), "1");
}

/// A guard that only repeats itself, under all faults and with everything that can happen to the world.
std::string random_history(std::uint64_t seed, unsigned* delivered) {
  SimUpstreamOptions options;
  options.seed = seed;
  options.provision = true;
  SimUpstream sim(options);
  std::mt19937_64 random(seed);
  for (std::size_t i = 0; i < sim_fault_count; ++i) sim.set_fault(static_cast<SimFault>(i), 0.04);
  Time now{};
  SimUpstream::CallId id = 0;
  std::vector<SimUpstream::Output> outputs;
  const auto vm = [&random] { return random() % 2 == 0 ? vm_a : vm_b; };
  for (int i = 0; i < 400; ++i) {
    const Owner owner{vm(), Device::vtpm};
    switch (random() % 16) {
      case 0:
        sim.crash(now);
        break;
      case 1:
      case 2:
        sim.start(now);
        sim.thaw(now);
        break;
      case 3:
        sim.guard_died(now);
        break;
      case 4:
        sim.freeze();
        break;
      case 5:
        sim.edit(owner, Slot::savestate, Value("e" + std::to_string(i)), now);
        break;
      case 6:
        sim.release(static_cast<SimUpstream::Release>(random() % 3), std::nullopt, now);
        break;
      case 7:
        sim.submit_fetch(++id, owner, now);
        break;
      case 8:
        sim.end_session();
        break;
      default: {
        Delivery delivery;
        delivery.owner = owner;
        delivery.verify = random() % 4 == 0;
        delivery.writes.push_back({Slot::permall, ++id, Value("v" + std::to_string(i)), {}, {}, false});
        sim.submit(id, std::move(delivery), now);
      }
    }
    now += std::chrono::milliseconds(random() % 4000);
    while (sim.next_time() && *sim.next_time() <= now) sim.step(*sim.next_time(), outputs);
  }
  std::string told;
  for (const auto& output : outputs) {
    told += std::to_string(output.index());
    if (const auto* done = std::get_if<SimUpstream::DeliverDone>(&output)) {
      told += std::string(name_of(done->outcome.kind)) + std::to_string(done->call) + " ";
      *delivered += done->outcome.kind == Kind::delivered ? 1 : 0;
    }
  }
  for (const Uuid& each : {vm_a, vm_b}) {
    for (const auto& stood : sim.history({each, Device::vtpm})) {
      told += std::to_string(stood.when.count()) + ":" + std::string(stood.value.view()) + " ";
    }
  }
  return told;
}

TEST(SimUpstreamHistory, TheSameSeedTellsTheSameStory) {
  unsigned delivered = 0;
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    EXPECT_EQ(random_history(seed, &delivered), random_history(seed, &delivered)) << "seed " << seed;
  }
  EXPECT_GT(delivered, 1000u);
  EXPECT_NE(random_history(1, &delivered), random_history(2, &delivered));
}

}  // namespace
}  // namespace guard::testing
