#include "core/concerns.h"

#include <algorithm>

#include "base/log.h"

namespace guard::core {

namespace {

using OutcomeKind = Outcome::Kind;

std::int64_t seconds_of(Time time) { return std::chrono::duration_cast<std::chrono::seconds>(time).count(); }

std::string device_of_vm(const Owner& owner) {
  return (owner.device == Device::vtpm ? "vTPM of VM " : "UEFI variables of VM ") + owner.vm.str();
}

}  // namespace

void Concerns::lane(Context& cx, Owner owner, const std::optional<std::pair<Time, std::string>>& held) {
  if (!cx.shared.config.concerns) return;
  if (!held) {
    if (!held_.empty()) held_.erase(owner);
    return;
  }
  const auto [found, created] = held_.try_emplace(owner);
  Held& watched = found->second;
  if (created) {
    watched.since = held->first;
    if (!held_due_ || watched.due() < *held_due_) held_due_ = watched.due();
  }
  if (!watched.told) watched.reason = held->second;
}

void Concerns::check_held(Context& cx) {
  if (!held_due_ || cx.now < *held_due_) return;
  held_due_.reset();
  for (auto& [owner, held] : held_) {
    if (held.told) continue;
    if (cx.now < held.due()) {
      if (!held_due_ || held.due() < *held_due_) held_due_ = held.due();
      continue;
    }
    held.told = true;
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(cx.now - held.since).count();
    cx.out.push_back(Report{Report::What::held_long, owner, held.reason, static_cast<std::uint64_t>(ms)});
    tell(cx, Kind::held, owner,
         "The state of the " + device_of_vm(owner) +
             " cannot be stored in the pool's database and is kept on the host: " + log_text(held.reason));
  }
}

void Concerns::conflict(Context& cx, Owner owner, const std::string& reason) {
  tell(cx, Kind::conflict, owner,
       "State of the " + device_of_vm(owner) +
           " was set aside on the host, because the pool's database has another: " + log_text(reason));
}

void Concerns::journal(Context& cx, const std::optional<std::string>& what) {
  const bool before = std::exchange(journal_told_, what.has_value());
  if (!what || before) return;
  tell(cx, Kind::journal, std::nullopt,
       "The disk on which device state of VMs is kept while xapi is away fails: " + log_text(*what));
}

void Concerns::damage(Context& cx, std::uint64_t records) {
  tell(cx, Kind::damage, std::nullopt,
       std::to_string(records) +
           " damaged records were found in the journal of device state; they are kept aside");
}

void Concerns::run(Context& cx, bool pending, const std::function<Waiting()>& waiting) {
  if (!cx.shared.config.concerns) return;
  check_held(cx);
  check_pending(cx, pending, waiting);
  send(cx);
}

void Concerns::check_pending(Context& cx, bool pending, const std::function<Waiting()>& waiting) {
  const Time after = cx.shared.config.pending_alert;
  if (after <= Time{}) return;
  if (!pending) {
    pending_due_.reset();
    pending_told_ = false;
    return;
  }
  if (!pending_due_) pending_due_ = cx.now + after;
  if (cx.now < *pending_due_) return;
  const Waiting found = waiting();
  if (!found.oldest || cx.now < *found.oldest + after) {
    pending_told_ = false;
    pending_due_ = (found.oldest ? *found.oldest : cx.now) + after;
    return;
  }
  pending_due_ = cx.now + after;
  if (std::exchange(pending_told_, true)) return;
  const Time age = cx.now - *found.oldest;
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(age).count();
  std::string what = std::to_string(found.entries) + " entries of " + std::to_string(found.vms) + " VMs";
  cx.out.push_back(Report{Report::What::pending_long, std::nullopt, what, static_cast<std::uint64_t>(ms)});
  tell(cx, Kind::pending, std::nullopt,
       "Device state of VMs waits on this host for the pool's database: " + what + ", the oldest for " +
           std::to_string(seconds_of(age)) + " seconds. It would be lost with the host");
}

/// Queues a message, unless one about the same was made a moment ago.
void Concerns::tell(Context& cx, Kind kind, std::optional<Owner> owner, std::string text) {
  const Config& config = cx.shared.config;
  if (!config.concerns || !config.takes_alerts) return;
  if (!owner && config.host.is_nil()) return;
  std::erase_if(last_, [&](const auto& item) { return item.second + Time(limits::concern_pause) <= cx.now; });
  if (last_.contains({kind, owner})) return;
  if (messages_.size() >= limits::concerns_waiting) {
    cx.out.push_back(Report{Report::What::message_dropped, owner, "too many wait", messages_.size()});
    return;
  }
  last_.emplace(Key{kind, owner}, cx.now);
  messages_.push_back({kind, owner, false, std::move(text)});
}

/// Priorities of xapi: 2 is the loss of a service, 3 its degradation.
Alert Concerns::alert_of(const Message& message, Uuid host) {
  Alert alert;
  alert.about_host = !message.owner || message.on_host;
  alert.vm = alert.about_host ? host : message.owner->vm;
  alert.body = Value(message.text);
  switch (message.kind) {
    case Kind::held:
      alert.name = "XAPI_GUARD_HELD";
      alert.priority = 3;
      break;
    case Kind::conflict:
      alert.name = "XAPI_GUARD_CONFLICT";
      alert.priority = 2;
      break;
    case Kind::journal:
      alert.name = "XAPI_GUARD_JOURNAL_FAILED";
      alert.priority = 2;
      break;
    case Kind::damage:
      alert.name = "XAPI_GUARD_DAMAGE";
      alert.priority = 2;
      break;
    case Kind::pending:
      alert.name = "XAPI_GUARD_PENDING";
      alert.priority = 3;
      break;
  }
  return alert;
}

void Concerns::send(Context& cx) {
  if (call_ != 0 || messages_.empty() || cx.now < retry_at_ || !cx.shared.updates_allowed()) return;
  call_ = ++cx.shared.call;
  const Message& first = messages_.front();
  cx.out.push_back(RaiseAlert{call_, first.owner.value_or(Owner{cx.shared.config.host, Device::vtpm}),
                              alert_of(first, cx.shared.config.host)});
}

bool Concerns::raised(Context& cx, const AlertRaised& event) {
  if (call_ == 0 || event.call != call_) return false;
  call_ = 0;
  const Outcome& outcome = event.outcome;
  if (outcome.upstream_suspect) cx.shared.health.suspect(outcome.reason, cx.now, cx.shared.random, cx.out);
  Message& first = messages_.front();
  switch (outcome.kind) {
    case OutcomeKind::delivered:
      ++cx.shared.counters.messages_created;
      drop(cx, Report::What::message_created, alert_of(first, cx.shared.config.host).name);
      break;
    case OutcomeKind::unknown:
      drop(cx, Report::What::message_unconfirmed, outcome.reason);
      break;
    case OutcomeKind::lane:
    case OutcomeKind::payload:
    case OutcomeKind::conflict:
    case OutcomeKind::elsewhere:
      // A VM that xapi does not know is the most frequent reason to be held; the host is always there.
      if (first.owner && !first.on_host && !cx.shared.config.host.is_nil()) {
        first.on_host = true;
      } else {
        drop(cx, Report::What::message_dropped, outcome.reason);
      }
      break;
    case OutcomeKind::transient:
    case OutcomeKind::stale:
      retry_at_ =
          cx.now + backoff_.next(limits::held_backoff_min, limits::held_backoff_max, cx.shared.random);
      break;
  }
  return true;
}

/// Ends the first message; the next may follow at once.
void Concerns::drop(Context& cx, Report::What what, std::string reason) {
  cx.out.push_back(Report{what, messages_.front().owner, std::move(reason), 0});
  messages_.pop_front();
  backoff_.reset();
  retry_at_ = cx.now;
}

std::optional<Time> Concerns::next_wake(const Shared& shared) const {
  if (!shared.config.concerns) return std::nullopt;
  std::optional<Time> wake;
  const auto consider = [&wake](Time when) {
    if (!wake || when < *wake) wake = when;
  };
  if (held_due_) consider(*held_due_);
  if (shared.config.pending_alert > Time{} && pending_due_ && *pending_due_ != Time::min())
    consider(*pending_due_);
  if (!messages_.empty() && call_ == 0 && shared.updates_allowed()) consider(retry_at_);
  return wake;
}

}  // namespace guard::core
