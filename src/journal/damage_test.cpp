// What rots on the disk is detected, costs at most what stood there, is kept aside, and makes no older value
// look current (P10, P2).
#include <iostream>

#include "journal/format.h"
#include "testing/journal_model.h"

namespace guard::journal {
namespace {

using testing::SimDisk;

using Image = std::map<std::string, std::vector<std::byte>>;

Image image_of(const SimDisk& disk) { return {{"a", disk.contents("a")}, {"b", disk.contents("b")}}; }

std::unique_ptr<SimDisk> disk_of(const Image& image) {
  auto disk = std::make_unique<SimDisk>(1);
  auto dir = disk->root();
  for (const auto& [name, bytes] : image) {
    const std::span<const std::byte> part = bytes;
    auto file = dir->open_file(name, Directory::Mode::create_new).value();
    EXPECT_TRUE(file->write_at(0, {&part, 1}));
    EXPECT_TRUE(file->sync_all());
  }
  EXPECT_TRUE(dir->sync());
  return disk;
}

class DamageTest : public ::testing::Test {
 protected:
  static constexpr unsigned slots = 20;

  /// Every slot was written twice, in batches of five; then the journal was closed in order.
  void SetUp() override {
    SimDisk disk(1);
    auto store = open_store(disk, options).value();
    for (Sequence s = 1; s <= 2 * slots; s += 5) {
      std::vector<Request> batch;
      for (Sequence i = s; i < s + 5; ++i)
        batch.push_back(write_of(vm(static_cast<unsigned>((i - 1) % slots)), Slot::permall, i, 300));
      for (const auto& done : store->run(batch)) ASSERT_TRUE(done.result);
    }
    store->seal();
    image = image_of(disk);
    used = image["a"].size();
    while (image["a"][used - 1] == std::byte{0}) --used;
  }

  Options options = small_options(40);
  Image image;  ///< the current file is "a"
  std::size_t used = 0;

  /// Opens a damaged image and checks what must hold whatever the damage was. Returns how many of the newest
  /// values are gone.
  unsigned check(SimDisk& disk, bool must_be_detected) {
    auto opened = open_store(disk, options, 99);
    EXPECT_TRUE(opened) << (opened ? "" : opened.error().message);
    if (!opened) return slots;
    Store& store = **opened;
    const Recovery& found = store.recovery();
    unsigned lost = slots;
    for (const LiveEntry& live : found.live) {
      const auto number = static_cast<Sequence>(live.owner.vm.bytes[15]);
      EXPECT_EQ(read_value(store, live.owner, live.slot, live.sequence), text_of(live.sequence, 300));
      if (live.sequence == number + 1 + slots) {
        --lost;
      } else {
        EXPECT_TRUE(live.suspect) << "an older value would be delivered blindly";
      }
    }
    if (must_be_detected || lost != 0) {
      EXPECT_GT(found.corrupt_records, 0u);
      EXPECT_GE(found.highest_sequence, Sequence{1} << 32);
      EXPECT_EQ(found.quarantined_bytes != 0, !disk.list("quarantine").empty());
    }
    // Before anything is acknowledged the live entries stand in a file without damage.
    if (found.corrupt_records != 0) {
      EXPECT_GT(store.stats().switches, 0u);
    }
    EXPECT_TRUE(run_one(store, write_of(vm(50), Slot::permall, found.highest_sequence + 1)).result);
    const auto before = found.live;
    disk.crash([](const SimDisk::Effect&) { return SimDisk::Fate::dropped; });
    auto again = open_store(disk, options, 100).value();
    EXPECT_EQ(again->recovery().corrupt_records, 0u);
    EXPECT_EQ(again->recovery().live.size(), before.size() + 1);
    for (std::size_t i = 0; i < before.size() && i < again->recovery().live.size(); ++i) {
      EXPECT_EQ(again->recovery().live[i].sequence, before[i].sequence);
      EXPECT_EQ(again->recovery().live[i].suspect, before[i].suspect) << "doubt must survive a restart";
    }
    return lost;
  }

  /// Headers, `complete` records and batches, not what follows the last one.
  bool matters(std::size_t offset) const { return offset < round_up(used, block); }
};

TEST_F(DamageTest, AFlippedBitAnywhereIsDetectedAndCostsAtMostOneRecord) {
  unsigned flips = 0;
  // The seal is left out: if it is lost, nothing is but a proof that was not needed.
  const std::size_t end = round_up(used, block) - block;
  for (std::size_t at = 0; at < end; at += at < data_start ? 127 : 9) {
    SCOPED_TRACE("bit " + std::to_string(flips % 8) + " of byte " + std::to_string(at));
    Image bad = image;
    bad["a"][at] ^= static_cast<std::byte>(1u << (flips++ % 8));
    EXPECT_LE(check(*disk_of(bad), true), 1u);
    if (HasFailure()) return;
  }
  std::cout << flips << " flips\n";
}

TEST_F(DamageTest, AFlippedBitBehindTheLastBatchOrInTheOtherFileChangesNothing) {
  for (std::size_t at = round_up(used, block) - block; at < image["a"].size(); at += 97) {
    SCOPED_TRACE("byte " + std::to_string(at));
    Image bad = image;
    bad["a"][at] ^= std::byte{1};
    EXPECT_EQ(check(*disk_of(bad), false), 0u);
    bad = image;
    bad["b"][at] ^= std::byte{1};
    EXPECT_EQ(check(*disk_of(bad), false), 0u);
    if (HasFailure()) return;
  }
}

TEST_F(DamageTest, AZeroedMisplacedOrUnreadableSectorCostsAtMostItsRecords) {
  const std::size_t end = round_up(used, block) - block;
  for (std::size_t at = 0; at < end; at += SimDisk::sector) {
    SCOPED_TRACE("sector at " + std::to_string(at));
    const auto sector = [&](std::size_t offset) {
      return std::span(image["a"]).subspan(offset, SimDisk::sector);
    };
    const bool zero = all_zero(sector(at));
    Image bad = image;
    std::fill_n(bad["a"].begin() + static_cast<std::ptrdiff_t>(at), SimDisk::sector, std::byte{0});
    EXPECT_LE(check(*disk_of(bad), !zero), 3u);

    const std::size_t from = at + SimDisk::sector < end ? at + SimDisk::sector : 0;
    bad = image;
    std::copy_n(sector(from).begin(), SimDisk::sector, bad["a"].begin() + static_cast<std::ptrdiff_t>(at));
    EXPECT_LE(check(*disk_of(bad), !std::ranges::equal(sector(from), sector(at))), 3u);

    auto disk = disk_of(image);
    disk->make_unreadable("a", at);
    EXPECT_LE(check(*disk, true), 12u) << "what cannot be read is a whole block";
    if (HasFailure()) return;
  }
}

TEST_F(DamageTest, WithoutBothHeadersTheJournalIsKeptAsideAndANewOneBegins) {
  Image bad = image;
  for (const std::size_t at : {std::size_t{100}, std::size_t{block + 100}}) bad["a"][at] ^= std::byte{1};
  auto disk = disk_of(bad);
  {
    auto store = open_store(*disk, options, 7).value();
    EXPECT_TRUE(store->recovery().live.empty());
    EXPECT_FALSE(store->recovery().created);
    EXPECT_EQ(store->recovery().corrupt_records, 1u);
    EXPECT_GE(store->recovery().highest_sequence, Sequence{1} << 32);
  }
  bool kept = false;
  for (const auto& name : disk->list("quarantine"))
    kept = kept || disk->contents("quarantine/" + name) == bad["a"];
  EXPECT_TRUE(kept);
}

TEST_F(DamageTest, AnOlderFileIsDoubtedWhenTheNewerOneIsUnreadable) {
  auto disk = disk_of(image);
  {
    auto store = open_store(*disk, options, 7).value();
    for (Sequence s = 100; store->stats().switches == 0; ++s) {
      ASSERT_TRUE(run_one(*store, write_of(vm(0), Slot::permall, s, 3000)).result);
    }
  }
  Image bad = image_of(*disk);
  for (const std::size_t at : {std::size_t{100}, std::size_t{block + 100}}) bad["b"][at] ^= std::byte{1};
  auto rotten = disk_of(bad);
  auto store = open_store(*rotten, options, 8).value();
  EXPECT_GT(store->recovery().corrupt_records, 0u);
  EXPECT_EQ(store->recovery().live.size(), slots);
  for (const auto& live : store->recovery().live) EXPECT_TRUE(live.suspect);
}

TEST_F(DamageTest, AMissingFileIsMadeAnewAndDoubtedIfItMayHaveBeenTheNewer) {
  for (const std::string name : {"a", "b"}) {
    auto disk = disk_of(image);
    disk->remove(name);
    auto store = open_store(*disk, options, 7).value();
    EXPECT_EQ(store->recovery().live.size(), name == "a" ? 0u : slots);
    for (const auto& live : store->recovery().live) EXPECT_TRUE(live.suspect);
    EXPECT_FALSE(store->recovery().created);
    EXPECT_GT(store->recovery().corrupt_records, 0u);
    EXPECT_TRUE(
        run_one(*store, write_of(vm(1), Slot::permall, store->recovery().highest_sequence + 1)).result);
  }
}

TEST_F(DamageTest, ALostPayloadCastsDoubtOnItsOwnSlotOnly) {
  const auto offset_of = [&](Sequence sequence) {
    const std::string text = text_of(sequence, 300);
    const auto bytes = std::as_bytes(std::span(text));
    return static_cast<std::size_t>(
        std::search(image["a"].begin(), image["a"].end(), bytes.begin(), bytes.end()) - image["a"].begin());
  };
  Image bad = image;
  bad["a"][offset_of(slots + 4) + 50] ^= std::byte{1};
  {
    auto disk = disk_of(bad);
    auto store = open_store(*disk, options, 7).value();
    ASSERT_EQ(store->recovery().live.size(), slots);
    for (const auto& live : store->recovery().live)
      EXPECT_EQ(live.suspect, live.sequence == 4) << live.sequence;
    // A new write ends the doubt.
    const Sequence next = store->recovery().highest_sequence + 1;
    ASSERT_TRUE(run_one(*store, write_of(vm(3), Slot::permall, next)).result);
    disk->crash();
    store = open_store(*disk, options, 8).value();
    for (const auto& live : store->recovery().live) EXPECT_FALSE(live.suspect);
  }
  bad = image;
  bad["a"][offset_of(slots + 4) - 20] ^= std::byte{1};  // its header: it could have been any slot's
  auto disk = disk_of(bad);
  auto store = open_store(*disk, options, 7).value();
  for (const auto& live : store->recovery().live) {
    EXPECT_EQ(live.suspect, live.sequence < slots + 4) << live.sequence;
  }
}

TEST_F(DamageTest, OneLostCompleteRecordHarmsNothingAndTheFileStaysCurrent) {
  for (const std::uint64_t at : {data_start, data_start + block}) {
    Image bad = image;
    std::fill_n(bad["a"].begin() + static_cast<std::ptrdiff_t>(at), block, std::byte{0xFF});
    EXPECT_EQ(check(*disk_of(bad), true), 0u);
  }
  Image bad = image;
  std::fill_n(bad["a"].begin() + static_cast<std::ptrdiff_t>(data_start), 2 * block, std::byte{0xFF});
  EXPECT_EQ(check(*disk_of(bad), true), 0u) << "later batches prove that it was complete";
}

TEST_F(DamageTest, ATruncatedFileCostsWhatWasCutOff) {
  for (std::size_t size = 0; size < image["a"].size(); size += block) {
    SCOPED_TRACE("cut at " + std::to_string(size));
    Image bad = image;
    bad["a"].resize(size);
    auto disk = disk_of(bad);
    auto store = open_store(*disk, options, 7);
    ASSERT_TRUE(store);
    for (const LiveEntry& live : (*store)->recovery().live) {
      EXPECT_EQ(read_value(**store, live.owner, live.slot, live.sequence), text_of(live.sequence, 300));
    }
    EXPECT_TRUE(
        run_one(**store, write_of(vm(1), Slot::permall, (*store)->recovery().highest_sequence + 1)).result);
  }
}

TEST_F(DamageTest, AJournalThatCannotBeReadIsAnErrorNotAnEmptyJournal) {
  for (const std::size_t at : {std::size_t{0}, std::size_t{block}}) {
    auto disk = disk_of(image);
    disk->make_unreadable("a", at);
    EXPECT_TRUE(open_store(*disk, options)) << "one copy of the header is enough";
  }
  auto disk = disk_of(image);
  disk->make_unreadable("a", 0);
  disk->make_unreadable("a", block);
  EXPECT_EQ(open_store(*disk, options).error().code, Errc::io);
  disk = disk_of(image);
  disk->fail_all(SimDisk::Kind::read, EIO);
  EXPECT_EQ(open_store(*disk, options).error().code, Errc::io);
  disk->heal();
  EXPECT_EQ(open_store(*disk, options).value()->recovery().live.size(), slots);
}

/// Three live entries, each on several sectors.
void write_three(Store& store) {
  for (unsigned i = 0; i < 3; ++i)
    ASSERT_TRUE(run_one(store, write_of(vm(i), Slot::permall, i + 1, 3000)).result);
}

/// Where in file "a" the payload of the second of them lies.
std::uint64_t inside_second(const SimDisk& disk) {
  const std::string text = text_of(2, 3000);
  const auto bytes = disk.contents("a");
  const auto part = std::as_bytes(std::span(text));
  const auto at = std::search(bytes.begin(), bytes.end(), part.begin(), part.end());
  return static_cast<std::uint64_t>(at - bytes.begin()) + 1000;
}

TEST_F(DamageTest, AnUnreadableLiveEntryDoesNotKeepTheJournalFromSwitching) {
  SimDisk disk(1);
  auto store = open_store(disk, options).value();
  ASSERT_NO_FATAL_FAILURE(write_three(*store));
  disk.make_unreadable("a", inside_second(disk));
  EXPECT_EQ(run_one(*store, ReadBack{vm(1), Slot::permall, 2}).result.error().code, Errc::io);
  Sequence s = 10;
  while (store->stats().switches == 0) {
    if (store->stats().state == State::failed) store->revive();
    (void)run_one(*store, write_of(vm(9), Slot::permall, ++s, 3000));
    ASSERT_LT(s, 1000u);
  }
  EXPECT_EQ(store->stats().corrupt_records, 1u);
  EXPECT_GT(store->stats().quarantined_bytes, 0u);
  EXPECT_EQ(run_one(*store, ReadBack{vm(1), Slot::permall, 2}).result.error().code, Errc::not_found);
  EXPECT_EQ(read_value(*store, vm(0), Slot::permall, 1), text_of(1, 3000));
  EXPECT_EQ(read_value(*store, vm(2), Slot::permall, 3), text_of(3, 3000));
}

TEST_F(DamageTest, ADiskThatCannotBeReadForLongCostsNothing) {
  SimDisk disk(1);
  auto store = open_store(disk, options).value();
  ASSERT_NO_FATAL_FAILURE(write_three(*store));
  // A failed sync, so that the journal has to switch before it takes anything.
  disk.fail_all(SimDisk::Kind::sync, EIO);
  EXPECT_FALSE(run_one(*store, write_of(vm(9), Slot::permall, 10)).result);
  ASSERT_EQ(store->stats().state, State::failed);
  disk.heal();
  disk.fail_all(SimDisk::Kind::read, EIO);
  for (unsigned i = 0; i < 3 * limits::journal_read_attempts; ++i) EXPECT_FALSE(store->revive());
  disk.heal();
  EXPECT_TRUE(store->revive());
  EXPECT_EQ(store->stats().corrupt_records, 0u);
  for (unsigned i = 0; i < 3; ++i) {
    EXPECT_EQ(read_value(*store, vm(i), Slot::permall, i + 1), text_of(i + 1, 3000));
  }
}

TEST_F(DamageTest, AnEntryThatCanBeReadAgainInTimeIsNotGivenUp) {
  SimDisk disk(1);
  auto store = open_store(disk, options).value();
  ASSERT_NO_FATAL_FAILURE(write_three(*store));
  const std::uint64_t bad_sector = inside_second(disk);
  disk.make_unreadable("a", bad_sector);
  disk.fail_at(disk.operations() + 1, EIO);
  EXPECT_FALSE(run_one(*store, write_of(vm(9), Slot::permall, 10)).result);
  for (unsigned i = 0; i + 1 < limits::journal_read_attempts; ++i) EXPECT_FALSE(store->revive());
  disk.make_readable("a", bad_sector);
  EXPECT_TRUE(store->revive());
  EXPECT_EQ(store->stats().corrupt_records, 0u);
  EXPECT_EQ(read_value(*store, vm(1), Slot::permall, 2), text_of(2, 3000));
}

TEST_F(DamageTest, AQuarantineThatCannotBeWrittenStopsNothing) {
  Image bad = image;
  bad["a"][data_start + 2 * block + 200] ^= std::byte{1};
  auto disk = disk_of(bad);
  ASSERT_TRUE(disk->root()->open_file("quarantine", Directory::Mode::create_new));  // in the way
  auto store = open_store(*disk, options, 7).value();
  EXPECT_GT(store->recovery().corrupt_records, 0u);
  EXPECT_EQ(store->recovery().quarantined_bytes, 0u);
}

}  // namespace
}  // namespace guard::journal
