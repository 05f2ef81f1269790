// The lane and delivery: the courier's turn, doubt, held lanes. See lane.h.
#include "core/lane.h"

#include <algorithm>
#include <utility>

namespace guard::core {

using Kind = Outcome::Kind;

bool Lane::has_pending() const {
  return std::any_of(slots_.begin(), slots_.end(), [](const SlotState& s) { return s.durable.has_value(); });
}

bool Lane::deliverable(const Context& cx) const {
  if (call_ || doubt_ || cx.now < retry_at_ || (held_ && cx.now < held_->retry_at)) return false;
  return oldest_pending() != 0;
}

Sequence Lane::oldest_pending() const {
  Sequence oldest = 0;
  for (const SlotState& s : slots_) {
    if (!s.durable || s.durable->sequence <= s.delivered) continue;
    if (oldest == 0 || s.durable->sequence < oldest) oldest = s.durable->sequence;
  }
  return oldest;
}

std::optional<Time> Lane::oldest_since() const {
  std::optional<Time> oldest;
  for (const SlotState& s : slots_) {
    if (s.durable && (!oldest || s.durable->since < *oldest)) oldest = s.durable->since;
  }
  return oldest;
}

void Lane::start_delivery(Context& cx) {
  Call call;
  call.kind = Call::Kind::delivery;
  call.started = cx.now;
  call.counted = true;
  ++cx.shared.counted_deliveries;
  for (std::size_t i = 0; i < slot_count; ++i) {
    const SlotState& s = slots_[i];
    if (!s.durable || s.durable->sequence <= s.delivered) continue;
    call.sent[i] = Waiting{*s.durable, {}};
    if (s.durable->value) continue;
    call.loading[i] = true;
    cx.out.push_back(ReadBack{owner_, slot_at(i), s.durable->sequence});
  }
  const bool ready = !call.is_loading();
  call_ = std::move(call);
  if (ready) send_delivery(cx);
}

void Lane::send_delivery(Context& cx) {
  Delivery delivery;
  delivery.owner = owner_;
  delivery.verify = verify_next_;
  for (std::size_t i = 0; i < slot_count; ++i) {
    if (!call_->sent[i]) continue;
    const SlotState& s = slots_[i];
    Entry& entry = call_->sent[i]->entry;
    // Superseded while values were read back: its successor has its own turn.
    if (!s.durable || s.durable->sequence != entry.sequence || !entry.value) {
      call_->sent[i].reset();
      continue;
    }
    SlotWrite write{slot_at(i), entry.sequence, *entry.value, entry.vtpm, {}, false};
    if (entry.suspect) {
      // Damage may have hidden a newer write of this slot: only over what it was based on (P10, P14).
      write.known = entry.known;
      write.known.push_back(entry.digest);
    }
    delivery.writes.push_back(std::move(write));
  }
  if (call_->unreadable || call_->load_failed || delivery.writes.empty()) {
    if (call_->unreadable) {
      // Half a TPM is worse than an old one: the lane is held, and a newer write takes the place of the lost.
      note_failure(cx, Kind::payload,
                   std::string(name_of(*call_->unreadable)) + " cannot be read back from the journal");
    } else if (call_->load_failed) {
      retry_at_ = cx.now +
                  retry_backoff_.next(limits::probe_backoff_min, limits::probe_backoff_max, cx.shared.random);
    }
    uncount(cx, *call_);
    call_.reset();
    return advance(cx);
  }
  call_->id = ++cx.shared.call;
  call_->started = cx.now;
  ++generation_;
  ++cx.shared.counters.delivery_calls;
  cx.out.push_back(Deliver{call_->id, std::move(delivery)});
}

/// A delivery, or a direct call whose values went to the journal meanwhile.
void Lane::call_done_late(Context& cx, Call call, const Outcome& outcome) {
  switch (outcome.kind) {
    case Kind::delivered:
      ++cx.shared.counters.delivered;
      clear_held(cx);
      settle_delivered(cx, call, outcome);
      break;
    case Kind::transient:
    case Kind::stale:
      retry_at_ = cx.now +
                  retry_backoff_.next(limits::probe_backoff_min, limits::probe_backoff_max, cx.shared.random);
      break;
    case Kind::unknown:
      break;
    case Kind::lane:
    case Kind::payload:
    case Kind::conflict:
    case Kind::elsewhere:
      note_failure(cx, outcome.kind, outcome.reason);
      break;
  }
  advance(cx);
}

void Lane::settle_delivered(Context& cx, const Call& call, const Outcome&) {
  for (std::size_t i = 0; i < slot_count; ++i) {
    if (!call.sent[i]) continue;
    SlotState& s = slots_[i];
    const Entry& entry = call.sent[i]->entry;
    s.delivered = std::max(s.delivered, entry.sequence);
    // Clients that wait for the journal are answered by the delivery (rule 11).
    if (s.committing && s.committing->entry.sequence <= s.delivered) {
      answer(cx, s.committing->writers, WriteStatus::accepted, false);
    }
    if (s.next && s.next->entry.sequence <= s.delivered) {
      answer(cx, s.next->writers, WriteStatus::accepted, false);
      s.next.reset();
    }
    if (!s.next && !s.committing && (!s.durable || s.durable->sequence <= s.delivered))
      learn(slot_at(i), entry.digest);
    start_removal(cx, slot_at(i));
  }
}

void Lane::uncount(Context& cx, Call& call) {
  if (call.counted) --cx.shared.counted_deliveries;
  call.counted = false;
}

void Lane::enter_doubt(Context& cx, Epoch epoch) {
  verify_next_ = true;
  // The session is over already: what was sent in it can take effect no more.
  if (epoch != 0 && epoch <= cx.shared.ended_epoch) return;
  doubt_ = Doubt{cx.now + cx.shared.config.doubt_window, epoch, cx.now + Time(limits::doubt_probe)};
  // If the upstream has restarted, a small call finds out, and the doubt is over.
  cx.shared.health.doubtful(cx.out);
}

void Lane::note_failure(Context& cx, Kind kind, const std::string& reason) {
  if (!held_ || held_->kind != kind || held_->reason != reason) {
    held_ = Held{kind, reason, cx.now, 0, false, cx.now, {}};
    cx.out.push_back(Report{Report::What::lane_held, owner_, std::string(name_of(kind)) + ": " + reason, 0});
  }
  ++held_->count;
  held_->permanent = kind == Kind::lane && held_->count >= limits::held_confirmations &&
                     cx.now - held_->since >= Time(limits::held_confirmation_span);
  if (cx.now < held_->retry_at) return;
  held_->retry_at =
      cx.now + held_->backoff.next(limits::held_backoff_min, limits::held_backoff_max, cx.shared.random);
}

void Lane::clear_held(Context& cx) {
  if (!held_) return;
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(cx.now - held_->since).count();
  cx.out.push_back(
      Report{Report::What::lane_released, owner_, held_->reason, static_cast<std::uint64_t>(ms)});
  held_.reset();
}

}  // namespace guard::core
