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
    else if (s.durable)  // newer than anything a call still carries
      total += s.durable->size;
    else if (call_ && call_->sent[i])
      total += call_->sent[i]->entry.size;
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
  if (!call_ || call_->id != event.call || call_->is_loading()) return invariant(cx, "answer to no call");
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
    case Kind::elsewhere:
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
  for (std::size_t i = 0; i < slot_count; ++i) start_removal(cx, slot_at(i));
}

std::optional<Time> Lane::next_wake(const Context& cx) const {
  std::optional<Time> wake;
  const auto consider = [&wake](Time when) {
    if (!wake || when < *wake) wake = when;
  };
  if (doubt_) consider(std::min(doubt_->until, doubt_->probe_at));
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

/// What a lane without socket and entries still knows (a refusal, a doubt that is over) matters to nobody:
/// the next device of that VM starts with a fresh read.
bool Lane::disposable() const {
  return !socket_open_ && !call_ && !doubt_ && fetches_.empty() &&
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
          : call_->is_loading()               ? "loading"
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
