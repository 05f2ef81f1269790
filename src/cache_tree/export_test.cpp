// Exporting to a cache tree: what it writes, what it refuses, and every crash in between.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <random>

#include "cache_tree/export.h"
#include "cache_tree/parked.h"
#include "cache_tree/tree_test_support.h"
#include "testing/sim_disk.h"

namespace guard::cache_tree {
namespace {

namespace fs = std::filesystem;
using journal::RecordType;
using testing::SimDisk;

constexpr std::uint64_t now_ns = 5'000'000'000;

journal::Entry entry_of(unsigned number, Slot slot, Sequence sequence, const std::string& text) {
  journal::Entry entry;
  entry.owner = {vm(number), device_of(slot)};
  entry.slot = slot;
  entry.sequence = sequence;
  entry.value = Value(text);
  return entry;
}

class ExportTest : public StateDirTest {
 protected:
  void fill(const std::vector<journal::Request>& requests) {
    store.reset();
    store = open_store(*dir);
    for (const auto& request : requests) ASSERT_TRUE(store->run({request}).at(0).result);
  }
  Exported do_export(bool lossy = false, std::set<Sequence> parked = {}) {
    store.reset();
    store = open_store(*dir);
    auto done = export_tree(*dir, *store, {lossy, now_ns, std::move(parked)});
    EXPECT_TRUE(done) << done.error().message;
    store.reset();
    return done ? *done : Exported{};
  }
  Values journaled() {
    store.reset();
    store = open_store(*dir);
    Values values = values_of(store->recovery(), *store);
    store.reset();
    return values;
  }
  std::map<std::string, std::string> files() const {
    std::map<std::string, std::string> found;
    for (const auto& item : fs::recursive_directory_iterator(path + "/state/Swtpm")) {
      if (!item.is_regular_file()) continue;
      std::ifstream file(item.path(), std::ios::binary);
      found[fs::relative(item.path(), tree()).string()] =
          std::string(std::istreambuf_iterator<char>(file), {});
    }
    return found;
  }
};

TEST_F(ExportTest, EachPendingEntryBecomesTheNewestFileOfItsKey) {
  fill({entry_of(1, Slot::permall, 1, "old"), entry_of(2, Slot::volatilestate, 2, ""),
        entry_of(1, Slot::permall, 3, state(1)), entry_of(1, Slot::savestate, 4, "c2hv")});
  const Exported done = do_export();
  EXPECT_TRUE(done.done);
  EXPECT_EQ(done.entries, 3u);
  EXPECT_TRUE(journaled().empty()) << "a later upgrade must not deliver it again";
  // The order of acknowledgement, just before now: the original's next write is newer.
  EXPECT_EQ(files(),
            (std::map<std::string, std::string>{{Place{vm(2), Slot::volatilestate, now_ns - 3}.str(), ""},
                                                {Place{vm(1), Slot::permall, now_ns - 2}.str(), state(1)},
                                                {Place{vm(1), Slot::savestate, now_ns - 1}.str(), "c2hv"}}));
  for (const auto& item : fs::recursive_directory_iterator(path + "/state/Swtpm")) {
    EXPECT_EQ(item.status().permissions(),
              item.is_directory() ? fs::perms::owner_all : fs::perms::owner_read | fs::perms::owner_write);
  }
  // And back: the manifest tells a deletion, and a value without swtpm's header, from damage.
  EXPECT_EQ(import(), (Values{{{vm(1), Slot::permall}, state(1)},
                              {{vm(1), Slot::savestate}, "c2hv"},
                              {{vm(2), Slot::volatilestate}, ""}}));
}

TEST_F(ExportTest, RoundTripsLoseNothing) {
  put({vm(1), Slot::permall, 10}, state(1));
  put({vm(2), Slot::savestate, 10}, state(2, 6001));
  const Values first = import();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(do_export().entries, 2u);
    EXPECT_TRUE(journaled().empty());
    EXPECT_EQ(import(), first);
  }
}

TEST_F(ExportTest, WhatTheOriginalDeliveredMeanwhileDoesNotComeBack) {
  fill({entry_of(1, Slot::permall, 1, state(1)), entry_of(2, Slot::permall, 2, state(2)),
        entry_of(3, Slot::permall, 3, state(3)),
        journal::Removal{{vm(3), Device::vtpm}, Slot::permall, 3, {}, true, false}});
  do_export();
  EXPECT_TRUE(journaled().empty()) << "nor what was only retained";
  fs::remove(tree(Place{vm(1), Slot::permall, now_ns - 3}.str()));  // delivered
  put({vm(2), Slot::permall, now_ns + 5}, state(4));                // written anew
  EXPECT_EQ(import(), (Values{{{vm(2), Slot::permall}, state(4)}}));
}

TEST_F(ExportTest, WhatTheOriginalCannotDeliverIsRefusedAsAWhole) {
  auto alert = entry_of(1, Slot::nvram, 2, "text");
  alert.type = RecordType::alert;
  auto lost = entry_of(2, Slot::permall, 4, "");
  lost.flags = journal::flag_lost;
  fill({entry_of(1, Slot::permall, 1, state(1)), alert, entry_of(1, Slot::nvram, 3, "variables"), lost,
        entry_of(3, Slot::permall, 5, state(5))});
  const Values before = journaled();
  const Exported refused = do_export(false, {5});
  EXPECT_FALSE(refused.done);
  EXPECT_EQ(refused.entries, 0u);
  std::vector<std::string> reasons;
  for (const Obstacle& obstacle : refused.obstacles) reasons.push_back(obstacle.reason);
  EXPECT_EQ(reasons,
            (std::vector<std::string>{"the original keeps no alerts", "the original keeps no UEFI variables",
                                      "its value is lost", "somebody else's value stands in xapi"}));
  EXPECT_FALSE(fs::exists(tree()));
  EXPECT_FALSE(dir->look_at(manifest_name));
  EXPECT_EQ(journaled(), before);
  // What cannot be expressed stays where it is.
  const Exported lossy = do_export(true, {5});
  EXPECT_TRUE(lossy.done);
  EXPECT_EQ(lossy.entries, 1u);
  EXPECT_EQ(lossy.obstacles.size(), 4u);
  EXPECT_EQ(files().size(), 1u);
  EXPECT_FALSE(journaled().contains({vm(1), Slot::permall}));
  store = open_store(*dir);
  EXPECT_EQ(store->recovery().live.size(), 4u);
}

TEST_F(ExportTest, ContentsOfAVtpmAreThreeFiles) {
  auto contents = entry_of(1, Slot::permall, 1, "");
  contents.type = RecordType::contents;
  contents.flags = journal::flag_over_anything;
  contents.value = journal::pack_contents({Value(state(1)), Value(), Value(state(2))});
  fill({contents, entry_of(1, Slot::volatilestate, 2, state(3))});
  EXPECT_EQ(do_export().entries, 3u);
  EXPECT_EQ(import(), (Values{{{vm(1), Slot::permall}, state(1)},
                              {{vm(1), Slot::savestate}, ""},
                              {{vm(1), Slot::volatilestate}, state(3)}}));
}

TEST_F(ExportTest, AStateThatStandsInTheTreeIsNotOverwritten) {
  put({vm(1), Slot::permall, 7}, state(9));
  fill({entry_of(1, Slot::permall, 1, state(1)), entry_of(2, Slot::permall, 2, state(2))});
  const Exported done = do_export();
  EXPECT_FALSE(done.done);
  ASSERT_EQ(done.obstacles.size(), 1u);
  EXPECT_EQ(done.obstacles[0].reason, "the tree holds another state there");
  EXPECT_EQ(files().size(), 1u);
}

TEST_F(ExportTest, WithoutAnythingPendingThereIsAnEmptyManifestAndNoTree) {
  fill({});
  EXPECT_EQ(do_export().entries, 0u);
  EXPECT_TRUE(dir->look_at(manifest_name));
  EXPECT_FALSE(fs::exists(tree()));
}

TEST_F(ExportTest, ABrokenManifestOfAnEarlierExportIsAnError) {
  fill({entry_of(1, Slot::permall, 1, state(1))});
  ASSERT_TRUE(replace_file(*dir, manifest_name, "{"));
  store.reset();
  store = open_store(*dir);
  EXPECT_FALSE(export_tree(*dir, *store, {false, now_ns, {}}));
  EXPECT_EQ(journaled().size(), 1u);
}

TEST_F(ExportTest, ParkedEntriesAreRememberedUntilNoneAre) {
  EXPECT_TRUE(load_parked(*dir)->empty());
  ASSERT_TRUE(save_parked(*dir, {}));
  ASSERT_TRUE(save_parked(*dir, {4711, UINT64_MAX}));
  EXPECT_EQ(load_parked(*dir).value(), (std::set<Sequence>{4711, UINT64_MAX}));
  ASSERT_TRUE(save_parked(*dir, {}));
  EXPECT_FALSE(dir->look_at(parked_name));
  for (const char* broken : {"", "{}", "[]", "{\"version\":2,\"sequences\":[]}",
                             "{\"version\":1,\"sequences\":[5]}", "{\"version\":1,\"sequences\":[\"05\"]}"}) {
    ASSERT_TRUE(replace_file(*dir, parked_name, broken));
    EXPECT_FALSE(load_parked(*dir)) << broken;
  }
}

// --- Crashes ----------------------------------------------------------------------------------------------

class ExportCrash : public ::testing::Test {
 protected:
  static std::unique_ptr<SimDisk> prepared() {
    auto disk = std::make_unique<SimDisk>(1);
    auto store = open_store(*disk->root());
    EXPECT_TRUE(store->run({entry_of(1, Slot::permall, 1, state(1))}).at(0).result);
    EXPECT_TRUE(store->run({entry_of(1, Slot::volatilestate, 2, "")}).at(0).result);
    EXPECT_TRUE(store->run({entry_of(2, Slot::permall, 3, "c2hv")}).at(0).result);
    while (store->idle_work()) {
    }
    EXPECT_TRUE(disk->root()->sync());
    return disk;
  }
  const Values expected{{{vm(1), Slot::permall}, state(1)},
                        {{vm(1), Slot::volatilestate}, ""},
                        {{vm(2), Slot::permall}, "c2hv"}};

  static Result<Exported> do_export(SimDisk& disk) {
    auto root = disk.root();
    auto store = open_store(*root);
    return export_tree(*root, *store, {false, now_ns, {}});
  }
  static Values do_import(SimDisk& disk) {
    auto root = disk.root();
    auto store = open_store(*root);
    auto done = import_tree(*root, *store, {}, null_logger());
    EXPECT_TRUE(done) << done.error().message;
    return done ? values_of(done->recovery, *store) : Values();
  }

  /// Whoever comes next finds everything once: this daemon, or the original after a repeated export.
  void goes_on_well(SimDisk& disk, const std::string& where) {
    const auto repeated = disk.after_kill();
    ASSERT_EQ(do_import(disk), expected) << where;
    const auto done = do_export(*repeated);
    ASSERT_TRUE(done) << where << ": " << done.error().message;
    ASSERT_TRUE(done->done) << where << ": " << done->obstacles.front().reason;
    const auto cut = repeated->after_power_cut();
    {
      auto store = open_store(*cut->root());
      EXPECT_TRUE(store->recovery().live.empty()) << where << ": what was exported is still here";
    }
    ASSERT_EQ(do_import(*cut), expected) << where << " repeated";
    ++states;
  }
  void explore(const SimDisk& disk, const std::string& where) {
    goes_on_well(*disk.after_kill(), where + " kill");
    const auto effects = disk.effects();
    std::size_t subsets = 1;
    for (const auto& effect : effects)
      subsets = std::min<std::size_t>(subsets * effect.distinct.size(), 1000);
    const bool all = subsets <= 64;
    for (std::size_t n = 0; n < (all ? subsets : 40) && !HasFatalFailure(); ++n) {
      std::vector<std::uint16_t> choices;
      std::size_t rest = n;
      for (const auto& effect : effects) {
        const std::size_t versions = effect.distinct.size();
        std::size_t choice = all ? rest % versions : random() % versions;
        rest /= versions;
        if (!all && n < 2) choice = n == 0 ? 0 : versions - 1;
        choices.push_back(effect.distinct[choice]);
      }
      goes_on_well(*disk.after_power_cut(choices, n), where + " cut " + std::to_string(n));
    }
  }

  std::minstd_rand random{7};
  std::size_t states = 0;
};

TEST_F(ExportCrash, WherePowerFailsEachEntryIsInTheJournalOrInTheTree) {
  const auto disk = prepared();
  std::size_t point = 0;
  disk->set_on_change([&] {
    if (!HasFatalFailure()) explore(*disk, "change " + std::to_string(++point));
  });
  EXPECT_TRUE(do_export(*disk));
  disk->set_on_change(nullptr);
  explore(*disk, "after it");
  std::printf("%zu points, %zu ends\n", point, states);
  EXPECT_GT(point, 15u);
  EXPECT_GT(states, 60u);
}

TEST_F(ExportCrash, ErrorsOfTheDiskAreToldAndLoseNothing) {
  std::size_t refused = 0;
  for (std::uint64_t n = 1;; ++n) {
    const auto disk = prepared();
    {
      auto root = disk->root();
      auto store = open_store(*root);
      disk->fail_at(disk->operations() + n, n % 2 == 0 ? EIO : ENOSPC);
      const auto done = export_tree(*root, *store, {false, now_ns, {}});
      disk->heal();
      if (!done) ++refused;
    }
    const bool happened = disk->fault_happened();
    goes_on_well(*disk->after_kill(), "operation " + std::to_string(n));
    goes_on_well(*disk->after_power_cut(), "operation " + std::to_string(n) + " cut");
    if (HasFatalFailure() || !happened) break;
  }
  EXPECT_GT(refused, 15u);
}

}  // namespace
}  // namespace guard::cache_tree
