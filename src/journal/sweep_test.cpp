// Every bit matters (P10, P2): each bit of a journal is flipped, each sector zeroed, the file cut off at each
// sector. It is detected or harmless; it costs at most the records that stood there; what is older than
// something lost is never taken for current; and no value is ever wrong.
#include <gtest/gtest.h>

#include <iostream>
#include <map>

#include "journal/scan.h"
#include "testing/journal_model.h"
#include "testing/sanitized.h"

namespace guard::journal {
namespace {

using testing::SimDisk;

using Key = std::pair<Owner, Slot>;

/// A journal with 50 live entries of all types, with what was replaced, removed and retained, after a switch;
/// closed in order.
class Sweep : public ::testing::TestWithParam<unsigned> {
 protected:
  static constexpr unsigned live_entries = 50;

  void SetUp() override {
    auto store = open_store(disk, options).value();
    const auto run = [&](std::vector<Request> batch) {
      for (const auto& done : store->run(std::move(batch))) ASSERT_TRUE(done.result);
    };
    // In the first file: 20 writes, each twice, and 4 contents; then one slot until the files are switched.
    for (unsigned i = 0; i < 40; i += 4) {
      std::vector<Request> batch;
      for (unsigned j = i; j < i + 4; ++j)
        batch.push_back(write_of(vm(j % 20), Slot::permall, ++sequence, j * 37 % 500));
      run(batch);
    }
    for (unsigned i = 30; i < 34; ++i) run({contents_of(i)});
    while (store->stats().switches == 0 && !HasFatalFailure())
      run({write_of(vm(0), Slot::permall, ++sequence, 700)});
    // In the second: replacements, removals, alerts, retentions, and more writes.
    run({write_of(vm(1), Slot::permall, ++sequence, 300), write_of(vm(30), Slot::savestate, ++sequence, 45)});
    run({removal_of(vm(2), Slot::permall, sequence), removal_of(vm(31), Slot::volatilestate, sequence)});
    Removal kept = removal_of(vm(3), Slot::permall, sequence);
    kept.retained = true;
    run({kept});
    for (unsigned i = 40; i < 44; i += 2) {
      std::vector<Request> batch;
      for (unsigned j = i; j < i + 2; ++j) {
        Entry alert = write_of(vm(j), Slot::permall, ++sequence, 60);
        alert.type = RecordType::alert;
        batch.insert(batch.end(), {alert, write_of(vm(j), Slot::nvram, ++sequence, j * 11)});
      }
      run(batch);
    }
    std::vector<Request> rest;
    for (std::size_t i = live_count(); i < live_entries; ++i)
      rest.push_back(write_of(vm(static_cast<unsigned>(50 + i)), Slot::permall, ++sequence, i * 53 % 700));
    run(rest);
    store->seal();
    while (GetParam() % 2 == 0 && store->idle_work()) {  // otherwise the other file keeps its older values
    }
    store.reset();
    learn();
  }

  static Entry contents_at(unsigned i, Sequence s) {
    Entry contents = write_of(vm(i), Slot::permall, s);
    contents.type = RecordType::contents;
    contents.value = pack_contents({Value(text_of(s, 200)), Value(text_of(s, 90)), Value(text_of(s, 0))});
    return contents;
  }
  Entry contents_of(unsigned i) { return contents_at(i, ++sequence); }

  /// There is no other way to ask than to open a copy.
  std::size_t live_count() {
    auto copy = disk.after_kill();
    return open_store(*copy, options, 50).value()->recovery().live.size();
  }

  /// What is true, and where each record stands.
  void learn() {
    clean = disk.after_power_cut();
    auto copy = clean->after_kill();
    auto store = open_store(*copy, options, 50).value();
    ASSERT_EQ(store->recovery().corrupt_records, 0u);
    ASSERT_EQ(copy->changes(), 0u) << "a journal that was closed in order needs no repair";
    truth = store->recovery().live;
    ASSERT_EQ(truth.size(), live_entries);
    for (const LiveEntry& live : truth) by_key.emplace(Key{live.owner, live.slot}, &live);
    highest = store->recovery().highest_sequence;
    auto file = copy->root()->open_for_read("b").value();
    const FileHeader header = *read_headers(*file)->best();
    const auto scan = scan_file(*file, header, [&](const Record& record, std::span<const std::byte>) {
      records.push_back(record);
      if (record.type == RecordType::complete) last_complete = record.position;
      if (record.type == RecordType::complete && first_complete == 0) first_complete = record.position;
    });
    ASSERT_TRUE(scan && scan->damage.empty());
    used = scan->end;
    size = clean->contents("b").size();
    ASSERT_EQ(last_complete, used - block) << "the last batch is the seal";
  }

  /// Whether bytes of a record of this sequence lie within.
  bool touched(Sequence sequence_of, std::uint64_t from, std::uint64_t to) const {
    return std::any_of(records.begin(), records.end(), [&](const Record& r) {
      return r.sequence == sequence_of && r.position < to && from < r.position + r.padded_size();
    });
  }

  /// Recovers a damaged copy. The damage lies within [from, to) of the current file; records within the
  /// first of these ranges may be lost. Returns an empty text if all is well.
  std::string problem_with(SimDisk& damaged, std::uint64_t from, std::uint64_t to, bool thorough) {
    auto opened = open_store(damaged, options, 99);
    if (!opened) return "cannot be opened: " + opened.error().message;
    Store& store = **opened;
    const Recovery& found = store.recovery();
    detected = found.corrupt_records != 0;
    std::size_t right = 0;
    std::vector<Request> reads;
    for (const LiveEntry& live : found.live) {
      const LiveEntry* is = find_truth(live);
      const bool current = is != nullptr && is->sequence == live.sequence;
      if (current && (is->digest != live.digest || is->size != live.size)) return "a wrong value";
      if (current && is->retained && !live.retained && !live.suspect && !detected)
        return "a retention was forgotten";
      if (!current && !live.suspect) return "an older value is taken for current";
      right += current ? 1 : 0;
      reads.emplace_back(ReadBack{live.owner, live.slot, live.sequence});
    }
    std::size_t lost = truth.size() - right;
    if (lost != 0) {
      if (!detected) return "a loss was not noticed";
      for (const LiveEntry& is : truth) {
        const bool there = std::any_of(found.live.begin(), found.live.end(), [&](const LiveEntry& live) {
          return live.owner == is.owner && live.slot == is.slot && live.sequence == is.sequence;
        });
        if (!there && !touched(is.sequence, from, to)) return "an entry was lost that stood elsewhere";
      }
    }
    if (found.highest_sequence < highest + (detected ? Sequence{1} << 31 : 0))
      return "sequences may be used again";
    if (detected && store.stats().switches == 0) return "the damaged file is still in use";
    if (!thorough) return {};
    const auto values = store.run(reads);
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!values[i].result || digest_of(values[i].value.view()) != found.live[i].digest)
        return "a live value cannot be read back";
    }
    const auto left = damaged.after_power_cut();
    auto again = open_store(*left, options, 100);
    if (!again || (*again)->recovery().corrupt_records != 0) return "a second recovery finds damage";
    if ((*again)->recovery().live.size() != found.live.size())
      return "a second recovery finds something else";
    for (std::size_t i = 0; i < found.live.size(); ++i) {
      const LiveEntry& live = (*again)->recovery().live[i];
      if (live.sequence != found.live[i].sequence || live.suspect != found.live[i].suspect)
        return "a second recovery finds something else";
    }
    return {};
  }

  const LiveEntry* find_truth(const LiveEntry& live) const {
    const auto [begin, end] = by_key.equal_range({live.owner, live.slot});
    for (auto it = begin; it != end; ++it) {
      const bool alert = it->second->type == RecordType::alert;
      if (alert == (live.type == RecordType::alert) && (!alert || it->second->sequence == live.sequence))
        return it->second;
    }
    return nullptr;
  }

  Options options = small_options(88);
  SimDisk disk{1};
  Sequence sequence = 0;
  std::unique_ptr<SimDisk> clean;  ///< "b" is the current file
  std::vector<LiveEntry> truth;
  std::multimap<Key, const LiveEntry*> by_key;
  std::vector<Record> records;
  Sequence highest = 0;
  std::uint64_t first_complete = 0;
  std::uint64_t last_complete = 0;
  std::uint64_t used = 0;  ///< bytes of the current file up to the end of the last batch
  std::uint64_t size = 0;
  bool detected = false;
};

class EachBit : public Sweep {};

TEST_P(EachBit, FlippedIsDetectedOrHarmlessAndCostsAtMostOneRecord) {
  const auto bytes = clean->contents("b");
  std::uint64_t flips = 0;
  std::uint64_t noticed = 0;
  for (std::uint64_t at = GetParam(); at < used; at += testing::sanitized ? 36 : 4) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      auto copy = clean->after_power_cut();
      const std::byte flipped = bytes[at] ^ static_cast<std::byte>(1u << bit);
      copy->damage("b", at, {&flipped, 1});
      const std::string problem = problem_with(*copy, at, at + 1, flips++ % 64 == 0);
      noticed += detected ? 1 : 0;
      ASSERT_EQ(problem, "") << "bit " << bit << " of byte " << at;
      // The seal is the one thing that proves something and holds nothing.
      ASSERT_TRUE(detected || at >= last_complete) << "bit " << bit << " of byte " << at;
    }
  }
  std::cout << flips << " bits flipped, " << noticed << " noticed\n";
  EXPECT_GT(noticed, 0u);
}

INSTANTIATE_TEST_SUITE_P(Quarter, EachBit, ::testing::Range(0u, 4u));

class EachSector : public Sweep {};

TEST_P(EachSector, ZeroedIsDetectedOrHarmlessAndCostsAtMostItsRecords) {
  const auto bytes = clean->contents("b");
  const std::vector<std::byte> zeros(SimDisk::sector);
  std::uint64_t zeroed = 0;
  std::uint64_t noticed = 0;
  for (std::uint64_t at = 0; at < size; at += SimDisk::sector) {
    const bool changed = !all_zero(std::span(bytes).subspan(at, SimDisk::sector));
    auto copy = clean->after_power_cut();
    copy->damage("b", at, zeros);
    ASSERT_EQ(problem_with(*copy, at, at + SimDisk::sector, true), "") << "sector at " << at;
    ASSERT_EQ(detected, changed && at < last_complete) << "sector at " << at;
    ++zeroed;
    noticed += detected ? 1 : 0;
  }
  std::cout << zeroed << " sectors zeroed, " << noticed << " noticed\n";
}

TEST_P(EachSector, CutOffIsDetectedAndCostsAtMostWhatFollows) {
  std::uint64_t noticed = 0;
  for (std::uint64_t at = 0; at < size; at += SimDisk::sector) {
    auto copy = clean->after_power_cut();
    copy->truncate("b", at);
    // Whole blocks are what is left; without any `complete` record the file does not count at all.
    const std::uint64_t from = at / block * block <= first_complete ? 0 : at / block * block;
    ASSERT_EQ(problem_with(*copy, from, size, true), "") << "cut off at " << at;
    ASSERT_TRUE(detected) << "cut off at " << at;
    ++noticed;
  }
  std::cout << noticed << " truncations, all noticed\n";
}

INSTANTIATE_TEST_SUITE_P(All, EachSector, ::testing::Values(0u, 1u));

}  // namespace
}  // namespace guard::journal
