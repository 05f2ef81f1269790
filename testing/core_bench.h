// A core with hands, for tests that go rule by rule.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "testing/core_world.h"

namespace guard::testing {

using std::chrono::seconds;

inline Owner vm(std::uint8_t n) {
  Owner owner;
  owner.vm.bytes[15] = n;
  return owner;
}

/// A core with hands: events go in, the actions of the last step are there to look at.
struct Bench {
  explicit Bench(Config config = {}) : core(World::with_limits(config)) {}

  const Actions& step(Event event) {
    actions.clear();
    core.step(std::move(event), now, actions);
    return actions;
  }
  const Actions& write(Owner owner, RequestId request, std::string bytes, Slot slot = Slot::permall) {
    return step(WriteArrived{request, owner, slot, Value(std::move(bytes))});
  }
  const Actions& after(Time time) {
    now += time;
    return step(Tick{});
  }
  template <class A>
  std::vector<A> all() const {
    std::vector<A> found;
    for (const Action& action : actions) {
      if (const A* wanted = std::get_if<A>(&action)) found.push_back(*wanted);
    }
    return found;
  }
  template <class A>
  A one() const {
    const auto found = all<A>();
    EXPECT_EQ(found.size(), 1u);
    return found.empty() ? A{} : found.front();
  }
  void deliver_done(const Deliver& call, Outcome::Kind kind, Epoch epoch = 1, bool suspect = false) {
    Outcome outcome;
    outcome.kind = kind;
    outcome.epoch = epoch;
    outcome.reason = "because";
    outcome.upstream_suspect = suspect;
    if (kind == Outcome::Kind::delivered) {
      Contents contents = call.delivery.base.value_or(Contents{});
      for (const SlotWrite& w : call.delivery.writes) contents[w.slot] = w.value;
      outcome.contents = contents;
    }
    step(DeliverDone{call.delivery.owner, call.call, outcome});
  }
  void go_down() {
    write(vm(99), 999, "x");
    deliver_done(one<Deliver>(), Outcome::Kind::transient, 1, true);
    const Commit commit = one<Commit>();
    step(CommitDone{vm(99), Slot::permall, commit.sequence, CommitDone::Result::durable});
  }
  /// A write that ends up durable in the journal, with the upstream down.
  Sequence journal(Owner owner, RequestId request, std::string bytes) {
    write(owner, request, std::move(bytes));
    const Commit commit = one<Commit>();
    step(CommitDone{owner, commit.slot, commit.sequence, CommitDone::Result::durable});
    return commit.sequence;
  }

  Core core;
  Time now{seconds(1000)};
  Actions actions;
};

}  // namespace guard::testing
