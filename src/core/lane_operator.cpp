// The lane and the operator: entries given up, entries delivered by force. See lane.h.
#include <algorithm>
#include <utility>

#include "core/lane.h"

namespace guard::core {

void Lane::discard(Context& cx, const Discard& event) {
  Operation operation;
  operation.request = event.request;
  for (std::size_t i = 0; i < slot_count; ++i) {
    if (event.slot && *event.slot != slot_at(i)) continue;
    SlotState& s = slots_[i];
    Sequence& up_to = operation.up_to[i];
    if (s.durable) up_to = std::max(up_to, s.durable->sequence), ++operation.entries;
    if (s.parked) up_to = std::max(up_to, s.parked->sequence), ++operation.entries;
    if (s.retained && s.retained->state != Retained::State::standing) {
      up_to = std::max(up_to, s.retained->entry.sequence), ++operation.entries;
    }
    if (up_to == 0) continue;
    s.discard = std::max(s.discard, up_to);
    if (s.retained && !s.retained->journaled && s.retained->entry.sequence <= up_to) {
      drop_retained(cx, slot_at(i));
    }
    s.retry_removal = cx.now;
    start_removal(cx, slot_at(i));
  }
  if (operation.entries == 0) {
    cx.out.push_back(Done{event.request, false, 0, "nothing is pending or parked there"});
    return;
  }
  drop_known(cx);  // the entries no longer cover what a doubtful update may have changed
  operations_.push_back(operation);
}

bool Lane::discards_something() const {
  return std::any_of(slots_.begin(), slots_.end(), [](const SlotState& s) {
    return s.durable || s.parked || (s.retained && s.retained->state != Retained::State::standing);
  });
}

/// Tells operators whose entries are gone, durably, or that the journal refuses for now.
void Lane::finish_operations(Context& cx, bool failed) {
  std::erase_if(operations_, [&](const Operation& operation) {
    bool over = true;
    for (std::size_t i = 0; i < slot_count; ++i) {
      over = over && (slots_[i].discard == 0 || slots_[i].discard > operation.up_to[i]);
    }
    if (!over && !failed) return false;
    if (over) {
      cx.shared.counters.discarded += operation.entries;
      if (!has_pending()) clear_held(cx);
    }
    cx.out.push_back(Done{operation.request, over, operation.entries,
                          over ? "" : "the journal cannot be written; it is tried again by itself"});
    return true;
  });
}

void Lane::force_delivery(Context& cx, const ForceDelivery& event) {
  std::size_t entries = 0;
  for (std::size_t i = 0; i < slot_count; ++i) {
    if (event.slot && *event.slot != slot_at(i)) continue;
    SlotState& s = slots_[i];
    if (!s.durable && s.parked) {
      Entry entry = std::move(*s.parked);
      s.parked.reset();
      replace_durable(cx, slot_at(i), std::move(entry));
    }
    if (!s.durable) continue;
    s.durable->force = true;
    ++entries;
  }
  if (entries == 0) {
    cx.out.push_back(Done{event.request, false, 0, "nothing is pending or parked there"});
    return;
  }
  // The operator has decided that nothing late will come any more.
  if (call_ && call_->late) {
    abandoned_.push_back(call_->id);
    call_.reset();
    ++generation_;
    verify_next_ = true;
  }
  end_doubt(cx);
  clear_held(cx);
  kick(cx);
  cx.out.push_back(Done{event.request, true, entries, ""});
  advance(cx);
}

}  // namespace guard::core
