#include "daemon/operations.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/text.h"

namespace guard::daemon {

using wire::Json;
using wire::JsonArray;
using wire::JsonObject;

namespace {

double seconds_between(Time from, Time to) {
  return std::round(std::chrono::duration<double>(to - from).count() * 1000) / 1000;
}

JsonObject counters_json(const core::Counters& c) {
  return JsonObject{{"writes_direct", c.writes_direct},
                    {"writes_journaled", c.writes_journaled},
                    {"writes_unavailable", c.writes_unavailable},
                    {"writes_too_large", c.writes_too_large},
                    {"reads_pending", c.reads_pending},
                    {"reads_upstream", c.reads_upstream},
                    {"reads_known", c.reads_known},
                    {"reads_unavailable", c.reads_unavailable},
                    {"direct_calls", c.direct_calls},
                    {"delivery_calls", c.delivery_calls},
                    {"delivered", c.delivered},
                    {"failed_transient", c.failed_transient},
                    {"failed_lane", c.failed_lane},
                    {"failed_payload", c.failed_payload},
                    {"failed_conflict", c.failed_conflict},
                    {"failed_unknown", c.failed_unknown},
                    {"redelivered", c.redelivered},
                    {"parked", c.parked},
                    {"discarded", c.discarded},
                    {"commits", c.commits},
                    {"removals", c.removals},
                    {"bugs", c.invariants}};
}

/// What an operator asks of a VM: of the device of one slot, or of both. `ask` asks one and calls its
/// argument.
void ask_devices(Uuid vm, std::optional<Slot> slot,
                 const std::function<void(Owner, engine::Engine::OperatorDone)>& ask,
                 engine::Engine::OperatorDone done) {
  if (slot) return ask({vm, device_of(*slot)}, std::move(done));
  ask({vm, Device::vtpm}, [vm, ask, done = std::move(done)](Result<std::size_t> first) {
    ask({vm, Device::uefi}, [first = std::move(first), done](Result<std::size_t> second) {
      // Where one has nothing the other decides.
      if (!second && second.error().code == Errc::not_found) return done(first);
      if (!first && first.error().code != Errc::not_found) return done(first);
      if (first && second) *second += *first;
      done(std::move(second));
    });
  });
}

/// An alert belongs to no slot.
std::string_view what_of(const core::PendingView& entry) {
  return entry.alert ? "alert" : guard::name_of(entry.slot);
}

engine::Engine::OperatorDone counted(control::Operations::Done done) {
  return [done = std::move(done)](Result<std::size_t> entries) {
    if (!entries) return done(std::unexpected(std::move(entries.error())));
    done(Json(JsonObject{{"entries", std::uint64_t{*entries}}}));
  };
}

}  // namespace

DaemonOperations::DaemonOperations(engine::Engine& engine, upstream::ManagedUpstream& upstream,
                                   const device::SwtpmStats& requests, const device::VarstoredStats& calls,
                                   Maintenance& maintenance, std::string upstream_uri,
                                   std::function<std::int64_t()> wall_ms)
    : engine_(engine),
      upstream_(upstream),
      requests_(requests),
      varstored_(calls),
      maintenance_(maintenance),
      contents_(engine, upstream),
      upstream_uri_(std::move(upstream_uri)),
      wall_ms_(std::move(wall_ms)),
      started_ms_(wall_ms_()) {}

std::string DaemonOperations::since(Time when) const {
  const auto ago = std::chrono::duration_cast<std::chrono::milliseconds>(engine_.now() - when);
  return rfc3339(std::chrono::system_clock::time_point(std::chrono::milliseconds(wall_ms_()) - ago));
}

Json DaemonOperations::journal_json() const {
  const auto stats = engine_.journal_stats();
  if (!stats) return JsonObject{{"state", "unread"}, {"error", journal_error_}};
  return JsonObject{{"state", std::string(journal::name_of(stats->state))},
                    {"reserved", stats->reserved},
                    {"live_bytes", stats->live_bytes},
                    {"capacity_bytes", stats->capacity_bytes},
                    {"generation", stats->generation},
                    {"corrupt_records", stats->corrupt_records},
                    {"retained_entries", stats->retained_entries},
                    {"retained_given_up", stats->retained_given_up},
                    {"batches", stats->batches},
                    {"syncs", stats->syncs},
                    {"switches", stats->switches}};
}

Json DaemonOperations::resume_file_json() const {
  if (registry_ == nullptr) return {};
  const control::RegistryStats stats = registry_->stats();
  return JsonObject{{"unsaved", stats.unsaved}, {"not_served", std::uint64_t{stats.not_served}}};
}

Json DaemonOperations::switch_json() const {
  if (switch_ == nullptr) return JsonObject{{"state", "none"}};
  const control::MessageSwitchStats& stats = switch_->stats();
  return JsonObject{{"state", stats.connected ? "connected" : "away"},
                    {"since", since(stats.since)},
                    {"last_error", stats.last_error.empty() ? Json() : Json(stats.last_error)},
                    {"sessions", stats.sessions},
                    {"requests", stats.requests},
                    {"duplicates", stats.duplicates},
                    {"unanswered", stats.unanswered},
                    {"discarded_queues", stats.discarded}};
}

JsonArray DaemonOperations::held_json(const core::Snapshot& view) const {
  JsonArray held;
  const auto pending = engine_.pending();
  for (const auto& lane : view.held) {
    bool listed = false;
    const auto add = [&](Json slot) {
      held.push_back(JsonObject{{"vm", lane.owner.vm.str()},
                                {"device", guard::name_of(lane.owner.device)},
                                {"slot", std::move(slot)},
                                {"reason", lane.reason},
                                {"since", since(lane.since)}});
      listed = true;
    };
    for (const auto& entry : pending) {
      if (entry.owner == lane.owner && entry.alert == lane.alerts) add(what_of(entry));
    }
    if (!listed) add(Json());
  }
  return held;
}

JsonArray DaemonOperations::parked_json(const core::Snapshot& view) const {
  JsonArray parked;
  for (const auto& entry : view.parked) {
    parked.push_back(JsonObject{{"vm", entry.owner.vm.str()},
                                {"slot", guard::name_of(entry.slot)},
                                {"reason", entry.reason},
                                {"since", since(entry.since)},
                                {"sequence", entry.sequence},
                                {"bytes", std::uint64_t{entry.size}}});
  }
  return parked;
}

Json DaemonOperations::status_json() const {
  const core::Snapshot view = engine_.snapshot();
  JsonObject upstream{{"uri", upstream_uri_}, {"state", core::name_of(view.upstream)}};
  upstream.emplace_back(
      "since", view.upstream == core::Health::State::unknown ? Json() : Json(since(view.upstream_since)));
  upstream.emplace_back("last_error", view.upstream_error.empty() ? Json() : Json(view.upstream_error));

  JsonArray sockets;
  if (registry_ != nullptr) {
    for (const auto& socket : registry_->sockets()) {
      sockets.push_back(JsonObject{{"service", socket.device == Device::vtpm ? "vtpm" : "varstore"},
                                   {"vm", socket.vm.str()},
                                   {"path", socket.path},
                                   {"gid", std::int64_t{socket.gid}}});
    }
  }

  JsonObject counters = counters_json(view.counters);
  for (const auto& [name, value] : upstream_.figures()) counters.emplace_back(name, value);

  const auto stats = engine_.journal_stats();
  return JsonObject{
      {"version", GUARD_VERSION},
      {"mode", core::name_of(view.mode)},
      {"upstream", std::move(upstream)},
      {"pending",
       JsonObject{{"entries", std::uint64_t{view.pending_entries}},
                  {"vms", std::uint64_t{view.pending_vms}},
                  {"bytes", std::uint64_t{view.pending_bytes}},
                  {"oldest_seconds",
                   view.oldest_since ? Json(seconds_between(*view.oldest_since, engine_.now())) : Json()}}},
      {"held", held_json(view)},
      {"parked", parked_json(view)},
      {"doubt", std::uint64_t{view.doubt}},
      {"retained",
       JsonObject{{"entries", std::uint64_t{view.retained}}, {"uncompared", std::uint64_t{view.uncompared}}}},
      {"buffering", engine_.buffering() ? "enabled" : "disabled"},
      {"quarantine_bytes", maintenance_.quarantine_bytes(stats ? stats->quarantined_bytes : 0)},
      {"journal", journal_json()},
      {"sockets", std::move(sockets)},
      {"resume_file", resume_file_json()},
      {"switch", switch_json()},
      {"counters", std::move(counters)}};
}

void DaemonOperations::status(Done done) { done(status_json()); }

void DaemonOperations::pending(Done done) {
  const core::Snapshot view = engine_.snapshot();
  JsonArray entries;
  for (const auto& entry : engine_.pending()) {
    const auto held = std::find_if(view.held.begin(), view.held.end(), [&](const auto& lane) {
      return lane.owner == entry.owner && lane.alerts == entry.alert;
    });
    JsonObject item{{"vm", entry.owner.vm.str()},
                    {"slot", what_of(entry)},
                    {"sequence", entry.sequence},
                    {"bytes", std::uint64_t{entry.size}},
                    {"age_seconds", seconds_between(entry.since, engine_.now())},
                    {"state", held == view.held.end() ? "pending" : "held"}};
    if (held != view.held.end()) item.emplace_back("reason", held->reason);
    entries.push_back(std::move(item));
  }
  for (const auto& entry : view.parked) {
    entries.push_back(JsonObject{{"vm", entry.owner.vm.str()},
                                 {"slot", guard::name_of(entry.slot)},
                                 {"sequence", entry.sequence},
                                 {"bytes", std::uint64_t{entry.size}},
                                 {"age_seconds", seconds_between(entry.since, engine_.now())},
                                 {"state", "parked"},
                                 {"reason", entry.reason}});
  }
  std::stable_sort(entries.begin(), entries.end(), [](const Json& a, const Json& b) {
    return *a.find("sequence")->integer() < *b.find("sequence")->integer();
  });
  done(Json(std::move(entries)));
}

void DaemonOperations::drain(std::chrono::milliseconds timeout, Done done) {
  engine_.drain(engine_.now() + timeout, [this, done = std::move(done)](bool drained) {
    done(Json(
        JsonObject{{"drained", drained}, {"entries", std::uint64_t{engine_.snapshot().pending_entries}}}));
  });
}

void DaemonOperations::discard(Uuid vm, std::optional<Slot> slot, Done done) {
  auto ask = [this, slot](Owner owner, engine::Engine::OperatorDone answered) {
    engine_.discard(owner, slot, std::move(answered));
  };
  ask_devices(vm, slot, ask, counted(std::move(done)));
}

void DaemonOperations::deliver_by_force(Uuid vm, std::optional<Slot> slot, Done done) {
  auto ask = [this, slot](Owner owner, engine::Engine::OperatorDone answered) {
    engine_.deliver_by_force(owner, slot, std::move(answered));
  };
  ask_devices(vm, slot, ask, counted(std::move(done)));
}

MetricsView DaemonOperations::view() const {
  MetricsView view;
  view.core = engine_.snapshot();
  view.direct = engine_.acknowledge_times().direct;
  view.journal = engine_.acknowledge_times().journal;
  view.stats = engine_.journal_stats();
  view.quarantine_bytes = maintenance_.quarantine_bytes(view.stats ? view.stats->quarantined_bytes : 0);
  if (registry_ != nullptr) {
    const control::RegistryStats stats = registry_->stats();
    view.sockets = stats.sockets;
    view.sockets_not_served = stats.not_served;
    view.resume_file_unsaved = stats.unsaved;
  }
  view.swtpm = requests_;
  view.varstored = varstored_;
  if (switch_ != nullptr) view.message_switch = switch_->stats();
  view.buffering = engine_.buffering();
  if (log_sink_ != nullptr) view.log_lost = log_sink_->lost();
  if (log_limit_ != nullptr) view.log_suppressed = log_limit_->suppressed();
  view.now = engine_.now();
  view.start_seconds = static_cast<double>(started_ms_) / 1000;
  view.version = GUARD_VERSION;
  return view;
}

std::string DaemonOperations::metrics() const { return metrics_text(view()); }

}  // namespace guard::daemon
