// An import that a crash, a power cut or an error of the disk interrupts at any step: repeated, it ends as if
// nothing had happened; and once it has ended, nothing that was delivered since comes back.
#include <algorithm>
#include <random>

#include "cache_tree/sweep.h"
#include "cache_tree/tree_test_support.h"
#include "testing/sim_disk.h"

namespace guard::cache_tree {
namespace {

using testing::SimDisk;

class ImportCrash : public ::testing::Test {
 protected:
  /// Every level durable, as the original should have left it.
  static void put(SimDisk& disk, const std::string& path, const std::string& text) {
    std::vector<std::unique_ptr<Directory>> levels;
    levels.push_back(disk.root());
    std::string_view rest = path;
    for (auto slash = rest.find('/'); slash != rest.npos; slash = rest.find('/')) {
      levels.push_back(levels.back()->open_dir(rest.substr(0, slash), true).value());
      rest.remove_prefix(slash + 1);
    }
    auto file = levels.back()->open_file(rest, Directory::Mode::create_new).value();
    const auto bytes = std::as_bytes(std::span(text));
    ASSERT_TRUE(file->write_at(0, {&bytes, 1}));
    ASSERT_TRUE(file->sync_all());
    for (auto& level : levels) ASSERT_TRUE(level->sync());
  }
  static void put(SimDisk& disk, const Place& place, const std::string& text) {
    put(disk, "Swtpm/" + place.str(), text);
  }

  /// A journal with something pending, and a tree with something of every kind.
  std::unique_ptr<SimDisk> prepared() {
    auto disk = std::make_unique<SimDisk>(1);
    {
      auto store = open_store(*disk->root());
      journal::Entry entry;
      entry.owner = {vm(1), Device::vtpm};
      entry.known = {digest_of("base")};
      for (const Slot slot : {Slot::permall, Slot::savestate, Slot::volatilestate}) {
        entry.slot = slot;
        ++entry.sequence;
        entry.value = Value(state(90 + static_cast<unsigned>(entry.sequence)));
        if (slot == Slot::volatilestate) entry.known.clear();
        EXPECT_TRUE(store->run({entry}).at(0).result);
      }
      while (store->idle_work()) {
      }
    }
    EXPECT_TRUE(disk->root()->sync());
    put(*disk, {vm(1), Slot::permall, 99}, state(1));
    put(*disk, {vm(1), Slot::permall, 100}, state(2));
    put(*disk, {vm(1), Slot::savestate, 5}, state(92));  // the journal has it already
    put(*disk, {vm(2), Slot::permall, 7}, state(3).substr(0, 40));
    put(*disk, {vm(2), Slot::volatilestate, 8}, "");
    put(*disk, "Swtpm/" + vm(1).str() + "/0/101.pre", state(4));
    put(*disk, "Swtpm/odd/file", "x");
    Manifest manifest;
    manifest.files[{vm(2), Slot::volatilestate, 8}] = {0, digest_of("")};
    put(*disk, std::string(manifest_name), write_manifest(manifest));
    EXPECT_EQ(disk->unsynced(), 0u);
    return disk;
  }
  const Values expected{{{vm(1), Slot::permall}, state(2)},
                        {{vm(1), Slot::savestate}, state(92)},
                        {{vm(1), Slot::volatilestate}, state(93)},
                        {{vm(2), Slot::permall}, "LOST"},
                        {{vm(2), Slot::volatilestate}, ""}};

  /// What a start finds; nullopt: the import failed.
  static std::optional<Values> start(SimDisk& disk) {
    auto root = disk.root();
    auto store = open_store(*root);
    auto done = import_tree(*root, *store, {}, null_logger());
    if (!done) return std::nullopt;
    return values_of(done->recovery, *store);
  }

  /// A whole start, then everything is delivered, the power fails, and the next start must find nothing.
  void goes_on_well(SimDisk& disk, const std::string& where) {
    {
      auto root = disk.root();
      auto store = open_store(*root);
      auto done = import_tree(*root, *store, {}, null_logger());
      ASSERT_TRUE(done) << where << ": " << done.error().message;
      ASSERT_EQ(values_of(done->recovery, *store), expected) << where;
      for (const auto& live : done->recovery.live) {
        journal::Removal removal{live.owner, live.slot, live.sequence, live.digest, false, false};
        ASSERT_TRUE(store->run({removal}).at(0).result) << where;
        EXPECT_EQ(live.known.empty(), !(live.owner.vm == vm(1) && live.slot != Slot::permall)) << where;
      }
    }
    for (const bool everything : {false, true}) {
      auto left = everything ? disk.after_kill() : disk.after_power_cut();
      ASSERT_EQ(start(*left), Values()) << where << ": what was delivered came back";
      EXPECT_FALSE(left->exists("Swtpm")) << where;
      EXPECT_FALSE(left->exists(manifest_name)) << where;
      const auto kept = left->list("quarantine");
      const auto contains = [&](const std::string& part) {
        return std::ranges::any_of(kept, [&](const auto& name) { return name.find(part) != name.npos; });
      };
      EXPECT_TRUE(contains("101.pre") && contains("odd-file") && contains(vm(2).str() + "-0-7")) << where;
    }
    ++states;
  }

  /// Every end that can come now.
  void explore(const SimDisk& disk, const std::string& where) {
    goes_on_well(*disk.after_kill(), where + " kill");
    const auto effects = disk.effects();
    std::size_t subsets = 1;
    for (const auto& effect : effects)
      subsets = std::min<std::size_t>(subsets * effect.distinct.size(), 1000);
    const bool all = subsets <= 64;
    for (std::size_t n = 0; n < (all ? subsets : 40); ++n) {
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
      if (HasFatalFailure()) return;
    }
  }

  std::minstd_rand random{7};
  std::size_t states = 0;
};

TEST_F(ImportCrash, WherePowerFailsTheNextStartEndsAsIfNothingHadHappened) {
  const auto disk = prepared();
  std::size_t point = 0;
  disk->set_on_change([&] {
    if (!HasFatalFailure()) explore(*disk, "change " + std::to_string(++point));
  });
  EXPECT_EQ(start(*disk), expected);
  while (clear_done(*disk->root(), 1)) {
  }
  disk->set_on_change(nullptr);
  EXPECT_EQ(disk->root()->list().value(), (std::vector<std::string>{"journal", "quarantine"}));
  explore(*disk, "after it");
  std::printf("%zu points, %zu ends\n", point, states);
  EXPECT_GT(point, 20u);
  EXPECT_GT(states, 500u);
}

TEST_F(ImportCrash, ErrorsOfTheDiskLoseNothing) {
  std::size_t refused = 0;
  for (std::uint64_t n = 1;; ++n) {
    const auto disk = prepared();
    const auto before = disk->operations();
    std::optional<Values> found;
    {
      auto root = disk->root();
      auto store = open_store(*root);
      disk->fail_at(disk->operations() + n, n % 2 == 0 ? EIO : ENOSPC);
      const auto opened_at = disk->operations();
      auto done = import_tree(*root, *store, {}, null_logger());
      disk->heal();
      if (done) found = values_of(done->recovery, *store);
      EXPECT_GE(opened_at, before);
    }
    if (!found) ++refused;
    const bool happened = disk->fault_happened();
    // At once, and after a power cut that takes everything with it that it can.
    for (const bool cut : {false, true}) {
      const auto left = cut ? disk->after_power_cut() : disk->after_kill();
      const auto again = start(*left);
      ASSERT_TRUE(again) << "operation " << n;
      EXPECT_EQ(*again, expected) << "operation " << n << (cut ? " cut" : "");
      if (found) {
        EXPECT_EQ(*again, *found) << "operation " << n << ": it had told something else";
      }
      EXPECT_FALSE(left->exists("Swtpm"));
    }
    if (!happened) break;
  }
  EXPECT_GT(refused, 3u) << "errors of the journal and of the state directory are told";
}

TEST_F(ImportCrash, AValueTheDiskCannotReadIsUnknown) {
  SimDisk disk(1);
  put(disk, {vm(1), Slot::permall, 9}, state(1));
  put(disk, {vm(1), Slot::permall, 10}, state(2, 6001));
  disk.make_unreadable("Swtpm/" + Place{vm(1), Slot::permall, 10}.str(), 5000);
  EXPECT_EQ(start(disk), (Values{{{vm(1), Slot::permall}, "LOST"}}));
  EXPECT_EQ(disk.list("quarantine").size(), 2u);
}

}  // namespace
}  // namespace guard::cache_tree
