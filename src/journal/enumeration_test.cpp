// Exhaustive enumeration of crashes: short histories of the journal that between them do everything it can
// do, ended in every way at every step (P1, P2, P9). How states are made and what is checked in each:
// testing/crash_explorer.h.
//
// A failure names the address of its state. To visit only that one:
//   GUARD_REPLAY='switch:eio-some@17/12:0.1.g.0/' enumeration_test
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include "testing/crash_world.h"
#include "testing/journal_model.h"
#include "testing/sanitized.h"

namespace guard::journal {
namespace {

constexpr Slot permall = Slot::permall;
constexpr Slot savestate = Slot::savestate;
constexpr Slot nvram = Slot::nvram;

// --- The histories -----------------------------------------------------------------------------------------

void commits(CrashWorld& w) {
  w.explore();
  w.run({w.write(1, permall, 100)});
  w.run({w.write(1, permall, 900), w.write(2, permall, 600)});  // replacement
  w.run({w.write(1, nvram, 20), w.write(1, nvram, 300), w.write(2, savestate, 0)});
  w.run({w.write(2, permall, 700)});
}

void large_batches(CrashWorld& w) {
  w.run({w.write(1, permall, 2000)});
  w.explore();
  w.run({w.write(1, permall, 3000), w.write(2, permall, 2500), w.write(3, nvram, 1500)});
  w.run({w.write(3, nvram, 5000)});
}

void contents(CrashWorld& w) {
  w.run({w.write(1, permall, 50), w.write(1, savestate, 60)});
  w.explore();
  w.run({w.contents(1, 700)});
  w.run({w.write(1, savestate, 80), w.contents(2, 100)});  // takes one part over
  w.run({w.removal(1, permall)});
  w.reopen();
  w.run({w.contents(1, 300), w.write(1, Slot::volatilestate, 40)});
}

void alerts(CrashWorld& w) {
  w.explore();
  w.run({w.alert(1, 100), w.alert(1, 700)});
  w.run({w.alert(2, 10), w.write(1, permall, 30)});
  Removal removal = w.removal(1, permall);
  removal.alert = true;
  removal.up_to = 1;
  w.run({removal});
  removal.up_to = 2;
  w.run({removal, w.alert(1, 40)});
  w.reopen();
}

void removals(CrashWorld& w) {
  w.run({w.write(1, permall, 100), w.write(2, permall, 100)});
  w.explore();
  w.run({w.removal(1, permall)});
  const Removal older = w.removal(2, permall);
  w.run({w.write(2, permall, 700)});
  w.run({older});  // the value delivered is known to the newer entry
  w.run({w.write(1, permall, 50), w.removal(2, permall)});
  w.run({w.removal(1, permall), w.write(1, permall, 600)});
}

void retentions(CrashWorld& w) {
  w.run({w.write(1, permall, 100), w.write(2, permall, 200), w.contents(3, 100)});
  w.explore();
  w.run({w.removal(1, permall, true), w.removal(3, savestate, true)});
  w.run({w.removal(2, permall, true), w.write(1, permall, 60)});
  w.reopen();
  w.run({w.removal(2, permall)});  // releases
  w.run({w.removal(1, permall, true), w.removal(1, permall)});
}

/// Up to the first batch that switches files.
void fill(CrashWorld& w) {
  const auto before = w.stats().switches;
  for (int i = 0; i < 20 && w.stats().switches == before; ++i) w.run({w.write(9, permall, 3000)});
}

void switches(CrashWorld& w) {
  w.run({w.write(1, permall, 500), w.write(1, savestate, 100), w.contents(2, 200), w.alert(3, 50)});
  const Removal older = w.removal(2, savestate);
  w.run({w.removal(1, permall, true), w.write(2, savestate, 20)});
  w.run({older});  // what it delivered is known to the newer entry, also behind the switch
  for (int i = 0; i < 8; ++i) w.run({w.write(4, permall, 100)});
  w.explore();
  fill(w);
  w.run({w.removal(4, permall)});  // accepted also while no switch is possible
  w.run({w.write(1, permall, 300)});
}

void switch_back(CrashWorld& w) {
  w.run({w.write(1, permall, 500), w.write(2, nvram, 100)});
  fill(w);
  w.run({w.write(1, permall, 400)});
  for (int i = 0; i < 7; ++i) w.run({w.write(4, permall, 100)});
  w.explore();  // the other file still holds the older values
  fill(w);
  w.run({w.removal(2, nvram)});
  w.reopen();
}

/// The highest sequence is that of an entry that is gone when the files are switched.
void removals_switch(CrashWorld& w) {
  w.run({w.write(1, permall, 400)});
  Removal nothing = w.removal(9, permall);
  w.run({w.write(2, permall, 400)});
  w.explore();
  w.run({w.removal(2, permall)});
  const auto before = w.stats().switches;
  for (int i = 0; i < 20 && w.stats().switches == before; ++i) w.run({nothing});
  w.run({nothing});
}

/// What is live outgrows the files: each entry keeps a block for its removal.
void growth(CrashWorld& w) {
  for (unsigned i = 1; i <= 6; ++i) w.run({w.write(i, permall, 100)});
  const auto before = w.stats().capacity_bytes;
  w.explore();
  for (unsigned i = 7; i <= 9; ++i) w.run({w.write(i, permall, 700)});
  w.idle();
  w.reopen();
  if (!w.fault_happened()) {
    EXPECT_GT(w.stats().capacity_bytes, before);
  }
}

void zeroing(CrashWorld& w) {
  w.run({w.write(1, permall, 500), w.write(2, nvram, 100)});
  fill(w);
  w.explore();
  w.idle();
  w.run({w.write(1, permall, 200)});
  w.idle();
  w.idle();
}

void seals(CrashWorld& w) {
  w.explore();
  w.run({w.write(1, permall, 100)});
  w.seal();
  w.run({w.write(1, permall, 700)});
  w.reopen();
  w.seal();
  w.run({w.removal(1, permall)});
  w.idle();
}

void creation(CrashWorld& w) {
  w.explore();
  w.reopen();
  w.run({w.write(1, permall, 100)});
}

void recoveries(CrashWorld& w) {
  w.run({w.write(1, permall, 300), w.contents(2, 100)});
  w.explore();
  w.power_cut({w.write(1, permall, 1200), w.write(3, nvram, 900), w.removal(2, savestate)}, 40);
  w.power_cut({w.write(3, nvram, 50), w.removal(1, permall)}, 0);
  w.power_cut({w.write(3, nvram, 2000)}, 100);
  w.reopen();
  w.run({w.write(2, permall, 40)});
}

/// A recovery at the end of a file has to switch.
void recovery_switches(CrashWorld& w) {
  w.run({w.write(1, permall, 300), w.write(2, permall, 2600), w.write(3, permall, 2600)});
  for (int i = 0; i < 6 && w.stats().switches == 0; ++i) w.run({w.write(1, permall, 3000)});
  w.explore();
  for (int i = 0; i < 3; ++i) w.power_cut({w.write(1, permall, 3000)}, 100);
  w.run({w.write(2, permall, 30)});
}

void restarts(CrashWorld& w) {
  w.explore();
  for (unsigned i = 0; i < 4; ++i) {
    w.run({w.write(i % 2, permall, 100 + 500 * i), w.write(3, savestate, 30)});
    w.reopen();
  }
  w.run({w.removal(3, savestate)});
  w.reopen();
}

/// Under a fault that stays, the journal fails; then the disk recovers.
void revivals(CrashWorld& w) {
  w.run({w.write(1, permall, 300), w.write(2, permall, 100)});
  w.explore();
  w.run({w.write(1, permall, 400)});
  w.revive();
  w.run({w.write(2, permall, 500), w.removal(1, permall)});
  w.revive();
  w.heal();
  w.revive();
  w.run({w.write(2, permall, 20)});
  fill(w);
}

/// Full: what enlarges the journal is refused, replacements and removals pass.
void full(CrashWorld& w) {
  for (unsigned i = 1; i <= 7; ++i) w.run({w.write(i, permall, 3000)});
  w.explore();
  w.run({w.write(20, permall, 3500)});
  w.run({w.write(2, permall, 3000), w.write(21, permall, 2000)});
  w.run({w.removal(3, permall)});
  w.run({w.write(4, permall, 2900)});
  w.run({w.write(5, permall, 2800)});
}

/// Full, with retained entries in it: they are given up, oldest first, before a write is refused.
void full_of_retained(CrashWorld& w) {
  for (unsigned i = 1; i <= 7; ++i) w.run({w.write(i, permall, 3000)});
  std::vector<Removal> ends{w.removal(1, permall), w.removal(3, permall)};
  ends[0].up_to = 1;
  ends[1].up_to = 3;
  w.run({w.removal(3, permall, true), w.removal(1, permall, true)});
  w.explore();
  w.may_end(ends);
  for (unsigned i = 20; i < 24; ++i) w.run({w.write(i, permall, 2500)});
  if (!w.fault_happened()) {
    EXPECT_EQ(w.stats().retained_given_up, ends.size());
  }
  w.reopen();
  w.run({w.removal(2, permall)});
}

struct History {
  const char* name;
  void (*scenario)(CrashWorld&);
  std::uint64_t at_least;  ///< so many states are visited
  bool from_nothing = false;
  std::uint64_t blocks = 20;
  std::uint64_t max_blocks = 0;  ///< 0 = as many
  bool gives_up = false;         ///< retained entries, for lack of room
};

void PrintTo(const History& history, std::ostream* out) { *out << history.name; }

constexpr History histories[] = {
    {"commits", commits, 20'000},
    {"large_batches", large_batches, 45'000},
    {"contents", contents, 30'000},
    {"alerts", alerts, 25'000},
    {"removals", removals, 22'000},
    {"retentions", retentions, 25'000},
    {"switches", switches, 95'000, false, 24},
    {"switch_back", switch_back, 125'000},
    {"removals_switch", removals_switch, 95'000, false, 16},
    {"growth", growth, 100'000, false, 16, 40},
    {"zeroing", zeroing, 15'000},
    {"seals", seals, 33'000},
    {"creation", creation, 90'000, true},
    {"recoveries", recoveries, 110'000},
    {"recovery_switches", recovery_switches, 180'000},
    {"restarts", restarts, 125'000},
    {"revivals", revivals, 85'000},
    {"full", full, 65'000, false, 16},
    {"full_of_retained", full_of_retained, 150'000, false, 16, 0, true},
};

constexpr std::uint64_t all_states() {
  std::uint64_t sum = 0;
  for (const History& history : histories) sum += history.at_least;
  return sum;
}
static_assert(all_states() >= 1'000'000);

class Enumeration : public ::testing::TestWithParam<History> {};

TEST_P(Enumeration, NoEndAtAnyStepBreaksAPromise) {
  const History& history = GetParam();
  const char* replay = std::getenv("GUARD_REPLAY");
  CrashExplorer::Settings settings;
  settings.name = history.name;
  settings.options = growing_options(history.blocks, std::max(history.blocks, history.max_blocks));
  settings.outer = {1 << 16, 300};
  settings.inner = {64, 16};
  settings.faulty_outer = {16, 8};
  settings.faulty_inner = {32, 12};
  if (testing::sanitized) {  // for what the sanitizer sees, few of each kind are enough
    settings.outer = {64, 32};
    settings.inner = settings.faulty_outer = settings.faulty_inner = {4, 3};
  }
  settings.every = 500;
  settings.gives_up = history.gives_up;
  settings.replay = replay == nullptr ? "" : replay;
  CrashExplorer explorer(settings);
  const std::string wrong = run_campaign(explorer, {history.scenario, history.from_nothing});
  std::cout << explorer.states() << " states at " << explorer.points() << " points, " << explorer.damaged()
            << " with damage after a fault, seed " << settings.seed << "\n";
  EXPECT_EQ(wrong, "");
  if (replay == nullptr && !testing::sanitized) {
    EXPECT_GE(explorer.states(), history.at_least);
  }
}

INSTANTIATE_TEST_SUITE_P(Journal, Enumeration, ::testing::ValuesIn(histories),
                         [](const auto& history) { return history.param.name; });

}  // namespace
}  // namespace guard::journal
