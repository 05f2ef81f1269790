#include "core/lane.h"

#include <algorithm>

namespace guard::core {

namespace {

using Kind = Outcome::Kind;

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
    case Kind::elsewhere:
      ++counters.failed_conflict;
      break;
    case Kind::unknown:
      ++counters.failed_unknown;
      break;
  }
}

}  // namespace

// --- Writes -----------------------------------------------------------------------------------------------

void Lane::write(Context& cx, WriteArrived& event) {
  const RequestId request = event.request;
  const Slot slot = event.slot;
  Value value = std::move(event.value);
  std::vector<RequestId> writer{request};
  if (!value.empty() && !fits(cx, slot, value.size()))
    return answer(cx, writer, WriteStatus::too_large, false);
  if (refuses_writes(cx)) return answer(cx, writer, WriteStatus::unavailable, false);
  SlotState& s = at(slot);
  Entry entry;
  entry.sequence = ++cx.shared.sequence;
  entry.size = value.size();
  entry.value = std::move(value);
  entry.since = cx.now;
  entry.update = event.update;
  if (s.next) {
    entry.update = inherited(s.next->entry.update, entry.update);
    // Superseded before anybody saw it: its clients are answered by the newer value.
    s.next->entry = std::move(entry);
    s.next->writers.push_back(request);
  } else {
    s.next = Waiting{std::move(entry), std::move(writer)};
  }
  advance(cx);
}

/// What cannot be delivered is not accepted (P7): the VM's trouble is certain, and one try at its own pace is
/// enough.
bool Lane::refuses_writes(const Context& cx) const {
  return held_ && held_->permanent && (cx.now < held_->retry_at || has_pending());
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
    else if (contents_next_ && i < 3)
      total += contents_next_->values[i].size();
    else if (s.committing)
      total += s.committing->entry.size;
    else if (s.durable)  // newer than anything a call still carries
      total += s.durable->size;
    else if (call_ && call_->sent[i])
      total += call_->sent[i]->entry.size;
    else if (s.uncompared())
      total += s.retained->entry.size;
    else if (known_)
      total += known_->contents[other].size();
  }
  return total <= cx.shared.config.upstream.vtpm_contents;
}

/// But for the ends of retentions: those concern only a direct write of the same slot.
bool Lane::journal_clean() const {
  return std::all_of(slots_.begin(), slots_.end(), [](const SlotState& s) {
    return !s.committing && !s.durable && s.failed == 0 && s.discard == 0 &&
           (!s.removal || s.removal->why == Removal::Why::release);
  });
}

bool Lane::uncompared() const {
  return std::any_of(slots_.begin(), slots_.end(), [](const SlotState& s) { return s.uncompared(); });
}

bool Lane::may_go_direct(const Context& cx) const {
  return !call_ && !doubt_ && journal_clean() && !uncompared() && cx.shared.updates_allowed();
}

void Lane::leave_backlog(Context& cx) {
  in_backlog_ = false;
  advance(cx);
}

void Lane::advance(Context& cx) {
  if (contents_next_) start_contents(cx);
  if (contents_next_) return;  // what came after it waits behind it
  if (std::none_of(slots_.begin(), slots_.end(), [](const SlotState& s) { return s.next.has_value(); }))
    return;
  if (may_go_direct(cx)) {
    bool releasing = false;
    bool to_disk = false;
    for (std::size_t i = 0; i < slot_count; ++i) {
      SlotState& s = slots_[i];
      if (!s.next) continue;
      // Its journal entry would come back over a direct write.
      if (s.parked) to_disk = true;
      if (s.kept == 0) continue;
      // Rule 1: a retained record ends durably before the slot is written past the journal.
      // The value goes on in memory until the newer one is accepted; where it is not at hand, the newer one
      // takes its place in the journal instead.
      const bool refused = cx.shared.stalled || (!s.removal && cx.now < s.retry_removal);
      if (refused || !keep_in_memory(cx, slot_at(i))) {
        to_disk = true;
        continue;
      }
      s.release = true;
      releasing = true;
      start_removal(cx, slot_at(i));
    }
    if (!to_disk) return releasing ? void() : start_direct(cx);
  }
  const bool direct_under_way = call_ && call_->kind == Call::Kind::direct && !call_->late;
  // Else the older value could reach the journal behind the newer one.
  if (direct_under_way) return;
  if (cx.shared.stalled || !cx.shared.buffering) return refuse_waiting(cx, WriteStatus::unavailable);
  for (std::size_t i = 0; i < slot_count; ++i) {
    if (slots_[i].next && !slots_[i].committing) start_commit(cx, slot_at(i));
  }
}

void Lane::refuse_waiting(Context& cx, WriteStatus status) {
  for (SlotState& s : slots_) {
    if (!s.next) continue;
    answer(cx, s.next->writers, status, false);
    s.next.reset();
  }
}

void Lane::start_direct(Context& cx) {
  Call call;
  call.kind = Call::Kind::direct;
  call.started = cx.now;
  for (std::size_t i = 0; i < slot_count; ++i) {
    SlotState& s = slots_[i];
    if (!s.next) continue;
    call.sent[i] = std::move(s.next);
    s.next.reset();
    // What it is to overwrite, also if that was read while something else of the slot was under way.
    if (merges(cx)) s.history.confirm(known_->contents.slots[i].digest(), cx.shared.history);
    prepare(cx, s, call.sent[i]->entry);
  }
  call_ = std::move(call);
  send_direct(cx);
}

/// Whether a direct write is merged into what is known, instead of what is read first.
bool Lane::merges(const Context& cx) const { return known_valid(cx) && known_is_base_ && !verify_next_; }

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
    delivery.writes.push_back(
        SlotWrite{slot_at(i), entry.sequence, *entry.value, entry.vtpm, {}, false, entry.update});
  }
  if (merges(cx)) {
    delivery.base = known_->contents;
    delivery.base_epoch = known_->epoch;
  }
  note(cx);
  cx.out.push_back(Deliver{call_->id, std::move(delivery)});
}

/// The values of the call may come to stand upstream from now on, whatever becomes of this process.
void Lane::note(Context& cx) {
  Note note{owner_, {}};
  for (std::size_t i = 0; i < slot_count; ++i) {
    if (!call_->sent[i]) continue;
    const Digest digest = call_->sent[i]->entry.digest;
    slots_[i].history.attempt(digest, cx.shared.history);
    slots_[i].sent = std::max(slots_[i].sent, call_->sent[i]->entry.sequence);
    note.values.push_back({slot_at(i), digest, slots_[i].sent});
  }
  noted_ = true;
  cx.out.push_back(std::move(note));
}

void Lane::deliver_done(Context& cx, const DeliverDone& event) {
  if (std::erase(abandoned_, event.call) > 0) return;
  if (!call_ || call_->id != event.call || call_->is_loading()) return invariant(cx, "answer to no call");
  Call call = std::move(*call_);
  call_.reset();
  ++generation_;
  uncount(cx, call);
  const Outcome& outcome = event.outcome;
  count_failure(cx.shared.counters, outcome.kind);
  if (outcome.kind == Kind::unknown) enter_doubt(cx, outcome.epoch);
  if (!doubt_) end_doubt(cx);
  if (outcome.upstream_suspect) cx.shared.health.suspect(outcome.reason, cx.now, cx.shared.random, cx.out);
  if (outcome.found) {
    // What an update overwrites was known before it (rule 5).
    for (std::size_t i = 0; i < slot_count; ++i) {
      if (!call.sent[i]) continue;
      const Digest found = outcome.found->slots[i].digest();
      Entry& entry = call.sent[i]->entry;
      // One's own value tells nothing about what stood there before it.
      if (found == entry.digest) continue;
      if (!doubt_ || outcome.kind == Kind::unknown) slots_[i].history.confirm(found, cx.shared.history);
      if (outcome.kind != Kind::delivered && outcome.kind != Kind::unknown) continue;
      if (entry.known_end == 0 && entry.known.empty()) {
        if (!slots_[i].history.base_known()) continue;
        entry.known_end = slots_[i].history.end();  // it had no base, and was let through
      } else if (entry.known.size() < limits::known_digests) {
        entry.known.push_back(found);
      }
      share_base(slots_[i], entry);
    }
  }
  if (outcome.found) remember_rest(*outcome.found, outcome.epoch);
  if (outcome.kind == Kind::conflict && outcome.found) set_known(cx, *outcome.found, outcome.epoch);
  if (outcome.kind == Kind::delivered) {
    // What was written over anything has a base now.
    for (std::size_t i = 0; i < slot_count; ++i) {
      if (!call.sent[i] || !std::exchange(call.sent[i]->entry.over_anything, false)) continue;
      if (call.sent[i]->entry.known_end == 0) call.sent[i]->entry.known_end = slots_[i].history.end();
    }
    verify_next_ = false;
    retry_backoff_.reset();
    if (outcome.epoch != 0 && (cx.shared.alive.epoch != outcome.epoch || cx.shared.alive.at < call.started)) {
      cx.shared.alive = {outcome.epoch, call.started};
    }
    if (outcome.contents) {
      set_known(cx, *outcome.contents, outcome.epoch);
      confirm(cx, *outcome.contents, &call);
    }
  } else if (outcome.kind != Kind::transient && outcome.kind != Kind::payload &&
             outcome.kind != Kind::conflict) {
    known_is_base_ = false;
  }
  if (call.kind == Call::Kind::direct && !call.late) {
    direct_done(cx, std::move(call), outcome);
  } else {
    call_done_late(cx, std::move(call), outcome);
  }
  stop_verifying(cx);
}

/// What an update taught about its value holds for the same value wherever the lane has it by now.
void Lane::share_base(SlotState& s, const Entry& entry) {
  const auto share = [&entry](Entry* same) {
    if (same == nullptr || same->sequence != entry.sequence) return;
    same->known = entry.known;
    same->known_end = entry.known_end;
  };
  share(s.durable ? &*s.durable : nullptr);
  share(s.parked ? &*s.parked : nullptr);
  share(s.retained ? &s.retained->entry : nullptr);
  share(s.committing ? &s.committing->entry : nullptr);
  share(s.next ? &s.next->entry : nullptr);
}

/// call direct, in time -> idle, call direct, committing or held.
void Lane::direct_done(Context& cx, Call call, const Outcome& outcome) {
  switch (outcome.kind) {
    case Kind::delivered:
      for (std::size_t i = 0; i < slot_count; ++i) {
        if (!call.sent[i]) continue;
        Entry& entry = call.sent[i]->entry;
        slots_[i].history.arrived(entry.digest, entry.known, cx.shared.history);
        slots_[i].delivered = entry.sequence;
        answer(cx, call.sent[i]->writers, WriteStatus::accepted, false);
        retain(cx, slot_at(i), std::move(entry), outcome.epoch, false);
      }
      if (contents_sent_) answer_contents(cx, *contents_sent_, WriteStatus::accepted, false);
      contents_sent_.reset();
      ++cx.shared.counters.delivered;
      clear_held(cx);
      return advance(cx);
    case Kind::stale:
      if (call.restarts < max_restarts && cx.now < call.started + cx.shared.config.direct_timeout &&
          may_go_direct(cx)) {
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
    case Kind::elsewhere:
      break;
  }
  // Certainly undeliverable now: refused, not journaled (P7).
  const bool payload = outcome.kind == Kind::payload;
  if (!payload) note_failure(cx, outcome.kind, outcome.reason);
  const WriteStatus status = payload ? WriteStatus::too_large : WriteStatus::unavailable;
  for (auto& sent : call.sent) {
    if (sent) answer(cx, sent->writers, status, false);
  }
  if (contents_sent_) answer_contents(cx, *contents_sent_, status, false);
  contents_sent_.reset();
  if (held_ && held_->permanent) refuse_waiting(cx, WriteStatus::unavailable);
  advance(cx);
}

/// The values of a direct call, and those that waited behind it, go to the journal.
void Lane::to_journal(Context& cx, Call& call) {
  if (call.contents) {
    if (contents_sent_ && contents_next_) {
      // Superseded: those who wait for it are answered by the newer one.
      auto& requests = contents_next_->requests;
      auto& writers = contents_next_->writers;
      requests.insert(requests.begin(), contents_sent_->requests.begin(), contents_sent_->requests.end());
      writers.insert(writers.begin(), contents_sent_->writers.begin(), contents_sent_->writers.end());
    } else if (contents_sent_) {
      contents_next_ = std::move(contents_sent_);
    }
    contents_sent_.reset();
    if (contents_next_) contents_next_->to_disk = true;
    return advance(cx);
  }
  for (std::size_t i = 0; i < slot_count; ++i) {
    SlotState& s = slots_[i];
    if (call.sent[i]) {
      Waiting sent = *call.sent[i];
      call.sent[i]->writers.clear();
      if (contents_next_) {
        // Older than the contents: those who wait for it are answered by them.
        contents_next_->writers.insert(contents_next_->writers.begin(), sent.writers.begin(),
                                       sent.writers.end());
      } else if (s.next) {
        s.next->entry.update = inherited(sent.entry.update, s.next->entry.update);
        // Order of arrival: those of the older value were first.
        sent.writers.insert(sent.writers.end(), s.next->writers.begin(), s.next->writers.end());
        s.next->writers = std::move(sent.writers);
      } else {
        s.next = std::move(sent);
      }
    }
  }
  // Not directly again: this call has just shown how the upstream is.
  if (contents_next_) return advance(cx);
  if (cx.shared.stalled || !cx.shared.buffering) return refuse_waiting(cx, WriteStatus::unavailable);
  for (std::size_t i = 0; i < slot_count; ++i) {
    if (slots_[i].next && !slots_[i].committing) start_commit(cx, slot_at(i));
  }
}

// --- Sessions, sockets, time ------------------------------------------------------------------------------

void Lane::session_ended(Context& cx, Epoch epoch) {
  if (known_ && known_->epoch <= epoch) drop_known(cx);
  for (SlotState& s : slots_) {
    if (s.retained && s.retained->entry.epoch <= epoch) s.retained->state = Retained::State::uncompared;
    if (s.parked) recheck_parked_ = true;
    reconsider(cx, s);
  }
  // xapi refuses calls of an old session, so an update sent in it whose connection is gone has no future.
  if (doubt_ && doubt_->epoch != 0 && doubt_->epoch <= epoch) {
    end_doubt(cx);
    advance(cx);
  }
}

/// The doubt, if any, is over, and so is what was noted of it.
void Lane::end_doubt(Context& cx) {
  doubt_.reset();
  if (!noted_ || call_) return;
  noted_ = false;
  cx.out.push_back(Unnote{owner_});
}

void Lane::socket_opened(Context& cx) {
  socket_open_ = true;
  rest_epoch_ = 0;
  // What was learned without a socket may be of an earlier life of the VM, under another vTPM.
  drop_known(cx);
  vtpm_ = Uuid{};
  if (!has_pending()) return;
  // What waits may be older than what the new device has elsewhere: the upstream is asked first.
  verify_until_ = cx.now + Time(limits::verify_patience);
  retry_at_ = std::min(retry_at_, cx.now);
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
    end_doubt(cx);
    advance(cx);
  }
  if (doubt_ && doubt_->probe_at <= cx.now) {
    doubt_->probe_at = cx.now + Time(limits::doubt_probe);
    cx.shared.health.doubtful(cx.out);
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
  if (verify_until_ && *verify_until_ <= cx.now) stop_verifying(cx);
  if (contents_next_ && contents_next_->deadline <= cx.now) {
    answer_contents(cx, *contents_next_, WriteStatus::unavailable, false);
    contents_next_.reset();
    advance(cx);
  }
  if (save_at_ && *save_at_ <= cx.now) save_retained(cx);
  end_retentions(cx);
  for (std::size_t i = 0; i < slot_count; ++i) start_removal(cx, slot_at(i));
  serve_contents_readers(cx);
}

std::optional<Time> Lane::next_wake(const Context& cx) const {
  std::optional<Time> wake;
  const auto consider = [&wake](Time when) {
    if (!wake || when < *wake) wake = when;
  };
  if (doubt_) consider(std::min(doubt_->until, doubt_->probe_at));
  if (call_ && !call_->late) consider(call_->started + cx.shared.config.direct_timeout);
  if (call_ && call_->late && !call_->reported) consider(call_->started + Time(limits::doubt_report));
  if (verify_until_) consider(*verify_until_);
  if (save_at_) consider(*save_at_);
  if (contents_next_) consider(contents_next_->deadline);
  for (const ContentsReader& reader : contents_readers_) {
    consider(std::min(reader.deadline, contents_look_at_));
  }
  for (const SlotState& s : slots_) {
    if (removal_due(cx, s)) consider(std::max(s.retry_removal, cx.now));
    if (s.blocked_by_failed()) {
      const Time due = s.durable->accepted_at + cx.shared.config.retain;
      if (due > cx.now) consider(due);
    }
    if (s.retained && !s.release && !awaiting_alive_ && s.retained->state != Retained::State::uncompared) {
      consider(release_time(cx, *s.retained));
    }
  }
  if (!call_ && !doubt_ && place() != 0) {
    if (held_ && held_->retry_at > cx.now) consider(held_->retry_at);
    if (retry_at_ > cx.now) consider(retry_at_);
  }
  return wake;
}

/// What a lane without socket and entries still knows (a refusal, a doubt that is over) matters to nobody:
/// the next device of that VM starts with a fresh read.
bool Lane::disposable() const {
  return !socket_open_ && !call_ && !doubt_ && fetches_.empty() && abandoned_.empty() && !contents_next_ &&
         contents_readers_.empty() && operations_.empty() &&
         std::all_of(slots_.begin(), slots_.end(), [](const SlotState& s) {
           return !s.next && s.journal_clean() && !s.parked && !s.retained && s.kept == 0;
         });
}

void Lane::let_go(Context& cx) {
  drop_known(cx);
  for (SlotState& s : slots_) s.history.clear(cx.shared.history);
}

bool Lane::journaling() const {
  return save_at_ || std::any_of(slots_.begin(), slots_.end(),
                                 [](const SlotState& s) { return s.next || s.committing || s.removal; });
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

const Entry* Lane::parked(Slot slot) const {
  const SlotState& s = at(slot);
  return s.parked ? &*s.parked : nullptr;
}

const Retained* Lane::retained(Slot slot) const {
  const SlotState& s = at(slot);
  return s.retained ? &*s.retained : nullptr;
}

std::string Lane::describe() const {
  std::string text = "call=";
  text += !call_                              ? "none"
          : call_->kind == Call::Kind::direct ? "direct"
          : call_->is_loading()               ? "loading"
                                              : "delivery";
  text += " doubt=";
  text += call_ && call_->late ? "open" : doubt_ ? "window" : "none";
  text += " held=";
  text += !held_ ? "no" : held_->permanent ? "permanent" : "yes";
  if (recheck_parked_) text += " recheck";
  if (save_at_) text += " saving";
  if (contents_next_ || contents_committing_ || contents_sent_) text += " contents";
  for (std::size_t i = 0; i < slot_count; ++i) {
    const SlotState& s = slots_[i];
    if (device_of(slot_at(i)) != owner_.device) continue;
    std::string phase;
    if (s.next) phase += "+waiting";
    if (s.committing)
      phase += s.committing->entry.sequence <= s.delivered ? "+committing(delivered)" : "+committing";
    if (s.durable) phase += s.durable->sequence <= s.delivered ? "+durable(delivered)" : "+durable";
    if (s.removal) phase += s.removal->why == Removal::Why::release ? "+releasing" : "+removing";
    if (s.failed != 0) phase += "+stained";
    if (s.discard != 0) phase += "+discarded";
    if (s.parked) phase += "+parked";
    if (s.retained) {
      static constexpr const char* words[] = {"+retained", "+uncompared", "+suspended"};
      phase += words[static_cast<int>(s.retained->state)];
      if (s.retained->journaled) phase += "(journal)";
    }
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

void Lane::answer(Context& cx, RequestId reader, ReadResult::Source source, Value value, NvramMap map) {
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
  cx.out.push_back(AnswerRead{reader, ReadResult{source, std::move(value)}, std::move(map)});
}

void Lane::journal_trouble(Context& cx, bool trouble, const char* what) {
  Shared& shared = cx.shared;
  if (trouble) shared.trouble_at = cx.now;
  if (trouble == shared.journal_trouble) return;
  // A full journal takes some and refuses others: that is one trouble, not many.
  if (!trouble && cx.now < shared.trouble_at + Time(limits::trouble_quiet)) return;
  shared.journal_trouble = trouble;
  cx.out.push_back(Report{trouble ? Report::What::journal_trouble : Report::What::journal_well, std::nullopt,
                          trouble ? what : "", 0});
}

void Lane::invariant(Context& cx, const char* what) {
  ++cx.shared.counters.invariants;
  cx.out.push_back(Report{Report::What::invariant, owner_, what, 0});
}

}  // namespace guard::core
