// What the read-only look says of a journal is what a recovery of the same bytes finds, and it touches
// nothing.
#include "journal/inspect.h"

#include <iostream>
#include <random>

#include "testing/journal_model.h"

namespace guard::journal {
namespace {

using testing::SimDisk;

/// Lets nothing through that changes, creates or locks.
class LookOnly final : public Directory {
 public:
  explicit LookOnly(std::unique_ptr<Directory> real) : real_(std::move(real)) {}
  Result<std::unique_ptr<File>> open_file(std::string_view, Mode) override { return refuse("open_file"); }
  Result<std::unique_ptr<File>> open_for_read(std::string_view name) override {
    auto file = real_->open_for_read(name);
    if (!file) return file;
    return std::make_unique<LookOnlyFile>(std::move(*file));
  }
  Result<std::unique_ptr<Directory>> open_dir(std::string_view name, bool create) override {
    if (create) return refuse("open_dir");
    return real_->open_dir(name, false);
  }
  Result<void> rename(std::string_view, std::string_view) override { return refuse("rename"); }
  Result<void> unlink(std::string_view) override { return refuse("unlink"); }
  Result<void> remove_dir(std::string_view) override { return refuse("remove_dir"); }
  Result<void> link(std::string_view, Directory&, std::string_view) override { return refuse("link"); }
  Result<Found> look_at(std::string_view name) override { return real_->look_at(name); }
  Result<std::vector<std::string>> list() override { return real_->list(); }
  Result<void> sync() override { return refuse("sync"); }
  Result<std::shared_ptr<void>> lock(std::string_view) override { return refuse("lock"); }
  bool overwrites_in_place() const override { return real_->overwrites_in_place(); }

 private:
  static std::unexpected<Error> refuse(const char* what) {
    ADD_FAILURE() << "a look must not call " << what;
    return std::unexpected(Error{});
  }
  class LookOnlyFile final : public File {
   public:
    explicit LookOnlyFile(std::unique_ptr<File> real) : real_(std::move(real)) {}
    Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> buffer) override {
      return real_->read_at(offset, buffer);
    }
    Result<void> write_at(std::uint64_t, std::span<const std::span<const std::byte>>) override {
      return refuse("write_at");
    }
    Result<void> sync_data() override { return refuse("sync_data"); }
    Result<void> sync_all() override { return refuse("sync_all"); }
    Result<std::uint64_t> size() override { return real_->size(); }

   private:
    std::unique_ptr<File> real_;
  };
  std::unique_ptr<Directory> real_;
};

Result<Inspection> look(SimDisk& disk, InspectOptions options = {}) {
  LookOnly dir(disk.root());
  return inspect(dir, options);
}

/// Random operations of every kind, enough for several switches.
void work(Store& store, std::mt19937_64& random, unsigned steps) {
  Sequence next = store.recovery().highest_sequence;
  std::vector<Removal> alerts;
  for (unsigned i = 0; i < steps; ++i) {
    std::vector<Request> batch;
    for (auto n = 1 + random() % 4; n != 0; --n) {
      const Owner owner = vm(static_cast<unsigned>(random() % 6));
      const auto slot = static_cast<Slot>(random() % 3);
      switch (random() % 8) {
        case 0: {
          Entry entry = write_of(owner, Slot::permall, ++next);
          entry.type = RecordType::contents;
          entry.value =
              pack_contents({Value(text_of(next, random() % 200)), Value(), Value(text_of(next, 9))});
          batch.emplace_back(std::move(entry));
          break;
        }
        case 1: {
          Entry entry = write_of(owner, Slot::nvram, ++next, 50);
          entry.type = RecordType::alert;
          Removal end = removal_of(owner, Slot::nvram, next);
          end.alert = true;
          alerts.push_back(end);
          batch.emplace_back(std::move(entry));
          break;
        }
        case 2:
          if (!alerts.empty()) {
            batch.emplace_back(alerts.back());
            alerts.pop_back();
          }
          break;
        case 3:
        case 4: {
          Removal removal = removal_of(owner, slot, next - std::min<Sequence>(next, random() % 3));
          removal.retained = random() % 2 == 0;
          removal.delivered = digest_of(std::to_string(random()));
          batch.emplace_back(removal);
          break;
        }
        default: {
          Entry entry = write_of(owner, slot, ++next, random() % 900);
          entry.known = {digest_of(std::to_string(random()))};
          entry.wall_ms = 1'700'000'000'000 + static_cast<std::int64_t>(next);
          batch.emplace_back(std::move(entry));
        }
      }
    }
    (void)store.run(std::move(batch));
    if (random() % 8 == 0) (void)store.idle_work();
  }
  if (random() % 2 == 0) store.seal();
}

/// One thing goes wrong, or nothing.
void harm(SimDisk& disk, std::mt19937_64& random) {
  const std::string name = random() % 2 == 0 ? "a" : "b";
  const auto bytes = disk.contents(name);
  if (bytes.size() < 2 * block) return;  // was cut off already
  const std::size_t at = random() % (random() % 3 == 0 ? 2 * block : bytes.size());
  switch (random() % 7) {
    case 0:
      return;
    case 6: {
      disk.remove(name);
      auto root = disk.root();
      auto file = root->open_file(name, Directory::Mode::create_new).value();
      const auto left = std::span<const std::byte>(bytes).first(at / 4096 * 4096);
      EXPECT_TRUE(file->write_at(0, {&left, 1}));
      EXPECT_TRUE(file->sync_all());
      EXPECT_TRUE(root->sync());
      return;
    }
    case 1: {
      const std::byte flipped = bytes[at] ^ static_cast<std::byte>(1u << random() % 8);
      return disk.damage(name, at, {&flipped, 1});
    }
    case 2: {
      const std::vector<std::byte> zeros(SimDisk::sector);
      return disk.damage(name, at / zeros.size() * zeros.size(), zeros);
    }
    case 3: {
      const std::vector<std::byte> zeros(2 * block);
      return disk.damage(name, 0, zeros);
    }
    case 4:
      return disk.remove(name);
    default:
      return disk.make_unreadable(name, at / SimDisk::sector * SimDisk::sector);
  }
}

void expect_same(const Inspection& seen, const Store& store) {
  const Recovery& found = store.recovery();
  std::string places;
  for (const Finding& finding : seen.damage) {
    places += finding.file + " " + std::to_string(finding.from) + "-" + std::to_string(finding.to) + ": " +
              finding.what + "\n";
  }
  EXPECT_EQ(found.corrupt_records, seen.lost ? 1 : seen.damage.size()) << places;
  EXPECT_EQ(seen.good(), found.corrupt_records == 0);
  const Sequence gap = seen.good() ? 0 : Sequence{1} << 32;
  EXPECT_EQ(seen.highest_sequence + gap, found.highest_sequence);
  ASSERT_EQ(seen.live.size(), found.live.size());
  for (std::size_t i = 0; i < found.live.size(); ++i) {
    const LiveEntry& a = seen.live[i];
    const LiveEntry& b = found.live[i];
    SCOPED_TRACE("entry " + std::to_string(b.sequence));
    EXPECT_EQ(a.sequence, b.sequence);
    EXPECT_EQ(a.owner, b.owner);
    EXPECT_EQ(a.slot, b.slot);
    EXPECT_EQ(a.digest, b.digest);
    EXPECT_EQ(a.size, b.size);
    EXPECT_EQ(a.wall_ms, b.wall_ms);
    EXPECT_EQ(a.known, b.known);
    EXPECT_EQ(a.retained, b.retained);
    EXPECT_EQ(a.suspect, b.suspect);
    // A `contents` that a switch took apart is copied as writes.
    EXPECT_TRUE(a.type == b.type || (a.type == RecordType::contents && b.type == RecordType::write));
  }
}

TEST(Inspect, SeesWhatARecoveryOfTheSameBytesFindsWhateverIsDamaged) {
  const std::uint64_t seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  std::mt19937_64 random(seed);
  unsigned good = 0, damaged = 0, lost = 0, unreadable = 0;
  for (unsigned round = 0; round < 400; ++round) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", round " + std::to_string(round));
    SimDisk disk(random());
    {
      auto store = open_store(disk, small_options(24), random()).value();
      work(*store, random, static_cast<unsigned>(random() % 60));
    }
    if (random() % 2 == 0) {
      disk.kill();
    } else {
      disk.crash();
    }
    for (auto harms = random() % 3; harms != 0; --harms) {
      if (disk.exists("a") && disk.exists("b")) harm(disk, random);
    }
    const auto seen = look(disk);
    ASSERT_TRUE(seen);
    auto store = open_store(disk, small_options(24), random());
    EXPECT_EQ(store.has_value(), !seen->unreadable);
    if (!store || seen->unreadable) {
      ++unreadable;
      if (HasFailure()) return;
      continue;
    }
    expect_same(*seen, **store);
    if (HasFailure()) return;
    ++(seen->lost ? lost : seen->good() ? good : damaged);
  }
  std::cout << good << " good, " << damaged << " damaged, " << lost << " lost, " << unreadable
            << " unreadable\n";
  EXPECT_GT(good, 0u);
  EXPECT_GT(damaged, 0u);
  EXPECT_GT(lost, 0u);
}

TEST(Inspect, ListsEveryRecordWithItsPlace) {
  SimDisk disk(1);
  auto store = open_store(disk).value();
  Entry entry = write_of(vm(1), Slot::savestate, 7, 30);
  entry.wall_ms = 1'700'000'000'000;
  EXPECT_TRUE(run_one(*store, entry).result);
  EXPECT_TRUE(run_one(*store, removal_of(vm(1), Slot::savestate, 7)).result);
  const auto without = look(disk).value();
  EXPECT_TRUE(without.records.empty());
  EXPECT_EQ(without.files[0].batches, 4u);
  const auto seen = look(disk, {.records = true}).value();
  ASSERT_EQ(seen.replayed, 0u);
  EXPECT_EQ(seen.omitted, 0u);
  ASSERT_EQ(seen.records.size(), 4u);
  EXPECT_EQ(seen.records[0].type, RecordType::complete);
  EXPECT_EQ(seen.records[1].type, RecordType::complete);
  const RecordView& write = seen.records[2];
  EXPECT_EQ(write.type, RecordType::write);
  EXPECT_EQ(write.owner, vm(1));
  EXPECT_EQ(write.slot, Slot::savestate);
  EXPECT_EQ(write.sequence, 7u);
  EXPECT_EQ(write.wall_ms, 1'700'000'000'000);
  EXPECT_EQ(write.payload_size, 30u);
  EXPECT_EQ(write.digest, digest_of(text_of(7, 30)));
  EXPECT_EQ(write.position, data_start + 2 * block);
  EXPECT_EQ(write.batch_start, write.position);
  EXPECT_EQ(seen.records[3].type, RecordType::removed);
  EXPECT_TRUE(seen.live.empty());
  EXPECT_EQ(seen.highest_sequence, 7u);
}

TEST(Inspect, TellsWhatIsDamagedAndWhere) {
  SimDisk disk(1);
  auto store = open_store(disk).value();
  EXPECT_TRUE(run_one(*store, write_of(vm(1), Slot::permall, 1, 300)).result);
  EXPECT_TRUE(run_one(*store, write_of(vm(1), Slot::permall, 2, 300)).result);
  EXPECT_TRUE(run_one(*store, write_of(vm(2), Slot::permall, 3, 300)).result);
  const std::uint64_t second = data_start + 3 * block;
  const std::byte odd{0xFF};
  disk.damage("a", second + record_header + 50, {&odd, 1});
  disk.damage("a", block + 100, {&odd, 1});
  const auto seen = look(disk).value();
  EXPECT_FALSE(seen.good());
  ASSERT_EQ(seen.damage.size(), 2u);
  EXPECT_EQ(seen.damage[0].from, block);
  EXPECT_EQ(seen.damage[0].to, 2 * block);
  EXPECT_EQ(seen.damage[1].file, "a");
  EXPECT_EQ(seen.damage[1].from, second);
  ASSERT_TRUE(seen.damage[1].lost);
  EXPECT_EQ(seen.damage[1].lost->owner, vm(1));
  ASSERT_EQ(seen.live.size(), 2u);
  EXPECT_TRUE(seen.live[0].suspect);
  EXPECT_FALSE(seen.live[1].suspect);
}

TEST(Inspect, SaysThatThereIsNoJournalAndWhyOneCannotBeRead) {
  SimDisk disk(1);
  EXPECT_EQ(look(disk).error().code, Errc::not_found);
  {
    EXPECT_TRUE(open_store(disk));
  }
  disk.fail_all(SimDisk::Kind::read, EIO);
  const auto seen = look(disk).value();
  ASSERT_TRUE(seen.unreadable);
  EXPECT_EQ(seen.unreadable->os_errno, EIO);
  EXPECT_FALSE(seen.good());
  EXPECT_FALSE(open_store(disk));
  disk.heal();
  EXPECT_TRUE(look(disk)->good());
  // A directory in place of a file.
  disk.remove("a");
  EXPECT_TRUE(disk.root()->open_dir("a", true));
  const auto blocked = look(disk).value();
  ASSERT_TRUE(blocked.unreadable);
  EXPECT_TRUE(blocked.files[0].error);
  EXPECT_EQ(blocked.files[1].headers.best()->generation, 2u);
}

/// Opens files of one disk first and of another one later: as a journal looks that is being written.
class Moving final : public Directory {
 public:
  Moving(SimDisk& first, SimDisk& then) : first_(first.root()), then_(then.root()) {}
  Result<std::unique_ptr<File>> open_for_read(std::string_view name) override {
    return (opened_++ < 2 ? first_ : then_)->open_for_read(name);
  }
  Result<std::unique_ptr<File>> open_file(std::string_view, Mode) override { return no(); }
  Result<std::unique_ptr<Directory>> open_dir(std::string_view, bool) override { return no(); }
  Result<void> rename(std::string_view, std::string_view) override { return no(); }
  Result<void> unlink(std::string_view) override { return no(); }
  Result<void> remove_dir(std::string_view) override { return no(); }
  Result<void> link(std::string_view, Directory&, std::string_view) override { return no(); }
  Result<Found> look_at(std::string_view) override { return no(); }
  Result<std::vector<std::string>> list() override { return no(); }
  Result<void> sync() override { return no(); }
  Result<std::shared_ptr<void>> lock(std::string_view) override { return no(); }
  bool overwrites_in_place() const override { return true; }

 private:
  static std::unexpected<Error> no() { return std::unexpected(Error{}); }
  std::unique_ptr<Directory> first_;
  std::unique_ptr<Directory> then_;
  unsigned opened_ = 0;
};

TEST(Inspect, OfAJournalInUseOnlyDamageThatStaysIsDamage) {
  SimDisk good(1), bad(2), worse(3);
  for (SimDisk* disk : {&good, &bad, &worse}) {
    auto store = open_store(*disk).value();
    for (Sequence s = 1; s < 6; ++s) EXPECT_TRUE(run_one(*store, write_of(vm(1), Slot::permall, s)).result);
  }
  const std::byte odd{0xFF};
  bad.damage("a", data_start + 3 * block, {&odd, 1});
  worse.damage("a", data_start + 3 * block, {&odd, 1});
  worse.damage("a", data_start + 5 * block, {&odd, 1});
  {
    Moving passes(bad, good);
    const auto seen = inspect(passes, {.in_use = true}).value();
    EXPECT_TRUE(seen.good());
    EXPECT_TRUE(seen.changed);
  }
  {
    Moving stays(bad, bad);
    const auto seen = inspect(stays, {.in_use = true}).value();
    EXPECT_EQ(seen.damage.size(), 1u);
    EXPECT_FALSE(seen.changed);
  }
  {
    Moving partly(worse, bad);
    const auto seen = inspect(partly, {.in_use = true}).value();
    EXPECT_EQ(seen.damage.size(), 1u);
    EXPECT_TRUE(seen.changed);
  }
  {
    Moving not_in_use(bad, good);
    EXPECT_EQ(inspect(not_in_use).value().damage.size(), 1u);
  }
}

}  // namespace
}  // namespace guard::journal
