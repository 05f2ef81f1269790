#include "core/core.h"

#include <algorithm>

namespace guard::core {

void Core::recover(Owner owner, RecoveredEntry entry, Time now) {
  Actions none;
  Context cx{shared_, now, none};
  node(owner, now).lane.recover(cx, std::move(entry));
  update(owner, cx);
  concerns_.look_again();
  reported_mode_ = mode();
}

void Core::recover(Owner owner, const RecoveredAlert& alert) {
  shared_.sequence = std::max(shared_.sequence, alert.sequence);
  alerts_.recover(owner, alert);
  reported_mode_ = mode();
}

Mode Core::mode() const {
  const Mode mode = shared_.queue.mode();
  return mode == Mode::direct && alerts_.pending() > 0 ? Mode::engaged : mode;
}

/// True: there is nothing else to discard, and the alerts answer.
bool Core::discards_alerts(const Discard& event, Context& cx) {
  if (event.slot) return false;
  const auto found = lanes_.find(event.owner);
  const bool lane_too = found != lanes_.end() && found->second.lane.discards_something();
  const bool any = alerts_.discard(cx, lane_too ? std::nullopt : std::optional(event.request), event.owner);
  return any && !lane_too;
}

void Core::recover_doubt(Owner owner, const std::vector<NotedValue>& values, Time now) {
  Actions none;
  Context cx{shared_, now, none};
  const Time window = shared_.config.upstream.ends_with_process ? Time{} : shared_.config.doubt_window;
  node(owner, now).lane.recover_doubt(cx, values, now + window);
  update(owner, cx);
}

void Core::recover_doubt_of_all(Time now) {
  if (shared_.config.upstream.ends_with_process) return;
  shared_.doubt_all_until = now + shared_.config.doubt_window;
  std::vector<Owner> owners;
  for (const auto& [owner, n] : lanes_) owners.push_back(owner);
  for (const Owner& owner : owners) recover_doubt(owner, {}, now);
}

Core::Node& Core::node(Owner owner, Time now) {
  const auto [found, created] = lanes_.try_emplace(owner, owner);
  if (created && now < shared_.doubt_all_until) {
    Actions none;
    Context cx{shared_, now, none};
    found->second.lane.recover_doubt(cx, {}, shared_.doubt_all_until);
  }
  return found->second;
}

const Lane* Core::lane(Owner owner) const {
  const auto found = lanes_.find(owner);
  return found == lanes_.end() ? nullptr : &found->second.lane;
}

template <class Function>
void Core::with_lane(Owner owner, Context& cx, Function function) {
  function(node(owner, cx.now).lane);
  update(owner, cx);
}

template <class Function>
void Core::with_all(Context& cx, Function function) {
  for (auto& [owner, lane_node] : lanes_) function(lane_node.lane);
  update_all(cx);
}

void Core::step(Event event, Time now, Actions& out) {
  Context cx{shared_, now, out};
  const std::size_t first = out.size();
  const bool was_up = shared_.health.worth_trying();
  dispatch(event, cx);
  if (was_up && !shared_.health.worth_trying()) {
    with_all(cx, [&](Lane& lane) { lane.save_retained(cx); });
  }
  if (shared_.saves_waiting && shared_.save_probe_at == Time{}) {
    shared_.saves_waiting = false;
    with_all(cx, [&](Lane& lane) { lane.save_retained(cx); });
  }
  run_courier(cx);
  alerts_.run(cx);
  watch(out, first, now);
  check_stall(cx);
  if (shared_.config.concerns) {
    notice(cx, first);
    concerns_.run(cx, shared_.queue.pending() > 0, [this] { return waiting(); });
  }
  if (mode() != reported_mode_) {
    reported_mode_ = mode();
    out.push_back(Report{Report::What::mode_changed, std::nullopt, std::string(name_of(reported_mode_)), 0});
  }
}

void Core::dispatch(Event& event, Context& cx) {
  std::visit(
      [&](auto& e) {
        using E = std::decay_t<decltype(e)>;
        if constexpr (std::is_same_v<E, WriteArrived>) {
          with_lane(e.owner, cx, [&](Lane& lane) { lane.write(cx, e); });
        } else if constexpr (std::is_same_v<E, ReadArrived>) {
          with_lane(e.owner, cx, [&](Lane& lane) { lane.read(cx, e.request, e.slot); });
        } else if constexpr (std::is_same_v<E, ContentsSet>) {
          with_lane(e.owner, cx, [&](Lane& lane) { lane.set_contents(cx, e); });
        } else if constexpr (std::is_same_v<E, ContentsGet>) {
          with_lane(e.owner, cx, [&](Lane& lane) { lane.get_contents(cx, e.request); });
        } else if constexpr (std::is_same_v<E, AlertArrived>) {
          alerts_.arrived(cx, e);
        } else if constexpr (std::is_same_v<E, AlertRaised>) {
          if (!concerns_.raised(cx, e)) alerts_.raised(cx, e);
        } else if constexpr (std::is_same_v<E, Discard>) {
          if (discards_alerts(e, cx)) return;
          with_lane(e.owner, cx, [&](Lane& lane) { lane.discard(cx, e); });
        } else if constexpr (std::is_same_v<E, ForceDelivery>) {
          with_lane(e.owner, cx, [&](Lane& lane) { lane.force_delivery(cx, e); });
        } else if constexpr (std::is_same_v<E, CommitDone>) {
          journal_answered(cx);
          if (alerts_.owns(e.owner, e.sequence)) {
            alerts_.commit_done(cx, e);
          } else {
            with_lane(e.owner, cx, [&](Lane& lane) { lane.commit_done(cx, e); });
          }
          run_backlog(cx);
        } else if constexpr (std::is_same_v<E, RemovalDone>) {
          journal_answered(cx);
          if (alerts_.owns(e.owner, e.up_to)) {
            alerts_.removal_done(cx, e);
          } else {
            with_lane(e.owner, cx, [&](Lane& lane) { lane.removal_done(cx, e); });
          }
        } else if constexpr (std::is_same_v<E, ValueRead>) {
          journal_answered(cx);
          if (alerts_.owns(e.owner, e.sequence)) {
            alerts_.value_read(cx, e);
          } else {
            with_lane(e.owner, cx, [&](Lane& lane) { lane.value_read(cx, e); });
          }
        } else if constexpr (std::is_same_v<E, DeliverDone>) {
          with_lane(e.owner, cx, [&](Lane& lane) { lane.deliver_done(cx, e); });
        } else if constexpr (std::is_same_v<E, FetchDone>) {
          with_lane(e.owner, cx, [&](Lane& lane) { lane.fetch_done(cx, e); });
        } else if constexpr (std::is_same_v<E, ProbeDone>) {
          probed(e, cx);
        } else if constexpr (std::is_same_v<E, SessionEnded>) {
          session_ended(e.epoch, cx);
        } else if constexpr (std::is_same_v<E, SignOfLife>) {
          shared_.health.sign_of_life(cx.out);
        } else if constexpr (std::is_same_v<E, SocketOpened>) {
          with_lane(e.owner, cx, [&](Lane& lane) { lane.socket_opened(cx); });
        } else if constexpr (std::is_same_v<E, SocketClosed>) {
          with_lane(e.owner, cx, [&](Lane& lane) { lane.socket_closed(cx); });
        } else if constexpr (std::is_same_v<E, DamageFound>) {
          concerns_.damage(cx, e.records);
        } else if constexpr (std::is_same_v<E, JournalUnread>) {
          concerns_.journal(cx, e.reason);
        } else if constexpr (std::is_same_v<E, JournalRead>) {
          concerns_.journal(cx, std::nullopt);
        } else if constexpr (std::is_same_v<E, Tick>) {
          tick(cx);
        } else if constexpr (std::is_same_v<E, Kick>) {
          with_all(cx, [&](Lane& lane) { lane.kick(cx); });
          alerts_.kick(cx);
          shared_.health.sign_of_life(cx.out);
        } else if constexpr (std::is_same_v<E, Stop>) {
          stop(cx);
        }
      },
      event);
}

void Core::tick(Context& cx) {
  shared_.health.tick(cx.now, cx.out);
  while (!alarms_.empty() && alarms_.begin()->first <= cx.now) {
    const Owner owner = alarms_.begin()->second;
    alarms_.erase(alarms_.begin());
    Node& found = node(owner, cx.now);
    found.alarm.reset();
    found.lane.tick(cx);
    update(owner, cx);
  }
}

void Core::probed(const ProbeDone& event, Context& cx) {
  shared_.health.probed(event, cx.now, shared_.random, cx.out);
  if (!event.answers) return;
  if (shared_.alive.epoch != event.epoch || shared_.alive.at < probe_started_) {
    shared_.alive = {event.epoch, probe_started_};
  }
  for (const Owner& owner : std::exchange(shared_.awaiting_alive, {})) {
    const auto found = lanes_.find(owner);
    if (found == lanes_.end()) continue;
    found->second.lane.session_proved_alive();
    found->second.lane.tick(cx);
    update(owner, cx);
  }
}

void Core::stop(Context& cx) {
  shared_.stopping = true;
  with_all(cx, [&](Lane& lane) { lane.save_retained(cx); });
}

// --- The journal's pace -----------------------------------------------------------------------------------

void Core::watch(const Actions& out, std::size_t first, Time now) {
  for (std::size_t i = first; i < out.size(); ++i) {
    const Action& action = out[i];
    if (std::holds_alternative<Probe>(action)) probe_started_ = now;
    if (!std::holds_alternative<Commit>(action) && !std::holds_alternative<Remove>(action) &&
        !std::holds_alternative<ReadBack>(action)) {
      continue;
    }
    if (owed_++ == 0) owed_since_ = now;
  }
}

void Core::journal_answered(Context& cx) {
  if (owed_ > 0) --owed_;
  owed_since_ = cx.now;
  if (!std::exchange(shared_.stalled, false)) return;
  cx.out.push_back(Report{Report::What::journal_well, std::nullopt, "", 0});
}

void Core::check_stall(Context& cx) {
  if (shared_.config.journal_stall <= Time{}) return;
  if (owed_ == 0 || shared_.stalled || cx.now < owed_since_ + shared_.config.journal_stall) return;
  shared_.stalled = true;
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(cx.now - owed_since_).count();
  cx.out.push_back(Report{Report::What::journal_stalled, std::nullopt, {}, static_cast<std::uint64_t>(ms)});
  with_all(cx, [&](Lane& lane) { lane.journal_stalled(cx); });
  alerts_.journal_stalled(cx);
}

// --- What somebody should look at --------------------------------------------------------------------------

void Core::notice(Context& cx, std::size_t first) {
  using What = Report::What;
  for (std::size_t i = first, end = cx.out.size(); i < end; ++i) {
    const auto* found = std::get_if<Report>(&cx.out[i]);
    if (found == nullptr) continue;
    const Report report = *found;  // telling appends to the actions
    if (report.what == What::lane_parked || report.what == What::lane_elsewhere) {
      concerns_.conflict(cx, *report.owner, report.text);
    } else if (report.what == What::journal_trouble) {
      concerns_.journal(cx, report.text);
    } else if (report.what == What::journal_stalled) {
      concerns_.journal(cx, "it does not answer");
    } else if (report.what == What::journal_well) {
      concerns_.journal(cx, std::nullopt);
    }
  }
}

Concerns::Waiting Core::waiting() const {
  Concerns::Waiting found;
  std::set<Uuid> vms;
  for (const auto& [owner, n] : lanes_) {
    const auto since = n.lane.has_pending() && !n.lane.held() ? n.lane.oldest_since() : std::nullopt;
    if (!since) continue;
    vms.insert(owner.vm);
    for (std::size_t i = 0; i < slot_count; ++i) {
      if (n.lane.pending(static_cast<Slot>(i)) != nullptr) ++found.entries;
    }
    if (!found.oldest || *since < *found.oldest) found.oldest = since;
  }
  found.vms = vms.size();
  return found;
}

void Core::session_ended(Epoch epoch, Context& cx) {
  if (epoch <= shared_.ended_epoch) return;
  shared_.ended_epoch = epoch;
  with_all(cx, [&](Lane& lane) { lane.session_ended(cx, epoch); });
}

void Core::update_all(Context& cx) {
  std::vector<Owner> owners;
  owners.reserve(lanes_.size());
  for (const auto& [owner, lane_node] : lanes_) owners.push_back(owner);
  for (const Owner& owner : owners) update(owner, cx);
}

void Core::update(Owner owner, Context& cx) {
  const auto found = lanes_.find(owner);
  if (found == lanes_.end()) return;
  Node& n = found->second;
  const Sequence place = n.lane.deliverable(cx) ? n.lane.place() : 0;
  if (place != n.place) {
    if (n.place != 0) line_.erase({n.place, owner});
    if (place != 0) line_.insert({place, owner});
    n.place = place;
  }
  // An alarm that is too early costs one look; moving it at every write would cost more.
  const std::optional<Time> wake = n.lane.next_wake(cx);
  if (wake && (!n.alarm || *wake < *n.alarm)) {
    if (n.alarm) alarms_.erase({*n.alarm, owner});
    alarms_.insert({*wake, owner});
    n.alarm = wake;
  }
  if (shared_.config.concerns) {
    const auto held = n.lane.held();
    concerns_.lane(cx, owner, held ? std::optional(std::pair{held->since, held->reason}) : std::nullopt);
  }
  if (n.place == 0 && n.lane.disposable()) {
    if (n.alarm) alarms_.erase({*n.alarm, owner});
    n.lane.let_go(cx);
    lanes_.erase(found);
  }
}

void Core::run_courier(Context& cx) {
  while (shared_.updates_allowed() && shared_.counted_deliveries < shared_.config.delivery_concurrency &&
         !line_.empty()) {
    const Owner owner = line_.begin()->second;
    with_lane(owner, cx, [&](Lane& lane) { lane.start_delivery(cx); });
  }
}

void Core::run_backlog(Context& cx) {
  std::size_t waiting = shared_.commit_backlog.size();
  while (waiting-- > 0 && shared_.commit_bytes < shared_.config.commit_bytes) {
    const Owner owner = shared_.commit_backlog.front();
    shared_.commit_backlog.pop_front();
    with_lane(owner, cx, [&](Lane& lane) { lane.leave_backlog(cx); });
  }
}

std::optional<Time> Core::next_wake() const {
  std::optional<Time> wake = shared_.health.next_probe();
  if (const auto alert = alerts_.next_wake(); alert && (!wake || *alert < *wake)) wake = alert;
  if (const auto concern = concerns_.next_wake(shared_); concern && (!wake || *concern < *wake))
    wake = concern;
  if (!alarms_.empty() && (!wake || alarms_.begin()->first < *wake)) wake = alarms_.begin()->first;
  if (owed_ > 0 && !shared_.stalled && shared_.config.journal_stall > Time{}) {
    const Time stall = owed_since_ + shared_.config.journal_stall;
    if (!wake || stall < *wake) wake = stall;
  }
  return wake;
}

Snapshot Core::snapshot() const {
  Snapshot view;
  view.mode = mode();
  view.upstream = shared_.health.state();
  view.upstream_since = shared_.health.since();
  view.upstream_error = shared_.health.last_error();
  view.pending_entries = pending_entries();
  view.pending_bytes = shared_.queue.pending_bytes();
  view.alerts = alerts_.pending();
  view.messages = concerns_.messages();
  view.lanes = lanes_.size();
  view.counters = shared_.counters;
  view.journal_stalled = shared_.stalled;
  std::set<Uuid> vms;
  for (const auto& [owner, n] : lanes_) {
    if (n.lane.in_doubt()) ++view.doubt;
    if (const auto held = n.lane.held()) {
      view.held.push_back({owner, held->reason, held->since, held->permanent, false});
    }
    for (std::size_t i = 0; i < slot_count; ++i) {
      const Slot slot = static_cast<Slot>(i);
      if (const Entry* parked = n.lane.parked(slot)) {
        view.parked.push_back(
            {owner, slot, parked->sequence, parked->size, n.lane.parked_reason(), parked->since});
      }
      if (const Retained* retained = n.lane.retained(slot)) {
        ++view.retained;
        if (retained->state == Retained::State::uncompared) ++view.uncompared;
      }
    }
    if (!n.lane.has_pending()) continue;
    vms.insert(owner.vm);
    const auto since = n.lane.oldest_since();
    if (since && (!view.oldest_since || *since < *view.oldest_since)) view.oldest_since = since;
  }
  for (const Alerts::View& alert : alerts_.views()) {
    vms.insert(alert.owner.vm);
    view.pending_bytes += alert.size;
    if (!view.oldest_since || alert.since < *view.oldest_since) view.oldest_since = alert.since;
  }
  for (Alerts::HeldView& held : alerts_.held()) {
    view.held.push_back({held.owner, std::move(held.reason), held.since, false, true});
  }
  view.pending_vms = vms.size();
  return view;
}

std::vector<PendingView> Core::pending() const {
  std::vector<PendingView> all;
  for (const auto& [owner, n] : lanes_) {
    for (std::size_t i = 0; i < slot_count; ++i) {
      const Slot slot = static_cast<Slot>(i);
      if (const Entry* entry = n.lane.pending(slot)) {
        all.push_back({owner, slot, entry->sequence, entry->size, entry->since, false});
      }
    }
  }
  for (const Alerts::View& alert : alerts_.views()) {
    all.push_back({alert.owner, Slot::nvram, alert.sequence, alert.size, alert.since, true});
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.sequence < b.sequence; });
  return all;
}

std::optional<Core::VtpmOwner> Core::owner_of_vtpm(const Uuid& vtpm) const {
  std::optional<VtpmOwner> found;
  if (vtpm.is_nil()) return found;
  for (const auto& [owner, n] : lanes_) {
    if (n.lane.serves_vtpm(vtpm)) return VtpmOwner{owner, true};
    if (n.lane.remembers_vtpm(vtpm)) found = VtpmOwner{owner, false};
  }
  return found;
}

std::size_t Core::updates_under_way() const {
  return alerts_.calling() +
         static_cast<std::size_t>(std::count_if(
             lanes_.begin(), lanes_.end(), [](const auto& item) { return item.second.lane.updating(); }));
}

bool Core::at_rest() const {
  return owed_ == 0 && shared_.commit_backlog.empty() && alerts_.at_rest() && !concerns_.calling() &&
         std::none_of(lanes_.begin(), lanes_.end(), [](const auto& item) {
           return item.second.lane.updating() || item.second.lane.journaling();
         });
}

}  // namespace guard::core
