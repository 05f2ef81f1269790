#include "testing/sim_upstream.h"

#include <algorithm>
#include <utility>

#include "upstream/conflict.h"
#include "wire/vtpm_contents.h"

namespace guard::testing {

using Kind = Outcome::Kind;

namespace {

bool fits(const Contents& merged, const Delivery& delivery, const UpstreamLimits& limits) {
  if (delivery.owner.device == Device::uefi) return merged[Slot::nvram].size() <= limits.nvram;
  return std::ranges::all_of(delivery.writes,
                             [](const SlotWrite& w) { return wire::is_packable_field(w.value.view()); }) &&
         wire::packed_vtpm_size(merged) <= limits.vtpm_contents;
}

}  // namespace

SimUpstream::SimUpstream(SimUpstreamOptions options) : options_(options), random_state_(options.seed) {}

// --- Submitting -------------------------------------------------------------------------------------------

SimUpstream::Call& SimUpstream::begin(Call::Kind kind, CallId id, const Owner& owner, Time now) {
  const CallId number = ++last_number_;
  Call& call = calls_[number];
  call.kind = kind;
  call.id = id;
  call.owner = owner;
  call.submitted = now;
  schedule(now + latency(), Event::Kind::arrive, number);
  return call;
}

void SimUpstream::submit(CallId id, Delivery delivery, Time now) {
  Call& call = begin(Call::Kind::delivery, id, delivery.owner, now);
  call.delivery = std::move(delivery);
  if (!call.delivery.base) return;
  call.stage = Call::Stage::update;
  call.merged = *call.delivery.base;
  for (const SlotWrite& write : call.delivery.writes) call.merged[write.slot] = write.value;
  call.epoch = call.delivery.base_epoch;
  call.session = client_session_;
}

void SimUpstream::submit_fetch(CallId id, Owner owner, Time now) { begin(Call::Kind::fetch, id, owner, now); }

void SimUpstream::submit_probe(CallId id, Time now) { begin(Call::Kind::probe, id, {}, now); }

std::optional<Time> SimUpstream::next_time() const {
  if (!outputs_.empty()) return now_;
  if (events_.empty()) return std::nullopt;
  return events_.top().when;
}

void SimUpstream::step(Time now, std::vector<Output>& out) {
  now_ = now;
  while (!events_.empty() && events_.top().when <= now) {
    const Event event = events_.top();
    events_.pop();
    happen(event);
  }
  std::ranges::move(outputs_, std::back_inserter(out));
  outputs_.clear();
}

void SimUpstream::happen(const Event& event) {
  if (event.kind == Event::Kind::flush) {
    flush_scheduled_ = false;
    return flush();
  }
  const auto found = calls_.find(event.call);
  if (found == calls_.end()) return;
  switch (event.kind) {
    case Event::Kind::arrive:
      return arrive(event.call, found->second, event.when);
    case Event::Kind::act:
      return act(event.call, found->second, event.when);
    case Event::Kind::give_up:
      return give_up(event.call, found->second);
    case Event::Kind::flush:
      return;
  }
}

// --- Requests arrive --------------------------------------------------------------------------------------

void SimUpstream::arrive(CallId number, Call& call, Time now) {
  if (!reaches(number, call)) return;
  if (call.stage == Call::Stage::update) return arrive_update(number, call, now);
  log_in();
  if (call.stage == Call::Stage::verify) return read_back(number, call);
  if (call.kind != Call::Kind::probe) return arrive_read(number, call, now);
  if (draw(SimFault::probe_fails, SimFault::probe_fails, {})) {
    return end(number, call, Kind::transient, "the probe was not answered", true);
  }
  tell(call, Kind::delivered, "");
  calls_.erase(number);
}

/// False when nobody is there, or nobody looks at it now.
bool SimUpstream::reaches(CallId number, Call& call) {
  if (!up_) {
    if (call.stage == Call::Stage::verify) {
      end(number, call, Kind::unknown, "reading back: nobody listens");
    } else {
      end(number, call, Kind::transient, "nobody listens", true);
    }
    return false;
  }
  if (!frozen_) return true;
  frozen_calls_.push_back(number);
  if (call.stage != Call::Stage::update) schedule(time_limit(call), Event::Kind::give_up, number);
  return false;
}

/// The client notices that its session is over when a call is refused, and logs in for the next.
void SimUpstream::log_in() {
  if (epoch_ != 0 && client_session_ == server_session_) return;
  if (epoch_ != 0) outputs_.push_back(SessionEnded{epoch_});
  epoch_ = ++last_epoch_;
  client_session_ = server_session_;
}

void SimUpstream::arrive_read(CallId number, Call& call, Time now) {
  if (read_is_troubled(number, call, now)) return;
  if (!vm_exists(call.owner.vm)) return end(number, call, Kind::lane, "UUID_INVALID VM");
  if (call.kind == Call::Kind::delivery && call.delivery.ask_residence && vms_[call.owner.vm].elsewhere) {
    return end(number, call, Kind::elsewhere, "the VM runs on another host");
  }
  const DeviceState& state = device(call.owner);
  if (state.malformed) return end(number, call, Kind::lane, "the contents are malformed");
  if (call.kind == Call::Kind::delivery) return merge(number, call, now);
  outputs_.push_back(FetchDone{call.id, {Kind::delivered, {}, false, epoch_, state.accepted}});
  calls_.erase(number);
}

bool SimUpstream::read_is_troubled(CallId number, Call& call, Time now) {
  if (std::exchange(call.slowed, false)) return false;
  const auto fault = draw(SimFault::read_fails, SimFault::read_hangs, call.owner.vm);
  if (!fault) return false;
  switch (*fault) {
    case SimFault::read_slow:
      call.slowed = true;
      if (now + options_.slow < time_limit(call)) {
        schedule(now + options_.slow, Event::Kind::arrive, number);
        return true;
      }
      [[fallthrough]];
    case SimFault::read_hangs:
      schedule(time_limit(call), Event::Kind::give_up, number);
      return true;
    default:
      end(number, call, Kind::transient, "the read failed", *fault == SimFault::read_suspect);
      return true;
  }
}

void SimUpstream::merge(CallId number, Call& call, Time now) {
  const DeviceState& state = device(call.owner);
  call.found = state.accepted;
  call.epoch = epoch_;
  if (upstream::find_conflict(state.accepted, call.delivery.writes)) {
    return end(number, call, Kind::conflict, "another value stands there");
  }
  call.merged = state.accepted;
  call.merged_from = state.version;
  if (upstream::all_done_in(state.accepted, call.delivery.writes)) {
    tell_delivered(call);
    calls_.erase(number);
    return;
  }
  for (const SlotWrite& write : call.delivery.writes) call.merged[write.slot] = write.value;
  send_update(number, call, now);
}

void SimUpstream::send_update(CallId number, Call& call, Time now) {
  call.stage = Call::Stage::update;
  call.session = client_session_;
  schedule(now + latency(), Event::Kind::arrive, number);
}

// --- Updates ----------------------------------------------------------------------------------------------

void SimUpstream::arrive_update(CallId number, Call& call, Time now) {
  if (update_is_refused(number, call, now)) return;
  call.arrived_at = device(call.owner).version;
  const Time usual = now + latency();
  const auto fault = draw(SimFault::refuse_transient, SimFault::verify_differs, call.owner.vm);
  // Nobody would ever release a call that its caller has left behind.
  if (!fault || (*fault == SimFault::hang && !call.connected)) {
    return schedule(usual, Event::Kind::act, number);
  }
  switch (*fault) {
    case SimFault::refuse_transient:
      return end(number, call, Kind::transient, "INTERNAL_ERROR");
    case SimFault::refuse_lane:
      return end(number, call, Kind::lane, "the VM cannot be written");
    case SimFault::refuse_payload:
      return end(number, call, Kind::payload, "INVALID_VALUE");
    case SimFault::slow:
      return schedule(now + options_.slow, Event::Kind::act, number);
    case SimFault::hang:
      return hung_.push_back(number);
    case SimFault::drop_request:
      return end(number, call, Kind::unknown, "the connection was lost");
    case SimFault::act_late:
      tell(call, Kind::unknown, "the connection was lost");
      return schedule(now + Time(1 + static_cast<std::int64_t>(random() % options_.late.count())),
                      Event::Kind::act, number);
    case SimFault::drop_reply:
      call.drop_reply = true;
      return schedule(usual, Event::Kind::act, number);
    default:  // verify_differs: acts, and what is read back is not what was written
      call.drop_reply = call.delivery.verify;
      return schedule(usual, Event::Kind::act, number);
  }
}

/// For a reason that is no fault; then nothing was written.
bool SimUpstream::update_is_refused(CallId number, Call& call, Time now) {
  const bool based = call.delivery.base.has_value();
  if (based && call.connected && (call.epoch == 0 || call.epoch != epoch_)) {
    end(number, call, Kind::stale, "the session has changed");
    return true;
  }
  if (!fits(call.merged, call.delivery, options_.limits)) {
    end(number, call, Kind::payload, "the contents are too large, or no text");
    return true;
  }
  if (call.session != server_session_) {
    if (call.connected && epoch_ != 0 && client_session_ != server_session_) {
      outputs_.push_back(SessionEnded{std::exchange(epoch_, 0)});
    }
    end(number, call, Kind::stale, "SESSION_INVALID");
    return true;
  }
  if (vm_exists(call.owner.vm) && device(call.owner).accepted.vtpm == call.merged.vtpm) return false;
  // The references the client had are gone: it looks them up once more, if it has read them itself.
  if (based) {
    end(number, call, Kind::stale, "HANDLE_INVALID VTPM");
  } else if (call.connected && !std::exchange(call.read_again, true)) {
    call.stage = Call::Stage::read;
    schedule(now + latency(), Event::Kind::arrive, number);
  } else {
    end(number, call, Kind::lane, "HANDLE_INVALID VTPM");
  }
  return true;
}

void SimUpstream::act(CallId number, Call& call, Time now) {
  // What is looked at only now, and was sent in a session that is over, is refused; nobody hears of it.
  if (!call.connected && call.session != server_session_) {
    calls_.erase(number);
    return;
  }
  DeviceState& state = device(call.owner);
  if (!vm_exists(call.owner.vm) || state.accepted.vtpm != call.merged.vtpm) {
    return end(number, call, Kind::transient, "the vTPM has gone away");
  }
  const bool overlapped = take_effect(call, state, now);
  if (overlapped) return end(number, call, Kind::unknown, "HANDLE_INVALID secret");
  if (call.drop_reply) return end(number, call, Kind::unknown, "the connection was lost");
  if (call.connected && call.delivery.verify) {
    call.stage = Call::Stage::verify;
    return schedule(now + latency(), Event::Kind::arrive, number);
  }
  tell_delivered(call);
  calls_.erase(number);
}

/// Returns whether another update took effect while this one was being processed.
bool SimUpstream::take_effect(Call& call, DeviceState& state, Time now) {
  Stood stood;
  stood.when = now;
  stood.vtpm = state.accepted.vtpm;
  stood.call = call.id;
  stood.late = !call.connected;
  stood.unseen = call.delivery.base
                     ? state.accepted.slots != call.delivery.base->slots && state.changed_in == call.epoch
                     : state.version != call.merged_from;
  for (std::size_t i = 0; i < slot_count; ++i) {
    stood.slot = static_cast<Slot>(i);
    stood.value = call.merged.slots[i];
    const auto write = std::ranges::find(call.delivery.writes, stood.slot, &SlotWrite::slot);
    const bool written = write != call.delivery.writes.end();
    stood.sequence = written ? write->sequence : 0;
    stood.forced = written && write->force;
    stood.update = written ? write->update : UpdateFlag::unspecified;
    if (written || !(state.accepted.slots[i] == stood.value)) state.history.push_back(stood);
  }
  // Of UEFI variables xapi replaces one entry under a lock; of a vTPM a row that both updates would remove.
  const bool overlapped = call.owner.device == Device::vtpm && state.version != call.arrived_at;
  state.accepted = call.merged;
  state.changed_in = epoch_;
  ++state.version;
  mark_dirty(call.owner, state, now);
  return overlapped;
}

void SimUpstream::read_back(CallId number, Call& call) {
  const Contents& standing = device(call.owner).accepted;
  if (!vm_exists(call.owner.vm) || standing.vtpm != call.merged.vtpm ||
      !upstream::all_stand_in(standing, call.delivery.writes)) {
    return end(number, call, Kind::unknown, "reading back: the values do not stand there");
  }
  call.merged = standing;
  tell_delivered(call);
  calls_.erase(number);
}

// --- Answers ----------------------------------------------------------------------------------------------

Time SimUpstream::time_limit(const Call& call) const {
  switch (call.kind) {
    case Call::Kind::probe:
      return call.submitted + options_.probe_timeout;
    case Call::Kind::fetch:
      return call.submitted + options_.read_patience;
    case Call::Kind::delivery:
      break;
  }
  return call.submitted + options_.upstream_timeout;
}

/// An update that was sent is never given up; it may have been read and sent since this was scheduled.
void SimUpstream::give_up(CallId number, Call& call) {
  if (call.stage == Call::Stage::update) return;
  const bool verifying = call.stage == Call::Stage::verify;
  end(number, call, verifying ? Kind::unknown : Kind::transient, "no answer in time", !verifying);
}

void SimUpstream::end(CallId number, Call& call, Kind kind, const char* reason, bool suspect) {
  tell(call, kind, reason, suspect);
  calls_.erase(number);
}

void SimUpstream::tell(Call& call, Kind kind, const char* reason, bool suspect) {
  if (!std::exchange(call.connected, false)) return;
  if (call.kind == Call::Kind::fetch) {
    outputs_.push_back(FetchDone{call.id, {kind, reason, suspect, epoch_, {}}});
    return;
  }
  Outcome outcome;
  outcome.kind = kind;
  outcome.reason = reason;
  outcome.upstream_suspect = suspect;
  if (call.kind == Call::Kind::probe) {
    outcome.epoch = epoch_;
    outputs_.push_back(ProbeDone{call.id, std::move(outcome)});
    return;
  }
  outcome.epoch = call.epoch;
  if (kind == Kind::conflict || kind == Kind::unknown) outcome.found = call.found;
  outputs_.push_back(DeliverDone{call.id, std::move(outcome)});
}

void SimUpstream::tell_delivered(Call& call) {
  if (!std::exchange(call.connected, false)) return;
  Outcome outcome;
  outcome.kind = Kind::delivered;
  outcome.epoch = call.epoch;
  outcome.contents = call.merged;
  outcome.found = call.found;
  outputs_.push_back(DeliverDone{call.id, std::move(outcome)});
}

}  // namespace guard::testing
