#include "upstream/conflict.h"

#include <algorithm>

namespace guard::upstream {

namespace {

bool conflicts(const Contents& current, const SlotWrite& write) {
  if (write.force) return false;
  const bool both_known = !write.vtpm.is_nil() && !current.vtpm.is_nil();
  if (both_known && write.vtpm != current.vtpm) return true;
  if (write.known.empty()) return false;
  if (std::ranges::all_of(current.slots, &Value::empty)) return false;
  const Value& standing = current[write.slot];
  if (standing == write.value) return false;
  return std::ranges::find(write.known, standing.digest()) == write.known.end();
}

}  // namespace

std::optional<Slot> find_conflict(const Contents& current, std::span<const SlotWrite> writes) {
  for (const SlotWrite& write : writes) {
    if (conflicts(current, write)) return write.slot;
  }
  return std::nullopt;
}

bool all_done_in(const Contents& current, std::span<const SlotWrite> writes) {
  // Only a write brings a flag upstream; what was accepted once has brought its own.
  const auto flagged = [](const SlotWrite& write) {
    return write.slot == Slot::nvram && write.update != UpdateFlag::no && !write.accepted_before;
  };
  return all_stand_in(current, writes) && std::ranges::none_of(writes, flagged);
}

bool all_stand_in(const Contents& current, std::span<const SlotWrite> writes) {
  return std::ranges::all_of(
      writes, [&current](const SlotWrite& write) { return current[write.slot] == write.value; });
}

}  // namespace guard::upstream
