// The contract of File and Directory (include/guard/env.h), over every implementation.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "guard/env.h"
#include "testing/sim_disk.h"

namespace guard {
namespace {

/// A place with an empty directory in it.
class Place {
 public:
  virtual ~Place() = default;
  virtual std::unique_ptr<Directory> root() = 0;
};

class RealPlace final : public Place {
 public:
  RealPlace() {
    std::string name = (std::filesystem::temp_directory_path() / "guard-env-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = name;
  }
  ~RealPlace() override { std::filesystem::remove_all(path_); }
  std::unique_ptr<Directory> root() override { return open_directory(path_).value(); }

 private:
  std::string path_;
};

class SimulatedPlace final : public Place {
 public:
  std::unique_ptr<Directory> root() override { return disk_.root(); }

 private:
  testing::SimDisk disk_{1};
};

struct Kind {
  const char* name;
  std::function<std::unique_ptr<Place>()> make;
};

class EnvContract : public ::testing::TestWithParam<Kind> {
 protected:
  std::unique_ptr<Place> place = GetParam().make();
  std::unique_ptr<Directory> dir = place->root();
  using Mode = Directory::Mode;

  static Result<> write(File& file, std::uint64_t at, std::vector<std::string> parts) {
    std::vector<std::span<const std::byte>> spans;
    for (const auto& part : parts) spans.push_back(std::as_bytes(std::span(part)));
    return file.write_at(at, spans);
  }
  static std::string read(File& file, std::uint64_t at, std::size_t size) {
    std::string bytes(size, '?');
    const auto got = file.read_at(at, std::as_writable_bytes(std::span(bytes)));
    EXPECT_TRUE(got.has_value());
    bytes.resize(got.value_or(0));
    return bytes;
  }
};

TEST_P(EnvContract, ReadsBackWhatWasWrittenInParts) {
  auto file = dir->open_file("f", Mode::create_new).value();
  ASSERT_TRUE(write(*file, 0, {"one", "", "two", "three"}));
  EXPECT_EQ(read(*file, 0, 100), "onetwothree");
  EXPECT_EQ(read(*file, 3, 3), "two");
  EXPECT_EQ(read(*file, 11, 5), "");
  EXPECT_EQ(read(*file, 1000, 5), "");
  EXPECT_EQ(file->size().value(), 11u);
  EXPECT_TRUE(file->sync_data());
  EXPECT_TRUE(file->sync_all());
}

TEST_P(EnvContract, WritesMorePartsThanOneSystemCallTakes) {
  auto file = dir->open_file("f", Mode::create_new).value();
  std::vector<std::string> parts;
  std::string all;
  for (int i = 0; i < 5000; ++i) {
    parts.push_back(std::string(static_cast<std::size_t>(i % 7), static_cast<char>('a' + i % 26)));
    all += parts.back();
  }
  ASSERT_TRUE(write(*file, 10, parts));
  EXPECT_EQ(read(*file, 10, all.size() + 1), all);
  EXPECT_EQ(read(*file, 0, 10), std::string(10, '\0'));
  EXPECT_TRUE(write(*file, 0, {}));
  EXPECT_TRUE(write(*file, 0, {"", ""}));
}

TEST_P(EnvContract, OverwritingLeavesTheRest) {
  auto file = dir->open_file("f", Mode::create_new).value();
  ASSERT_TRUE(write(*file, 0, {std::string(2000, 'a')}));
  ASSERT_TRUE(write(*file, 700, {"b"}));
  const std::string bytes = read(*file, 0, 2000);
  EXPECT_EQ(bytes.substr(699, 3), "aba");
  EXPECT_EQ(bytes.size(), 2000u);
}

TEST_P(EnvContract, OpeningSaysWhatIsInTheWay) {
  EXPECT_EQ(dir->open_file("f", Mode::open_existing).error().code, Errc::not_found);
  EXPECT_EQ(dir->open_for_read("f").error().code, Errc::not_found);
  ASSERT_TRUE(dir->open_file("f", Mode::open_or_create));
  EXPECT_EQ(dir->open_file("f", Mode::create_new).error().code, Errc::busy);
  EXPECT_TRUE(dir->open_file("f", Mode::open_existing));
  EXPECT_TRUE(dir->open_file("f", Mode::open_or_create));
  EXPECT_EQ(dir->open_dir("d", false).error().code, Errc::not_found);
  ASSERT_TRUE(dir->open_dir("d", true));
  EXPECT_TRUE(dir->open_dir("d", true));
  EXPECT_TRUE(dir->open_dir("d", false));
  EXPECT_FALSE(dir->open_file("d", Mode::open_existing));
  EXPECT_FALSE(dir->open_dir("f", true));
}

TEST_P(EnvContract, AFileOpenedForReadingCannotBeWritten) {
  ASSERT_TRUE(write(*dir->open_file("f", Mode::create_new).value(), 0, {"abc"}));
  auto file = dir->open_for_read("f").value();
  EXPECT_EQ(read(*file, 0, 9), "abc");
  EXPECT_FALSE(write(*file, 0, {"x"}));
  EXPECT_EQ(read(*file, 0, 9), "abc");
}

TEST_P(EnvContract, RefusesNamesThatAreNotOneComponent) {
  for (const std::string name : {"", ".", "..", "a/b", "/a"}) {
    EXPECT_EQ(dir->open_file(name, Mode::open_or_create).error().code, Errc::invalid) << name;
    EXPECT_EQ(dir->open_dir(name, true).error().code, Errc::invalid) << name;
    EXPECT_EQ(dir->unlink(name).error().code, Errc::invalid) << name;
    EXPECT_EQ(dir->rename(name, "x").error().code, Errc::invalid) << name;
    EXPECT_EQ(dir->lock(name).error().code, Errc::invalid) << name;
    EXPECT_EQ(dir->remove_dir(name).error().code, Errc::invalid) << name;
    EXPECT_EQ(dir->link(name, *dir, "x").error().code, Errc::invalid) << name;
    EXPECT_EQ(dir->look_at(name).error().code, Errc::invalid) << name;
  }
  ASSERT_TRUE(dir->open_file("f", Mode::create_new));
  EXPECT_EQ(dir->rename("f", "a/b").error().code, Errc::invalid);
}

TEST_P(EnvContract, ListsRenamesAndRemoves) {
  for (const auto* name : {"c", "a", "b"}) {
    ASSERT_TRUE(write(*dir->open_file(name, Mode::create_new).value(), 0, {name}));
  }
  auto sub = dir->open_dir("sub", true).value();
  ASSERT_TRUE(sub->open_file("inner", Mode::create_new));
  EXPECT_EQ(dir->list().value(), (std::vector<std::string>{"a", "b", "c", "sub"}));
  EXPECT_EQ(sub->list().value(), (std::vector<std::string>{"inner"}));
  ASSERT_TRUE(dir->rename("c", "a"));
  ASSERT_TRUE(dir->unlink("b"));
  ASSERT_TRUE(dir->sync());
  EXPECT_EQ(dir->list().value(), (std::vector<std::string>{"a", "sub"}));
  EXPECT_EQ(read(*dir->open_for_read("a").value(), 0, 9), "c");
  EXPECT_EQ(dir->unlink("b").error().code, Errc::not_found);
  EXPECT_EQ(dir->rename("b", "x").error().code, Errc::not_found);
  EXPECT_FALSE(dir->unlink("sub"));
}

TEST_P(EnvContract, LooksAtWhatStandsUnderAName) {
  using Found = Directory::Found;
  ASSERT_TRUE(write(*dir->open_file("f", Mode::create_new).value(), 0, {"12345"}));
  ASSERT_TRUE(dir->open_dir("d", true));
  const auto file = dir->look_at("f").value();
  EXPECT_EQ(file.kind, Found::Kind::file);
  EXPECT_EQ(file.size, 5u);
  EXPECT_EQ(file.mode, 0600u);
  const auto sub = dir->look_at("d").value();
  EXPECT_EQ(sub.kind, Found::Kind::directory);
  EXPECT_EQ(sub.size, 0u);
  EXPECT_EQ(sub.mode, 0700u);
  EXPECT_EQ(dir->look_at("x").error().code, Errc::not_found);
}

TEST_P(EnvContract, RemovesEmptyDirectoriesOnly) {
  auto sub = dir->open_dir("d", true).value();
  ASSERT_TRUE(sub->open_file("f", Mode::create_new));
  EXPECT_EQ(dir->remove_dir("d").error().code, Errc::busy);
  ASSERT_TRUE(sub->unlink("f"));
  ASSERT_TRUE(dir->remove_dir("d"));
  EXPECT_EQ(dir->look_at("d").error().code, Errc::not_found);
  EXPECT_EQ(dir->remove_dir("d").error().code, Errc::not_found);
  ASSERT_TRUE(dir->open_file("f", Mode::create_new));
  EXPECT_FALSE(dir->remove_dir("f"));
  EXPECT_TRUE(dir->look_at("f"));
}

TEST_P(EnvContract, AFurtherNameIsOfTheSameFile) {
  auto sub = dir->open_dir("d", true).value();
  ASSERT_TRUE(write(*dir->open_file("f", Mode::create_new).value(), 0, {"one"}));
  ASSERT_TRUE(dir->link("f", *sub, "g"));
  ASSERT_TRUE(write(*sub->open_file("g", Mode::open_existing).value(), 0, {"two"}));
  EXPECT_EQ(read(*dir->open_for_read("f").value(), 0, 9), "two");
  EXPECT_EQ(dir->link("f", *sub, "g").error().code, Errc::busy) << "nothing is replaced";
  EXPECT_EQ(dir->link("x", *sub, "h").error().code, Errc::not_found);
  EXPECT_EQ(dir->link("f", *sub, "a/b").error().code, Errc::invalid);
  EXPECT_FALSE(dir->link("d", *sub, "h")) << "directories have one name";
  ASSERT_TRUE(dir->unlink("f"));
  EXPECT_EQ(read(*sub->open_for_read("g").value(), 0, 9), "two");
}

TEST_P(EnvContract, ADirectoryIsRenamedWithWhatIsInIt) {
  ASSERT_TRUE(dir->open_dir("d", true).value()->open_file("f", Mode::create_new));
  ASSERT_TRUE(dir->rename("d", "e"));
  EXPECT_EQ(dir->list().value(), (std::vector<std::string>{"e"}));
  EXPECT_TRUE(dir->open_dir("e", false).value()->look_at("f"));
}

TEST_P(EnvContract, ALockIsHeldUntilItIsDropped) {
  auto held = dir->lock("lock");
  ASSERT_TRUE(held);
  EXPECT_EQ(place->root()->lock("lock").error().code, Errc::busy);
  held->reset();
  EXPECT_TRUE(place->root()->lock("lock"));
}

TEST_P(EnvContract, ReplacingAFileLeavesNothingElse) {
  ASSERT_TRUE(replace_file(*dir, "f", "first"));
  ASSERT_TRUE(replace_file(*dir, "f", "second, longer"));
  EXPECT_EQ(dir->list().value(), (std::vector<std::string>{"f"}));
  EXPECT_EQ(read(*dir->open_for_read("f").value(), 0, 99), "second, longer");
  ASSERT_TRUE(
      write(*dir->open_file("f.new", Mode::create_new).value(), 0, {"left behind by a crash, and longer"}));
  ASSERT_TRUE(replace_file(*dir, "f", "third"));
  EXPECT_EQ(dir->list().value(), (std::vector<std::string>{"f"}));
  EXPECT_EQ(read(*dir->open_for_read("f").value(), 0, 99), "third");
}

INSTANTIATE_TEST_SUITE_P(Every, EnvContract,
                         ::testing::Values(Kind{"Real", [] { return std::make_unique<RealPlace>(); }},
                                           Kind{"Simulated",
                                                [] { return std::make_unique<SimulatedPlace>(); }}),
                         [](const auto& kind) { return kind.param.name; });

// --- What only the simulated disk can show -----------------------------------------------------------------

class SimDiskTest : public ::testing::Test {
 protected:
  using SimDisk = testing::SimDisk;
  SimDisk disk{7};

  std::unique_ptr<File> create_synced(std::string_view name) {
    auto dir = disk.root();
    auto file = dir->open_file(name, Directory::Mode::create_new).value();
    EXPECT_TRUE(dir->sync());
    return file;
  }
  static Result<> put(File& file, std::string_view text) {
    const std::span<const std::byte> part = std::as_bytes(std::span(text));
    return file.write_at(0, {&part, 1});
  }
  std::string text(std::string_view name) {
    const auto bytes = disk.contents(name);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  static SimDisk::Fate drop(const SimDisk::Effect&) { return SimDisk::Fate::dropped; }
  static SimDisk::Fate keep(const SimDisk::Effect&) { return SimDisk::Fate::kept; }
};

TEST_F(SimDiskTest, APowerCutForgetsWhatWasNotSyncedAndAKillDoesNot) {
  auto file = create_synced("f");
  ASSERT_TRUE(put(*file, "synced"));
  ASSERT_TRUE(file->sync_data());
  ASSERT_TRUE(put(*file, "UNSYNC"));
  disk.kill();
  EXPECT_EQ(text("f"), "UNSYNC");
  EXPECT_FALSE(put(*file, "handles of a dead process"));
  disk.crash(drop);
  EXPECT_EQ(text("f"), "synced");
}

TEST_F(SimDiskTest, APowerCutForgetsNamesWhoseDirectoryWasNotSynced) {
  auto dir = disk.root();
  ASSERT_TRUE(dir->open_file("f", Directory::Mode::create_new).value()->sync_all());
  EXPECT_EQ(disk.unsynced(), 1u);
  disk.crash(drop);
  EXPECT_FALSE(disk.exists("f"));
}

TEST_F(SimDiskTest, AFurtherNameIsForgottenUnlessItsDirectoryWasSynced) {
  auto file = create_synced("f");
  ASSERT_TRUE(put(*file, "value"));
  ASSERT_TRUE(file->sync_data());
  auto dir = disk.root();
  auto sub = dir->open_dir("d", true).value();
  ASSERT_TRUE(dir->sync());
  ASSERT_TRUE(dir->link("f", *sub, "g"));
  ASSERT_TRUE(dir->unlink("f"));
  const auto neither = disk.after_power_cut(std::vector<std::uint16_t>{1, 0}, 1);
  EXPECT_FALSE(neither->exists("f"));
  EXPECT_FALSE(neither->exists("d/g"));
  ASSERT_TRUE(sub->sync());
  const auto both = disk.after_power_cut();
  EXPECT_TRUE(both->exists("f"));
  EXPECT_EQ(both->contents("d/g").size(), 5u);
}

TEST_F(SimDiskTest, AReplacedFileIsTheOldOrTheNewOneAfterAPowerCutAtAnyOperation) {
  for (std::uint64_t n = 1;; ++n) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      SimDisk one(seed);
      ASSERT_TRUE(replace_file(*one.root(), "f", "old"));
      const auto before = one.operations();
      one.stop_at(before + n);
      const bool replaced = replace_file(*one.root(), "f", "new!").has_value();
      const bool stopped = one.fault_happened();
      one.crash();
      const auto bytes = one.contents("f");
      const std::string found(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      EXPECT_TRUE(found == "new!" || (!replaced && found == "old")) << "operation " << n << " seed " << seed;
      if (!stopped) return;
    }
  }
}

TEST_F(SimDiskTest, AReplacementThatFailsLeavesTheOldOrTheNewFileAndNoOther) {
  for (std::uint64_t n = 1;; ++n) {
    SimDisk one(n);
    ASSERT_TRUE(replace_file(*one.root(), "f", "old"));
    one.fail_at(one.operations() + n, n % 2 == 0 ? EIO : ENOSPC);
    const bool replaced = replace_file(*one.root(), "f", "new!").has_value();
    const auto bytes = one.contents("f");
    const std::string found(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    EXPECT_TRUE(found == "new!" || (!replaced && found == "old")) << "operation " << n;
    EXPECT_FALSE(one.exists("f.new")) << "operation " << n;
    if (!one.fault_happened()) {
      EXPECT_TRUE(replaced);
      return;
    }
    EXPECT_FALSE(replaced);
  }
}

TEST_F(SimDiskTest, AfterAFailedSyncTheCacheClaimsToBeClean) {
  for (const bool reached : {false, true}) {
    SimDisk one(1);
    auto dir = one.root();
    auto file = dir->open_file("f", Directory::Mode::create_new).value();
    ASSERT_TRUE(put(*file, "old"));
    ASSERT_TRUE(file->sync_all());
    ASSERT_TRUE(dir->sync());
    ASSERT_TRUE(put(*file, "new"));
    one.fail_at(one.operations() + 1, EIO);
    ASSERT_FALSE(file->sync_data());
    one.heal();
    ASSERT_TRUE(file->sync_data());  // says nothing about what went wrong before
    EXPECT_EQ(one.unsynced(), 1u);
    one.crash(reached ? keep : drop);
    const auto bytes = one.contents("f");
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()),
              reached ? "new" : "old");
  }
}

TEST_F(SimDiskTest, WhatIsWrittenAgainAfterAFailedSyncCanBeSynced) {
  auto file = create_synced("f");
  ASSERT_TRUE(put(*file, "first"));
  disk.fail_at(disk.operations() + 1, EIO);
  ASSERT_FALSE(file->sync_data());
  ASSERT_TRUE(put(*file, "again"));
  ASSERT_TRUE(file->sync_data());
  disk.crash(drop);
  EXPECT_EQ(text("f"), "again");
}

TEST_F(SimDiskTest, EachEffectOfAPowerCutIsDecidedByItselfOnACopy) {
  auto file = create_synced("f");
  ASSERT_TRUE(put(*file, std::string(1024, 'a')));
  ASSERT_TRUE(file->sync_data());
  ASSERT_TRUE(put(*file, std::string(1024, 'b')));
  ASSERT_TRUE(put(*file, std::string(512, 'a')));
  ASSERT_TRUE(disk.root()->unlink("f"));
  const auto effects = disk.effects();
  ASSERT_EQ(effects.size(), 3u);
  EXPECT_EQ(effects[0].kind, SimDisk::Effect::Kind::entry);
  EXPECT_EQ(effects[1].distinct, (std::vector<std::uint16_t>{0, 1}))
      << "the newest is what stood there before";
  EXPECT_EQ(effects[1].newest, 0);
  EXPECT_EQ(effects[2].newest, 1);
  const auto left = [this](std::vector<std::uint16_t> choices) {
    const auto copy = disk.after_power_cut(choices, 5);
    if (!copy->exists("f")) return std::string("gone");
    const auto bytes = copy->contents("f");
    EXPECT_EQ(copy->unsynced(), 0u);
    return std::string{static_cast<char>(bytes[0]), static_cast<char>(bytes[1023])};
  };
  EXPECT_EQ(left({1, 0, 0}), "gone");
  EXPECT_EQ(left({0, 0, 0}), "aa");
  EXPECT_EQ(left({0, 1, 0}), "ba");
  EXPECT_EQ(left({0, 0, 1}), "ab");
  EXPECT_NE(left({0, SimDisk::garbage, 1}).front(), 'a');
  EXPECT_FALSE(disk.exists("f")) << "the disk itself goes on";
  const auto killed = disk.after_kill();
  EXPECT_FALSE(killed->exists("f"));
  EXPECT_EQ(killed->unsynced(), 3u);
  EXPECT_EQ(killed->after_power_cut()->contents("f").size(), 1024u);
}

TEST_F(SimDiskTest, EveryChangeIsAnnouncedBeforeItsOperationEnds) {
  auto file = create_synced("f");
  std::vector<std::size_t> unsynced;
  disk.set_on_change([&] { unsynced.push_back(disk.unsynced()); });
  ASSERT_TRUE(put(*file, std::string(1024, 'a')));
  ASSERT_TRUE(file->sync_data());
  ASSERT_TRUE(disk.root()->rename("f", "g"));
  disk.fail_at(disk.operations() + 1, EIO);
  disk.set_failed_write(SimDisk::FailedWrite::nothing);
  ASSERT_FALSE(put(*file, "lost"));
  disk.set_failed_write(SimDisk::FailedWrite::everything);
  disk.fail_at(disk.operations() + 1, EIO);
  ASSERT_FALSE(put(*file, "written"));
  EXPECT_EQ(unsynced, (std::vector<std::size_t>{2, 1, 1, 2}));
}

TEST_F(SimDiskTest, AnUnreadableSectorFailsUntilItIsWritten) {
  auto file = create_synced("f");
  ASSERT_TRUE(put(*file, std::string(2000, 'x')));
  disk.make_unreadable("f", 700);
  std::array<std::byte, 100> buffer;
  EXPECT_TRUE(file->read_at(100, buffer));
  EXPECT_FALSE(file->read_at(500, buffer));
  EXPECT_TRUE(file->read_at(1024, buffer));
  ASSERT_TRUE(put(*file, std::string(2000, 'y')));
  EXPECT_TRUE(file->read_at(500, buffer));
}

}  // namespace
}  // namespace guard
