// Random walks through everything that can happen, against the oracle of testing/core_world.h.
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "testing/core_world.h"

namespace guard {
namespace {

using testing::Move;
using testing::World;

Owner owner_number(std::uint8_t n) {
  Owner owner;
  owner.vm.bytes[15] = n;
  return owner;
}

std::uint64_t start_seed() {
  if (const char* given = std::getenv("GUARD_SEED")) return std::strtoull(given, nullptr, 10);
  return std::random_device{}();
}

/// For finding out why: GUARD_HISTORY=1 GUARD_SEED=N prints the first walk, step by step.
void print(World& world, const std::vector<Owner>& owners, const Move& move) {
  std::printf("%s (%d/%s) -> %s\n", testing::name_of(move.kind), move.owner.vm.bytes[15],
              std::string(name_of(move.slot)).c_str(), world.last_actions.c_str());
  for (const Owner& owner : owners) {
    const core::Lane* lane = world.core.lane(owner);
    std::printf("      %d: %s\n", owner.vm.bytes[15], lane == nullptr ? "gone" : lane->describe().c_str());
    for (const Slot slot : {Slot::permall, Slot::savestate, Slot::volatilestate}) {
      std::printf("         %d disk of %s:%s\n", owner.vm.bytes[15], std::string(name_of(slot)).c_str(),
                  world.on_disk({owner, slot}).c_str());
    }
  }
}

/// A walk in which faults are as likely as `fault_percent`; returns the history when a promise broke.
std::string walk(std::uint64_t seed, unsigned lanes, unsigned steps, unsigned fault_percent, bool crashes) {
  core::Random random{seed};
  core::Config config;
  config.seed = seed;
  config.queue_entries = 1;  // so that values are read back, too
  config.commit_bytes = 8;   // so that lanes wait for room
  std::vector<Owner> owners;
  for (unsigned i = 0; i < lanes; ++i) owners.push_back(owner_number(static_cast<std::uint8_t>(i + 1)));
  // One of several is the UEFI variables of the first one's VM.
  if (lanes > 1) owners.back() = {owners.front().vm, Device::uefi};
  World world(config, owners, {Slot::permall, Slot::savestate, Slot::savestate, Slot::nvram});
  std::string history;
  if (std::getenv("GUARD_HISTORY") != nullptr)
    world.trace = [&](const Move& move) { print(world, owners, move); };
  for (unsigned i = 0; i < steps && world.failures.empty(); ++i) {
    using K = Move::Kind;
    std::vector<Move> all = world.moves(crashes && random.next() % 64 == 0);
    Move move = all[random.next() % all.size()];
    const bool good = move.kind == K::write || move.kind == K::read || move.kind == K::commit_ok ||
                      move.kind == K::removal_ok || move.kind == K::load_ok || move.kind == K::delivered ||
                      move.kind == K::fetch_ok || move.kind == K::fetch_old || move.kind == K::probe_ok ||
                      move.kind == K::time || move.kind == K::flush;
    if (!good && random.next() % 100 >= fault_percent) continue;
    world.apply(move, random);
    history += std::string(testing::name_of(move.kind)) + " -> " + world.last_actions + "\n";
    if (world.trace) world.trace(move);
  }
  if (world.failures.empty()) world.settle(random);
  if (world.failures.empty()) return {};
  // The end of the history tells most; the seed replays the rest.
  if (history.size() > 1500) history.erase(0, history.size() - 1500);
  return history + "BROKEN: " + world.failures.front() + " (seed " + std::to_string(seed) + ")";
}

void walks(unsigned count, unsigned lanes, unsigned steps, unsigned fault_percent, bool crashes) {
  const std::uint64_t seed = start_seed();
  if (std::getenv("GUARD_HISTORY") != nullptr) count = 1;
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  for (unsigned i = 0; i < count; ++i) {
    const std::string broken = walk(seed + i, lanes, steps, fault_percent, crashes);
    ASSERT_EQ(broken, "");
  }
}

TEST(Core, KeepsItsPromisesWhenNothingGoesWrong) { walks(2000, 3, 200, 0, false); }
TEST(Core, KeepsItsPromisesOnOneLaneUnderEveryFault) { walks(8000, 1, 120, 100, true); }
TEST(Core, KeepsItsPromisesOnThreeLanesWithRareFaults) { walks(3000, 3, 300, 20, true); }
TEST(Core, KeepsItsPromisesOnThreeLanesWithManyFaults) { walks(3000, 3, 300, 70, true); }

}  // namespace
}  // namespace guard
