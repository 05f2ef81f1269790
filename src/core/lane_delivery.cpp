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
  return place() != 0;
}

Sequence Lane::place() const {
  Sequence oldest = 0;
  const auto consider = [&oldest](Sequence sequence) {
    if (oldest == 0 || sequence < oldest) oldest = sequence;
  };
  for (const SlotState& s : slots_) {
    if (s.discard != 0) continue;
    if (s.durable && s.durable->sequence > s.delivered) consider(s.durable->sequence);
    if (!s.durable && s.uncompared()) consider(s.retained->entry.sequence);
    if (!s.durable && s.parked && recheck_parked_) consider(s.parked->sequence);
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

/// What waits for delivery, or, after the end of a session, for comparison: both are one call that reads,
/// checks (P14), and writes what does not stand there yet.
void Lane::start_delivery(Context& cx) {
  Call call;
  call.kind = Call::Kind::delivery;
  call.started = cx.now;
  call.counted = true;
  ++cx.shared.counted_deliveries;
  bool pending = false;
  const bool forced = std::any_of(slots_.begin(), slots_.end(), [](const SlotState& s) {
    return s.durable && s.durable->force && s.durable->sequence > s.delivered && s.discard == 0;
  });
  for (std::size_t i = 0; i < slot_count; ++i) {
    const SlotState& s = slots_[i];
    if (s.discard != 0 || (forced && !(s.durable && s.durable->force))) continue;
    if (s.durable && s.durable->sequence > s.delivered) {
      call.sent[i] = Waiting{*s.durable, {}};
      pending = true;
    } else if (!s.durable && s.uncompared()) {
      call.sent[i] = Waiting{s.retained->entry, {}};
      pending = true;
    }
  }
  if (!pending) {
    // Parked entries are looked at alone: their conflict must not stop anything else.
    recheck_parked_ = false;
    for (std::size_t i = 0; i < slot_count; ++i) {
      if (!slots_[i].durable && slots_[i].parked && slots_[i].discard == 0)
        call.sent[i] = Waiting{*slots_[i].parked, {}};
    }
  }
  for (std::size_t i = 0; i < slot_count; ++i) {
    if (!call.sent[i] || call.sent[i]->entry.value) continue;
    call.loading[i] = true;
    cx.out.push_back(ReadBack{owner_, slot_at(i), call.sent[i]->entry.sequence});
  }
  const bool ready = !call.is_loading();
  call_ = std::move(call);
  if (ready) send_delivery(cx);
}

/// The entry as the upstream gets it, with everything that is known to it.
SlotWrite Lane::write_of(Slot slot, const Entry& entry) const {
  SlotWrite write{slot,        entry.sequence, entry.value.value_or(Value{}), entry.vtpm, {},
                  entry.force, entry.update};
  write.known = at(slot).history.until(entry.known_end, limits::history_slot);
  write.known.insert(write.known.end(), entry.known.begin(), entry.known.end());
  if (entry.over_anything) write.known.clear();
  // Damage may have hidden a newer write of this slot, and what vtpm_get_contents told may have gone
  // elsewhere since: only over what it was based on, whether that is known or not.
  // The same for a value that was delivered once: a newer one may stand there by now.
  const SlotState& s = at(slot);
  const bool again = s.retained && s.retained->entry.sequence == entry.sequence;
  write.accepted_before = again || entry.epoch != 0;
  if (write.known.empty() && !entry.over_anything && (entry.suspect || entry.handed_over || again)) {
    write.known.push_back(entry.digest);
  }
  return write;
}

void Lane::send_delivery(Context& cx) {
  Delivery delivery;
  delivery.owner = owner_;
  delivery.verify = verify_next_;
  delivery.ask_residence = !socket_open_;
  for (std::size_t i = 0; i < slot_count; ++i) {
    if (!call_->sent[i]) continue;
    const Entry& entry = call_->sent[i]->entry;
    const Entry* wanted = live(slots_[i], entry.sequence);
    // Superseded while values were read back: its successor has its own turn.
    if (!wanted || !entry.value || (slots_[i].durable && wanted != &*slots_[i].durable)) {
      call_->sent[i].reset();
      continue;
    }
    delivery.writes.push_back(write_of(slot_at(i), entry));
    const SlotWrite& write = delivery.writes.back();
    if (write.known.empty() || entry.recovered || cx.now - entry.since > Time(limits::residence_age)) {
      delivery.ask_residence = true;
    }
  }
  const bool forced = std::all_of(delivery.writes.begin(), delivery.writes.end(),
                                  [](const SlotWrite& write) { return write.force; });
  if (forced) delivery.ask_residence = false;
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
  note(cx);
  cx.out.push_back(Deliver{call_->id, std::move(delivery)});
}

/// A delivery, or a direct call whose values went to the journal meanwhile.
void Lane::call_done_late(Context& cx, Call call, const Outcome& outcome) {
  for (ContentsReader& reader : contents_readers_) ++reader.deliveries;
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
      note_failure(cx, outcome.kind, outcome.reason);
      break;
    case Kind::conflict:
    case Kind::elsewhere:
      set_aside(cx, call, outcome);
      break;
  }
  advance(cx);
}

void Lane::settle_delivered(Context& cx, const Call& call, const Outcome& outcome) {
  std::uint64_t went_back = 0;
  for (std::size_t i = 0; i < slot_count; ++i) {
    if (!call.sent[i]) continue;
    const Slot slot = slot_at(i);
    SlotState& s = slots_[i];
    const Entry& entry = call.sent[i]->entry;
    if (s.retained && s.retained->entry.sequence == entry.sequence) {
      // Compared: it stands there, or does so again.
      Entry again = std::move(s.retained->entry);
      const bool journaled = s.retained->journaled;
      const bool stood = !outcome.found || outcome.found->slots[i].digest() == entry.digest;
      if (!stood) ++went_back;
      again.accepted_at = Time{};
      again.recovered = false;
      retain(cx, slot, std::move(again), outcome.epoch, journaled);
    } else if (s.parked && s.parked->sequence == entry.sequence) {
      Entry arrived = std::move(*s.parked);
      s.parked.reset();
      replace_durable(cx, slot, std::move(arrived));
    }
    s.delivered = std::max(s.delivered, entry.sequence);
    if (s.durable && s.durable->sequence == entry.sequence) {
      s.durable->epoch = outcome.epoch;
      s.durable->accepted_at = cx.now;
      s.durable->known = entry.known;
      s.durable->known_end = entry.known_end;
      s.durable->over_anything = entry.over_anything;
    }
    // Clients that wait for the journal are answered by the delivery (rule 11).
    if (s.committing && s.committing->entry.sequence <= s.delivered) {
      answer(cx, s.committing->writers, WriteStatus::accepted, false);
      if (s.committing->entry.sequence == entry.sequence && entry.value) {
        retain(cx, slot, entry, outcome.epoch, false);
        s.committing->entry.epoch = outcome.epoch;
        s.committing->entry.accepted_at = cx.now;
      }
    }
    if (s.next && s.next->entry.sequence <= s.delivered) {
      answer(cx, s.next->writers, WriteStatus::accepted, false);
      if (s.next->entry.sequence == entry.sequence && entry.value) {
        retain(cx, slot, entry, outcome.epoch, false);
      }
      s.next.reset();
    }
    // Its commit failed meanwhile and its client was told so; it stands upstream all the same, in the place
    // of what was acknowledged before it, and nothing newer is retained.
    const bool newest = !s.retained || s.retained->entry.sequence < entry.sequence;
    if (newest && !s.durable && !s.committing && entry.value && s.kept == 0) {
      retain(cx, slot, entry, outcome.epoch, false);
    }
    s.history.arrived(entry.digest, entry.known, cx.shared.history);
    reconsider(cx, s);
    start_removal(cx, slot);
  }
  if (went_back > 0) {
    cx.shared.counters.redelivered += went_back;
    cx.out.push_back(Report{Report::What::went_back, owner_, {}, went_back});
  }
  if (contents_committing_ && contents_committing_->sequence <= slots_[0].delivered) {
    answer_contents(cx, *contents_committing_, WriteStatus::accepted, false);
  }
}

/// Somebody else's value stands there, or the VM runs elsewhere: what was sent is out of the data path, and
/// kept. Half a TPM is worse than an old one, so all of it goes together.
void Lane::set_aside(Context& cx, const Call& call, const Outcome& outcome) {
  const bool elsewhere = outcome.kind == Kind::elsewhere;
  bool from_contents = false;
  for (const auto& sent : call.sent) from_contents = from_contents || (sent && sent->entry.over_anything);
  // A VM that is just moving to this host counts as resident on the other one for a while.
  if (elsewhere && (socket_open_ || from_contents)) return note_failure(cx, outcome.kind, outcome.reason);
  clear_held(cx);
  bool parked = false;
  bool suspended = false;
  for (std::size_t i = 0; i < slot_count; ++i) {
    if (!call.sent[i]) continue;
    SlotState& s = slots_[i];
    const Sequence sequence = call.sent[i]->entry.sequence;
    const bool pending = s.durable && s.durable->sequence == sequence && !s.removal;
    if (!pending && s.retained && s.retained->entry.sequence == sequence) {
      s.retained->state = Retained::State::suspended;
      s.retained->entry.epoch = outcome.epoch != 0 ? outcome.epoch : cx.shared.ended_epoch + 1;
      s.retained->entry.accepted_at = cx.now;
      if (s.retained->entry.epoch <= cx.shared.ended_epoch) s.retained->state = Retained::State::uncompared;
      suspended = true;
    } else if (pending) {
      if (s.retained && s.retained->entry.sequence == sequence) drop_retained(cx, slot_at(i));
      Entry aside = std::move(*s.durable);
      replace_durable(cx, slot_at(i), std::nullopt);
      aside.value.reset();
      aside.queued = false;
      s.parked = std::move(aside);
      ++cx.shared.counters.parked;
      parked = true;
    }
  }
  if (parked) {
    parked_reason_ = outcome.reason;
    const auto what = elsewhere ? Report::What::lane_elsewhere : Report::What::lane_parked;
    cx.out.push_back(Report{what, owner_, outcome.reason, 0});
  }
  if (suspended) cx.out.push_back(Report{Report::What::suspended, owner_, outcome.reason, 0});
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
