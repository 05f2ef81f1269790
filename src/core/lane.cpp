#include "core/lane.h"

#include <algorithm>

namespace guard::core {

namespace {

using Kind = Outcome::Kind;

/// A call of one lane that fetches at most this often at once: a second one is needed when an update
/// overlapped the first, a third or fourth when those hang.
constexpr std::size_t max_fetches = 4;
/// How often one direct write is sent again after `stale` before it goes to the journal.
constexpr unsigned max_restarts = 2;

void count_failure(Counters& counters, Kind kind) {
  switch (kind) {
    case Kind::delivered:
      break;
    case Kind::transient:
    case Kind::stale:
      ++counters.failed_transient;
      break;
    case Kind::lane:
      ++counters.failed_lane;
      break;
    case Kind::payload:
      ++counters.failed_payload;
      break;
    case Kind::conflict:
      ++counters.failed_conflict;
      break;
    case Kind::unknown:
      ++counters.failed_unknown;
      break;
  }
}

}  // namespace

// --- Writes -----------------------------------------------------------------------------------------------

void Lane::write(Context& cx, RequestId request, Slot slot, Value value) {
  std::vector<RequestId> writer{request};
  if (!value.empty() && !fits(cx, slot, value.size()))
    return answer(cx, writer, WriteStatus::too_large, false);
  if (held_ && held_->permanent && (cx.now < held_->retry_at || has_pending())) {
    return answer(cx, writer, WriteStatus::unavailable, false);
  }
  SlotState& s = at(slot);
  Entry entry;
  entry.sequence = ++cx.shared.sequence;
  entry.size = value.size();
  entry.value = std::move(value);
  entry.since = cx.now;
  if (s.next) {
    // Superseded before anybody saw it: its clients are answered by the newer value.
    s.next->entry = std::move(entry);
    s.next->writers.push_back(request);
  } else {
    s.next = Waiting{std::move(entry), std::move(writer)};
  }
  advance(cx);
}

bool Lane::fits(const Context& cx, Slot slot, std::size_t size) const {
  if (owner_.device == Device::uefi) return size <= cx.shared.config.upstream.nvram;
  std::size_t total = 2;  // the separators
  for (std::size_t i = 0; i < slot_count; ++i) {
    const Slot other = slot_at(i);
    const SlotState& s = at(other);
    if (other == slot)
      total += size;
    else if (s.next)
      total += s.next->entry.size;
    else if (s.committing)
      total += s.committing->entry.size;
    else if (call_ && call_->sent[i])
      total += call_->sent[i]->entry.size;
    else if (s.durable)
      total += s.durable->size;
    else if (known_)
      total += known_->contents[other].size();
  }
  return total <= cx.shared.config.upstream.vtpm_contents;
}

bool Lane::journal_clean() const {
  return std::all_of(slots_.begin(), slots_.end(), [](const SlotState& s) { return s.journal_clean(); });
}

bool Lane::may_go_direct(const Context& cx) const {
  return !call_ && !doubt_ && journal_clean() && cx.shared.health.worth_trying();
}

void Lane::leave_backlog(Context& cx) {
  in_backlog_ = false;
  advance(cx);
}

void Lane::advance(Context& cx) {
  if (std::none_of(slots_.begin(), slots_.end(), [](const SlotState& s) { return s.next.has_value(); }))
    return;
  if (may_go_direct(cx)) return start_direct(cx);
  const bool direct_under_way = call_ && call_->kind == Call::Kind::direct && !call_->late;
  if (direct_under_way && journal_clean()) return;
  for (std::size_t i = 0; i < slot_count; ++i) {
    if (slots_[i].next && !slots_[i].committing) start_commit(cx, slot_at(i));
  }
}

void Lane::start_direct(Context& cx) {
  Call call;
  call.kind = Call::Kind::direct;
  call.started = cx.now;
  for (std::size_t i = 0; i < slot_count; ++i) {
    if (!slots_[i].next) continue;
    call.sent[i] = std::move(slots_[i].next);
    slots_[i].next.reset();
    Entry& entry = call.sent[i]->entry;
    entry.digest = entry.value->digest();
    entry.known = slots_[i].base_known ? slots_[i].history : std::vector<Digest>{};
    attempt(slot_at(i), entry.digest);
  }
  call_ = std::move(call);
  send_direct(cx);
}

void Lane::send_direct(Context& cx) {
  call_->id = ++cx.shared.call;
  ++generation_;
  ++cx.shared.counters.direct_calls;
  Delivery delivery;
  delivery.owner = owner_;
  delivery.verify = verify_next_;
  for (std::size_t i = 0; i < slot_count; ++i) {
    if (!call_->sent[i]) continue;
    const Entry& entry = call_->sent[i]->entry;
    delivery.writes.push_back(SlotWrite{slot_at(i), entry.sequence, *entry.value, {}, {}, false});
  }
  if (known_valid(cx) && known_is_base_ && !verify_next_) {
    delivery.base = known_->contents;
    delivery.base_epoch = known_->epoch;
  }
  cx.out.push_back(Deliver{call_->id, std::move(delivery)});
}

void Lane::deliver_done(Context& cx, const DeliverDone& event) {
  if (!call_ || call_->id != event.call || call_->loading > 0) return invariant(cx, "answer to no call");
  Call call = std::move(*call_);
  call_.reset();
  ++generation_;
  uncount(cx, call);
  const Outcome& outcome = event.outcome;
  count_failure(cx.shared.counters, outcome.kind);
  if (outcome.kind == Kind::unknown) enter_doubt(cx, outcome.epoch);
  if (outcome.upstream_suspect) cx.shared.health.suspect(outcome.reason, cx.now, cx.shared.random, cx.out);
  if (outcome.kind == Kind::delivered) {
    verify_next_ = false;
    retry_backoff_.reset();
    if (outcome.contents) set_known(cx, *outcome.contents, outcome.epoch);
  } else if (outcome.kind != Kind::transient && outcome.kind != Kind::payload) {
    known_is_base_ = false;
  }
  if (call.kind == Call::Kind::direct && !call.late) {
    direct_done(cx, std::move(call), outcome);
  } else {
    call_done_late(cx, std::move(call), outcome);
  }
}

/// call direct, in time -> idle, call direct, committing or held.
void Lane::direct_done(Context& cx, Call call, const Outcome& outcome) {
  switch (outcome.kind) {
    case Kind::delivered:
      for (std::size_t i = 0; i < slot_count; ++i) {
        if (!call.sent[i]) continue;
        learn(slot_at(i), call.sent[i]->entry.digest);
        slots_[i].delivered = call.sent[i]->entry.sequence;
        answer(cx, call.sent[i]->writers, WriteStatus::accepted, false);
      }
      ++cx.shared.counters.delivered;
      clear_held(cx);
      return advance(cx);
    case Kind::stale:
      if (call.restarts < max_restarts && cx.now < call.started + cx.shared.config.direct_timeout) {
        ++call.restarts;
        call_ = std::move(call);
        return send_direct(cx);
      }
      return to_journal(cx, call);
    case Kind::transient:
    case Kind::unknown:
      return to_journal(cx, call);
    case Kind::payload:
    case Kind::lane:
    case Kind::conflict:
      break;
  }
  // Certainly undeliverable now: refused, not journaled (P7).
  const bool payload = outcome.kind == Kind::payload;
  if (!payload) note_failure(cx, outcome.kind, outcome.reason);
  for (auto& sent : call.sent) {
    if (sent) answer(cx, sent->writers, payload ? WriteStatus::too_large : WriteStatus::unavailable, false);
  }
  if (held_ && held_->permanent) {
    for (SlotState& s : slots_) {
      if (!s.next) continue;
      answer(cx, s.next->writers, WriteStatus::unavailable, false);
      s.next.reset();
    }
  }
  advance(cx);
}

/// The values of a direct call, and those that waited behind it, go to the journal.
void Lane::to_journal(Context& cx, Call& call) {
  for (std::size_t i = 0; i < slot_count; ++i) {
    SlotState& s = slots_[i];
    if (call.sent[i]) {
      Waiting sent = *call.sent[i];
      call.sent[i]->writers.clear();
      if (s.next) {
        // Order of arrival: those of the older value were first.
        sent.writers.insert(sent.writers.end(), s.next->writers.begin(), s.next->writers.end());
        s.next->writers = std::move(sent.writers);
      } else {
        s.next = std::move(sent);
      }
    }
    if (s.next && !s.committing) start_commit(cx, slot_at(i));
  }
}

// --- Journal ----------------------------------------------------------------------------------------------

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
    s.failed = event.sequence;
    s.retry_removal = cx.now + Time(limits::removal_retry);
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
    return;
  }
  if (s.failed <= event.up_to) s.failed = 0;
  if (s.durable && s.durable->sequence <= event.up_to) replace_durable(cx, event.slot, std::nullopt);
  if (s.durable && s.durable->sequence <= s.delivered) start_removal(cx, event.slot);
  advance(cx);
}

void Lane::replace_durable(Context& cx, Slot slot, std::optional<Entry> entry) {
  SlotState& s = at(slot);
  Queue& queue = cx.shared.queue;
  const std::optional<Entry> old = std::exchange(s.durable, std::move(entry));
  // The new one first: replacing the only pending entry is no end of the outage.
  if (s.durable) {
    s.durable->queued = queue.add(s.durable->size);
    if (!s.durable->queued) s.durable->value.reset();
  }
  if (old) queue.remove(old->size, old->queued);
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
  if (!event.value && current) journal_trouble(cx, true, "read failed");
  std::vector<RequestId> again;
  std::erase_if(s.back_readers, [&](const auto& reader) {
    if (reader.second != event.sequence) return false;
    if (event.value)
      answer(cx, reader.first, ReadResult::Source::pending, *event.value);
    else if (current)
      answer(cx, reader.first, ReadResult::Source::none, {});
    else
      again.push_back(reader.first);
    return true;
  });
  requeue_readers(cx, std::move(again), event.slot);

  if (!call_ || call_->loading == 0) return;
  auto& sent = call_->sent[static_cast<std::size_t>(event.slot)];
  if (!sent || sent->entry.sequence != event.sequence || sent->entry.value) return;
  if (event.value) {
    sent->entry.value = event.value;
  } else if (current) {
    call_->load_failed = true;
  }
  if (--call_->loading == 0) send_delivery(cx);
}

// --- Delivery ---------------------------------------------------------------------------------------------

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
    ++call.loading;
    cx.out.push_back(ReadBack{owner_, slot_at(i), s.durable->sequence});
  }
  const bool ready = call.loading == 0;
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
    if (!s.durable || s.durable->sequence != entry.sequence) call_->sent[i].reset();
    if (!call_->sent[i] || !entry.value) continue;
    SlotWrite write{slot_at(i), entry.sequence, *entry.value, entry.vtpm, {}, false};
    if (entry.suspect) {
      // Damage may have hidden a newer write of this slot: only over what it was based on (P10, P14).
      write.known = entry.known;
      write.known.push_back(entry.digest);
    }
    delivery.writes.push_back(std::move(write));
  }
  if (call_->load_failed || delivery.writes.empty()) {
    if (call_->load_failed) {
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
  doubt_ = Doubt{cx.now + cx.shared.config.doubt_window, epoch};
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

// --- Reads ------------------------------------------------------------------------------------------------

void Lane::read(Context& cx, RequestId request, Slot slot) {
  SlotState& s = at(slot);
  if (s.durable) {
    if (s.durable->value) return answer(cx, request, ReadResult::Source::pending, *s.durable->value);
    s.back_readers.emplace_back(request, s.durable->sequence);
    cx.out.push_back(ReadBack{owner_, slot, s.durable->sequence});
    return;
  }
  if (s.committing) return s.commit_readers.push_back(request);
  if (!cx.shared.health.worth_trying()) return answer_known_or_unavailable(cx, request, slot);
  start_fetch(cx, request, slot);
}

void Lane::requeue_readers(Context& cx, std::vector<RequestId> readers, Slot slot) {
  for (const RequestId reader : readers) read(cx, reader, slot);
}

void Lane::start_fetch(Context& cx, RequestId request, Slot slot) {
  for (FetchCall& fetch : fetches_) {
    if (fetch.generation == generation_) return fetch.readers.emplace_back(request, slot), void();
  }
  if (fetches_.size() >= max_fetches) return answer_known_or_unavailable(cx, request, slot);
  FetchCall fetch;
  fetch.id = ++cx.shared.call;
  fetch.generation = generation_;
  fetch.overlapped = call_.has_value() || doubt_.has_value();
  fetch.readers.emplace_back(request, slot);
  cx.out.push_back(Fetch{fetch.id, owner_});
  fetches_.push_back(std::move(fetch));
}

void Lane::fetch_done(Context& cx, const FetchDone& event) {
  const auto found =
      std::find_if(fetches_.begin(), fetches_.end(), [&](const FetchCall& f) { return f.id == event.call; });
  if (found == fetches_.end()) return invariant(cx, "answer to no fetch");
  FetchCall fetch = std::move(*found);
  fetches_.erase(found);
  const Fetched& fetched = event.fetched;
  if (fetched.upstream_suspect) cx.shared.health.suspect(fetched.reason, cx.now, cx.shared.random, cx.out);
  if (fetched.kind == Kind::lane) note_failure(cx, Kind::lane, fetched.reason);
  const bool good = fetched.kind == Kind::delivered;
  if (good && held_ && held_->kind == Kind::lane && !has_pending()) clear_held(cx);
  // Rule 4: a read that an update overlapped says nothing about what stands there now.
  if (good && !fetch.overlapped && fetch.generation == generation_ && !doubt_) {
    set_known(cx, fetched.contents, fetched.epoch);
    for (std::size_t i = 0; i < slot_count; ++i) {
      if (device_of(slot_at(i)) == owner_.device && slots_[i].none()) {
        learn(slot_at(i), fetched.contents.slots[i].digest());
      }
    }
  }
  for (const auto& [request, slot] : fetch.readers) {
    if (at(slot).durable || at(slot).committing)
      read(cx, request, slot);
    else if (good)
      answer(cx, request, ReadResult::Source::upstream, fetched.contents[slot]);
    else
      answer_known_or_unavailable(cx, request, slot);
  }
}

void Lane::answer_known_or_unavailable(Context& cx, RequestId request, Slot slot) {
  if (known_valid(cx)) return answer(cx, request, ReadResult::Source::known, known_->contents[slot]);
  answer(cx, request, ReadResult::Source::none, {});
}

// --- What is known ----------------------------------------------------------------------------------------

bool Lane::known_valid(const Context& cx) const { return known_ && known_->epoch > cx.shared.ended_epoch; }

void Lane::set_known(Context& cx, const Contents& contents, Epoch epoch) {
  drop_known(cx);
  vtpm_ = contents.vtpm;
  if (epoch == 0 || epoch <= cx.shared.ended_epoch || doubt_ || !socket_open_) return;
  Known known{contents, epoch, 0};
  for (const Value& value : contents.slots) known.bytes += value.size();
  if (cx.shared.known_bytes + known.bytes > cx.shared.config.known_bytes) return;
  cx.shared.known_bytes += known.bytes;
  known_ = std::move(known);
  known_is_base_ = true;
}

void Lane::drop_known(Context& cx) {
  if (known_) cx.shared.known_bytes -= known_->bytes;
  known_.reset();
}

/// The upstream is known to hold this value, and nothing newer of ours is on its way.
void Lane::learn(Slot slot, Digest digest) {
  SlotState& s = at(slot);
  s.history.assign(1, digest);
  s.base_known = true;
}

/// This value may come to stand upstream from now on.
void Lane::attempt(Slot slot, Digest digest) {
  SlotState& s = at(slot);
  if (std::find(s.history.begin(), s.history.end(), digest) != s.history.end()) return;
  // The base stays; the oldest attempt makes room.
  if (s.history.size() >= limits::known_digests) s.history.erase(s.history.begin() + 1);
  s.history.push_back(digest);
}

// --- Sessions, sockets, time ------------------------------------------------------------------------------

void Lane::session_ended(Context& cx, Epoch epoch) {
  if (known_ && known_->epoch <= epoch) drop_known(cx);
  // xapi refuses calls of an old session, so an update sent in it whose connection is gone has no future.
  if (doubt_ && doubt_->epoch != 0 && doubt_->epoch <= epoch) {
    doubt_.reset();
    advance(cx);
  }
}

void Lane::socket_closed(Context& cx) {
  socket_open_ = false;
  drop_known(cx);
  vtpm_ = Uuid{};
}

void Lane::kick(Context& cx) {
  retry_at_ = cx.now;
  retry_backoff_.reset();
  if (held_) held_->retry_at = cx.now;
}

void Lane::tick(Context& cx) {
  if (doubt_ && doubt_->until <= cx.now) {
    doubt_.reset();
    advance(cx);
  }
  if (call_ && !call_->late && call_->started + cx.shared.config.direct_timeout <= cx.now) {
    call_->late = true;
    uncount(cx, *call_);
    cx.shared.health.doubtful(cx.out);
    if (call_->kind == Call::Kind::direct) {
      known_is_base_ = false;
      verify_next_ = true;
      to_journal(cx, *call_);
    }
  }
  if (call_ && call_->late && !call_->reported && call_->started + Time(limits::doubt_report) <= cx.now) {
    call_->reported = true;
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(cx.now - call_->started).count();
    cx.out.push_back(Report{Report::What::doubt_long, owner_, {}, static_cast<std::uint64_t>(ms)});
  }
  for (std::size_t i = 0; i < slot_count; ++i) start_removal(cx, slot_at(i));
}

std::optional<Time> Lane::next_wake(const Context& cx) const {
  std::optional<Time> wake;
  const auto consider = [&wake](Time when) {
    if (!wake || when < *wake) wake = when;
  };
  if (doubt_) consider(doubt_->until);
  if (call_ && !call_->late) consider(call_->started + cx.shared.config.direct_timeout);
  if (call_ && call_->late && !call_->reported) consider(call_->started + Time(limits::doubt_report));
  for (const SlotState& s : slots_) {
    const bool delivered = s.durable && s.durable->sequence <= s.delivered;
    const bool stained = s.failed != 0 && !s.committing && !s.durable;
    if (s.removing == 0 && (delivered || stained)) consider(s.retry_removal);
  }
  if (!call_ && !doubt_ && oldest_pending() != 0) {
    if (held_ && held_->retry_at > cx.now) consider(held_->retry_at);
    if (retry_at_ > cx.now) consider(retry_at_);
  }
  return wake;
}

bool Lane::disposable() const {
  return !socket_open_ && !call_ && !doubt_ && !held_ && fetches_.empty() && !verify_next_ &&
         std::all_of(slots_.begin(), slots_.end(), [](const SlotState& s) { return s.none(); });
}

// --- For status and tests ---------------------------------------------------------------------------------

std::optional<HeldView> Lane::held() const {
  if (!held_) return std::nullopt;
  return HeldView{std::string(name_of(held_->kind)) + ": " + held_->reason, held_->since, held_->permanent};
}

const Entry* Lane::pending(Slot slot) const {
  const SlotState& s = at(slot);
  return s.durable ? &*s.durable : nullptr;
}

std::string Lane::describe() const {
  std::string text = "call=";
  text += !call_                              ? "none"
          : call_->kind == Call::Kind::direct ? "direct"
          : call_->loading > 0                ? "loading"
                                              : "delivery";
  text += " doubt=";
  text += call_ && call_->late ? "open" : doubt_ ? "window" : "none";
  text += " held=";
  text += !held_ ? "no" : held_->permanent ? "permanent" : "yes";
  for (std::size_t i = 0; i < slot_count; ++i) {
    const SlotState& s = slots_[i];
    if (device_of(slot_at(i)) != owner_.device) continue;
    std::string phase;
    if (s.next) phase += "+waiting";
    if (s.committing)
      phase += s.committing->entry.sequence <= s.delivered ? "+committing(delivered)" : "+committing";
    if (s.durable) phase += s.durable->sequence <= s.delivered ? "+durable(delivered)" : "+durable";
    if (s.removing != 0) phase += "+removing";
    if (s.failed != 0) phase += "+stained";
    if (phase.empty()) continue;
    text += ' ';
    text += name_of(slot_at(i));
    text += '=';
    text += phase.substr(1);
  }
  return text;
}

// --- Answers ----------------------------------------------------------------------------------------------

void Lane::answer(Context& cx, std::vector<RequestId>& writers, WriteStatus status, bool journaled) {
  Counters& counters = cx.shared.counters;
  for (const RequestId writer : writers) {
    switch (status) {
      case WriteStatus::accepted:
        ++(journaled ? counters.writes_journaled : counters.writes_direct);
        break;
      case WriteStatus::unavailable:
        ++counters.writes_unavailable;
        break;
      case WriteStatus::too_large:
        ++counters.writes_too_large;
        break;
    }
    cx.out.push_back(AnswerWrite{writer, status, journaled});
  }
  writers.clear();
}

void Lane::answer(Context& cx, RequestId reader, ReadResult::Source source, Value value) {
  Counters& counters = cx.shared.counters;
  switch (source) {
    case ReadResult::Source::pending:
      ++counters.reads_pending;
      break;
    case ReadResult::Source::upstream:
      ++counters.reads_upstream;
      break;
    case ReadResult::Source::known:
      ++counters.reads_known;
      break;
    case ReadResult::Source::none:
      ++counters.reads_unavailable;
      break;
  }
  cx.out.push_back(AnswerRead{reader, ReadResult{source, std::move(value)}});
}

void Lane::journal_trouble(Context& cx, bool trouble, const char* what) {
  if (trouble == cx.shared.journal_trouble) return;
  cx.shared.journal_trouble = trouble;
  cx.out.push_back(Report{trouble ? Report::What::journal_trouble : Report::What::journal_well, std::nullopt,
                          trouble ? what : "", 0});
}

void Lane::invariant(Context& cx, const char* what) {
  ++cx.shared.counters.invariants;
  cx.out.push_back(Report{Report::What::invariant, owner_, what, 0});
}

}  // namespace guard::core
