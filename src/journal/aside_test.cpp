// What is put aside is found again, is gone when it was purged, and replaces nothing.
#include "journal/aside.h"

#include <algorithm>
#include <cerrno>
#include <iostream>

#include "testing/journal_model.h"

namespace guard::journal {
namespace {

using testing::SimDisk;

constexpr std::chrono::system_clock::time_point moment{std::chrono::seconds(1'700'000'000)};

void put(Directory& dir, std::string_view name, std::size_t bytes) {
  auto file = dir.open_file(name, Directory::Mode::create_new).value();
  const std::vector<std::byte> data(bytes);
  const std::span<const std::byte> part = data;
  EXPECT_TRUE(file->write_at(0, {&part, 1}));
  EXPECT_TRUE(file->sync_all());
  EXPECT_TRUE(dir.sync());
}

TEST(Aside, ListsAndPurgesTheQuarantineDurably) {
  SimDisk disk(1);
  auto root = disk.root();
  EXPECT_EQ(list_quarantine(*root)->bytes, 0u);
  EXPECT_EQ(purge_quarantine(*root)->files, 0u);
  EXPECT_TRUE(disk.list("").empty()) << "nothing is created by looking";
  auto place = root->open_dir("quarantine", true).value();
  EXPECT_TRUE(root->sync());
  put(*place, "a-1-2-0-4096", 4096);
  put(*place, "b-1-2-8192-8292", 100);
  const auto found = list_quarantine(*root).value();
  ASSERT_EQ(found.files.size(), 2u);
  EXPECT_EQ(found.files[1].name, "b-1-2-8192-8292");
  EXPECT_EQ(found.files[1].bytes, 100u);
  EXPECT_EQ(found.bytes, 4196u);
  const auto purged = purge_quarantine(*root).value();
  EXPECT_EQ(purged.files, 2u);
  EXPECT_EQ(purged.bytes, 4196u);
  EXPECT_EQ(purged.left, 0u);
  disk.crash([](const SimDisk::Effect&) { return SimDisk::Fate::dropped; });
  EXPECT_TRUE(disk.list("quarantine").empty());
}

TEST(Aside, CountsWhatItDoesNotListAndWhatCannotBeRemoved) {
  SimDisk disk(1);
  auto root = disk.root();
  auto place = root->open_dir("quarantine", true).value();
  for (std::size_t i = 0; i < limits::quarantine_listed + 3; ++i) {
    EXPECT_TRUE(place->open_file("f" + std::to_string(i), Directory::Mode::create_new));
  }
  const auto found = list_quarantine(*root).value();
  EXPECT_EQ(found.files.size(), limits::quarantine_listed);
  EXPECT_EQ(found.omitted, 3u);
  EXPECT_EQ(purge_quarantine(*root)->files, limits::quarantine_listed + 3);
  put(*place, "x", 10);
  disk.fail_at(disk.operations() + 4, EIO);  // after opening and listing, and opening for the size
  const auto purged = purge_quarantine(*root).value();
  EXPECT_EQ(purged.files, 0u);
  EXPECT_EQ(purged.left, 1u);
  EXPECT_FALSE(purged.first_error.empty());
  disk.heal();
  EXPECT_EQ(purge_quarantine(*root)->bytes, 10u);
}

TEST(Aside, APurgeWhoseStepsFailSaysSo) {
  SimDisk disk(1);
  auto root = disk.root();
  auto place = root->open_dir("quarantine", true).value();
  put(*place, "x", 10);
  disk.fail_all(SimDisk::Kind::any, EIO);
  EXPECT_FALSE(list_quarantine(*root));
  EXPECT_FALSE(purge_quarantine(*root));
  disk.heal();
  disk.fail_all(SimDisk::Kind::sync, EIO);
  EXPECT_FALSE(purge_quarantine(*root)) << "not durable, so not done";
}

TEST(Aside, AJournalSetAsideIsWholeAndTheNextOneStartsEmpty) {
  SimDisk disk(1);
  auto root = disk.root();
  {
    auto store =
        Store::open(root->open_dir("journal", true).value(), small_options(), salts(), null_logger());
    EXPECT_TRUE(run_one(**store, write_of(vm(1), Slot::permall, 1)).result);
  }
  EXPECT_TRUE(root->sync());
  EXPECT_EQ(set_aside(*root, moment).value(), "journal.set-aside-20231114T221320Z");
  disk.crash([](const SimDisk::Effect&) { return SimDisk::Fate::dropped; });
  root = disk.root();
  EXPECT_FALSE(disk.exists("journal"));
  EXPECT_EQ(list_set_aside(*root).value(), std::vector<std::string>{"journal.set-aside-20231114T221320Z"});
  auto kept = Store::open(root->open_dir("journal.set-aside-20231114T221320Z", false).value(),
                          small_options(), salts(), null_logger());
  EXPECT_EQ((*kept)->recovery().live.size(), 1u);
  auto next = Store::open(root->open_dir("journal", true).value(), small_options(), salts(), null_logger());
  EXPECT_TRUE((*next)->recovery().live.empty());
  EXPECT_EQ((*next)->recovery().corrupt_records, 0u);
}

/// A state directory with one entry acknowledged and the batch after it cut off by a kill.
void begin_journal(SimDisk& disk, Directory& root) {
  auto dir = root.open_dir("journal", true).value();
  EXPECT_TRUE(root.sync());
  auto store = Store::open(std::move(dir), small_options(), salts(), null_logger()).value();
  EXPECT_TRUE(run_one(*store, write_of(vm(1), Slot::permall, 1)).result);
  disk.fail_all(SimDisk::Kind::sync, EIO);
  EXPECT_FALSE(run_one(*store, write_of(vm(2), Slot::permall, 2)).result);
  disk.heal();
}

/// What was acknowledged is in one place, whole: in the journal, or in the one that was set aside.
void expect_in_one_place(SimDisk& disk, bool told_done) {
  auto root = disk.root();
  auto names = list_set_aside(*root).value();
  const bool left = disk.exists("journal");
  if (told_done) {
    EXPECT_FALSE(left) << "told that it is out of the way";
  }
  ASSERT_EQ(names.size() + (left ? 1 : 0), 1u);
  const std::string name = left ? "journal" : names.front();
  auto store = Store::open(root->open_dir(name, false).value(), small_options(), salts(77), null_logger());
  ASSERT_TRUE(store) << store.error().message;
  EXPECT_EQ(read_value(**store, vm(1), Slot::permall, 1), text_of(1, 100));
}

TEST(Aside, AnEndAtAnyStepLeavesTheJournalInOnePlace) {
  std::uint64_t states = 0;
  // A failing operation at each step, and none at all.
  for (std::uint64_t failing = 0; failing <= 3; ++failing) {
    SimDisk disk(1);
    auto root = disk.root();
    begin_journal(disk, *root);
    if (failing != 0) disk.fail_at(disk.operations() + failing, EIO);
    const auto look = [&](bool told_done) {
      ++states;
      expect_in_one_place(*disk.after_kill(), told_done);
      const auto effects = disk.effects();
      const auto names = std::ranges::count(effects, SimDisk::Effect::Kind::entry, &SimDisk::Effect::kind);
      ASSERT_LE(names, 8);
      // Every subset of changed names; of the sectors of the batch none, every other one, or all.
      for (unsigned subset = 0; subset < 3u << names; ++subset) {
        const unsigned sectors = subset >> names;
        std::vector<std::uint16_t> choices;
        unsigned name = 0;
        for (const SimDisk::Effect& effect : effects) {
          const bool is_name = effect.kind == SimDisk::Effect::Kind::entry;
          const bool kept = is_name ? (subset >> name++ & 1) != 0 : sectors > choices.size() % 2;
          choices.push_back(kept ? effect.newest : std::uint16_t{0});
        }
        ++states;
        SCOPED_TRACE("failing " + std::to_string(failing) + ", subset " + std::to_string(subset));
        expect_in_one_place(*disk.after_power_cut(choices, 1), told_done);
      }
    };
    look(false);
    disk.set_on_change([&] { look(false); });
    const bool done = set_aside(*root, moment).has_value();
    disk.set_on_change(nullptr);
    EXPECT_EQ(done, failing == 0);
    look(done);
  }
  std::cout << states << " states\n";
  EXPECT_GT(states, 20u);
}

TEST(Aside, TwoInOneSecondDoNotReplaceEachOther) {
  SimDisk disk(1);
  auto root = disk.root();
  EXPECT_EQ(set_aside(*root, moment).error().code, Errc::not_found);
  for (int i = 0; i < 3; ++i) {
    put(*root, "journal", 10);  // a plain file is in the way as well
    EXPECT_TRUE(set_aside(*root, moment));
  }
  EXPECT_EQ(list_set_aside(*root)->size(), 3u);
}

TEST(Aside, WhatAStateDirectoryKeepsIsSeenAndPurgedTogether) {
  SimDisk disk(1);
  auto root = disk.root();
  EXPECT_EQ(list_quarantines(*root).error().code, Errc::not_found) << "no journal";
  EXPECT_EQ(purge_quarantines(*root).error().code, Errc::not_found);
  auto journal = root->open_dir("journal", true).value();
  EXPECT_EQ(list_quarantines(*root)->bytes, 0u);
  put(*journal->open_dir("quarantine", true).value(), "a-1", 10);
  EXPECT_EQ(list_quarantines(*root)->files.size(), 1u);
  put(*root->open_dir("quarantine", true).value(), "cache-b", 5);
  const auto found = list_quarantines(*root).value();
  EXPECT_EQ(found.bytes, 15u);
  ASSERT_EQ(found.files.size(), 2u);
  EXPECT_EQ(found.files[1].name, "cache-b");
  const auto purged = purge_quarantines(*root).value();
  EXPECT_EQ(purged.files, 2u);
  EXPECT_EQ(purged.bytes, 15u);
  EXPECT_EQ(purged.left, 0u);
  EXPECT_TRUE(list_quarantines(*root)->files.empty());
}

TEST(Aside, EveryFailureIsTold) {
  for (std::uint64_t step = 1; step <= 3; ++step) {
    SimDisk disk(1);
    auto root = disk.root();
    put(*root, "journal", 10);
    disk.fail_at(disk.operations() + step, EIO);
    EXPECT_FALSE(set_aside(*root, moment)) << "step " << step;
    EXPECT_TRUE(disk.fault_happened());
  }
}

}  // namespace
}  // namespace guard::journal
