// Importing the original's cache tree, with everything that may stand in it.
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "cache_tree/sweep.h"
#include "cache_tree/tree_test_support.h"
#include "testing/sim_disk.h"

namespace guard::cache_tree {
namespace {

namespace fs = std::filesystem;
using ImportTest = StateDirTest;

TEST_F(ImportTest, WithoutATreeNothingHappens) {
  EXPECT_TRUE(import().empty());
  EXPECT_FALSE(imported.found);
  EXPECT_TRUE(log.lines.empty());
  EXPECT_EQ(dir->list().value(), (std::vector<std::string>{"journal"}));
}

TEST_F(ImportTest, TheNumericallyNewestValueOfEachKeyBecomesAnEntry) {
  put({vm(1), Slot::permall, 999}, state(1));
  put({vm(1), Slot::permall, 1000}, state(2));  // "1000" < "999" as text
  put({vm(1), Slot::permall, 3}, state(3));
  put({vm(1), Slot::volatilestate, 7}, state(4, 8986));
  put({vm(2), Slot::savestate, UINT64_MAX}, state(5));  // in the future, whatever the clock says
  EXPECT_EQ(import(), (Values{{{vm(1), Slot::permall}, state(2)},
                              {{vm(1), Slot::volatilestate}, state(4, 8986)},
                              {{vm(2), Slot::savestate}, state(5)}}));
  EXPECT_TRUE(imported.found);
  EXPECT_EQ(imported.entries, 3u);
  EXPECT_EQ(imported.lost, 0u);
  EXPECT_EQ(dir->list().value(), (std::vector<std::string>{"journal"})) << "nothing of it is left";
  // Oldest first, without a base.
  const auto& live = imported.recovery.live;
  ASSERT_EQ(live.size(), 3u);
  EXPECT_EQ(live[0].slot, Slot::volatilestate);
  EXPECT_EQ(live[1].slot, Slot::permall);
  EXPECT_EQ(live[2].slot, Slot::savestate);
  for (const auto& entry : live) {
    EXPECT_TRUE(entry.known.empty());
    EXPECT_TRUE(entry.vtpm.is_nil());
    EXPECT_EQ(entry.wall_ms, 1700000000000);
  }
  EXPECT_EQ(log.lines,
            (std::vector<std::string>{"cache_tree_imported entries=3 already_journaled=0 lost=0 "
                                      "distrusted=0 files_removed=5 files_set_aside=0 files_left=0"}));
}

TEST_F(ImportTest, MoreKeysThanTheQueueHoldsAreImported) {
  Values expected;
  for (unsigned i = 0; i < 700; ++i) {
    put({vm(i), Slot::permall, 5'000'000 - i}, state(i, 6001));
    expected[{vm(i), Slot::permall}] = state(i, 6001);
  }
  EXPECT_EQ(import(), expected);
  EXPECT_EQ(imported.recovery.live.front().owner.vm, vm(699)) << "the oldest first";
}

TEST_F(ImportTest, JunkIsSetAsideAndConcernsNoSlot) {
  put({vm(1), Slot::permall, 10}, state(1));
  const std::string key = vm(1).str() + "/0/";
  put(key + "0x10", state(2));  // the original takes it for 16
  put(key + "1_1", state(3));   // and this for 11
  put(key + "-5", state(4));
  put(key + "011", state(5));
  put(key + "12.pre", state(6));  // never acknowledged
  put(key + "invalid", "x");
  put(vm(1).str() + "/7/20", state(7));   // no such key
  put(vm(1).str() + "x/0/20", state(8));  // trailing characters
  put("foo/bar/20", state(9));
  put("AB000000-0000-0000-0000-000000000001/0/20", state(10));
  put("file", "in place of a directory");
  put(vm(2).str() + "/0", "in place of a directory");
  put(vm(3).str(), "in place of a directory");
  fs::create_directories(tree(vm(4).str() + "/0"));  // empty directories
  fs::create_directories(tree("empty"));
  EXPECT_EQ(import(), (Values{{{vm(1), Slot::permall}, state(1)}}));
  EXPECT_EQ(quarantine(),
            (std::vector<std::string>{"cache-AB000000-0000-0000-0000-000000000001-0-20",
                                      "cache-" + vm(1).str() + "-0--5", "cache-" + vm(1).str() + "-0-011",
                                      "cache-" + vm(1).str() + "-0-0x10",
                                      "cache-" + vm(1).str() + "-0-12.pre", "cache-" + vm(1).str() + "-0-1_1",
                                      "cache-" + vm(1).str() + "-0-invalid", "cache-" + vm(1).str() + "-7-20",
                                      "cache-" + vm(1).str() + "x-0-20", "cache-" + vm(2).str() + "-0",
                                      "cache-" + vm(3).str(), "cache-file", "cache-foo-bar-20"}))
      << "each under a name that tells where it stood";
  EXPECT_EQ(imported.lost, 0u);
  EXPECT_EQ(log.count("cache_tree_set_aside"), 13u) << "one line each";
  EXPECT_EQ(dir->list().value(), (std::vector<std::string>{"journal", "quarantine"}));
}

TEST_F(ImportTest, DirectoriesInPlaceOfFilesAreNoValuesAndTheirContentsAreSetAside) {
  put({vm(1), Slot::permall, 10}, state(1));
  put(vm(1).str() + "/0/11/inner", "a");
  fs::create_directories(tree(vm(1).str() + "/0/12"));
  EXPECT_EQ(import(), (Values{{{vm(1), Slot::permall}, state(1)}}));
  EXPECT_EQ(quarantine(), (std::vector<std::string>{"cache-" + vm(1).str() + "-0-11-inner"}));
  EXPECT_EQ(dir->list().value(), (std::vector<std::string>{"journal", "quarantine"}));
}

TEST_F(ImportTest, LinksAreNotFollowedAndNothingOutsideIsTouched) {
  const fs::path outside = path + "/outside";
  fs::create_directories(outside / vm(5).str() / "0");
  std::ofstream(outside / vm(5).str() / "0" / "5") << state(5);
  std::ofstream(outside / "file") << state(6);
  put({vm(1), Slot::permall, 10}, state(1));
  fs::create_symlink(outside / "file", tree(vm(1).str() + "/0/11"));       // to a good value
  fs::create_symlink(outside / "nowhere", tree(vm(1).str() + "/0/12"));    // dangling
  fs::create_directory_symlink(outside / vm(5).str(), tree(vm(5).str()));  // to a VM's directory
  fs::create_directory_symlink(outside / vm(5).str() / "0", tree(vm(1).str() + "/1"));
  ASSERT_EQ(::mkfifo(tree(vm(1).str() + "/0/13").c_str(), 0600), 0);
  EXPECT_EQ(import(), (Values{{{vm(1), Slot::permall}, state(1)}}));
  EXPECT_TRUE(fs::exists(outside / vm(5).str() / "0" / "5"));
  EXPECT_TRUE(fs::exists(outside / "file"));
  EXPECT_EQ(quarantine().size(), 5u);
  EXPECT_EQ(imported.lost, 0u);
  EXPECT_EQ(dir->list().value(), (std::vector<std::string>{"journal", "quarantine"}));
}

TEST_F(ImportTest, ATreeThatIsALinkIsSetAside) {
  fs::create_directories(path + "/outside/" + vm(1).str() + "/0");
  std::ofstream(path + "/outside/" + vm(1).str() + "/0/5") << state(5);
  fs::create_directory_symlink(path + "/outside", path + "/state/Swtpm");
  EXPECT_TRUE(import().empty());
  EXPECT_TRUE(imported.found);
  EXPECT_EQ(quarantine(), (std::vector<std::string>{"cache-Swtpm"}));
  EXPECT_TRUE(fs::exists(path + "/outside/" + vm(1).str() + "/0/5"));
}

TEST_F(ImportTest, ASlotWhoseNewestValueCannotBeUsedIsUnknownAndNothingOlderIsDelivered) {
  const std::string whole = state(1, 6001);
  put({vm(1), Slot::permall, 10}, whole);
  put({vm(1), Slot::permall, 11}, "");  // a full disk drops all of it
  put({vm(2), Slot::permall, 10}, whole);
  put({vm(2), Slot::permall, 11}, whole.substr(0, 4096));  // or the last of it
  put({vm(3), Slot::permall, 11}, "has a space");
  put({vm(4), Slot::permall, 11}, std::string(400'000, 'A'));
  put({vm(5), Slot::permall, 11}, whole.substr(0, 4096));
  put({vm(5), Slot::permall, 12}, whole);  // an older one that was cut off concerns nobody
  put({vm(5), Slot::volatilestate, 12}, state(2));
  const Values expected{{{vm(1), Slot::permall}, "LOST"}, {{vm(2), Slot::permall}, "LOST"},
                        {{vm(3), Slot::permall}, "LOST"}, {{vm(4), Slot::permall}, "LOST"},
                        {{vm(5), Slot::permall}, whole},  {{vm(5), Slot::volatilestate}, state(2)}};
  EXPECT_EQ(import(), expected);
  EXPECT_EQ(imported.lost, 4u);
  EXPECT_EQ(log.count("cache_tree_value_lost"), 4u);
  EXPECT_EQ(quarantine().size(), 6u) << "the older ones too: somebody may want to look at them";
  EXPECT_EQ(import(), expected) << "it is still lost after the next start";
  EXPECT_FALSE(imported.found);
}

TEST_F(ImportTest, EntriesOfTheJournalGiveWayToTheTree) {
  store = open_store(*dir);
  const Owner owner{vm(1), Device::vtpm};
  journal::Entry entry;
  entry.owner = owner;
  entry.sequence = 41;
  entry.known = {digest_of("base")};
  entry.value = Value(state(1));
  journal::Entry other = entry;
  other.slot = Slot::savestate;
  other.sequence = 42;
  for (const auto& request : {entry, other}) ASSERT_TRUE(store->run({request}).at(0).result);
  put({vm(1), Slot::permall, 10}, state(2));
  put({vm(1), Slot::savestate, 10}, state(1));
  EXPECT_EQ(import(), (Values{{{vm(1), Slot::permall}, state(2)}, {{vm(1), Slot::savestate}, state(1)}}));
  EXPECT_EQ(imported.entries, 1u);
  EXPECT_EQ(imported.confirmed, 1u);
  for (const auto& live : imported.recovery.live) {
    EXPECT_EQ(live.known.empty(), live.slot == Slot::permall) << "the same value keeps its base";
    EXPECT_EQ(live.sequence, live.slot == Slot::permall ? 43u : 42u);
  }
}

TEST_F(ImportTest, AfterTheOriginalRanEntriesWithoutABaseAreDeliveredOverNothingButThemselves) {
  store = open_store(*dir);
  journal::Entry plain;
  plain.owner = {vm(1), Device::vtpm};
  plain.sequence = 1;
  plain.value = Value(state(1));
  journal::Entry forced = plain;
  forced.owner.vm = vm(2);
  forced.sequence = 2;
  forced.flags = journal::flag_over_anything;
  journal::Entry based = plain;
  based.owner.vm = vm(3);
  based.sequence = 3;
  based.known = {digest_of("base")};
  journal::Entry alert = plain;
  alert.type = journal::RecordType::alert;
  alert.owner = {vm(4), Device::uefi};
  alert.sequence = 4;
  for (const auto& request : {plain, forced, based, alert}) ASSERT_TRUE(store->run({request}).at(0).result);
  fs::create_directories(tree());
  import();
  EXPECT_TRUE(imported.found);
  EXPECT_EQ(imported.distrusted, 2u);
  const auto check = [](const journal::Recovery& recovery) {
    ASSERT_EQ(recovery.live.size(), 4u);
    for (const auto& live : recovery.live) {
      EXPECT_EQ(live.flags, 0);
      if (live.type == journal::RecordType::alert) continue;
      EXPECT_EQ(live.known, (std::vector{live.owner.vm == vm(3) ? digest_of("base") : live.digest}));
    }
  };
  check(imported.recovery);
  check(store->recovery());
}

TEST_F(ImportTest, RetainedEntriesGiveWayToTheTree) {
  store = open_store(*dir);
  journal::Entry entry;
  entry.owner = {vm(1), Device::vtpm};
  entry.sequence = 1;
  entry.value = Value(state(1));
  ASSERT_TRUE(store->run({entry}).at(0).result);
  journal::Removal removal{entry.owner, entry.slot, 1, entry.value.digest(), true, false};
  ASSERT_TRUE(store->run({removal}).at(0).result);
  put({vm(1), Slot::permall, 10}, state(1));
  import();
  ASSERT_EQ(imported.recovery.live.size(), 1u);
  EXPECT_FALSE(imported.recovery.live[0].retained) << "the original wrote it after we had delivered it";
  EXPECT_EQ(imported.recovery.live[0].sequence, 2u);
}

TEST_F(ImportTest, TheManifestSaysWhatIsADeletionAndIsRemoved) {
  Manifest manifest;
  manifest.files[{vm(1), Slot::volatilestate, 10}] = {0, digest_of("")};
  manifest.files[{vm(2), Slot::permall, 10}] = {4, digest_of("c2hv")};
  ASSERT_TRUE(replace_file(*dir, manifest_name, write_manifest(manifest)));
  put({vm(1), Slot::volatilestate, 10}, "");
  put({vm(2), Slot::permall, 10}, "c2hv");    // valid base64, and no state of swtpm
  put({vm(3), Slot::volatilestate, 10}, "");  // it says nothing about this one
  EXPECT_EQ(import(), (Values{{{vm(1), Slot::volatilestate}, ""},
                              {{vm(2), Slot::permall}, "c2hv"},
                              {{vm(3), Slot::volatilestate}, "LOST"}}));
  EXPECT_FALSE(dir->look_at(manifest_name));
  EXPECT_EQ(quarantine().size(), 1u);
}

TEST_F(ImportTest, ABrokenManifestIsNotBelievedAndSetAside) {
  ASSERT_TRUE(replace_file(*dir, manifest_name, "{\"version\":1,"));
  put({vm(1), Slot::permall, 10}, "");
  EXPECT_EQ(import(), (Values{{{vm(1), Slot::permall}, "LOST"}}));
  EXPECT_EQ(log.count("export_manifest_unusable"), 1u);
  EXPECT_FALSE(dir->look_at(manifest_name));
}

TEST_F(ImportTest, OwnersAndModesDoNotMatterButAreReported) {
  put({vm(1), Slot::permall, 10}, state(1));
  ASSERT_EQ(::chmod(tree(vm(1).str() + "/0/10").c_str(), 0444), 0);
  ASSERT_EQ(::chmod(tree(vm(1).str()).c_str(), 0777), 0);
  store = open_store(*dir);
  auto done = import_tree(*dir, *store, {.wall_ms = 0, .own_uid = ::getuid() + 1}, log);
  ASSERT_TRUE(done);
  EXPECT_EQ(done->entries, 1u);
  EXPECT_EQ(log.count("cache_tree_of_another_user"), 1u);
}

TEST_F(ImportTest, ThousandsOfBadFilesMakeFewLines) {
  for (unsigned i = 0; i < 2000; ++i) put(vm(i % 50).str() + "/0/" + std::to_string(i) + ".pre", "x");
  for (unsigned i = 0; i < 100; ++i) put({vm(i), Slot::permall, 10}, "");
  import();
  EXPECT_EQ(imported.lost, 100u);
  EXPECT_EQ(quarantine().size(), 2100u);
  EXPECT_LE(log.lines.size(), 2 * limits::log_lines_per_event + 1);
  EXPECT_EQ(log.lines.back(),
            "cache_tree_imported entries=0 already_journaled=0 lost=100 distrusted=0 files_removed=0 "
            "files_set_aside=2100 files_left=0");
}

TEST_F(ImportTest, FilesOfOneNameAreSetAsideSideBySide) {
  put("a-b", "1");
  put("a/b", "2");
  put("a b", "3");
  import();
  EXPECT_EQ(quarantine(), (std::vector<std::string>{"cache-a-b", "cache-a-b.2", "cache-a-b.3"}));
}

TEST_F(ImportTest, WhatLiesTooDeepIsLeftOutOfTheWay) {
  std::string deep = "odd";
  for (int i = 0; i < 40; ++i) deep += "/d";
  put(deep, "x");
  put({vm(1), Slot::permall, 10}, state(1));
  EXPECT_EQ(import(), (Values{{{vm(1), Slot::permall}, state(1)}}));
  EXPECT_EQ(log.count("cache_tree_left"), 1u);
  EXPECT_EQ(dir->list().value(), (std::vector<std::string>{"Swtpm.imported", "journal"}));
  // It is no obstacle to the next one.
  put({vm(1), Slot::permall, 12}, state(2));
  EXPECT_EQ(import(), (Values{{{vm(1), Slot::permall}, state(2)}}));
  EXPECT_TRUE(fs::exists(path + "/state/Swtpm.imported"));
}

/// A directory that the disk refuses to list, and everything else of it as it is.
class Unlistable final : public Directory {
 public:
  Unlistable(std::unique_ptr<Directory> real, std::string which, std::string own = "")
      : real_(std::move(real)), which_(std::move(which)), own_(std::move(own)) {}
  Result<std::unique_ptr<Directory>> open_dir(std::string_view name, bool create) override {
    auto dir = real_->open_dir(name, create);
    // The journal and the quarantine are opened as they are.
    if (!dir || create) return dir;
    return std::make_unique<Unlistable>(std::move(*dir), which_, std::string(name));
  }
  Result<std::vector<std::string>> list() override {
    if (own_ == which_) return std::unexpected(Error::system("list", EIO));
    return real_->list();
  }
  Result<std::unique_ptr<File>> open_file(std::string_view name, Mode mode) override {
    return real_->open_file(name, mode);
  }
  Result<std::unique_ptr<File>> open_for_read(std::string_view name) override {
    return real_->open_for_read(name);
  }
  Result<void> rename(std::string_view from, std::string_view to) override { return real_->rename(from, to); }
  Result<void> unlink(std::string_view name) override { return real_->unlink(name); }
  Result<void> remove_dir(std::string_view name) override { return real_->remove_dir(name); }
  Result<void> link(std::string_view name, Directory& to, std::string_view to_name) override {
    return real_->link(name, to, to_name);
  }
  Result<Found> look_at(std::string_view name) override { return real_->look_at(name); }
  Result<void> sync() override { return real_->sync(); }
  Result<std::shared_ptr<void>> lock(std::string_view name) override { return real_->lock(name); }
  bool overwrites_in_place() const override { return real_->overwrites_in_place(); }

 private:
  std::unique_ptr<Directory> real_;
  std::string which_;
  std::string own_;
};

TEST_F(ImportTest, WhatStandsInADirectoryThatCannotBeListedIsUnknown) {
  put({vm(1), Slot::permall, 10}, state(1));
  put({vm(2), Slot::permall, 10}, state(2));
  put({vm(2), Slot::savestate, 10}, state(3));
  dir = std::make_unique<Unlistable>(std::move(dir), vm(2).str());
  EXPECT_EQ(import(), (Values{{{vm(1), Slot::permall}, state(1)},
                              {{vm(2), Slot::permall}, "LOST"},
                              {{vm(2), Slot::savestate}, "LOST"},
                              {{vm(2), Slot::volatilestate}, "LOST"}}));
  EXPECT_TRUE(fs::exists(path + "/state/Swtpm.imported/" + vm(2).str() + "/0/10")) << "it is left";
  // Readable again, it is kept aside, and not delivered: it may be older by now than what is upstream.
  dir = open_directory(path + "/state").value();
  EXPECT_EQ(import().size(), 4u);
  EXPECT_EQ(quarantine().size(), 2u);
  EXPECT_FALSE(fs::exists(path + "/state/Swtpm.imported"));
}

TEST_F(ImportTest, OneKeyThatCannotBeListedConcernsNoOther) {
  put({vm(1), Slot::permall, 10}, state(1));
  put({vm(1), Slot::volatilestate, 10}, state(2));
  dir = std::make_unique<Unlistable>(std::move(dir), "0");
  EXPECT_EQ(import(), (Values{{{vm(1), Slot::permall}, "LOST"}, {{vm(1), Slot::volatilestate}, state(2)}}));
}

TEST_F(ImportTest, ATreeThatCannotBeListedAtAllIsAnErrorAndStays) {
  put({vm(1), Slot::permall, 10}, state(1));
  store = open_store(*dir);
  Unlistable state_dir(open_directory(path + "/state").value(), "Swtpm");
  EXPECT_FALSE(import_tree(state_dir, *store, {}, log));
  EXPECT_TRUE(fs::exists(tree(vm(1).str() + "/0/10")));
}

TEST_F(ImportTest, WhatAnInterruptedImportLeftIsClearedAndNotImported) {
  fs::create_directories(path + "/state/Swtpm.imported/" + vm(1).str() + "/0");
  std::ofstream(path + "/state/Swtpm.imported/" + vm(1).str() + "/0/10") << state(1);
  std::ofstream(path + "/state/Swtpm.imported/odd") << "x";
  EXPECT_TRUE(import().empty());
  EXPECT_FALSE(imported.found);
  EXPECT_EQ(quarantine(), (std::vector<std::string>{"cache-" + vm(1).str() + "-0-10", "cache-odd"}));
  EXPECT_EQ(dir->list().value(), (std::vector<std::string>{"journal", "quarantine"}));
}

}  // namespace
}  // namespace guard::cache_tree
