// Whether a value may be written over what stands upstream (P14). Pure.
#pragma once

#include <optional>
#include <span>

#include "guard/upstream.h"

namespace guard::upstream {

/// The first slot whose write would overwrite somebody else's value, or nullopt when all may be written.
/// `current` is what stands upstream now. A write is fine
///   - when it is forced;
///   - else, only under the vTPM it was made under (if both are known), and then
///   - when nothing is known about what stood there before it, or
///   - when there is no state at all: an upstream that went back, or a vTPM not yet manufactured, or
///   - when its own value stands there already, or
///   - when a value stands there that was known before the write was accepted.
std::optional<Slot> find_conflict(const Contents& current, std::span<const SlotWrite> writes);

/// Whether nothing is left to be done: every value stands in `current`, and none is to be written all the
/// same because of its update flag.
bool all_done_in(const Contents& current, std::span<const SlotWrite> writes);

/// Whether every value to be written stands in `current`.
bool all_stand_in(const Contents& current, std::span<const SlotWrite> writes);

}  // namespace guard::upstream
