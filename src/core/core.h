// The whole core: all lanes, the courier that decides which delivers next, health and mode.
//
// A pure state machine, copyable, deterministic: step(event, now) appends actions; the shell carries them out
// in order. Never throws on what the world does.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/alerts.h"
#include "core/concerns.h"
#include "core/lane.h"
#include "core/shared.h"

namespace guard::core {

/// What `status` shows; computed on demand, in time linear in the number of lanes.
struct Snapshot {
  struct HeldLane {
    Owner owner;
    std::string reason;
    Time since{};
    bool permanent = false;
    bool alerts = false;  ///< not the lane, but the alerts of its VM
  };
  struct ParkedEntry {
    Owner owner;
    Slot slot = Slot::permall;
    Sequence sequence = 0;
    std::size_t size = 0;
    std::string reason;
    Time since{};
  };
  Mode mode = Mode::direct;
  Health::State upstream = Health::State::unknown;
  Time upstream_since{};
  std::string upstream_error;
  std::size_t pending_entries = 0;
  std::size_t pending_vms = 0;
  std::size_t pending_bytes = 0;
  std::size_t alerts = 0;    ///< among the pending entries
  std::size_t messages = 0;  ///< about the guard itself, not yet taken by the upstream
  std::optional<Time> oldest_since;
  std::vector<HeldLane> held;
  std::vector<ParkedEntry> parked;
  std::size_t retained = 0;    ///< delivered values kept for P13
  std::size_t uncompared = 0;  ///< of them, those that wait for comparison after the end of a session
  bool journal_stalled = false;
  std::size_t doubt = 0;
  std::size_t lanes = 0;
  Counters counters;
};

/// One pending entry, for `pending`.
struct PendingView {
  Owner owner;
  Slot slot = Slot::permall;
  Sequence sequence = 0;
  std::size_t size = 0;
  Time since{};
  bool alert = false;  ///< of the VM that the slot belongs to; no value of the slot
};

class Core {
 public:
  explicit Core(Config config) : shared_(config) {}

  /// Before the first step: an entry that recovery found.
  void recover(Owner owner, RecoveredEntry entry, Time now);
  void recover(Owner owner, const RecoveredAlert& alert);
  /// Before the first step, after recover(): updates of these values were under way when the last process
  /// ended. `of_all`: nobody knows which, so every lane that comes into being within the doubt window is in
  /// doubt. Where an update ends with its process there is none.
  void recover_doubt(Owner owner, const std::vector<NotedValue>& values, Time now);
  void recover_doubt_of_all(Time now);
  /// Before the first step: sequences up to this one were handed out before.
  void recover_sequence(Sequence highest) { shared_.sequence = std::max(shared_.sequence, highest); }

  void step(Event event, Time now, Actions& out);
  /// When to send a Tick, if nothing else happens.
  std::optional<Time> next_wake() const;

  Snapshot snapshot() const;
  std::vector<PendingView> pending() const;
  /// Off: writes that the upstream does not take directly are refused as unavailable. What is pending is
  /// delivered all the same, and what is retained, and alerts, are kept as always.
  void set_buffering(bool on) { shared_.buffering = on; }
  /// The journal owes answers for longer than Config::journal_stall.
  bool stalled() const { return shared_.stalled; }
  Mode mode() const;
  Health::State health() const { return shared_.health.state(); }
  std::size_t pending_entries() const { return shared_.queue.pending() + alerts_.pending(); }
  const Counters& counters() const { return shared_.counters; }
  /// The lane of this vTPM, as far as lanes know; linear in their number. `certain`: its socket is open and
  /// the vTPM was seen upstream since, so that no other can have taken its place. Otherwise entries were
  /// written under it, or its contents are remembered.
  struct VtpmOwner {
    Owner owner;
    bool certain = false;
  };
  std::optional<VtpmOwner> owner_of_vtpm(const Uuid& vtpm) const;
  /// Nullptr when there is no such lane.
  const Lane* lane(Owner owner) const;
  bool upstream_worth_trying() const { return shared_.health.worth_trying(); }
  /// Calls under way that may change the upstream; an orderly stop waits for them.
  std::size_t updates_under_way() const;
  /// Nothing is on its way to or from the upstream or the journal, nor waits to be: an orderly stop is over.
  bool at_rest() const;

 private:
  struct Node {
    explicit Node(Owner owner) : lane(owner) {}
    Lane lane;
    Sequence place = 0;         ///< its key in line_, 0 = not in it
    std::optional<Time> alarm;  ///< its key in alarms_
  };

  Node& node(Owner owner, Time now);
  /// After anything happened to a lane: its place in the courier's line, its alarm, its end.
  void update(Owner owner, Context& cx);
  template <class Function>
  void with_lane(Owner owner, Context& cx, Function function);
  void dispatch(Event& event, Context& cx);
  bool discards_alerts(const Discard& event, Context& cx);
  void tick(Context& cx);
  void probed(const ProbeDone& event, Context& cx);
  void stop(Context& cx);
  /// Counts what the journal owes, looking at the actions from `first` on.
  void watch(const Actions& out, std::size_t first, Time now);
  void journal_answered(Context& cx);
  void check_stall(Context& cx);
  template <class Function>
  void with_all(Context& cx, Function function);
  void session_ended(Epoch epoch, Context& cx);
  void update_all(Context& cx);
  /// What has been reported of conflicts and the journal from `first` on.
  void notice(Context& cx, std::size_t first);
  Concerns::Waiting waiting() const;
  /// The courier: oldest first, at most delivery_concurrency calls that are not late.
  void run_courier(Context& cx);
  void run_backlog(Context& cx);

  Shared shared_;
  Alerts alerts_;
  Concerns concerns_;
  std::unordered_map<Owner, Node> lanes_;
  std::set<std::pair<Sequence, Owner>> line_;  ///< lanes that may deliver, oldest entry first
  std::set<std::pair<Time, Owner>> alarms_;
  Mode reported_mode_ = Mode::direct;
  std::size_t owed_ = 0;  ///< answers that the journal owes
  Time owed_since_{};     ///< since then nothing came
  Time probe_started_{};
};

}  // namespace guard::core
