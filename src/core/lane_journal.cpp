// The lane and the journal: commits, removals, recovery, values read back. See lane.h.
#include "core/lane.h"

#include <algorithm>
#include <utility>

namespace guard::core {

using Kind = Outcome::Kind;

void Lane::start_commit(Context& cx, Slot slot) {
  SlotState& s = at(slot);
  Shared& shared = cx.shared;
  if (shared.commit_bytes > 0 && shared.commit_bytes + s.next->entry.size > shared.config.commit_bytes) {
    if (!in_backlog_) shared.commit_backlog.push_back(owner_);
    in_backlog_ = true;
    return;
  }
  s.committing = std::move(s.next);
  s.next.reset();
  Entry& entry = s.committing->entry;
  entry.vtpm = vtpm_;
  entry.digest = entry.value->digest();
  entry.known = s.base_known ? s.history : std::vector<Digest>{};
  attempt(slot, entry.digest);
  shared.commit_bytes += entry.size;
  ++shared.counters.commits;
  cx.out.push_back(Commit{owner_, slot, entry.sequence, entry.vtpm, entry.known, *entry.value});
}

void Lane::commit_done(Context& cx, const CommitDone& event) {
  SlotState& s = at(event.slot);
  if (!s.committing || s.committing->entry.sequence != event.sequence)
    return invariant(cx, "commit of nothing");
  Waiting done = std::move(*s.committing);
  s.committing.reset();
  cx.shared.commit_bytes -= done.entry.size;
  std::vector<RequestId> readers = std::exchange(s.commit_readers, {});
  const bool durable = event.result == CommitDone::Result::durable;
  journal_trouble(cx, !durable, event.result == CommitDone::Result::full ? "journal full" : "commit failed");
  if (durable) {
    if (s.failed < event.sequence) s.failed = 0;
    replace_durable(cx, event.slot, std::move(done.entry));
    answer(cx, done.writers, WriteStatus::accepted, true);
    // A newer value takes the place of one that could not be delivered.
    if (held_ && held_->kind == Kind::payload) clear_held(cx);
    if (s.durable->sequence <= s.delivered) start_removal(cx, event.slot);
  } else {
    if (event.result == CommitDone::Result::failed) {
      s.failed = event.sequence;
      s.retry_removal = cx.now + Time(limits::removal_retry);
    }
    answer(cx, done.writers, event.sequence <= s.delivered ? WriteStatus::accepted : WriteStatus::unavailable,
           true);
  }
  advance(cx);
  requeue_readers(cx, std::move(readers), event.slot);
}

/// durable (delivered) or stained -> removing.
void Lane::start_removal(Context& cx, Slot slot) {
  SlotState& s = at(slot);
  if (s.removing != 0 || cx.now < s.retry_removal) return;
  const bool delivered = s.durable && s.durable->sequence <= s.delivered;
  Sequence up_to = delivered ? s.durable->sequence : 0;
  // A failed commit may be on the disk; its client was told so, and nothing newer is pending: end it too.
  if (!s.committing && (delivered || !s.durable)) up_to = std::max(up_to, s.failed);
  if (up_to == 0) return;
  s.removing = up_to;
  ++cx.shared.counters.removals;
  cx.out.push_back(Remove{owner_, slot, up_to, delivered ? s.durable->digest : Digest{}});
}

void Lane::removal_done(Context& cx, const RemovalDone& event) {
  SlotState& s = at(event.slot);
  if (s.removing != event.up_to) return invariant(cx, "removal of nothing");
  s.removing = 0;
  journal_trouble(cx, !event.durable, "removal failed");
  if (!event.durable) {
    s.retry_removal = cx.now + Time(limits::removal_retry);
    if (!s.committing) requeue_readers(cx, std::exchange(s.commit_readers, {}), event.slot);
    return;
  }
  if (s.failed <= event.up_to) s.failed = 0;
  if (s.durable && s.durable->sequence <= event.up_to) replace_durable(cx, event.slot, std::nullopt);
  if (s.durable && s.durable->sequence <= s.delivered) start_removal(cx, event.slot);
  advance(cx);
  if (!s.committing) requeue_readers(cx, std::exchange(s.commit_readers, {}), event.slot);
}

void Lane::replace_durable(Context& cx, Slot slot, std::optional<Entry> entry) {
  SlotState& s = at(slot);
  Queue& queue = cx.shared.queue;
  const std::optional<Entry> old = std::exchange(s.durable, std::move(entry));
  if (!s.durable) {
    if (old) queue.remove(old->size, old->queued);
    return;
  }
  s.durable->queued =
      old ? queue.replace(old->size, old->queued, s.durable->size) : queue.add(s.durable->size);
  if (!s.durable->queued) s.durable->value.reset();
}

void Lane::recover(Context& cx, RecoveredEntry found) {
  SlotState& s = at(found.slot);
  Entry entry;
  entry.sequence = found.sequence;
  entry.size = found.size;
  entry.digest = found.digest;
  entry.known = std::move(found.known);
  entry.vtpm = found.vtpm;
  entry.since = found.since;
  entry.suspect = found.suspect;
  // Only a pending entry gives a base after a restart (rule 5).
  s.base_known = !entry.known.empty();
  s.history = entry.known;
  attempt(found.slot, entry.digest);
  cx.shared.sequence = std::max(cx.shared.sequence, entry.sequence);
  replace_durable(cx, found.slot, std::move(entry));
}

void Lane::value_read(Context& cx, const ValueRead& event) {
  SlotState& s = at(event.slot);
  const bool current = s.durable && s.durable->sequence == event.sequence;
  // A commit or removal in the same batch ends the entry on the disk before its completion ends it here.
  const bool ending = event.trouble == ValueRead::Trouble::gone && (s.committing || s.removing != 0);
  const bool lost = !event.value && current && !ending;
  if (lost) journal_trouble(cx, true, "an entry cannot be read back");
  std::vector<RequestId> again;
  std::erase_if(s.back_readers, [&](const auto& reader) {
    if (reader.second != event.sequence) return false;
    if (event.value) {
      answer(cx, reader.first, ReadResult::Source::pending, *event.value);
    } else if (lost) {
      answer(cx, reader.first, ReadResult::Source::none, {});
    } else if (current) {
      s.commit_readers.push_back(reader.first);
    } else {
      again.push_back(reader.first);
    }
    return true;
  });
  requeue_readers(cx, std::move(again), event.slot);
  value_loaded(cx, event, lost);
}

/// The same for a delivery that waits for this value.
void Lane::value_loaded(Context& cx, const ValueRead& event, bool lost) {
  const auto i = static_cast<std::size_t>(event.slot);
  if (!call_ || !call_->loading[i] || call_->sent[i]->entry.sequence != event.sequence) return;
  call_->loading[i] = false;
  if (event.value) {
    call_->sent[i]->entry.value = event.value;
  } else if (!lost) {
    call_->sent[i].reset();  // superseded meanwhile; its successor has its own turn
  } else if (event.trouble == ValueRead::Trouble::failed) {
    call_->load_failed = true;
  } else {
    call_->unreadable = event.slot;
  }
  if (!call_->is_loading()) send_delivery(cx);
}

}  // namespace guard::core
