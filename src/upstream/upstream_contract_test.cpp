#include "upstream/upstream_contract.h"

#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "net/scripted_peer.h"
#include "wire/vtpm_contents.h"

namespace guard::upstream::testing {
namespace {

using Kind = Outcome::Kind;
using net::testing::run_until;

struct Recorded final : UpstreamEvents {
  std::vector<Epoch> ended;
  int signs = 0;
  void session_ended(Epoch epoch) override { ended.push_back(epoch); }
  void sign_of_life() override { ++signs; }
};

SlotWrite write_of(Slot slot, std::string value, std::vector<Digest> known = {}) {
  return {slot, 1, Value(std::move(value)), Uuid(), std::move(known), false};
}

const Uuid another_vtpm = *Uuid::parse("11111111-8f5b-4c0e-9d2b-6a1e5b7c9d11");

class UpstreamContract : public ::testing::TestWithParam<BackendFactory> {
 protected:
  UpstreamContract() : backend(GetParam().make()), vm(backend->vm(0)) {
    backend->upstream().set_events(&events);
  }

  Delivery delivery_of(std::vector<SlotWrite> writes) {
    return {{vm, Device::vtpm}, std::move(writes), {}, 0, false};
  }
  Delivery based(std::vector<SlotWrite> writes, const Outcome& last) {
    return {{vm, Device::vtpm}, std::move(writes), last.contents, last.epoch, false};
  }
  Outcome deliver(Delivery delivery) {
    std::optional<Outcome> outcome;
    backend->upstream().deliver(std::move(delivery), [&outcome](Outcome got) {
      EXPECT_FALSE(outcome) << "exactly once";
      outcome = std::move(got);
    });
    EXPECT_TRUE(run_until(backend->loop(), [&outcome] { return outcome.has_value(); }));
    return outcome ? std::move(*outcome) : Outcome{};
  }
  Fetched fetch(const Uuid& owner) {
    std::optional<Fetched> fetched;
    backend->upstream().fetch({owner, Device::vtpm}, [&fetched](Fetched got) { fetched = std::move(got); });
    EXPECT_TRUE(run_until(
        backend->loop(), [&fetched] { return fetched.has_value(); },
        limits::read_patience + std::chrono::seconds(2)));
    return fetched ? std::move(*fetched) : Fetched{};
  }
  Outcome probe() {
    std::optional<Outcome> outcome;
    backend->upstream().probe([&outcome](Outcome got) { outcome = std::move(got); });
    EXPECT_TRUE(run_until(backend->loop(), [&outcome] { return outcome.has_value(); }));
    return outcome ? std::move(*outcome) : Outcome{};
  }

  std::unique_ptr<ContractBackend> backend;
  const Uuid vm;
  Recorded events;
};

TEST_P(UpstreamContract, ANewDeviceIsEmptyAndThatIsCertain) {
  const Fetched fetched = fetch(vm);
  ASSERT_EQ(fetched.kind, Kind::delivered) << fetched.reason;
  EXPECT_EQ(fetched.contents.slots, Contents().slots);
  EXPECT_EQ(fetched.contents.vtpm, backend->vtpm(vm));
  EXPECT_GT(fetched.epoch, 0u);
}

TEST_P(UpstreamContract, WhatWasDeliveredStandsThereAndIsRead) {
  const Outcome outcome =
      deliver(delivery_of({write_of(Slot::permall, "P"), write_of(Slot::volatilestate, "V")}));
  ASSERT_EQ(outcome.kind, Kind::delivered) << outcome.reason;
  EXPECT_GT(outcome.epoch, 0u);
  ASSERT_TRUE(outcome.contents);
  EXPECT_EQ(backend->stored(vm), "P  V");
  const Fetched fetched = fetch(vm);
  ASSERT_EQ(fetched.kind, Kind::delivered);
  EXPECT_EQ(fetched.contents.slots, outcome.contents->slots);
  EXPECT_EQ(fetched.contents.vtpm, outcome.contents->vtpm);
  EXPECT_EQ(fetched.epoch, outcome.epoch);
}

TEST_P(UpstreamContract, SlotsThatAreNotWrittenStayAsTheyAre) {
  backend->store(vm, "P S V");
  EXPECT_EQ(deliver(delivery_of({write_of(Slot::savestate, "new")})).kind, Kind::delivered);
  EXPECT_EQ(backend->stored(vm), "P new V");
  EXPECT_EQ(deliver(delivery_of({write_of(Slot::volatilestate, "")})).kind, Kind::delivered);
  EXPECT_EQ(backend->stored(vm), "P new ");
}

TEST_P(UpstreamContract, OwnersAreApart) {
  EXPECT_EQ(deliver(delivery_of({write_of(Slot::permall, "P")})).kind, Kind::delivered);
  const Fetched other = fetch(backend->vm(1));
  ASSERT_EQ(other.kind, Kind::delivered);
  EXPECT_TRUE(other.contents[Slot::permall].empty());
  EXPECT_EQ(other.contents.vtpm, backend->vtpm(backend->vm(1)));
}

TEST_P(UpstreamContract, ADeliveryMergesIntoTheBaseItIsGiven) {
  const Outcome first = deliver(delivery_of({write_of(Slot::permall, "1")}));
  ASSERT_EQ(first.kind, Kind::delivered);
  const Outcome second = deliver(based({write_of(Slot::savestate, "S")}, first));
  ASSERT_EQ(second.kind, Kind::delivered) << second.reason;
  EXPECT_EQ(second.epoch, first.epoch);
  EXPECT_EQ(backend->stored(vm), "1 S ");
}

TEST_P(UpstreamContract, ABaseOfNoOrAnotherSessionIsStaleAndNothingIsWritten) {
  const Outcome first = deliver(delivery_of({write_of(Slot::permall, "1")}));
  Delivery delivery = based({write_of(Slot::permall, "2")}, first);
  for (const Epoch epoch : {first.epoch + 1, Epoch{0}}) {
    delivery.base_epoch = epoch;
    EXPECT_EQ(deliver(delivery).kind, Kind::stale);
  }
  EXPECT_EQ(backend->stored(vm), "1  ");
}

TEST_P(UpstreamContract, SomebodyElsesValueIsNotOverwritten) {
  backend->store(vm, "mine  ");
  const Digest known = digest_of("mine");
  EXPECT_EQ(deliver(delivery_of({write_of(Slot::permall, "next", {known})})).kind, Kind::delivered);
  backend->store(vm, "foreign S ");
  const SlotWrite write = write_of(Slot::permall, "again", {known, digest_of("next")});
  EXPECT_EQ(deliver(delivery_of({write, write_of(Slot::savestate, "T")})).kind, Kind::conflict);
  EXPECT_EQ(backend->stored(vm), "foreign S ");
  SlotWrite forced = write;
  forced.force = true;
  EXPECT_EQ(deliver(delivery_of({forced})).kind, Kind::delivered);
  EXPECT_EQ(backend->stored(vm), "again S ");
}

TEST_P(UpstreamContract, AnUpstreamThatWentBackIsWrittenTo) {
  SlotWrite write = write_of(Slot::permall, "new", {digest_of("older"), digest_of("old")});
  backend->store(vm, "older  ");
  EXPECT_EQ(deliver(delivery_of({write})).kind, Kind::delivered);
  backend->store(vm, "");
  EXPECT_EQ(deliver(delivery_of({write})).kind, Kind::delivered);
  EXPECT_EQ(backend->stored(vm), "new  ");
}

TEST_P(UpstreamContract, AValueMadeUnderAnotherVtpmIsNotWritten) {
  ASSERT_EQ(deliver(delivery_of({write_of(Slot::permall, "old")})).kind, Kind::delivered);
  const Uuid own = backend->vtpm(vm);
  ASSERT_FALSE(own.is_nil());
  SlotWrite write = write_of(Slot::permall, "new");
  write.vtpm = another_vtpm;
  EXPECT_EQ(deliver(delivery_of({write})).kind, Kind::conflict);
  EXPECT_EQ(backend->stored(vm), "old  ");
  write.vtpm = own;
  EXPECT_EQ(deliver(delivery_of({write})).kind, Kind::delivered);
  EXPECT_EQ(backend->vtpm(vm), own) << "writing does not change whose contents they are";
}

TEST_P(UpstreamContract, AVtpmThatWasReplacedIsNoticedWithAndWithoutABase) {
  const Outcome first = deliver(delivery_of({write_of(Slot::permall, "1")}));
  ASSERT_EQ(first.kind, Kind::delivered);
  backend->replace_vtpm(vm, another_vtpm, "other  ");
  EXPECT_EQ(deliver(based({write_of(Slot::permall, "2")}, first)).kind, Kind::stale);
  SlotWrite write = write_of(Slot::permall, "2");
  write.vtpm = first.contents->vtpm;
  const Outcome conflict = deliver(delivery_of({write}));
  ASSERT_EQ(conflict.kind, Kind::conflict);
  ASSERT_TRUE(conflict.found);
  EXPECT_EQ(conflict.found->vtpm, another_vtpm);
  EXPECT_EQ(fetch(vm).contents.vtpm, another_vtpm);
  EXPECT_EQ(backend->stored(vm), "other  ");
}

TEST_P(UpstreamContract, WhatStoodThereBeforeIsTold) {
  backend->store(vm, "P S ");
  const Outcome first = deliver(delivery_of({write_of(Slot::savestate, "T", {digest_of("S")})}));
  ASSERT_EQ(first.kind, Kind::delivered);
  ASSERT_TRUE(first.found);
  EXPECT_EQ((*first.found)[Slot::permall].view(), "P");
  EXPECT_EQ((*first.found)[Slot::savestate].view(), "S");
  const Outcome conflict = deliver(delivery_of({write_of(Slot::permall, "Q", {digest_of("O")})}));
  ASSERT_EQ(conflict.kind, Kind::conflict);
  ASSERT_TRUE(conflict.found);
  EXPECT_EQ((*conflict.found)[Slot::savestate].view(), "T");
  EXPECT_FALSE(conflict.contents);
  EXPECT_FALSE(conflict.reason.empty());
}

TEST_P(UpstreamContract, ValuesThatStandThereAlreadyAreDelivered) {
  backend->store(vm, "P S ");
  const Outcome outcome = deliver(delivery_of({write_of(Slot::permall, "P", {digest_of("O")})}));
  ASSERT_EQ(outcome.kind, Kind::delivered) << "one's own value is no conflict";
  ASSERT_TRUE(outcome.contents);
  EXPECT_EQ((*outcome.contents)[Slot::savestate].view(), "S");
  EXPECT_GT(outcome.epoch, 0u);
}

TEST_P(UpstreamContract, AVmThatRunsElsewhereIsNotWrittenWhenThatIsAsked) {
  Delivery delivery = delivery_of({write_of(Slot::permall, "1")});
  delivery.ask_residence = true;
  EXPECT_EQ(deliver(delivery).kind, Kind::delivered);
  const bool elsewhere = backend->run_elsewhere(vm);
  delivery.writes[0].value = Value("2");
  EXPECT_EQ(deliver(delivery).kind, elsewhere ? Kind::elsewhere : Kind::delivered);
  EXPECT_EQ(backend->stored(vm), elsewhere ? "1  " : "2  ");
  EXPECT_EQ(deliver(delivery_of({write_of(Slot::permall, "3")})).kind, Kind::delivered) << "nobody asked";
}

TEST_P(UpstreamContract, AMissingVmIsATroubleOfItsLaneOnly) {
  const auto missing = backend->missing_vm();
  if (!missing) {
    // Every VM is there, and has written nothing.
    EXPECT_EQ(fetch(another_vtpm).kind, Kind::delivered);
    return;
  }
  const Fetched fetched = fetch(*missing);
  EXPECT_EQ(fetched.kind, Kind::lane);
  EXPECT_FALSE(fetched.upstream_suspect);
  Delivery delivery = delivery_of({write_of(Slot::permall, "x")});
  delivery.owner.vm = *missing;
  const Outcome outcome = deliver(delivery);
  EXPECT_EQ(outcome.kind, Kind::lane);
  EXPECT_FALSE(outcome.upstream_suspect);
  EXPECT_FALSE(outcome.reason.empty());
}

TEST_P(UpstreamContract, DamagedContentsAreATroubleOfTheLaneAndAreNotOverwritten) {
  backend->store(vm, "P S V");
  backend->damage(vm);
  const Fetched fetched = fetch(vm);
  EXPECT_EQ(fetched.kind, Kind::lane);
  EXPECT_FALSE(fetched.upstream_suspect);
  const Outcome outcome = deliver(delivery_of({write_of(Slot::permall, "x")}));
  EXPECT_EQ(outcome.kind, Kind::lane);
  EXPECT_FALSE(outcome.upstream_suspect);
  EXPECT_TRUE(backend->still_damaged(vm));
  Delivery other = delivery_of({write_of(Slot::permall, "x")});
  other.owner.vm = backend->vm(1);
  EXPECT_EQ(deliver(other).kind, Kind::delivered) << "the others go on";
}

TEST_P(UpstreamContract, DeliveriesAndReadsThatComeTogetherAreAllAnsweredOnce) {
  constexpr int rounds = 40;
  std::array<int, 2> delivered{};
  int fetched = 0;
  std::function<void(int)> next = [&](int which) {
    Delivery delivery = delivery_of({write_of(Slot::permall, "v" + std::to_string(delivered[which]))});
    delivery.owner.vm = backend->vm(which);
    backend->upstream().deliver(std::move(delivery), [&, which](Outcome outcome) {
      ASSERT_EQ(outcome.kind, Kind::delivered) << outcome.reason;
      if (++delivered[which] < rounds) next(which);
    });
    backend->upstream().fetch({backend->vm(which), Device::vtpm}, [&](Fetched got) {
      EXPECT_EQ(got.kind, Kind::delivered) << got.reason;
      ++fetched;
    });
  };
  next(0);
  next(1);
  EXPECT_TRUE(
      run_until(backend->loop(),
                [&] { return delivered[0] == rounds && delivered[1] == rounds && fetched == 2 * rounds; }))
      << delivered[0] << " " << delivered[1] << " " << fetched;
  EXPECT_EQ(backend->stored(backend->vm(1)), "v39  ");
}

TEST_P(UpstreamContract, ContentsUpToItsLimitAreTakenAndLargerOnesNever) {
  const std::size_t room = backend->upstream().limits().vtpm_contents;
  ASSERT_GT(room, 0u);
  Outcome outcome = deliver(delivery_of({write_of(Slot::permall, std::string(room - 2, 'A'))}));
  ASSERT_EQ(outcome.kind, Kind::delivered) << outcome.reason;
  EXPECT_EQ(fetch(vm).contents[Slot::permall].size(), room - 2);
  outcome = deliver(delivery_of({write_of(Slot::savestate, std::string(1000, 'B'))}));
  EXPECT_EQ(outcome.kind, Kind::payload) << "what counts is what it is merged into";
  EXPECT_FALSE(outcome.upstream_suspect);
  EXPECT_EQ(deliver(delivery_of({write_of(Slot::permall, "a b")})).kind, Kind::payload);
}

TEST_P(UpstreamContract, AProbeTellsWhetherItAnswers) {
  EXPECT_EQ(probe().kind, Kind::delivered);
  backend->go_away();
  const Outcome away = probe();
  EXPECT_EQ(away.kind, Kind::transient);
  EXPECT_FALSE(away.reason.empty());
  backend->come_back();
  EXPECT_EQ(probe().kind, Kind::delivered);
}

TEST_P(UpstreamContract, WhileItIsAwayEverythingIsTransientAndSuspect) {
  const Outcome first = deliver(delivery_of({write_of(Slot::permall, "1")}));
  ASSERT_EQ(first.kind, Kind::delivered);
  backend->go_away();
  Outcome outcome = deliver(based({write_of(Slot::permall, "2")}, first));
  EXPECT_EQ(outcome.kind, Kind::transient);
  EXPECT_TRUE(outcome.upstream_suspect);
  outcome = deliver(delivery_of({write_of(Slot::permall, "3")}));
  EXPECT_EQ(outcome.kind, Kind::transient);
  EXPECT_TRUE(outcome.upstream_suspect);
  const Fetched fetched = fetch(vm);
  EXPECT_EQ(fetched.kind, Kind::transient) << "unknown is not empty";
  EXPECT_TRUE(fetched.upstream_suspect);
}

TEST_P(UpstreamContract, ANewSessionIsReportedAndMakesBasesStale) {
  const Outcome first = deliver(delivery_of({write_of(Slot::permall, "1")}));
  ASSERT_EQ(first.kind, Kind::delivered);
  backend->go_away();
  EXPECT_EQ(probe().kind, Kind::transient);
  const int signs = events.signs;
  backend->come_back();
  EXPECT_EQ(probe().kind, Kind::delivered);
  EXPECT_EQ(events.ended, std::vector<Epoch>{first.epoch});
  EXPECT_TRUE(run_until(backend->loop(), [&] { return events.signs > signs; })) << "its return is noticed";
  EXPECT_EQ(deliver(based({write_of(Slot::permall, "2")}, first)).kind, Kind::stale);
  const Outcome next = deliver(delivery_of({write_of(Slot::permall, "2", {digest_of("1")})}));
  ASSERT_EQ(next.kind, Kind::delivered);
  EXPECT_GT(next.epoch, first.epoch);
}

TEST_P(UpstreamContract, VerifiedDeliveriesAreDeliveries) {
  Delivery delivery = delivery_of({write_of(Slot::permall, "1")});
  delivery.verify = true;
  const Outcome outcome = deliver(delivery);
  ASSERT_EQ(outcome.kind, Kind::delivered) << outcome.reason;
  Delivery next = based({write_of(Slot::permall, "2")}, outcome);
  next.verify = true;
  EXPECT_EQ(deliver(next).kind, Kind::delivered);
  EXPECT_EQ(backend->stored(vm), "2  ");
}

TEST_P(UpstreamContract, AnyDeliveriesLeaveWhatAModelSays) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  Contents model;
  std::optional<Outcome> last;
  for (int step = 0; step < 200; ++step) {
    std::vector<SlotWrite> writes;
    for (const Slot slot : {Slot::permall, Slot::savestate, Slot::volatilestate}) {
      if (random() % 2 == 0) continue;
      const std::size_t size = random() % 5 == 0 ? 0 : random() % 20'000 + 1;
      writes.push_back(write_of(slot, std::string(size, static_cast<char>('a' + random() % 26))));
      if (random() % 2 == 0) writes.back().known = {model[slot].digest()};
      model[slot] = writes.back().value;
    }
    if (writes.empty()) continue;
    Delivery delivery = last && random() % 2 == 0 ? based(writes, *last) : delivery_of(writes);
    delivery.verify = random() % 8 == 0;
    const Outcome outcome = deliver(delivery);
    ASSERT_EQ(outcome.kind, Kind::delivered) << step << ": " << outcome.reason;
    EXPECT_EQ(outcome.contents->slots, model.slots);
    last = outcome;
    if (random() % 10 != 0) continue;
    const auto stored = wire::unpack_vtpm_contents(backend->stored(vm));
    ASSERT_TRUE(stored);
    EXPECT_EQ(stored->slots, model.slots);
  }
}

INSTANTIATE_TEST_SUITE_P(Every, UpstreamContract,
                         ::testing::Values(xapi_backend(), embedded_backend(), simulated_backend()),
                         [](const auto& param_info) { return param_info.param.name; });

// --- UEFI variables ---------------------------------------------------------------------------------------

class UefiContract : public UpstreamContract {
 protected:
  Delivery variables(std::string value, std::vector<Digest> known = {}) {
    Delivery delivery;
    delivery.owner = {vm, Device::uefi};
    delivery.writes = {write_of(Slot::nvram, std::move(value), std::move(known))};
    return delivery;
  }
  Fetched fetch_variables(const Uuid& owner) {
    std::optional<Fetched> fetched;
    backend->upstream().fetch({owner, Device::uefi}, [&fetched](Fetched got) { fetched = std::move(got); });
    EXPECT_TRUE(run_until(
        backend->loop(), [&fetched] { return fetched.has_value(); },
        limits::read_patience + std::chrono::seconds(2)));
    return fetched ? std::move(*fetched) : Fetched{};
  }
  Outcome raise(const Uuid& about, std::string body) {
    std::optional<Outcome> outcome;
    backend->upstream().uefi()->raise({about, 5, Value(std::move(body))},
                                      [&outcome](Outcome got) { outcome = std::move(got); });
    EXPECT_TRUE(run_until(backend->loop(), [&outcome] { return outcome.has_value(); }));
    return outcome ? std::move(*outcome) : Outcome{};
  }
};

TEST_P(UefiContract, AVmWithoutVariablesHasNoneAndThatIsCertain) {
  const Fetched fetched = fetch_variables(vm);
  ASSERT_EQ(fetched.kind, Kind::delivered) << fetched.reason;
  EXPECT_EQ(fetched.contents.slots, Contents().slots);
  EXPECT_TRUE(fetched.contents.nvram_map.empty());
  EXPECT_GT(fetched.epoch, 0u);
}

TEST_P(UefiContract, WhatWasDeliveredStandsThereAndIsRead) {
  const std::string value = "<&>\"" + std::string(130 * limits::KiB, 'v');
  const Outcome outcome = deliver(variables(value));
  ASSERT_EQ(outcome.kind, Kind::delivered) << outcome.reason;
  ASSERT_TRUE(outcome.contents);
  EXPECT_EQ(backend->variables(vm), value);
  const Fetched fetched = fetch_variables(vm);
  ASSERT_EQ(fetched.kind, Kind::delivered);
  EXPECT_EQ(fetched.contents[Slot::nvram].view(), value);
  EXPECT_EQ(fetched.epoch, outcome.epoch);
  EXPECT_EQ(fetched.contents[Slot::permall].view(), "") << "the vTPM is another device";
}

TEST_P(UefiContract, ABaseIsGoodForItsSessionOnly) {
  const Outcome first = deliver(variables("1"));
  Delivery second = variables("2");
  second.base = first.contents;
  second.base_epoch = first.epoch;
  EXPECT_EQ(deliver(second).kind, Kind::delivered);
  second.base_epoch = first.epoch + 1;
  second.writes[0].value = Value("3");
  EXPECT_EQ(deliver(second).kind, Kind::stale);
  EXPECT_EQ(backend->variables(vm), "2");
}

TEST_P(UefiContract, SomebodyElsesVariablesAreNotOverwritten) {
  backend->store_variables(vm, "foreign");
  const Outcome conflict = deliver(variables("mine", {digest_of("old")}));
  ASSERT_EQ(conflict.kind, Kind::conflict);
  ASSERT_TRUE(conflict.found);
  EXPECT_EQ((*conflict.found)[Slot::nvram].view(), "foreign");
  EXPECT_EQ(backend->variables(vm), "foreign");
  EXPECT_EQ(deliver(variables("mine", {digest_of("foreign")})).kind, Kind::delivered);
  EXPECT_EQ(backend->variables(vm), "mine");
}

TEST_P(UefiContract, VerifiedDeliveriesAreDeliveries) {
  Delivery delivery = variables("1");
  delivery.verify = true;
  EXPECT_EQ(deliver(delivery).kind, Kind::delivered);
}

TEST_P(UefiContract, ValuesUpToItsLimitAreTakenAndLargerOnesNever) {
  const std::size_t room = backend->upstream().limits().nvram;
  EXPECT_EQ(deliver(variables(std::string(room, 'a'))).kind, Kind::delivered);
  const Outcome outcome = deliver(variables(std::string(room + 1000, 'b')));
  EXPECT_EQ(outcome.kind, Kind::payload);
  EXPECT_FALSE(outcome.upstream_suspect);
}

TEST_P(UefiContract, WhileItIsAwayEverythingIsTransientAndSuspect) {
  ASSERT_EQ(deliver(variables("1")).kind, Kind::delivered);
  backend->go_away();
  const Outcome outcome = deliver(variables("2"));
  EXPECT_EQ(outcome.kind, Kind::transient);
  EXPECT_TRUE(outcome.upstream_suspect);
  const Fetched fetched = fetch_variables(vm);
  EXPECT_EQ(fetched.kind, Kind::transient) << "unknown is not empty";
}

TEST_P(UefiContract, AlertsArriveAndCertificatesHaveAState) {
  UefiUpstream* uefi = backend->upstream().uefi();
  ASSERT_EQ(uefi != nullptr, backend->alerts(vm).has_value());
  if (uefi == nullptr) return;
  const Outcome outcome = raise(vm, "the text");
  EXPECT_EQ(outcome.kind, Kind::delivered) << outcome.reason;
  EXPECT_EQ(backend->alerts(vm), 1u);
  EXPECT_EQ(backend->alerts(backend->vm(1)), 0u);
  std::optional<CertificatesState> state;
  uefi->certificates_state(vm, [&state](CertificatesState got) { state = std::move(got); });
  ASSERT_TRUE(run_until(backend->loop(), [&state] { return state.has_value(); }));
  EXPECT_EQ(state->kind, Kind::delivered) << state->reason;
  EXPECT_EQ(state->state, "ok");
  if (const auto missing = backend->missing_vm()) {
    const Outcome refused = raise(*missing, "x");
    EXPECT_EQ(refused.kind, Kind::lane);
    EXPECT_FALSE(refused.upstream_suspect);
  }
}

INSTANTIATE_TEST_SUITE_P(Every, UefiContract,
                         ::testing::Values(xapi_backend(), embedded_backend(), simulated_backend()),
                         [](const auto& param_info) { return param_info.param.name; });

}  // namespace
}  // namespace guard::upstream::testing
