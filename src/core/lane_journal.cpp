// The lane and the journal: commits, removals, recovery, values read back. See lane.h.
#include <algorithm>
#include <utility>

#include "core/lane.h"

namespace guard::core {

using Kind = Outcome::Kind;

/// What an entry is based on, as of the moment in which it is handed over.
void Lane::prepare(Context& cx, SlotState& s, Entry& entry) {
  if (entry.digest == Digest{}) entry.digest = entry.value->digest();
  if (entry.vtpm.is_nil()) entry.vtpm = vtpm_;
  // These were sent, or will be: this entry must know them, also after a crash.
  if (s.parked) s.history.attempt(s.parked->digest, cx.shared.history);
  if (s.uncompared()) s.history.attempt(s.retained->entry.digest, cx.shared.history);
  if (s.durable && s.durable->over_anything) entry.over_anything = true;
  if (entry.over_anything || !s.history.base_known()) return;
  entry.known_end = s.history.end();
  // This one may be sent before the new entry is durable. It is no part of the history until it is: the
  // values of a long outage, of which none ever was sent, would push out those that may stand upstream.
  if (s.durable) entry.known.push_back(s.durable->digest);
}

/// What of that travels with the record: few digests, the base first.
std::vector<Digest> Lane::journaled_known(const SlotState& s, const Entry& entry) {
  if (entry.over_anything) {
    // Not for its delivery: it tells an upstream that went back after that, also after a restart.
    return s.history.base_known() ? s.history.until(s.history.end(), limits::known_digests)
                                  : std::vector<Digest>();
  }
  // Those that were sent stand last: they are kept longest when the list is cut again after a restart.
  const std::size_t own = std::min(entry.known.size(), limits::known_digests / 2);
  std::vector<Digest> known = s.history.until(entry.known_end, limits::known_digests - own);
  std::vector<Digest> others(entry.known.end() - static_cast<std::ptrdiff_t>(own), entry.known.end());
  // One that was sent has its place among those that were sent.
  std::erase_if(others, [&known](Digest digest) { return std::ranges::find(known, digest) != known.end(); });
  known.insert(known.begin() + (known.empty() ? 0 : 1), others.begin(), others.end());
  return known;
}

/// Whether the journal may be handed this much now; else the lane waits in line.
bool Lane::reserve_commit(Context& cx, std::size_t bytes) {
  Shared& shared = cx.shared;
  if (shared.commit_bytes > 0 && shared.commit_bytes + bytes > shared.config.commit_bytes) {
    if (!in_backlog_) shared.commit_backlog.push_back(owner_);
    in_backlog_ = true;
    return false;
  }
  shared.commit_bytes += bytes;
  ++shared.counters.commits;
  return true;
}

void Lane::start_commit(Context& cx, Slot slot) {
  SlotState& s = at(slot);
  if (!reserve_commit(cx, s.next->entry.size)) return;
  s.committing = std::move(s.next);
  s.next.reset();
  Entry& entry = s.committing->entry;
  inherit_pending(s, entry);
  // What was delivered has the base it was delivered over, and none that was found since.
  if (entry.known_end == 0 && entry.accepted_at == Time{}) prepare(cx, s, entry);
  cx.out.push_back(Commit{owner_, slot, entry.sequence, entry.vtpm, journaled_known(s, entry), *entry.value,
                          std::nullopt, entry.over_anything, entry.update});
}

void Lane::commit_done(Context& cx, const CommitDone& event) {
  if (contents_committing_ && contents_committing_->sequence == event.sequence) {
    for (const Slot slot : {Slot::permall, Slot::savestate, Slot::volatilestate}) {
      commit_done(cx, slot, event.sequence, event.result);
    }
    const bool durable = event.result == CommitDone::Result::durable;
    answer_contents(cx, *contents_committing_, durable ? WriteStatus::accepted : WriteStatus::unavailable,
                    true);
    contents_committing_.reset();
  } else {
    commit_done(cx, event.slot, event.sequence, event.result);
  }
  finish_operations(cx, false);
  advance(cx);
  for (std::size_t i = 0; i < slot_count; ++i) {
    if (!slots_[i].committing) requeue_readers(cx, std::exchange(slots_[i].commit_readers, {}), slot_at(i));
  }
  serve_contents_readers(cx);
}

void Lane::commit_done(Context& cx, Slot slot, Sequence sequence, CommitDone::Result result) {
  SlotState& s = at(slot);
  if (!s.committing || s.committing->entry.sequence != sequence) return invariant(cx, "commit of nothing");
  Waiting done = std::move(*s.committing);
  s.committing.reset();
  cx.shared.commit_bytes -= done.entry.size;
  const bool durable = result == CommitDone::Result::durable;
  journal_trouble(cx, !durable, result == CommitDone::Result::full ? "journal full" : "commit failed");
  journal_works(cx, result != CommitDone::Result::failed);
  if (durable) {
    if (s.failed < sequence) s.failed = 0;
    if (s.kept < sequence) s.kept = 0;
    if (s.discard < sequence) s.discard = 0;
    // It takes the place of everything older that the journal holds of the slot.
    if (s.parked) s.parked.reset();
    if (s.retained && s.retained->entry.sequence < sequence) drop_retained(cx, slot);
    replace_durable(cx, slot, std::move(done.entry));
    answer(cx, done.writers, WriteStatus::accepted, true);
    // A newer value takes the place of one that could not be delivered.
    if (held_ && held_->kind == Kind::payload) clear_held(cx);
    if (s.durable->sequence <= s.delivered) start_removal(cx, slot);
    return;
  }
  if (result == CommitDone::Result::failed) {
    s.failed = sequence;
    s.retry_removal = cx.now + Time(limits::removal_retry);
    reconsider(cx, s);
  }
  // Of a value that is written down for retention only: tried again.
  if (s.retained && s.retained->entry.sequence == sequence) save_at_ = cx.now + Time(limits::save_retry);
  answer(cx, done.writers, sequence <= s.delivered ? WriteStatus::accepted : WriteStatus::unavailable, true);
}

/// What is to end in the journal: delivered entries, failed commits, retentions that are over, entries an
/// operator gave up. One removal of a slot at a time.
std::optional<Lane::Removal> Lane::removal_due(const Context& cx, const SlotState& s) const {
  if (s.removal) return std::nullopt;
  Removal removal;
  const bool delivered = s.durable && s.durable->sequence <= s.delivered;
  // An older one, overtaken by what was delivered since, needs no retention.
  const bool retained = delivered && s.durable->epoch != 0 && cx.shared.retains();
  if (delivered) removal = {s.durable->sequence, Removal::Why::retire, retained};
  // A failed commit may be on the disk; its client was told so. It ends together with what it may have
  // replaced there, never before something older that is still wanted.
  const bool wanted = retained && !s.durable->value && !outlived(cx.shared, *s.durable);
  // Nobody wants this retained record any more, but it is there.
  const bool orphan = s.kept != 0 && !(s.retained && s.retained->journaled);
  const bool older = wanted || (s.durable && !delivered) || s.parked || (s.kept != 0 && !orphan);
  if (s.failed > removal.up_to) {
    if (!s.committing && !older) {
      removal = {s.failed, Removal::Why::clear, false};
    } else if (delivered) {
      removal = {};  // retaining it would retain the failed commit in its place
    }
  }
  if (s.discard != 0 && s.discard >= removal.up_to) removal = {s.discard, Removal::Why::clear, false};
  if (removal.up_to == 0 && s.kept != 0 && (s.release || orphan) && !s.committing && !s.durable) {
    removal = {s.kept, Removal::Why::release, false};
  }
  if (removal.up_to == 0) return std::nullopt;
  return removal;
}

void Lane::start_removal(Context& cx, Slot slot) {
  SlotState& s = at(slot);
  if (cx.now < s.retry_removal) return;
  const std::optional<Removal> due = removal_due(cx, s);
  if (!due) return;
  if (cx.shared.stalled) {
    s.retry_removal = cx.now + Time(limits::removal_retry);
    return;
  }
  const bool delivered = s.durable && s.durable->sequence <= s.delivered;
  if (delivered && s.durable->epoch != 0 && due->why == Removal::Why::clear &&
      s.discard < s.durable->sequence && s.durable->value) {
    // The record that retains a value retains the newest one, and that is the failed commit: memory has to
    // do.
    retain(cx, slot, *s.durable, s.durable->epoch, false);
  }
  s.removal = due;
  ++cx.shared.counters.removals;
  const Digest digest = due->why == Removal::Why::retire ? s.durable->digest : Digest{};
  cx.out.push_back(Remove{owner_, slot, due->up_to, digest, due->retained});
}

void Lane::removal_done(Context& cx, const RemovalDone& event) {
  SlotState& s = at(event.slot);
  if (!s.removal || s.removal->up_to != event.up_to) return invariant(cx, "removal of nothing");
  const Removal removal = *std::exchange(s.removal, std::nullopt);
  journal_trouble(cx, !event.durable, "removal failed");
  journal_works(cx, event.durable);
  if (event.durable) {
    retire(cx, event.slot, removal);
    reconsider(cx, s);
    start_removal(cx, event.slot);
    // With everything written down there is nothing to try again, and a stop need not wait for that.
    const auto unsaved = [](const SlotState& one) { return one.retained && !one.retained->journaled; };
    if (std::none_of(slots_.begin(), slots_.end(), unsaved)) save_at_.reset();
  } else {
    s.retry_removal = cx.now + Time(limits::removal_retry);
    reconsider(cx, s);
  }
  finish_operations(cx, !event.durable);
  advance(cx);
  if (!s.committing) requeue_readers(cx, std::exchange(s.commit_readers, {}), event.slot);
  serve_contents_readers(cx);
}

/// A delivered entry that cannot be retired, because of a failed commit above it, and whose session is over:
/// it is pending once more.
void Lane::reconsider(Context& cx, SlotState& s) {
  if (!s.durable || s.removal || s.failed < s.durable->sequence) return;
  const bool own = s.durable->sequence <= s.delivered && s.durable->epoch != 0;
  if (!own || s.durable->epoch > cx.shared.ended_epoch) return;
  if (cx.shared.retains()) s.delivered = s.durable->sequence - 1;
}

/// What a durable removal ended.
void Lane::retire(Context& cx, Slot slot, const Removal& removal) {
  SlotState& s = at(slot);
  if (s.failed <= removal.up_to) s.failed = 0;
  if (s.discard <= removal.up_to) s.discard = 0;
  if (s.kept <= removal.up_to) s.kept = 0;
  if (s.parked && s.parked->sequence <= removal.up_to) s.parked.reset();
  if (s.retained && s.retained->journaled && s.retained->entry.sequence <= removal.up_to &&
      removal.why == Removal::Why::clear) {
    drop_retained(cx, slot);
  }
  if (removal.why == Removal::Why::release) {
    s.release = false;
    if (s.retained && s.retained->journaled && s.retained->entry.sequence <= removal.up_to) {
      drop_retained(cx, slot);
    }
  }
  if (!s.durable || s.durable->sequence > removal.up_to) return;
  Entry ended = *s.durable;
  replace_durable(cx, slot, std::nullopt);
  if (removal.retained) {
    const Epoch epoch = ended.epoch;
    retain(cx, slot, std::move(ended), epoch, true);
  } else if (removal.why == Removal::Why::retire && s.retained &&
             s.retained->entry.sequence <= ended.sequence) {
    drop_retained(cx, slot);
  }
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
  entry.recovered = true;
  entry.update = found.update;
  // Once it was delivered it has a base like any other.
  entry.over_anything = found.over_anything && !found.retained;
  cx.shared.sequence = std::max(cx.shared.sequence, entry.sequence);
  if (found.retained) {
    // Compared once, whatever its age. It gives no base to what comes after it (rule 5).
    s.delivered = entry.sequence;
    if (!cx.shared.retains()) s.discard = entry.sequence;
    return retain(cx, found.slot, std::move(entry), 0, true);
  }
  s.history.recover(entry.known, cx.shared.history);
  // It may have been sent in an earlier life.
  s.history.attempt(entry.digest, cx.shared.history);
  replace_durable(cx, found.slot, std::move(entry));
}

void Lane::recover_doubt(Context& cx, const std::vector<NotedValue>& values, Time until) {
  doubt_ = Doubt{until, 0, until};
  verify_next_ = true;
  noted_ = !values.empty();
  for (const auto& [slot, digest, sequence] : values) {
    SlotState& s = at(slot);
    cx.shared.sequence = std::max(cx.shared.sequence, sequence);
    s.sent = std::max(s.sent, sequence);
    // What is pending and came after everything that was sent need not push out what was, however often the
    // process ends while the lane is in doubt.
    if (s.durable && s.durable->sequence > sequence && s.durable->digest != digest) {
      s.history.retract(s.durable->digest, cx.shared.history);
    }
    s.history.attempt(digest, cx.shared.history);
    // Attempted before this process began, so known to whatever waited then (rule 5); but what is older must
    // not go over it.
    for (Entry* entry : {s.durable ? &*s.durable : nullptr, s.parked ? &*s.parked : nullptr,
                         s.retained ? &s.retained->entry : nullptr}) {
      if (entry != nullptr && !entry->known.empty() && entry->sequence >= sequence) {
        entry->known.push_back(digest);
      }
    }
  }
}

void Lane::journal_stalled(Context& cx) {
  const bool direct_under_way = call_ && call_->kind == Call::Kind::direct && !call_->late;
  if (!direct_under_way) refuse_waiting(cx, WriteStatus::unavailable);
  if (contents_next_) answer_contents(cx, *contents_next_, WriteStatus::unavailable, false);
  contents_next_.reset();
  if (contents_committing_) answer_contents(cx, *contents_committing_, WriteStatus::unavailable, true);
  for (SlotState& s : slots_) {
    // It may become durable after all; then it is delivered like any other (rule 10).
    if (s.committing) answer(cx, s.committing->writers, WriteStatus::unavailable, true);
    for (const RequestId reader : std::exchange(s.commit_readers, {})) {
      answer(cx, reader, ReadResult::Source::none, {});
    }
    for (const auto& [reader, sequence] : std::exchange(s.back_readers, {})) {
      answer(cx, reader, ReadResult::Source::none, {});
    }
  }
}

Entry* Lane::live(SlotState& s, Sequence sequence) {
  if (s.durable && s.durable->sequence == sequence) return &*s.durable;
  if (s.retained && s.retained->entry.sequence == sequence) return &s.retained->entry;
  if (s.parked && s.parked->sequence == sequence) return &*s.parked;
  return nullptr;
}

void Lane::value_read(Context& cx, const ValueRead& read) {
  SlotState& s = at(read.slot);
  const Entry* entry = live(s, read.sequence);
  ValueRead event = read;
  // Retained in memory by now: the disk is not needed.
  if (!event.value && entry && entry->value) event.value = entry->value;
  // A commit or removal in the same batch ends the entry on the disk before its completion ends it here.
  const bool ending = event.trouble == ValueRead::Trouble::gone && (s.committing || s.removal);
  bool lost = !event.value && entry && !ending;
  std::vector<RequestId> again;
  if (lost && event.trouble != ValueRead::Trouble::failed && s.retained && entry == &s.retained->entry) {
    // The journal may give retained values up when it is full; nothing acknowledged depends on it alone.
    cx.out.push_back(Report{Report::What::retention_lost, owner_, std::string(name_of(event.slot)), 0});
    s.discard = std::max(s.discard, event.sequence);
    drop_retained(cx, event.slot);
    drop_known(cx);  // it no longer covers what a doubtful update may have changed
    // Nor what was read before it: those who wait for that read ask anew.
    ++generation_;
    for (FetchCall& fetch : fetches_) {
      std::erase_if(fetch.readers, [&](const auto& reader) {
        if (reader.second != event.slot) return false;
        again.push_back(reader.first);
        return true;
      });
    }
    start_removal(cx, event.slot);
    lost = false;
    entry = nullptr;
  }
  if (lost) journal_trouble(cx, true, "an entry cannot be read back");
  for (ContentsReader& reader : contents_readers_) {
    if (event.value && event.slot != Slot::nvram) {
      reader.loaded[static_cast<std::size_t>(event.slot)] = {event.sequence, *event.value};
    }
  }
  std::erase_if(s.back_readers, [&](const auto& reader) {
    if (reader.second != event.sequence) return false;
    if (event.value) {
      answer_pending(cx, reader.first, *event.value);
    } else if (lost) {
      answer(cx, reader.first, ReadResult::Source::none, {});
    } else if (entry) {
      s.commit_readers.push_back(reader.first);
    } else {
      again.push_back(reader.first);
    }
    return true;
  });
  requeue_readers(cx, std::move(again), event.slot);
  value_loaded(cx, event, lost);
  serve_contents_readers(cx);
}

/// The same for a delivery that waits for this value.
void Lane::value_loaded(Context& cx, const ValueRead& event, bool lost) {
  const auto i = static_cast<std::size_t>(event.slot);
  if (!call_ || !call_->loading[i] || call_->sent[i]->entry.sequence != event.sequence) return;
  call_->loading[i] = false;
  const bool wanted = live(slots_[i], event.sequence) != nullptr;
  if (event.value) {
    call_->sent[i]->entry.value = event.value;
  } else if (!lost || !wanted) {
    call_->sent[i].reset();  // superseded meanwhile; its successor has its own turn
  } else if (event.trouble == ValueRead::Trouble::failed) {
    call_->load_failed = true;
  } else {
    call_->unreadable = event.slot;
  }
  if (!call_->is_loading()) send_delivery(cx);
}

}  // namespace guard::core
