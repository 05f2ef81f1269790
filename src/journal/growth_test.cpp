// How the files grow, what happens when they cannot, and that there is always room for what must go on.
#include <functional>
#include <iostream>

#include "journal/inspect.h"
#include "journal/scan.h"
#include "testing/journal_model.h"

namespace guard::journal {
namespace {

using testing::SimDisk;

/// What a file system does that has only so much space, and what a file does that cannot be written.
struct Trouble {
  std::uint64_t space = ~std::uint64_t{0};  ///< by which files may still become larger
  std::string broken;                       ///< name of the file whose writes fail
  std::string unsyncable;                   ///< name of the file whose syncs fail
};

class TroubledFile final : public File {
 public:
  TroubledFile(std::unique_ptr<File> file, std::string name, Trouble& trouble)
      : file_(std::move(file)), name_(std::move(name)), trouble_(trouble) {}

  Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> buffer) override {
    return file_->read_at(offset, buffer);
  }
  Result<void> write_at(std::uint64_t offset, std::span<const std::span<const std::byte>> parts) override {
    if (name_ == trouble_.broken) return std::unexpected(Error::system("broken file", EIO));
    std::string all;
    for (const auto part : parts) all += as_text(part);
    const std::uint64_t size = file_->size().value_or(0);
    const std::uint64_t end = offset + all.size();
    const std::uint64_t more = end > size ? end - size : 0;
    const bool full = more > trouble_.space;
    if (full) all.resize(all.size() - (more - trouble_.space));
    trouble_.space -= std::min(more, trouble_.space);
    const auto bytes = std::as_bytes(std::span(all));
    if (auto written = file_->write_at(offset, {&bytes, 1}); !written) return written;
    if (full) return std::unexpected(Error::system("full file system", ENOSPC));
    return {};
  }
  Result<void> sync_data() override {
    if (name_ == trouble_.unsyncable) return std::unexpected(Error::system("broken file", EIO));
    return file_->sync_data();
  }
  Result<void> sync_all() override { return sync_data(); }
  Result<std::uint64_t> size() override { return file_->size(); }

 private:
  std::unique_ptr<File> file_;
  std::string name_;
  Trouble& trouble_;
};

class TroubledDirectory final : public Directory {
 public:
  TroubledDirectory(std::unique_ptr<Directory> dir, Trouble& trouble)
      : dir_(std::move(dir)), trouble_(trouble) {}

  Result<std::unique_ptr<File>> open_file(std::string_view name, Mode mode) override {
    auto file = dir_->open_file(name, mode);
    if (!file) return file;
    return std::make_unique<TroubledFile>(std::move(*file), std::string(name.substr(0, 1)), trouble_);
  }
  Result<std::unique_ptr<File>> open_for_read(std::string_view name) override {
    return dir_->open_for_read(name);
  }
  Result<std::unique_ptr<Directory>> open_dir(std::string_view name, bool create) override {
    return dir_->open_dir(name, create);
  }
  Result<void> rename(std::string_view from, std::string_view to) override { return dir_->rename(from, to); }
  Result<void> unlink(std::string_view name) override { return dir_->unlink(name); }
  Result<void> remove_dir(std::string_view name) override { return dir_->remove_dir(name); }
  Result<void> link(std::string_view name, Directory& to, std::string_view to_name) override {
    return dir_->link(name, to, to_name);
  }
  Result<Found> look_at(std::string_view name) override { return dir_->look_at(name); }
  Result<std::vector<std::string>> list() override { return dir_->list(); }
  Result<void> sync() override { return dir_->sync(); }
  Result<std::shared_ptr<void>> lock(std::string_view name) override { return dir_->lock(name); }
  bool overwrites_in_place() const override { return dir_->overwrites_in_place(); }

 private:
  std::unique_ptr<Directory> dir_;
  Trouble& trouble_;
};

class GrowthTest : public ::testing::Test {
 protected:
  SimDisk disk{1};
  Trouble trouble;
  Options options = growing_options(16, 128);
  std::unique_ptr<Store> store;
  Sequence sequence = 0;
  std::uint64_t salt_seed = 1;

  Store& open() {
    auto dir = std::make_unique<TroubledDirectory>(disk.root(), trouble);
    auto opened = Store::open(std::move(dir), options, salts(salt_seed++), null_logger());
    if (!opened) throw std::runtime_error(opened.error().message);
    store = std::move(*opened);
    sequence = std::max(sequence, store->recovery().highest_sequence);
    return *store;
  }
  Store& power_cut_and_open() {
    store.reset();
    disk.crash([](const SimDisk::Effect&) { return SimDisk::Fate::dropped; });
    return open();
  }
  /// The n-th of many slots.
  static std::pair<Owner, Slot> slot_of(unsigned n) {
    return {vm(n / slot_count), static_cast<Slot>(n % slot_count)};
  }
  Result<> write(unsigned n, std::size_t size) {
    const auto [owner, slot] = slot_of(n);
    return run_one(*store, write_of(owner, slot, ++sequence, size)).result;
  }
  Result<> remove(unsigned n, bool retained = false) {
    const auto [owner, slot] = slot_of(n);
    Removal removal = removal_of(owner, slot, sequence);
    removal.retained = retained;
    return run_one(*store, removal).result;
  }
  /// Writes new slots from the n-th on until one is refused for lack of room; returns its number.
  unsigned fill(unsigned n, std::size_t size) {
    for (;; ++n) {
      const auto done = write(n, size);
      if (done) continue;
      EXPECT_EQ(done.error().code, Errc::no_space) << done.error().message;
      return n;
    }
  }
  std::uint64_t file_size(std::string_view name) const { return disk.contents(name).size(); }
  std::string current_file() {
    const auto file = disk.root()->open_for_read("a").value();
    return read_headers(*file).value().best()->generation == store->stats().generation ? "a" : "b";
  }
  std::string other_file() { return current_file() == "a" ? "b" : "a"; }
  /// Forgets the journal.
  void start_over() {
    store.reset();
    disk.crash();
    disk.remove("a");
    disk.remove("b");
    trouble = {};
    open();
  }
  std::vector<Sequence> live() const {
    std::vector<Sequence> found;
    for (const auto& entry : store->recovery().live) found.push_back(entry.sequence);
    return found;
  }
};

TEST_F(GrowthTest, TheFilesGrowWithWhatIsLiveUpToTheMaximumAndNoFurther) {
  open();
  EXPECT_EQ(file_size("a"), options.size);
  const unsigned accepted = fill(0, 5000);
  EXPECT_EQ(file_size("a"), options.max_size);
  EXPECT_EQ(file_size("b"), options.max_size);
  EXPECT_EQ(store->stats().capacity_bytes, options.max_size - data_start);
  EXPECT_GT(accepted * 5000, options.max_size / 3);
  power_cut_and_open();
  ASSERT_EQ(live().size(), accepted);
  EXPECT_EQ(store->recovery().corrupt_records, 0u);
  for (const auto& entry : store->recovery().live) {
    EXPECT_EQ(read_value(*store, entry.owner, entry.slot, entry.sequence), text_of(entry.sequence, 5000));
  }
  for (unsigned n = 0; n < accepted; ++n) EXPECT_TRUE(write(n, 5000));
  EXPECT_EQ(write(accepted, 5000).error().code, Errc::no_space);
  EXPECT_EQ(file_size("a"), options.max_size);
}

TEST_F(GrowthTest, GrownAheadOfNeedACommitNeverWaitsForMoreThanItsOwnWriteAndSync) {
  open();
  unsigned switches = 0;
  for (unsigned n = 0; file_size("b") < options.max_size; ++n) {
    while (store->grow_ahead()) {
    }
    const auto before = disk.operations();
    const auto switched = store->stats().switches;
    ASSERT_TRUE(write(n, 2000));
    if (store->stats().switches == switched)
      EXPECT_EQ(disk.operations() - before, 2u);
    else
      ++switches;
    ASSERT_LT(n, 200u);
  }
  EXPECT_LT(switches, 8u);
  EXPECT_LT(store->stats().live_bytes, options.max_size / 2);
}

TEST_F(GrowthTest, GrowingAheadComesToAnEndAndIsDoneWhenNothingElseIsToDo) {
  open();
  for (unsigned n = 0; n < 6; ++n) ASSERT_TRUE(write(n, 3000));
  const auto small = file_size("a");
  while (store->idle_work()) {
  }
  EXPECT_GT(file_size("a"), small);
  EXPECT_EQ(file_size("a"), file_size("b"));
  EXPECT_EQ(disk.unsynced(), 0u);
  const auto before = disk.operations();
  EXPECT_FALSE(store->grow_ahead());
  EXPECT_FALSE(store->idle_work());
  EXPECT_EQ(disk.operations(), before);
}

TEST_F(GrowthTest, WhatWasWrittenIntoTheNewEndOfAFileIsFoundAlthoughTheHeaderKnowsNothingOfIt) {
  open();
  for (unsigned n = 0; n < 6; ++n) ASSERT_TRUE(write(n, 3000));
  while (store->grow_ahead()) {
  }
  const auto switches = store->stats().switches;
  unsigned round = 0;
  for (; round < 8; ++round) ASSERT_TRUE(write(0, 5000));
  ASSERT_EQ(store->stats().switches, switches) << "the test wants the end of a file that has grown";
  for (int again = 0; again < 3; ++again) {
    power_cut_and_open();
    EXPECT_EQ(store->recovery().corrupt_records, 0u);
    ASSERT_EQ(live().size(), 6u);
    EXPECT_EQ(read_value(*store, vm(0), Slot::permall, sequence), text_of(sequence, 5000));
  }
}

TEST_F(GrowthTest, AFullFileSystemCostsNothingThatStoodBeforeAndGrowthGoesOnWhenThereIsSpace) {
  open();
  trouble.space = 5 * block + 123;
  const unsigned accepted = fill(0, 3000);
  EXPECT_LT(store->stats().capacity_bytes, options.max_size / 2);
  EXPECT_EQ(store->stats().state, State::ok);
  for (unsigned n = 0; n < accepted; ++n) EXPECT_TRUE(write(n, 3000)) << "replacements find room";
  EXPECT_TRUE(remove(0));
  EXPECT_TRUE(write(0, 3000));
  power_cut_and_open();
  EXPECT_EQ(live().size(), accepted);
  EXPECT_EQ(write(accepted, 3000).error().code, Errc::no_space);
  trouble.space = ~std::uint64_t{0};
  EXPECT_TRUE(write(accepted, 3000)) << "without a restart";
  EXPECT_GT(fill(accepted + 1, 3000), accepted + 5);
  EXPECT_EQ(file_size("a"), options.max_size);
}

TEST_F(GrowthTest, ARefusedBatchTriesOnceToGrow) {
  open();
  trouble.space = 0;
  const unsigned accepted = fill(0, 3000);
  std::vector<Request> batch;
  for (unsigned n = accepted; n < accepted + 20; ++n) {
    const auto [owner, slot] = slot_of(n);
    batch.push_back(write_of(owner, slot, ++sequence, 3000));
  }
  const auto before = disk.operations();
  for (const auto& done : store->run(batch)) EXPECT_EQ(done.result.error().code, Errc::no_space);
  EXPECT_EQ(disk.operations() - before, 1u);
}

TEST_F(GrowthTest, AFileThatCannotBeSyncedWhileItGrowsIsLeftAndTakenAgainFromItsStart) {
  open();
  for (const bool current : {false, true}) {
    start_over();
    for (unsigned n = 0; n < 6; ++n) ASSERT_TRUE(write(n, 3000));
    const std::string before = current_file();
    trouble.unsyncable = current ? before : other_file();
    EXPECT_FALSE(store->grow_ahead());
    trouble.unsyncable.clear();
    EXPECT_EQ(store->stats().state, State::ok);
    EXPECT_EQ(current_file() != before, current) << "what is live has left the file that failed";
    for (unsigned n = 6; n < 20; ++n) ASSERT_TRUE(write(n, 3000)) << "growth goes on when it is needed";
    power_cut_and_open();
    EXPECT_EQ(live().size(), 20u);
  }
}

TEST_F(GrowthTest, AFileThatWasCutOffIsDamagedAndItsEntriesAreDoubted) {
  open();
  for (unsigned n = 0; n < 6; ++n) ASSERT_TRUE(write(n, 1000));
  store->seal();
  const std::string current = current_file();
  auto bytes = disk.contents(current);
  std::size_t used = bytes.size();
  while (bytes[used - 1] == std::byte{0}) --used;
  ASSERT_LT(round_up(used, block), bytes.size());
  bytes.resize(round_up(used, block));  // only zeros are missing: nothing in what is left tells of it
  store.reset();
  disk.remove(current);
  {
    auto dir = disk.root();
    auto file = dir->open_file(current, Directory::Mode::create_new).value();
    const std::span<const std::byte> part = bytes;
    ASSERT_TRUE(file->write_at(0, {&part, 1}));
    ASSERT_TRUE(file->sync_all());
    ASSERT_TRUE(dir->sync());
  }
  {
    const auto seen = inspect(*disk.root()).value();
    ASSERT_EQ(seen.damage.size(), 1u);
    EXPECT_EQ(seen.damage[0].from, bytes.size());
    EXPECT_EQ(seen.damage[0].to, options.size);
    for (const auto& entry : seen.live) EXPECT_TRUE(entry.suspect);
  }
  open();
  EXPECT_EQ(store->recovery().corrupt_records, 1u);
  EXPECT_GE(store->recovery().highest_sequence, Sequence{1} << 32);
  ASSERT_EQ(live().size(), 6u);
  for (const auto& entry : store->recovery().live) EXPECT_TRUE(entry.suspect);
  EXPECT_TRUE(write(0, 1000));
  power_cut_and_open();
  EXPECT_EQ(store->recovery().corrupt_records, 0u) << "reported once";
}

TEST_F(GrowthTest, FilesLargerThanAskedForAreUsedAsTheyAre) {
  open();
  const unsigned accepted = fill(0, 4000);
  options = growing_options(16, 32);
  power_cut_and_open();
  ASSERT_EQ(live().size(), accepted);
  for (unsigned n = 0; n < accepted; ++n) EXPECT_TRUE(write(n, 4000));
  for (unsigned n = 0; n < accepted; ++n) EXPECT_TRUE(remove(n));
  power_cut_and_open();
  EXPECT_TRUE(live().empty());
}

// --- Full to the last byte ---------------------------------------------------------------------------------

TEST_F(GrowthTest, InAJournalFilledToTheByteReplacementsAndRemovalsFindRoomAndNothingElseDoes) {
  options = growing_options(32, 32);
  open();
  unsigned entries = fill(0, 3000);
  // The largest value that is still taken, to the byte.
  std::size_t size = 3000;
  while (size > 0 && !write(entries, --size)) {
  }
  if (size > 0) ++entries;
  ASSERT_EQ(write(entries, 0).error().code, Errc::no_space);
  std::vector<std::size_t> sizes(entries, 3000);
  if (size > 0) sizes.back() = size;
  EXPECT_EQ(write(0, 3100).error().code, Errc::no_space) << "a replacement that enlarges";
  for (int round = 0; round < 4; ++round) {
    for (unsigned n = 0; n < entries; ++n) EXPECT_TRUE(write(n, sizes[n])) << "round " << round << " " << n;
  }
  // Everything at once as well.
  std::vector<Request> batch;
  for (unsigned n = 0; n < entries; ++n) {
    const auto [owner, slot] = slot_of(n);
    batch.push_back(write_of(owner, slot, ++sequence, sizes[n]));
  }
  for (const auto& done : store->run(batch)) EXPECT_TRUE(done.result);
  power_cut_and_open();
  EXPECT_EQ(live().size(), entries);
  EXPECT_EQ(write(entries, 0).error().code, Errc::no_space) << "full after a restart as before";
  for (unsigned n = 0; n < entries; ++n) EXPECT_TRUE(remove(n));
  power_cut_and_open();
  EXPECT_TRUE(live().empty());
  EXPECT_TRUE(write(entries, 3000));
}

TEST_F(GrowthTest, AllSlotsOfAVtpmCanBeReplacedAtOnceInAFullJournal) {
  options = growing_options(32, 32);
  open();
  for (unsigned slot = 0; slot < 3; ++slot) {
    ASSERT_TRUE(run_one(*store, write_of(vm(200), static_cast<Slot>(slot), ++sequence, 9000)).result);
  }
  unsigned entries = fill(0, 1000);
  while (write(entries, 0)) ++entries;
  for (int round = 0; round < 5; ++round) {
    Entry contents = write_of(vm(200), Slot::permall, ++sequence);
    contents.type = RecordType::contents;
    contents.value = pack_contents(
        {Value(std::string(9000, 'p')), Value(std::string(9000, 's')), Value(std::string(9000, 'v'))});
    EXPECT_TRUE(run_one(*store, contents).result) << round;
    for (unsigned slot = 0; slot < 3; ++slot) {
      EXPECT_TRUE(run_one(*store, write_of(vm(200), static_cast<Slot>(slot), ++sequence, 9000)).result);
    }
  }
}

TEST_F(GrowthTest, EachEntryCanBeEndedByABatchOfItsOwnWhenNoSwitchIsPossible) {
  for (const std::size_t size : {0, 500, 3000}) {
    SCOPED_TRACE("values of " + std::to_string(size));
    options = growing_options(48, 48);
    start_over();
    const unsigned entries = fill(0, size);
    trouble.broken = other_file();
    const auto switches = store->stats().switches;
    // Up to the last block that may be taken.
    unsigned replaced = 0;
    while (write(replaced % entries, size)) ++replaced;
    EXPECT_EQ(store->stats().state, State::failed);
    EXPECT_EQ(write(0, size).error().code, Errc::io);
    const auto [owner, slot] = slot_of(entries + 1);
    EXPECT_FALSE(run_one(*store, removal_of(owner, slot, sequence)).result)
        << "what ends nothing may not take the room of what does";
    for (unsigned n = 0; n < entries; ++n) EXPECT_TRUE(remove(n)) << n << " of " << entries;
    EXPECT_EQ(store->stats().switches, switches);
    trouble = {};
    power_cut_and_open();
    EXPECT_TRUE(live().empty());
  }
}

TEST_F(GrowthTest, WithoutAnotherFileADeliveredEntryIsEndedRatherThanRetained) {
  options = growing_options(32, 32);
  open();
  const unsigned entries = fill(0, 1000);
  trouble.broken = other_file();
  for (unsigned n = 0; write(n % entries, 1000); ++n) {
  }
  for (unsigned n = 0; n < entries; ++n) EXPECT_TRUE(remove(n, true)) << n;
  EXPECT_GT(store->stats().retained_given_up, 0u);
  EXPECT_EQ(store->stats().retained_given_up + store->stats().retained_entries, entries);
  EXPECT_EQ(run_one(*store, ReadBack{vm(0), Slot::permall, 1}).result.error().code, Errc::not_found);
}

// --- Retained entries --------------------------------------------------------------------------------------

TEST_F(GrowthTest, RetainedEntriesAreGivenUpOldestFirstAndDurablyBeforeAWriteIsRefused) {
  options = growing_options(48, 48);
  open();
  const unsigned entries = fill(0, 3000);
  for (const unsigned n : {5u, 1u, 3u}) ASSERT_TRUE(remove(n, true));
  EXPECT_EQ(store->stats().retained_entries, 3u);
  const auto held = [&](unsigned n) {
    const auto [owner, slot] = slot_of(n);
    return run_one(*store, ReadBack{owner, slot, n + 1}).result.has_value();
  };
  ASSERT_TRUE(write(entries, 3000)) << "a retained entry made room";
  EXPECT_FALSE(held(1));
  EXPECT_TRUE(held(3) && held(5));
  EXPECT_EQ(store->stats().retained_given_up, 1u);
  power_cut_and_open();
  EXPECT_FALSE(held(1)) << "durably";
  EXPECT_TRUE(held(3) && held(5));
  ASSERT_TRUE(write(entries + 1, 3000));
  EXPECT_FALSE(held(3));
  ASSERT_TRUE(write(entries + 2, 3000));
  EXPECT_FALSE(held(5));
  EXPECT_EQ(write(entries + 3, 3000).error().code, Errc::no_space);
  EXPECT_EQ(store->stats().retained_entries, 0u);
  for (unsigned n = 0; n < entries; ++n) EXPECT_EQ(held(n), n != 1 && n != 3 && n != 5) << n;
}

TEST_F(GrowthTest, NoRetainedEntryIsGivenUpForAWriteThatWouldNotFitAllTheSame) {
  options = growing_options(48, 48);
  open();
  const unsigned entries = fill(0, 3000);
  ASSERT_TRUE(remove(2, true));
  EXPECT_EQ(write(entries, 60'000).error().code, Errc::no_space);
  EXPECT_EQ(store->stats().retained_entries, 1u);
  EXPECT_EQ(store->stats().retained_given_up, 0u);
}

TEST_F(GrowthTest, GrowingComesBeforeGivingUp) {
  options = growing_options(16, 48);
  open();
  ASSERT_TRUE(write(0, 3000));
  ASSERT_TRUE(remove(0, true));
  for (unsigned n = 1; store->stats().capacity_bytes + data_start < options.max_size; ++n) {
    ASSERT_TRUE(write(n, 3000));
    EXPECT_EQ(store->stats().retained_given_up, 0u);
  }
}

TEST_F(GrowthTest, ARetainedEntryIsReleasedByOneSmallRecordOnceOrTwice) {
  options = growing_options(32, 32);
  open();
  ASSERT_TRUE(write(0, 5000));
  const Sequence retained = sequence;
  ASSERT_TRUE(run_one(*store,
                      [&] {
                        Removal removal = removal_of(vm(0), Slot::permall, retained);
                        removal.retained = true;
                        return removal;
                      }())
                  .result);
  power_cut_and_open();
  ASSERT_EQ(live(), std::vector{retained});
  EXPECT_TRUE(store->recovery().live[0].retained);
  for (int again = 0; again < 2; ++again) {
    const auto written = store->stats().bytes_written;
    EXPECT_TRUE(run_one(*store, removal_of(vm(0), Slot::permall, retained)).result);
    EXPECT_EQ(store->stats().bytes_written - written, block);
  }
  bool released = false;
  for (const std::string name : {"a", "b"}) {
    const auto file = disk.root()->open_for_read(name).value();
    const auto headers = read_headers(*file).value();
    (void)scan_file(*file, *headers.best(), [&](const Record& record, std::span<const std::byte>) {
      released = released || (record.type == RecordType::released && record.sequence == retained);
    });
  }
  EXPECT_TRUE(released);
  power_cut_and_open();
  EXPECT_TRUE(live().empty());
  EXPECT_TRUE(run_one(*store, removal_of(vm(9), Slot::savestate, retained)).result) << "nothing there at all";
}

TEST_F(GrowthTest, AReleaseDoesNotTouchANewerEntry) {
  open();
  ASSERT_TRUE(write(0, 100));
  ASSERT_TRUE(remove(0, true));
  const Sequence retained = sequence;
  ASSERT_TRUE(write(0, 200));
  EXPECT_TRUE(run_one(*store, removal_of(vm(0), Slot::permall, retained)).result);
  power_cut_and_open();
  ASSERT_EQ(live(), std::vector{sequence});
  EXPECT_FALSE(store->recovery().live[0].retained);
}

}  // namespace
}  // namespace guard::journal
