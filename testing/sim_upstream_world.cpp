// The world around the simulated upstream: what goes wrong with it, what others do, and what an oracle sees.
#include <algorithm>
#include <utility>

#include "testing/sim_upstream.h"

namespace guard::testing {

using Kind = Outcome::Kind;

const char* name_of(SimFault fault) {
  static constexpr std::array<const char*, sim_fault_count> names{
      "refuse_transient", "refuse_lane", "refuse_payload", "slow",           "hang",
      "drop_request",     "drop_reply",  "act_late",       "verify_differs", "read_fails",
      "read_suspect",     "read_slow",   "read_hangs",     "probe_fails"};
  return names[static_cast<std::size_t>(fault)];
}

// --- Chance and time --------------------------------------------------------------------------------------

/// splitmix64.
std::uint64_t SimUpstream::random() {
  std::uint64_t z = random_state_ += 0x9E3779B97F4A7C15ull;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ z >> 27) * 0x94D049BB133111EBull;
  return z ^ z >> 31;
}

Time SimUpstream::latency() {
  const auto span = static_cast<std::uint64_t>((options_.latency_max - options_.latency_min).count()) + 1;
  return options_.latency_min + Time(static_cast<std::int64_t>(random() % span));
}

std::optional<SimFault> SimUpstream::draw(SimFault first, SimFault last, const Uuid& vm) {
  const auto found = vms_.find(vm);
  const bool own = found != vms_.end() && found->second.has_faults;
  std::uint64_t left = random() >> 32;
  for (auto i = static_cast<std::size_t>(first); i <= static_cast<std::size_t>(last); ++i) {
    const std::uint64_t share = std::uint64_t{faults_[i]} + (own ? found->second.faults[i] : 0);
    if (left < share) {
      ++drawn_[i];
      return static_cast<SimFault>(i);
    }
    left -= share;
  }
  return std::nullopt;
}

void SimUpstream::schedule(Time when, Event::Kind kind, CallId number) {
  events_.push({when, ++last_order_, kind, number});
}

namespace {

std::uint32_t threshold(double probability) {
  return static_cast<std::uint32_t>(std::clamp(probability, 0.0, 1.0) * 4294967295.0);
}

}  // namespace

void SimUpstream::set_fault(SimFault fault, double probability) {
  faults_[static_cast<std::size_t>(fault)] = threshold(probability);
}

void SimUpstream::set_fault(SimFault fault, double probability, const Uuid& vm) {
  Vm& its = vms_[vm];
  its.faults[static_cast<std::size_t>(fault)] = threshold(probability);
  its.has_faults = true;
}

void SimUpstream::clear_faults() {
  faults_ = {};
  for (auto& [uuid, vm] : vms_) {
    vm.faults = {};
    vm.has_faults = false;
  }
}

// --- The server comes and goes ----------------------------------------------------------------------------

void SimUpstream::guard_died(Time now) {
  now_ = now;
  outputs_.clear();
  epoch_ = last_epoch_ = 0;
  client_session_ = 0;
  const std::vector<CallId> hung = std::exchange(hung_, {});
  for (auto it = calls_.begin(); it != calls_.end();) {
    Call& call = it->second;
    const bool waits_to_act = std::ranges::find(hung, it->first) != hung.end();
    const bool lost_on_the_way =
        call.connected && (waits_to_act || call.arrived_at == 0) && random() % 2 == 0;
    if (call.stage != Call::Stage::update || lost_on_the_way) {
      it = calls_.erase(it);
      continue;
    }
    call.connected = false;
    if (waits_to_act) {
      schedule(now + Time(1 + static_cast<std::int64_t>(random() % options_.late.count())), Event::Kind::act,
               it->first);
    }
    ++it;
  }
}

void SimUpstream::crash(Time now) {
  now_ = now;
  for (const Owner& owner : std::exchange(dirty_, {})) {
    DeviceState& state = device(owner);
    state.dirty = false;
    for (std::size_t i = 0; i < slot_count; ++i) {
      if (state.accepted.slots[i] == state.durable.slots[i]) continue;
      Stood stood;
      stood.when = now;
      stood.slot = static_cast<Slot>(i);
      stood.value = state.durable.slots[i];
      stood.vtpm = state.durable.vtpm;
      stood.writer = Writer::went_back;
      state.history.push_back(std::move(stood));
    }
    state.accepted = state.durable;
    ++state.version;
  }
  up_ = false;
  frozen_ = false;
  ++server_session_;
  lose_all_calls();
}

void SimUpstream::stop(Time now) {
  flush();
  crash(now);
}

void SimUpstream::start(Time now) {
  now_ = now;
  if (std::exchange(up_, true)) return;
  outputs_.push_back(SignOfLife{});
}

void SimUpstream::lose_all_calls() {
  hung_.clear();
  frozen_calls_.clear();
  for (auto& [number, call] : calls_) {
    if (call.stage == Call::Stage::update && call.arrived_at == 0) {
      tell(call, Kind::unknown, "the connection was lost before the request was read");
    } else if (call.stage == Call::Stage::read) {
      tell(call, Kind::transient, "the connection was lost", true);
    } else {
      tell(call, Kind::unknown, "the connection was lost");
    }
  }
  calls_.clear();
}

void SimUpstream::thaw(Time now) {
  now_ = now;
  frozen_ = false;
  for (const CallId number : std::exchange(frozen_calls_, {})) schedule(now, Event::Kind::arrive, number);
}

std::size_t SimUpstream::hanging() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(hung_, [this](CallId number) { return calls_.contains(number); }));
}

void SimUpstream::release(Release how, std::optional<Uuid> vm, Time now) {
  now_ = now;
  for (const CallId number : std::exchange(hung_, {})) {
    const auto found = calls_.find(number);
    if (found == calls_.end()) continue;
    Call& call = found->second;
    if (vm && call.owner.vm != *vm) {
      hung_.push_back(number);
      continue;
    }
    if (how != Release::apply) tell(call, Kind::unknown, "the connection was lost");
    if (how == Release::drop) {
      calls_.erase(number);
    } else {
      schedule(now, Event::Kind::act, number);
    }
  }
}

// --- The database -----------------------------------------------------------------------------------------

void SimUpstream::flush() {
  for (const Owner& owner : std::exchange(dirty_, {})) {
    DeviceState& state = device(owner);
    state.durable = state.accepted;
    state.dirty = false;
  }
}

void SimUpstream::mark_dirty(const Owner& owner, DeviceState& state, Time now) {
  if (options_.flush_interval == Time::zero()) {
    state.durable = state.accepted;
    return;
  }
  if (!std::exchange(state.dirty, true)) dirty_.push_back(owner);
  if (std::exchange(flush_scheduled_, true)) return;
  schedule(now + options_.flush_interval, Event::Kind::flush, 0);
}

SimUpstream::DeviceState& SimUpstream::device(const Owner& owner) { return devices_[owner]; }

bool SimUpstream::vm_exists(const Uuid& vm) {
  const auto found = vms_.find(vm);
  if (found != vms_.end() && found->second.exists) return true;
  if (!options_.provision || (found != vms_.end() && found->second.deleted)) return false;
  Uuid vtpm = vm;
  vtpm.bytes[0] ^= 0xff;
  add_vm(vm, vtpm);
  return true;
}

void SimUpstream::add_vm(const Uuid& vm, const Uuid& vtpm) {
  vms_[vm].exists = true;
  vms_[vm].deleted = false;
  DeviceState& state = device({vm, Device::vtpm});
  state.accepted.vtpm = state.durable.vtpm = vtpm;
}

void SimUpstream::delete_vm(const Uuid& vm) {
  vms_[vm].exists = false;
  vms_[vm].deleted = true;
}

void SimUpstream::edit(const Owner& owner, Slot slot, Value value, Time now) {
  DeviceState& state = device(owner);
  Stood stood;
  stood.when = now;
  stood.slot = slot;
  stood.value = value;
  stood.vtpm = state.accepted.vtpm;
  stood.writer = Writer::somebody;
  state.history.push_back(std::move(stood));
  state.accepted[slot] = std::move(value);
  state.changed_in = client_session_ == server_session_ ? epoch_ : 0;
  state.malformed = false;
  ++state.version;
  mark_dirty(owner, state, now);
}

void SimUpstream::replace_vtpm(const Uuid& vm, const Uuid& vtpm, const Contents& contents, Time now) {
  const Owner owner{vm, Device::vtpm};
  DeviceState& state = device(owner);
  state.accepted.vtpm = vtpm;
  for (const Slot slot : {Slot::permall, Slot::savestate, Slot::volatilestate}) {
    edit(owner, slot, contents[slot], now);
  }
}

// --- For the oracle ---------------------------------------------------------------------------------------

const std::vector<SimUpstream::Stood>& SimUpstream::history(const Owner& owner) const {
  static const std::vector<Stood> none;
  const auto found = devices_.find(owner);
  return found == devices_.end() ? none : found->second.history;
}

Contents SimUpstream::accepted(const Owner& owner) const {
  const auto found = devices_.find(owner);
  return found == devices_.end() ? Contents() : found->second.accepted;
}

Contents SimUpstream::durable(const Owner& owner) const {
  const auto found = devices_.find(owner);
  return found == devices_.end() ? Contents() : found->second.durable;
}

bool SimUpstream::is_damaged(const Owner& owner) const {
  const auto found = devices_.find(owner);
  return found != devices_.end() && found->second.malformed;
}

unsigned SimUpstream::may_still_act(const Owner& owner) const {
  return static_cast<unsigned>(std::ranges::count_if(calls_, [&](const auto& entry) {
    return entry.second.owner == owner && entry.second.stage == Call::Stage::update;
  }));
}

}  // namespace guard::testing
