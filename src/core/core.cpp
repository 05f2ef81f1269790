#include "core/core.h"

#include <algorithm>

namespace guard::core {

void Core::recover(Owner owner, RecoveredEntry entry, Time now) {
  Actions none;
  Context cx{shared_, now, none};
  node(owner).lane.recover(cx, std::move(entry));
  update(owner, cx);
  reported_mode_ = shared_.queue.mode();
}

Core::Node& Core::node(Owner owner) { return lanes_.try_emplace(owner, owner).first->second; }

const Lane* Core::lane(Owner owner) const {
  const auto found = lanes_.find(owner);
  return found == lanes_.end() ? nullptr : &found->second.lane;
}

template <class Function>
void Core::with_lane(Owner owner, Context& cx, Function function) {
  function(node(owner).lane);
  update(owner, cx);
}

void Core::step(Event event, Time now, Actions& out) {
  Context cx{shared_, now, out};
  std::visit(
      [&](auto& e) {
        using E = std::decay_t<decltype(e)>;
        if constexpr (std::is_same_v<E, WriteArrived>) {
          with_lane(e.owner, cx, [&](Lane& lane) { lane.write(cx, e.request, e.slot, std::move(e.value)); });
        } else if constexpr (std::is_same_v<E, ReadArrived>) {
          with_lane(e.owner, cx, [&](Lane& lane) { lane.read(cx, e.request, e.slot); });
        } else if constexpr (std::is_same_v<E, CommitDone>) {
          with_lane(e.owner, cx, [&](Lane& lane) { lane.commit_done(cx, e); });
          run_backlog(cx);
        } else if constexpr (std::is_same_v<E, RemovalDone>) {
          with_lane(e.owner, cx, [&](Lane& lane) { lane.removal_done(cx, e); });
        } else if constexpr (std::is_same_v<E, ValueRead>) {
          with_lane(e.owner, cx, [&](Lane& lane) { lane.value_read(cx, e); });
        } else if constexpr (std::is_same_v<E, DeliverDone>) {
          with_lane(e.owner, cx, [&](Lane& lane) { lane.deliver_done(cx, e); });
        } else if constexpr (std::is_same_v<E, FetchDone>) {
          with_lane(e.owner, cx, [&](Lane& lane) { lane.fetch_done(cx, e); });
        } else if constexpr (std::is_same_v<E, ProbeDone>) {
          shared_.health.probed(e, now, shared_.random, out);
        } else if constexpr (std::is_same_v<E, SessionEnded>) {
          session_ended(e.epoch, cx);
        } else if constexpr (std::is_same_v<E, SignOfLife>) {
          shared_.health.sign_of_life(out);
        } else if constexpr (std::is_same_v<E, SocketOpened>) {
          with_lane(e.owner, cx, [&](Lane& lane) { lane.socket_opened(); });
        } else if constexpr (std::is_same_v<E, SocketClosed>) {
          with_lane(e.owner, cx, [&](Lane& lane) { lane.socket_closed(cx); });
        } else if constexpr (std::is_same_v<E, Tick>) {
          tick(cx);
        } else if constexpr (std::is_same_v<E, Kick>) {
          for (auto& [owner, lane_node] : lanes_) lane_node.lane.kick(cx);
          update_all(cx);
          shared_.health.sign_of_life(out);
        }
      },
      event);
  run_courier(cx);
  if (shared_.queue.mode() != reported_mode_) {
    reported_mode_ = shared_.queue.mode();
    out.push_back(Report{Report::What::mode_changed, std::nullopt, std::string(name_of(reported_mode_)), 0});
  }
}

void Core::tick(Context& cx) {
  shared_.health.tick(cx.now, cx.out);
  while (!alarms_.empty() && alarms_.begin()->first <= cx.now) {
    const Owner owner = alarms_.begin()->second;
    alarms_.erase(alarms_.begin());
    Node& found = node(owner);
    found.alarm.reset();
    found.lane.tick(cx);
    update(owner, cx);
  }
}

void Core::session_ended(Epoch epoch, Context& cx) {
  if (epoch <= shared_.ended_epoch) return;
  shared_.ended_epoch = epoch;
  for (auto& [owner, lane_node] : lanes_) lane_node.lane.session_ended(cx, epoch);
  update_all(cx);
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
  const Sequence place = n.lane.deliverable(cx) ? n.lane.oldest_pending() : 0;
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
  if (n.place == 0 && n.lane.disposable()) {
    if (n.alarm) alarms_.erase({*n.alarm, owner});
    lanes_.erase(found);
  }
}

void Core::run_courier(Context& cx) {
  while (shared_.health.worth_trying() && shared_.counted_deliveries < shared_.config.delivery_concurrency &&
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
  if (!alarms_.empty() && (!wake || alarms_.begin()->first < *wake)) wake = alarms_.begin()->first;
  return wake;
}

Snapshot Core::snapshot() const {
  Snapshot view;
  view.mode = shared_.queue.mode();
  view.upstream = shared_.health.state();
  view.upstream_since = shared_.health.since();
  view.upstream_error = shared_.health.last_error();
  view.pending_entries = shared_.queue.pending();
  view.pending_bytes = shared_.queue.pending_bytes();
  view.lanes = lanes_.size();
  view.counters = shared_.counters;
  std::set<Uuid> vms;
  for (const auto& [owner, n] : lanes_) {
    if (n.lane.in_doubt()) ++view.doubt;
    if (const auto held = n.lane.held()) {
      view.held.push_back({owner, held->reason, held->since, held->permanent});
    }
    if (!n.lane.has_pending()) continue;
    vms.insert(owner.vm);
    const auto since = n.lane.oldest_since();
    if (since && (!view.oldest_since || *since < *view.oldest_since)) view.oldest_since = since;
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
        all.push_back({owner, slot, entry->sequence, entry->size, entry->since});
      }
    }
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.sequence < b.sequence; });
  return all;
}

std::size_t Core::updates_under_way() const {
  return static_cast<std::size_t>(std::count_if(
      lanes_.begin(), lanes_.end(), [](const auto& item) { return item.second.lane.updating(); }));
}

}  // namespace guard::core
