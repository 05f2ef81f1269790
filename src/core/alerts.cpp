#include "core/alerts.h"

#include <algorithm>

namespace guard::core {

using Kind = Outcome::Kind;

Value pack_alert(std::int64_t priority, const Value& body) {
  std::string packed;
  packed.reserve(8 + body.size());
  for (int shift = 0; shift < 64; shift += 8) {
    packed += static_cast<char>(static_cast<std::uint64_t>(priority) >> shift & 0xff);
  }
  packed += body.view();
  return Value(std::move(packed));
}

std::optional<std::pair<std::int64_t, Value>> unpack_alert(const Value& packed) {
  if (packed.size() < 8) return std::nullopt;
  std::uint64_t priority = 0;
  for (unsigned i = 0; i < 8; ++i) {
    priority |= std::uint64_t{static_cast<unsigned char>(packed.view()[i])} << 8 * i;
  }
  return std::pair{static_cast<std::int64_t>(priority), Value(std::string(packed.view().substr(8)))};
}

// --- On their way in --------------------------------------------------------------------------------------

void Alerts::arrived(Context& cx, AlertArrived& event) {
  touched_ = true;
  Vm& vm = vms_[event.owner];
  One one;
  one.request = event.request;
  if (!cx.shared.config.takes_alerts) {
    answer(cx, one, UefiOutcome::Kind::refused, "nobody takes alerts here");
  } else if (event.body.size() > limits::alert_body) {
    answer(cx, one, UefiOutcome::Kind::refused, "the text of the alert is too long");
  } else if (vm.alerts.size() >= limits::alerts_per_vm) {
    // Reported once until there is room again, whatever floods.
    if (!std::exchange(vm.full_reported, true)) {
      cx.out.push_back(Report{Report::What::alerts_full, event.owner, {}, vm.alerts.size()});
    }
    answer(cx, one, UefiOutcome::Kind::refused, "too many alerts of this VM wait already");
  } else {
    one.sequence = ++cx.shared.sequence;
    one.since = cx.now;
    one.packed = pack_alert(event.priority, event.body);
    one.size = one.packed->size();
    // Behind others of the VM it waits for its turn in the journal.
    const bool direct =
        cx.shared.updates_allowed() && vm.alerts.empty() && calls_ < limits::alert_concurrency;
    vm.alerts.push_back(std::move(one));
    if (direct) {
      send(cx, event.owner, vm.alerts.back());
    } else {
      commit(cx, event.owner, vm.alerts.back());
    }
  }
  sweep(cx, event.owner);
}

void Alerts::send(Context& cx, Owner owner, One& one) {
  const auto alert = unpack_alert(*one.packed);
  one.call = ++cx.shared.call;
  one.called = cx.now;
  one.counted = true;
  ++calls_;
  cx.out.push_back(RaiseAlert{one.call, owner, Alert{owner.vm, alert->first, alert->second}});
}

void Alerts::uncount(One& one) {
  if (std::exchange(one.counted, false)) --calls_;
}

void Alerts::commit(Context& cx, Owner owner, One& one) {
  Shared& shared = cx.shared;
  const bool room = shared.commit_bytes == 0 || shared.commit_bytes + one.size <= shared.config.commit_bytes;
  if (shared.stalled || !room) {
    return answer(cx, one, UefiOutcome::Kind::unavailable, "the journal is busy");
  }
  shared.commit_bytes += one.size;
  ++shared.counters.commits;
  one.committing = true;
  Commit action;
  action.owner = owner;
  action.slot = Slot::nvram;
  action.sequence = one.sequence;
  action.value = *one.packed;
  action.alert = true;
  cx.out.push_back(std::move(action));
}

void Alerts::commit_done(Context& cx, const CommitDone& event) {
  touched_ = true;
  One& one = *find(event.owner, event.sequence);
  one.committing = false;
  cx.shared.commit_bytes -= one.size;
  if (event.result == CommitDone::Result::durable) {
    one.durable = true;
    ++pending_;
    one.packed.reset();
    answer(cx, one, UefiOutcome::Kind::done, {});
    if (one.ended) remove(cx, event.owner, one);
  } else {
    answer(cx, one, UefiOutcome::Kind::unavailable, "the journal cannot be written");
  }
  sweep(cx, event.owner);
  finish_operations(cx, event.owner, false);
}

void Alerts::answer(Context& cx, One& one, UefiOutcome::Kind kind, std::string reason) {
  if (!one.request) return;
  if (kind == UefiOutcome::Kind::done) ++cx.shared.counters.alerts_accepted;
  cx.out.push_back(AnswerAlert{*one.request, {kind, std::move(reason)}});
  one.request.reset();
}

// --- On their way out -------------------------------------------------------------------------------------

void Alerts::raised(Context& cx, const AlertRaised& event) {
  touched_ = true;
  const auto found = vms_.find(event.owner);
  if (found == vms_.end()) return;
  Vm& vm = found->second;
  const auto position = std::ranges::find(vm.alerts, event.call, &One::call);
  if (position == vm.alerts.end()) return;
  One& one = *position;
  const Outcome& outcome = event.outcome;
  uncount(one);
  one.call = 0;
  if (outcome.upstream_suspect) cx.shared.health.suspect(outcome.reason, cx.now, cx.shared.random, cx.out);
  switch (outcome.kind) {
    case Kind::delivered:
      ++cx.shared.counters.alerts_delivered;
      vm.backoff.reset();
      vm.retry_at = cx.now;
      vm.held.clear();
      one.ended = true;
      answer(cx, one, UefiOutcome::Kind::done, {});
      if (one.durable) remove(cx, event.owner, one);
      break;
    case Kind::lane:
    case Kind::payload:
    case Kind::conflict:
    case Kind::elsewhere:
      // P7: what is known to be undeliverable is refused as long as nobody was told otherwise.
      if (!one.durable && !one.committing) {
        answer(cx, one, UefiOutcome::Kind::refused, outcome.reason);
      } else {
        refused(cx, event.owner, outcome);
      }
      break;
    case Kind::transient:
    case Kind::stale:
    case Kind::unknown:
      vm.retry_at =
          cx.now + vm.backoff.next(limits::held_backoff_min, limits::held_backoff_max, cx.shared.random);
      if (one.request && !one.committing && !one.durable) commit(cx, event.owner, one);
      break;
  }
  sweep(cx, event.owner);
}

void Alerts::refused(Context& cx, Owner owner, const Outcome& outcome) {
  Vm& vm = vms_.at(owner);
  vm.retry_at =
      cx.now + vm.backoff.next(limits::held_backoff_min, limits::held_backoff_max, cx.shared.random);
  const std::string reason = std::string(name_of(outcome.kind)) + ": " + outcome.reason;
  if (vm.held == reason) return;
  if (vm.held.empty()) vm.held_since = cx.now;
  vm.held = reason;
  cx.out.push_back(Report{Report::What::lane_held, owner, "alert: " + reason, 0});
}

void Alerts::value_read(Context& cx, const ValueRead& event) {
  touched_ = true;
  One& one = *find(event.owner, event.sequence);
  one.loading = false;
  uncount(one);
  const bool whole = event.value && event.value->size() == one.size && unpack_alert(*event.value);
  if (whole && !one.ended && cx.shared.updates_allowed()) {
    one.packed = event.value;
    send(cx, event.owner, one);
    one.packed.reset();
  } else if (event.trouble == ValueRead::Trouble::failed) {
    vms_.at(event.owner).retry_at = cx.now + Time(limits::held_backoff_min);
  } else if (!whole && !one.ended) {
    cx.out.push_back(Report{Report::What::alert_lost, event.owner, {}, one.sequence});
    one.ended = true;
    remove(cx, event.owner, one);
  }
  sweep(cx, event.owner);
}

void Alerts::remove(Context& cx, Owner owner, One& one) {
  if (one.removing || one.call != 0 || one.loading) return;
  if (cx.shared.stalled) {
    one.retry_removal = cx.now + Time(limits::removal_retry);
    return;
  }
  one.removing = true;
  ++cx.shared.counters.removals;
  Remove action;
  action.owner = owner;
  action.slot = Slot::nvram;
  action.up_to = one.sequence;
  action.alert = true;
  cx.out.push_back(action);
}

void Alerts::removal_done(Context& cx, const RemovalDone& event) {
  touched_ = true;
  One& one = *find(event.owner, event.up_to);
  one.removing = false;
  if (event.durable) {
    one.durable = false;
    --pending_;
  } else {
    one.retry_removal = cx.now + Time(limits::removal_retry);
  }
  sweep(cx, event.owner);
  finish_operations(cx, event.owner, !event.durable);
}

// --- Their turn -------------------------------------------------------------------------------------------

void Alerts::run(Context& cx) {
  // A journal that answers again wakes those whose turn came while it did not.
  const bool allowed = cx.shared.updates_allowed() && !cx.shared.stalled;
  const bool due = wake_ && *wake_ <= cx.now;
  if (!touched_ && !due && allowed == allowed_) return;
  allowed_ = allowed;
  touched_ = false;
  std::vector<Owner> owners;
  for (const auto& [owner, vm] : vms_) owners.push_back(owner);
  for (const Owner& owner : owners) {
    Vm& vm = vms_.at(owner);
    for (One& one : vm.alerts) {
      if (one.call != 0 && one.counted && one.called + cx.shared.config.direct_timeout <= cx.now) {
        // Others go on; its answer still counts when it comes.
        uncount(one);
        cx.shared.health.doubtful(cx.out);
        if (one.request && !one.committing && !one.durable) commit(cx, owner, one);
      }
      if (one.ended && one.durable && one.retry_removal <= cx.now) remove(cx, owner, one);
    }
    if (allowed) start(cx, owner, vm);
    sweep(cx, owner);
  }
  set_wake(cx);
}

void Alerts::start(Context& cx, Owner owner, Vm& vm) {
  if (calls_ >= limits::alert_concurrency || cx.now < vm.retry_at) return;
  const bool busy =
      std::ranges::any_of(vm.alerts, [](const One& one) { return one.call != 0 || one.loading; });
  if (busy) return;
  const auto next = std::ranges::find_if(vm.alerts, [](const One& one) { return one.durable && !one.ended; });
  if (next == vm.alerts.end()) return;
  next->loading = true;
  next->counted = true;
  ++calls_;
  cx.out.push_back(ReadBack{owner, Slot::nvram, next->sequence});
}

void Alerts::set_wake(const Context& cx) {
  wake_.reset();
  const auto consider = [this](Time when) {
    if (!wake_ || when < *wake_) wake_ = when;
  };
  for (const auto& [owner, vm] : vms_) {
    for (const One& one : vm.alerts) {
      if (one.call != 0 && one.counted) consider(one.called + cx.shared.config.direct_timeout);
      if (one.ended && one.durable && !one.removing && one.call == 0 && !one.loading)
        consider(one.retry_removal);
      if (one.durable && !one.ended && vm.retry_at > cx.now) consider(vm.retry_at);
    }
  }
}

void Alerts::kick(Context& cx) {
  touched_ = true;
  for (auto& [owner, vm] : vms_) {
    vm.retry_at = cx.now;
    vm.backoff.reset();
  }
}

void Alerts::journal_stalled(Context& cx) {
  touched_ = true;
  for (auto& [owner, vm] : vms_) {
    for (One& one : vm.alerts) {
      if (one.committing) answer(cx, one, UefiOutcome::Kind::unavailable, "the journal does not answer");
    }
  }
}

void Alerts::sweep(Context& cx, Owner owner) {
  const auto found = vms_.find(owner);
  if (found == vms_.end()) return;
  Vm& vm = found->second;
  std::erase_if(vm.alerts, [](const One& one) {
    return !one.request && !one.committing && !one.durable && !one.removing && one.call == 0 && !one.loading;
  });
  if (vm.alerts.size() < limits::alerts_per_vm) vm.full_reported = false;
  if (!vm.alerts.empty()) return;
  if (!vm.held.empty()) {
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(cx.now - vm.held_since).count();
    cx.out.push_back(
        Report{Report::What::lane_released, owner, "alert: " + vm.held, static_cast<std::uint64_t>(ms)});
  }
  vms_.erase(found);
}

// --- Recovery, operators, views ---------------------------------------------------------------------------

void Alerts::recover(Owner owner, const RecoveredAlert& alert) {
  touched_ = true;
  One one;
  one.sequence = alert.sequence;
  one.size = alert.size;
  one.since = alert.since;
  one.durable = true;
  ++pending_;
  vms_[owner].alerts.push_back(std::move(one));
}

bool Alerts::discard(Context& cx, std::optional<RequestId> request, Owner owner) {
  const auto found = vms_.find(owner);
  if (found == vms_.end()) return false;
  touched_ = true;
  Operation operation{request.value_or(0), owner, found->second.alerts.back().sequence, 0};
  for (One& one : found->second.alerts) {
    if (!one.durable && !one.committing) continue;
    one.ended = true;
    ++operation.entries;
    // The operator has decided that a call without an answer means nothing any more.
    uncount(one);
    one.call = 0;
    if (one.durable) remove(cx, owner, one);
  }
  if (operation.entries == 0) return false;
  if (request) operations_.push_back(operation);
  cx.shared.counters.discarded += operation.entries;
  return true;
}

void Alerts::finish_operations(Context& cx, Owner owner, bool failed) {
  const auto found = vms_.find(owner);
  std::erase_if(operations_, [&](const Operation& operation) {
    if (operation.owner != owner) return false;
    const bool left = found != vms_.end() && found->second.alerts.front().sequence <= operation.up_to;
    if (left && !failed) return false;
    cx.out.push_back(Done{operation.request, !left, operation.entries,
                          left ? "the journal cannot be written; it is tried again by itself" : ""});
    return true;
  });
}

Alerts::One* Alerts::find(Owner owner, Sequence sequence) {
  const auto found = vms_.find(owner);
  if (found == vms_.end()) return nullptr;
  const auto one = std::ranges::find(found->second.alerts, sequence, &One::sequence);
  return one == found->second.alerts.end() ? nullptr : &*one;
}

bool Alerts::owns(Owner owner, Sequence sequence) const {
  return const_cast<Alerts*>(this)->find(owner, sequence) != nullptr;
}

std::size_t Alerts::calling() const {
  std::size_t count = 0;
  for (const auto& [owner, vm] : vms_) {
    count += static_cast<std::size_t>(std::ranges::count_if(
        vm.alerts, [](const One& one) { return one.call != 0 && !one.durable && one.request; }));
  }
  return count;
}

bool Alerts::at_rest() const {
  return std::ranges::all_of(vms_, [](const auto& item) {
    return std::ranges::none_of(item.second.alerts, [](const One& one) {
      return one.request || one.committing || one.removing || one.loading;
    });
  });
}

std::vector<Alerts::View> Alerts::views() const {
  std::vector<View> all;
  for (const auto& [owner, vm] : vms_) {
    for (const One& one : vm.alerts) {
      if (one.durable) all.push_back({owner, one.sequence, one.size, one.since});
    }
  }
  return all;
}

std::vector<Alerts::HeldView> Alerts::held() const {
  std::vector<HeldView> all;
  for (const auto& [owner, vm] : vms_) {
    if (!vm.held.empty()) all.push_back({owner, "alert: " + vm.held, vm.held_since});
  }
  return all;
}

}  // namespace guard::core
