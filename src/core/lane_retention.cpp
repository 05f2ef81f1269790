// The lane and retention (P13): accepted by the upstream is not yet durable there. See lane.h.
#include <algorithm>
#include <utility>

#include "core/lane.h"

namespace guard::core {

/// The upstream has accepted this value in session `epoch` (0: in one that nobody remembers). It is kept
/// until the upstream has had time to make it durable, and the session is known to have lived that long.
void Lane::retain(Context& cx, Slot slot, Entry entry, Epoch epoch, bool journaled) {
  drop_retained(cx, slot);
  if (!cx.shared.retains()) return;
  SlotState& s = at(slot);
  entry.epoch = epoch;
  if (entry.accepted_at == Time{}) entry.accepted_at = cx.now;
  if (journaled) {
    entry.value.reset();
    s.kept = entry.sequence;
  } else {
    cx.shared.retained_bytes += entry.size;
  }
  s.retained = Retained{std::move(entry), Retained::State::standing, journaled};
  if (epoch <= cx.shared.ended_epoch) s.retained->state = Retained::State::uncompared;
  if (journaled) return;
  if (cx.shared.retained_bytes > cx.shared.config.retained_bytes) {
    save(cx, slot);
  } else if (!cx.shared.updates_allowed()) {
    // An orderly stop does not wait for the next tick.
    save(cx, slot);
  }
}

void Lane::drop_retained(Context& cx, Slot slot) {
  SlotState& s = at(slot);
  if (!s.retained) return;
  if (!s.retained->journaled) cx.shared.retained_bytes -= s.retained->entry.size;
  s.retained.reset();
  s.release = false;
}

/// Makes sure that a retained value does not depend on its record in the journal.
bool Lane::keep_in_memory(Context& cx, Slot slot) {
  SlotState& s = at(slot);
  if (!s.retained || !s.retained->journaled) return true;
  Entry& entry = s.retained->entry;
  if (!known_valid(cx) || known_->contents[slot].digest() != entry.digest) return false;
  entry.value = known_->contents[slot];
  s.retained->journaled = false;
  cx.shared.retained_bytes += entry.size;
  return true;
}

void Lane::save_retained(Context& cx) {
  save_at_.reset();
  if (cx.shared.updates_allowed()) return;
  for (std::size_t i = 0; i < slot_count; ++i) {
    if (slots_[i].retained && !slots_[i].retained->journaled) save(cx, slot_at(i));
  }
}

/// Writes the retained value to the journal: an entry that was delivered already, so that its removal, which
/// retains it, follows at once.
void Lane::save(Context& cx, Slot slot) {
  SlotState& s = at(slot);
  if (!s.removal && s.kept == s.retained->entry.sequence) {
    // Its record is still there: the newer write for which it was to end was refused.
    cx.shared.retained_bytes -= s.retained->entry.size;
    s.retained->entry.value.reset();
    s.retained->journaled = true;
    s.release = false;
    return;
  }
  // A direct write under way is newer: it becomes the value to retain, or goes to the journal itself.
  const bool newer = s.next || contents_next_ || (call_ && call_->sent[static_cast<std::size_t>(slot)]);
  const bool free = !newer && s.journal_clean() && !cx.shared.stalled;
  if (free && may_save(cx)) {
    s.next = Waiting{s.retained->entry, {}};
    start_commit(cx, slot);
    if (!s.next) return;
    s.next.reset();  // no room now
  }
  save_at_ = cx.now + Time(limits::save_retry);
}

/// A commit that fails keeps its lane from going direct. So a disk of which nobody knows that it works is
/// tried by one value, and the others go on without it (P9).
bool Lane::may_save(Context& cx) {
  Shared& shared = cx.shared;
  if (shared.save_probe_at <= cx.now) {
    const bool proven = shared.save_probe_at == Time{} && shared.journal_good_at != Time{} &&
                        cx.now < shared.journal_good_at + Time(limits::save_probe);
    if (!proven) shared.save_probe_at = cx.now + Time(limits::save_probe);
    return true;
  }
  shared.saves_waiting = true;
  return false;
}

void Lane::journal_works(Context& cx, bool works) {
  if (works) cx.shared.journal_good_at = cx.now;
  cx.shared.save_probe_at = works ? Time{} : cx.now + Time(limits::save_probe);
}

/// Gathered in steps, so that one small call serves many lanes.
Time Lane::release_time(const Context& cx, const Retained& retained) const {
  const Time step = limits::retain_step;
  return (retained.entry.accepted_at + cx.shared.config.retain + step - Time{1}) / step * step;
}

/// The upstream has had the time to make this value durable, and is known to have lived that long.
bool Lane::outlived(const Shared& shared, const Entry& entry) {
  return shared.alive.epoch == entry.epoch && shared.alive.at >= entry.accepted_at + shared.config.retain;
}

/// Only a session that still lives has written its database out since.
void Lane::await_alive(Context& cx) {
  if (std::exchange(awaiting_alive_, true)) return;
  cx.shared.awaiting_alive.push_back(owner_);
  cx.shared.health.doubtful(cx.out);
}

void Lane::end_retentions(Context& cx) {
  const Shared::Alive& alive = cx.shared.alive;
  for (std::size_t i = 0; i < slot_count; ++i) {
    SlotState& s = slots_[i];
    if (s.blocked_by_failed() && cx.now >= s.durable->accepted_at + cx.shared.config.retain &&
        !outlived(cx.shared, *s.durable)) {
      await_alive(cx);
    }
    if (!s.retained || s.release || cx.now < release_time(cx, *s.retained)) continue;
    Retained& retained = *s.retained;
    if (retained.state == Retained::State::uncompared) {
      // The VM is gone for good, and what was accepted for it went with it.
      if (!held_ || !held_->permanent || socket_open_) continue;
    } else if (alive.epoch > retained.entry.epoch) {
      retained.state = Retained::State::uncompared;
      continue;
    } else if (!outlived(cx.shared, retained.entry)) {
      await_alive(cx);
      continue;
    }
    if (retained.journaled) {
      s.release = true;
    } else {
      drop_retained(cx, slot_at(i));
    }
  }
}

}  // namespace guard::core
