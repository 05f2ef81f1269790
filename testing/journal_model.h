// For tests of the journal: requests made from numbers, and the reference model.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/log.h"
#include "journal/index.h"
#include "journal/journal.h"
#include "testing/sim_disk.h"

namespace guard::journal {

inline Owner vm(unsigned number) {
  Owner owner;
  owner.vm.bytes[0] = 0xAA;
  owner.vm.bytes[15] = static_cast<std::uint8_t>(number);
  return owner;
}

/// The value that every test writes under this sequence: so a value read back says which write it came from.
inline std::string text_of(Sequence sequence, std::size_t size) {
  std::string text = "value " + std::to_string(sequence) + " ";
  while (text.size() < size) text += static_cast<char>('a' + (text.size() * 7 + sequence) % 26);
  text.resize(size);
  return text;
}

inline Entry write_of(const Owner& owner, Slot slot, Sequence sequence, std::size_t size = 100) {
  Entry entry;
  entry.owner = owner;
  entry.slot = slot;
  entry.sequence = sequence;
  entry.value = Value(text_of(sequence, size));
  return entry;
}

inline Removal removal_of(const Owner& owner, Slot slot, Sequence up_to) {
  Removal removal;
  removal.owner = owner;
  removal.slot = slot;
  removal.up_to = up_to;
  return removal;
}

/// A fixed stream of salts: a test that fails does so again.
inline std::function<std::uint64_t()> salts(std::uint64_t seed = 1) {
  return [seed]() mutable { return seed += 0x9E3779B97F4A7C15; };
}

inline Options small_options(std::uint64_t blocks = 32) {
  Options options;
  options.size = blocks * limits::journal_block;
  options.max_size = options.size;
  return options;
}

inline Options growing_options(std::uint64_t blocks, std::uint64_t max_blocks) {
  Options options = small_options(blocks);
  options.max_size = max_blocks * limits::journal_block;
  return options;
}

inline Result<std::unique_ptr<Store>> open_store(testing::SimDisk& disk, Options options = small_options(),
                                                 std::uint64_t salt_seed = 1) {
  return Store::open(disk.root(), options, salts(salt_seed), null_logger());
}

inline Completion run_one(Store& store, Request request) {
  std::vector<Request> batch;
  batch.push_back(std::move(request));
  return store.run(std::move(batch)).at(0);
}

inline std::optional<std::string> read_value(Store& store, const Owner& owner, Slot slot, Sequence sequence) {
  const auto done = run_one(store, ReadBack{owner, slot, sequence});
  if (!done.result) return std::nullopt;
  return std::string(done.value.view());
}

/// What must be found after a crash, from what was asked for and what was answered:
/// acknowledged is there, unacknowledged is absent or whole, nothing older wins.
class Model {
 public:
  void submitted(const Request& request) {
    if (const auto* entry = std::get_if<Entry>(&request)) {
      for (const auto& [slot, value] : values_of(*entry)) {
        slots_[{entry->owner, slot}].maybe.push_back({entry->sequence, value});
      }
    } else if (const auto* removal = std::get_if<Removal>(&request)) {
      auto& slot = slots_[{removal->owner, removal->slot}];
      slot.maybe_removed = std::max(slot.maybe_removed, removal->up_to);
    }
  }

  void answered(const Request& request, const Completion& completion) {
    if (const auto* entry = std::get_if<Entry>(&request)) {
      for (const auto& [slot, value] : values_of(*entry))
        settle(slots_[{entry->owner, slot}], *entry, value, completion);
    } else if (const auto* removal = std::get_if<Removal>(&request);
               removal != nullptr && completion.result) {
      auto& slot = slots_[{removal->owner, removal->slot}];
      if (slot.acknowledged && slot.acknowledged->sequence <= removal->up_to) slot.acknowledged.reset();
      std::erase_if(slot.maybe, [&](const Written& w) { return w.sequence <= removal->up_to; });
      slot.gone = std::max(slot.gone, removal->up_to);
    }
  }

  /// Compares with what a recovery found, and forgets what is decided by it.
  void check(Store& store) {
    std::map<Key, std::pair<Sequence, std::string>> found;
    for (const LiveEntry& live : store.recovery().live) {
      const auto value = read_value(store, live.owner, live.slot, live.sequence);
      ASSERT_TRUE(value.has_value()) << "live entry " << live.sequence << " cannot be read back";
      EXPECT_EQ(value->size(), live.size);
      EXPECT_EQ(digest_of(*value), live.digest);
      EXPECT_TRUE(found.emplace(Key{live.owner, live.slot}, std::pair(live.sequence, *value)).second);
    }
    for (auto& [key, slot] : slots_) {
      const auto it = found.find(key);
      if (it == found.end()) {
        EXPECT_TRUE(!slot.acknowledged || slot.maybe_removed >= slot.acknowledged->sequence)
            << "acknowledged write " << slot.acknowledged->sequence << " is gone";
        slot.acknowledged.reset();
      } else {
        const auto& [sequence, value] = it->second;
        if (slot.acknowledged) {
          EXPECT_GE(sequence, slot.acknowledged->sequence) << "an older value won";
        }
        EXPECT_GT(sequence, slot.gone) << "a removed entry came back";
        std::set<std::string> allowed;
        if (slot.acknowledged && slot.acknowledged->sequence == sequence)
          allowed.insert(slot.acknowledged->value);
        for (const Written& w : slot.maybe) {
          if (w.sequence == sequence) allowed.insert(w.value);
        }
        EXPECT_TRUE(allowed.contains(value)) << "write " << sequence << " is not whole, or was never made";
        slot.acknowledged = Written{sequence, value};
        found.erase(it);
      }
      slot.maybe.clear();
      slot.maybe_removed = 0;
    }
    EXPECT_TRUE(found.empty()) << "entries that nobody wrote";
    for (const auto& [key, slot] : slots_) {
      if (slot.acknowledged) {
        EXPECT_LE(slot.acknowledged->sequence, store.recovery().highest_sequence);
      }
    }
  }

  /// The sequence that must be live in the slot now; 0 = none.
  Sequence acknowledged(const Owner& owner, Slot slot) const {
    const auto it = slots_.find({owner, slot});
    return it == slots_.end() || !it->second.acknowledged ? 0 : it->second.acknowledged->sequence;
  }

 private:
  using Key = std::pair<Owner, Slot>;
  struct Written {
    Sequence sequence = 0;
    std::string value;
  };
  struct State {
    std::optional<Written> acknowledged;
    std::vector<Written> maybe;  ///< submitted, not acknowledged: may be on the disk
    Sequence maybe_removed = 0;
    Sequence gone = 0;
  };

  static std::vector<std::pair<Slot, std::string>> values_of(const Entry& entry) {
    if (entry.type == RecordType::write) return {{entry.slot, std::string(entry.value.view())}};
    std::vector<std::pair<Slot, std::string>> values;
    const auto parts = *unpack_contents(entry.value.view());
    for (unsigned i = 0; i < 3; ++i) values.emplace_back(static_cast<Slot>(i), std::string(parts[i]));
    return values;
  }

  static void settle(State& slot, const Entry& entry, const std::string& value,
                     const Completion& completion) {
    if (completion.result) {
      slot.acknowledged = Written{entry.sequence, value};
      std::erase_if(slot.maybe, [&](const Written& w) { return w.sequence <= entry.sequence; });
      if (slot.maybe_removed < entry.sequence) slot.maybe_removed = 0;
    } else if (completion.result.error().code == Errc::no_space ||
               completion.result.error().code == Errc::invalid) {
      std::erase_if(slot.maybe, [&](const Written& w) { return w.sequence == entry.sequence; });
    }
  }

  std::map<Key, State> slots_;
};

/// Runs a batch and tells the model.
inline std::vector<Completion> run_modelled(Store& store, Model& model, std::vector<Request> batch) {
  for (const auto& request : batch) model.submitted(request);
  auto completions = store.run(batch);
  for (std::size_t i = 0; i < batch.size(); ++i) model.answered(batch[i], completions[i]);
  return completions;
}

}  // namespace guard::journal
