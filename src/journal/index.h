// Which records are live, and where they stand. The one place that knows what a record does to those before
// it, used alike when a record was just made durable and when recovery reads it. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <unordered_map>
#include <vector>

#include "journal/format.h"

namespace guard::journal {

struct SlotKey {
  Owner owner;
  Slot slot = Slot::permall;
  bool operator==(const SlotKey&) const = default;
};

struct SlotKeyHash {
  std::size_t operator()(const SlotKey& key) const noexcept {
    return std::hash<Owner>{}(key.owner) * 5 + static_cast<std::size_t>(key.slot);
  }
};

/// Where the newest entry of a slot, or an alert, stands. Small, because there may be very many.
struct Live {
  static constexpr std::uint8_t whole = 0xFF;

  Sequence sequence = 0;
  std::uint64_t position = 0;     ///< of its record
  std::uint32_t record_size = 0;  ///< header and payload
  std::uint32_t value_size = 0;
  std::uint8_t part = whole;  ///< which value of a `contents` record
  bool retained = false;
  bool suspect = false;
  bool more_known = false;  ///< Index::more_known() has digests that the record itself lacks
};

class Index {
 public:
  using Slots = std::unordered_map<SlotKey, Live, SlotKeyHash>;
  struct Alert {
    SlotKey key;
    Live live;
  };
  using Alerts = std::map<Sequence, Alert>;

  /// Does what `record` says. `part_sizes`: sizes of the three values of a `contents` record.
  void apply(const Record& record, std::span<const std::uint32_t, 3> part_sizes);

  /// The live entry of the slot, or the alert, with exactly this sequence; nullptr if there is none.
  const Live* find(const SlotKey& key, Sequence sequence) const;
  /// The live entry of the slot; nullptr if there is none.
  const Live* newest(const SlotKey& key) const;
  /// The alert with this sequence; nullptr if there is none.
  const Live* alert(Sequence sequence) const {
    const auto it = alerts_.find(sequence);
    return it == alerts_.end() ? nullptr : &it->second.live;
  }

  /// Digests of values delivered while an older entry of the slot was newest: known upstream since.
  std::span<const Digest> more_known(const SlotKey& key) const;

  /// All live entries: of slots in no order, alerts by sequence.
  const Slots& slots() const { return slots_; }
  const Alerts& alerts() const { return alerts_; }
  std::size_t entries() const { return slots_.size() + alerts_.size(); }
  /// How many of them are retained.
  std::size_t retained() const { return retained_; }

  /// Upper bound of what all live entries take in a copy, bytes.
  std::uint64_t copy_bytes() const { return copy_bytes_; }
  /// What one entry with a value of this size may come to take in a copy. Digests can be added to an entry
  /// after it was accepted, hence the full number.
  static std::uint64_t copy_bytes(std::uint64_t value_size) {
    return round_up(record_header_max + value_size, 8);
  }

  /// What a record that holds everything live of a vTPM may take; for other devices the entry of `slot`
  /// alone.
  std::uint64_t owner_bytes(const Owner& owner, Slot slot) const;
  /// The largest record that could replace live entries without enlarging the live set: the highest
  /// owner_bytes(), or an alert.
  std::uint64_t largest_bytes() const;

  /// The entry of the slot is suspect if it is older than `below`.
  void suspect(const SlotKey& key, Sequence below);
  /// Every entry of a slot that stands before `position` is suspect.
  void suspect_before(std::uint64_t position);

  /// The entry cannot be read any more.
  void drop(const SlotKey& key, Sequence sequence);
  /// The entry was copied: it stands in a record of its own now.
  void moved(const SlotKey& key, Sequence sequence, const Live& to);

 private:
  void put(const SlotKey& key, const Live& live);
  void erase(Slots::iterator it);
  Live* find_mutable(const SlotKey& key, Sequence sequence);

  Slots slots_;
  Alerts alerts_;
  std::unordered_map<SlotKey, std::vector<Digest>, SlotKeyHash> more_known_;
  std::uint64_t copy_bytes_ = 0;
  std::size_t retained_ = 0;
};

/// The digests of a record and those known since, at most limits::known_digests: the first, which is the
/// base, always stays; of the others the newest.
std::vector<Digest> merge_known(std::span<const Digest> record, std::span<const Digest> since);

}  // namespace guard::journal
