#include "engine/call_notes.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace guard::engine {
namespace {

namespace fs = std::filesystem;
constexpr std::size_t unit_bytes = 128;

Owner owner_of(std::uint8_t n) {
  Owner owner;
  owner.vm.bytes[0] = n;
  return owner;
}

CallNotes::Values values_of(std::uint64_t n) {
  return {{Slot::permall, Digest{n, n + 1}, n}, {Slot::volatilestate, Digest{n + 2, n + 3}, n + 1}};
}

class CallNotesTest : public ::testing::Test {
 protected:
  CallNotesTest() {
    std::string name = (fs::temp_directory_path() / "call_notes.XXXXXX").string();
    dir = ::mkdtemp(name.data());
    file = dir / CallNotes::file_name;
  }
  ~CallNotesTest() override { fs::remove_all(dir); }

  std::unique_ptr<CallNotes> open(std::size_t units = 4, const std::string& identity = "a") {
    auto opened = CallNotes::open(dir.string(), identity, units);
    EXPECT_TRUE(opened) << opened.error().message;
    return opened ? std::move(*opened) : nullptr;
  }
  /// A file that says that nothing is under way.
  void make(std::size_t units = 4) { open(units)->forget_unknown(); }
  std::string bytes() const {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void write(const std::string& contents) const {
    std::ofstream(file, std::ios::binary | std::ios::trunc) << contents;
  }

  fs::path dir, file;
};

TEST_F(CallNotesTest, SaysUnknownWhenThereWasNoFileUntilItIsTold) {
  auto notes = open();
  EXPECT_TRUE(notes->found().unknown);
  struct stat info{};
  ASSERT_EQ(::stat(file.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
  notes.reset();
  notes = open();
  EXPECT_TRUE(notes->found().unknown) << "a crash in the meantime changes nothing";
  notes->forget_unknown();
  notes.reset();
  EXPECT_FALSE(open()->found().unknown);
}

TEST_F(CallNotesTest, TellsTheNextProcessWhatIsUnderWay) {
  make();
  auto notes = open();
  notes->note(owner_of(1), values_of(10));
  notes->note(owner_of(2), values_of(20));
  notes->note(owner_of(1), values_of(30));
  notes->erase(owner_of(2));
  for (int start = 0; start < 2; ++start) {
    notes.reset();
    notes = open();
    ASSERT_FALSE(notes->found().unknown) << notes->found().why;
    ASSERT_EQ(notes->found().calls.size(), 1u) << "it stays noted, start " << start;
    EXPECT_EQ(notes->found().calls[0].first, owner_of(1));
    EXPECT_EQ(notes->found().calls[0].second, values_of(30));
  }
  notes->erase(owner_of(1));
  notes.reset();
  EXPECT_TRUE(open()->found().calls.empty());
}

TEST_F(CallNotesTest, DistinguishesTheDevicesOfOneVm) {
  make();
  auto notes = open();
  const Owner uefi{owner_of(1).vm, Device::uefi};
  notes->note(owner_of(1), values_of(10));
  notes->note(uefi, {{Slot::nvram, Digest{1, 2}}});
  notes->erase(owner_of(1));
  notes.reset();
  notes = open();
  ASSERT_EQ(notes->found().calls.size(), 1u);
  EXPECT_EQ(notes->found().calls[0].first, uefi);
}

TEST_F(CallNotesTest, IsWholeWhereverTheProcessIsKilledWhileANoteIsWritten) {
  make();
  auto notes = open();
  notes->note(owner_of(1), values_of(10));
  notes->note(owner_of(2), values_of(20));
  notes->erase(owner_of(2));  // its unit is used again, over what is left in it
  const std::string before = bytes();
  notes->note(owner_of(3), values_of(30));
  const std::string after = bytes();
  notes.reset();
  const auto [first, unused] = std::mismatch(before.begin(), before.end(), after.begin());
  const auto unit = static_cast<std::size_t>(first - before.begin()) / unit_bytes * unit_bytes;
  // Stored in the order of the bytes but for the last 8, which come last and at once.
  for (std::size_t stored = 0; stored <= unit_bytes; ++stored) {
    if (stored > unit_bytes - 8 && stored < unit_bytes) continue;
    std::string torn = before;
    std::copy_n(after.begin() + static_cast<std::ptrdiff_t>(unit), stored,
                torn.begin() + static_cast<std::ptrdiff_t>(unit));
    write(torn);
    const auto read = open();
    ASSERT_FALSE(read->found().unknown) << read->found().why << ", " << stored << " bytes stored";
    EXPECT_EQ(read->found().calls.size(), stored == unit_bytes ? 2u : 1u) << stored << " bytes stored";
  }
}

TEST_F(CallNotesTest, KeepsTheOlderNoteUntilTheNewerOneIsWhole) {
  make();
  auto notes = open();
  notes->note(owner_of(1), values_of(10));
  const std::string before = bytes();
  notes->note(owner_of(1), values_of(20));
  const std::string after = bytes();
  notes.reset();
  // Killed when the newer one was written and the older one was not yet erased: both count.
  std::string both = after;
  for (std::size_t unit = unit_bytes; unit < both.size(); unit += unit_bytes) {
    const std::size_t sum = unit + unit_bytes - 8;
    if (both.substr(sum, 8) == std::string(8, '\0')) both.replace(sum, 8, before.substr(sum, 8));
  }
  write(both);
  notes = open();
  ASSERT_EQ(notes->found().calls.size(), 1u);
  EXPECT_EQ(notes->found().calls[0].second.size(), 4u);
  notes->erase(owner_of(1));
  notes.reset();
  EXPECT_TRUE(open()->found().calls.empty()) << "both are erased";
}

TEST_F(CallNotesTest, SaysUnknownAfterDamageToAnyByteThatCounts) {
  make(2);
  auto notes = open(2);
  notes->note(owner_of(1), values_of(10));
  notes.reset();
  const std::string good = bytes();
  ASSERT_EQ(good.size(), 3 * unit_bytes);
  for (std::size_t at = 0; at < 2 * unit_bytes; ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    write(bad);
    EXPECT_TRUE(open(2)->found().unknown) << "byte " << at;
    EXPECT_TRUE(open(2)->found().unknown) << "and again after a crash, byte " << at;
  }
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, unit_bytes, good.size() - 1, good.size() + 1}) {
    std::string cut = good;
    cut.resize(size);
    write(cut);
    EXPECT_TRUE(open(2)->found().unknown) << size << " bytes";
    EXPECT_EQ(bytes().size(), good.size());
  }
}

TEST_F(CallNotesTest, SaysUnknownWhenTheFileIsOfAnotherStoreOrRun) {
  make();
  auto notes = open();
  notes->note(owner_of(1), values_of(10));
  notes.reset();
  notes = open(4, "b");
  EXPECT_TRUE(notes->found().unknown);
  EXPECT_TRUE(notes->found().calls.empty());
}

TEST_F(CallNotesTest, SaysUnknownWhileNotEverythingFits) {
  make(2);
  auto notes = open(2);
  for (std::uint8_t n = 1; n <= 4; ++n) notes->note(owner_of(n), values_of(n));
  const std::string full = bytes();
  notes->erase(owner_of(3));
  const std::string one_left_out = bytes();
  notes->erase(owner_of(4));
  notes.reset();
  notes = open(2);
  EXPECT_FALSE(notes->found().unknown) << "what is noted is complete again";
  EXPECT_EQ(notes->found().calls.size(), 2u);
  notes->erase(owner_of(1));
  notes->note(owner_of(5), values_of(5));
  notes.reset();
  EXPECT_EQ(open(2)->found().calls.size(), 2u) << "room that was given back is used";
  for (const std::string& contents : {full, one_left_out}) {
    write(contents);
    EXPECT_TRUE(open(2)->found().unknown);
  }
}

TEST_F(CallNotesTest, NotesOneThatDidNotFitOnceThereIsRoom) {
  make(1);
  auto notes = open(1);
  notes->note(owner_of(1), values_of(1));
  notes->note(owner_of(2), values_of(2));
  notes->erase(owner_of(1));
  notes->note(owner_of(2), values_of(3));
  notes.reset();
  notes = open(1);
  ASSERT_FALSE(notes->found().unknown);
  ASSERT_EQ(notes->found().calls.size(), 1u);
  EXPECT_EQ(notes->found().calls[0].first, owner_of(2));
}

TEST_F(CallNotesTest, FollowsNoLinkAndReplacesWhatIsNoFileOfItsOwn) {
  const fs::path target = dir / "target";
  std::ofstream(target) << "untouched";
  fs::create_symlink(target, file);
  EXPECT_TRUE(open()->found().unknown);
  EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(file)));
  fs::remove(file);
  fs::create_hard_link(target, file);
  EXPECT_TRUE(open()->found().unknown);
  fs::remove(file);
  ASSERT_EQ(::mkfifo(file.c_str(), 0600), 0);
  EXPECT_TRUE(open()->found().unknown);
  EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(file)));
  std::string kept;
  std::ifstream(target) >> kept;
  EXPECT_EQ(kept, "untouched");
  fs::remove(file);
  fs::create_directory(file);
  EXPECT_FALSE(CallNotes::open(dir.string(), "a", 4));
}

TEST_F(CallNotesTest, RefusesASecondUser) {
  const auto notes = open();
  const auto second = CallNotes::open(dir.string(), "a", 4);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Errc::busy);
}

TEST_F(CallNotesTest, MakesItsDirectoryAndSaysWhenItCannot) {
  EXPECT_TRUE(CallNotes::open((dir / "made" / "deeper").string(), "a", 4));
  EXPECT_FALSE(CallNotes::open("/proc/no/such/place", "a", 4));
}

TEST_F(CallNotesTest, TellsStoresApartAndRunsOfTheMachine) {
  EXPECT_NE(identity_of("/a"), identity_of("/b"));
  EXPECT_EQ(identity_of("/a"), identity_of("/a"));
  EXPECT_GT(identity_of("/a").size(), std::string(" /a").size() + 30) << "with the uuid of this boot";
}

}  // namespace
}  // namespace guard::engine
