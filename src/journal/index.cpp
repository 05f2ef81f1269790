#include "journal/index.h"

#include <algorithm>
#include <utility>

namespace guard::journal {

void Index::apply(const Record& record, std::span<const std::uint32_t, 3> part_sizes) {
  const SlotKey key{record.owner, record.slot};
  Live live;
  live.sequence = record.sequence;
  live.position = record.position;
  live.record_size = static_cast<std::uint32_t>(record.size());
  live.value_size = record.payload_size;
  live.retained = record.retained;
  live.suspect = record.suspect;

  switch (record.type) {
    case RecordType::write:
      put(key, live);
      return;
    case RecordType::contents:
      for (std::uint8_t part = 0; part < 3; ++part) {
        live.part = part;
        live.value_size = part_sizes[part];
        put({record.owner, static_cast<Slot>(part)}, live);
      }
      return;
    case RecordType::alert:
      if (alerts_.try_emplace(record.sequence, Alert{key, live}).second)
        copy_bytes_ += copy_bytes(live.value_size);
      else
        alerts_[record.sequence].live = live;
      return;
    case RecordType::removed:
    case RecordType::released: {
      if (record.alert) {
        const auto alert = alerts_.find(record.sequence);
        if (alert == alerts_.end() || alert->second.key.owner != record.owner) return;
        copy_bytes_ -= copy_bytes(alert->second.live.value_size);
        alerts_.erase(alert);
        return;
      }
      const auto it = slots_.find(key);
      if (it == slots_.end()) return;
      if (it->second.sequence > record.sequence) {
        // The value delivered is what stands upstream beneath the newer entry.
        if (record.digest == Digest{}) return;
        it->second.more_known = true;
        auto& more = more_known_[key];
        if (std::find(more.begin(), more.end(), record.digest) == more.end()) more.push_back(record.digest);
        if (more.size() > limits::known_digests) more.erase(more.begin());
      } else if (record.retained) {
        retained_ += it->second.retained ? 0 : 1;
        it->second.retained = true;
      } else {
        erase(it);
      }
      return;
    }
    case RecordType::complete:
      return;
  }
}

void Index::put(const SlotKey& key, const Live& live) {
  const auto [it, added] = slots_.try_emplace(key, live);
  if (!added) {
    if (live.sequence < it->second.sequence) return;  // P2: nothing older wins, whatever the order on disk
    copy_bytes_ -= copy_bytes(it->second.value_size);
    if (it->second.more_known) more_known_.erase(key);
    retained_ -= it->second.retained ? 1 : 0;
    it->second = live;
  }
  retained_ += live.retained ? 1 : 0;
  copy_bytes_ += copy_bytes(live.value_size);
}

void Index::erase(Slots::iterator it) {
  copy_bytes_ -= copy_bytes(it->second.value_size);
  retained_ -= it->second.retained ? 1 : 0;
  if (it->second.more_known) more_known_.erase(it->first);
  slots_.erase(it);
}

std::uint64_t Index::owner_bytes(const Owner& owner, Slot slot) const {
  std::uint64_t bytes = 0;
  const bool vtpm = device_of(slot) == Device::vtpm;
  for (const Slot part : {Slot::permall, Slot::savestate, Slot::volatilestate, Slot::nvram}) {
    if (vtpm ? device_of(part) != Device::vtpm : part != slot) continue;
    if (const Live* live = newest({owner, part}); live != nullptr) bytes += copy_bytes(live->value_size);
  }
  return bytes;
}

std::uint64_t Index::largest_bytes() const {
  std::uint64_t largest = 0;
  for (const auto& [key, live] : slots_) largest = std::max(largest, owner_bytes(key.owner, key.slot));
  for (const auto& [sequence, alert] : alerts_) {
    largest = std::max(largest, copy_bytes(alert.live.value_size));
  }
  return largest;
}

const Live* Index::newest(const SlotKey& key) const {
  const auto it = slots_.find(key);
  return it == slots_.end() ? nullptr : &it->second;
}

const Live* Index::find(const SlotKey& key, Sequence sequence) const {
  if (const Live* live = newest(key); live != nullptr && live->sequence == sequence) return live;
  const auto alert = alerts_.find(sequence);
  return alert == alerts_.end() || alert->second.key != key ? nullptr : &alert->second.live;
}

Live* Index::find_mutable(const SlotKey& key, Sequence sequence) {
  return const_cast<Live*>(std::as_const(*this).find(key, sequence));
}

std::span<const Digest> Index::more_known(const SlotKey& key) const {
  const auto it = more_known_.find(key);
  return it == more_known_.end() ? std::span<const Digest>() : std::span<const Digest>(it->second);
}

void Index::suspect(const SlotKey& key, Sequence below) {
  const auto it = slots_.find(key);
  if (it != slots_.end() && it->second.sequence < below) it->second.suspect = true;
}

void Index::suspect_before(std::uint64_t position) {
  for (auto& [key, live] : slots_) {
    if (live.position < position) live.suspect = true;
  }
}

void Index::drop(const SlotKey& key, Sequence sequence) {
  const auto it = slots_.find(key);
  if (it != slots_.end() && it->second.sequence == sequence) return erase(it);
  const auto alert = alerts_.find(sequence);
  if (alert == alerts_.end()) return;
  copy_bytes_ -= copy_bytes(alert->second.live.value_size);
  alerts_.erase(alert);
}

void Index::moved(const SlotKey& key, Sequence sequence, const Live& to) {
  Live* live = find_mutable(key, sequence);
  if (live == nullptr) return;
  *live = to;
  more_known_.erase(key);  // now in the record itself
}

std::vector<Digest> merge_known(std::span<const Digest> record, std::span<const Digest> since) {
  std::vector<Digest> known(record.begin(), record.end());
  for (const Digest& digest : since) {
    if (std::find(known.begin(), known.end(), digest) != known.end()) continue;
    if (known.size() == limits::known_digests) known.erase(known.begin() + 1);
    known.push_back(digest);
  }
  return known;
}

}  // namespace guard::journal
