// A simulated upstream: xapi as the guard sees it, with all its troubles, as a pure state machine on virtual
// time. No threads, no I/O, no clock; everything follows from the seed and the calls made, so that a history
// replays exactly. Copyable, and cheap: a call costs a few events in a heap.
//
// What is simulated is both ends: the server with its database (accepted values, flushed to durable ones at
// intervals), which outlives the guard; and the guard's client of it (session, connections), which does not.
//
//   submit            read                         update                       answer
//   ------+----------->-------- latency ----------->--------- latency --------->-----
//         no base: read contents, P14 check,        merged contents take the
//         merge                                      place of what stands there
//
// As with xapi, an update writes all slots of the device: what somebody else changed between the read and the
// effect is overwritten (Stood::unseen tells the oracle). Two updates of one vTPM whose processing overlaps
// both take effect, and the later one is answered HANDLE_INVALID secret, which is Outcome::Kind::unknown.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <queue>
#include <unordered_map>
#include <variant>
#include <vector>

#include "guard/env.h"
#include "guard/upstream.h"

namespace guard::testing {

/// Probabilities are drawn once per stage of a call.
enum class SimFault : std::uint8_t {
  // Of an update, when it arrives:
  refuse_transient,  ///< an error that may pass; not written
  refuse_lane,       ///< an error that speaks of this VM; not written
  refuse_payload,    ///< an error that speaks of this value; not written
  slow,              ///< takes Options::slow
  hang,              ///< neither acts nor answers until release() or a crash; its connection stays open
  drop_request,      ///< the connection is lost and it never acts: unknown
  drop_reply,        ///< acts, then the connection is lost: unknown
  act_late,          ///< the connection is lost: unknown; acts within Options::late
  verify_differs,    ///< reading back after the update fails: unknown
  // Of reading contents, within a delivery or a fetch:
  read_fails,    ///< an error that may pass
  read_suspect,  ///< the upstream as a whole does not answer
  read_slow,
  read_hangs,  ///< given up by the client after its time limit
  // Of a probe:
  probe_fails,
  count_
};
inline constexpr std::size_t sim_fault_count = static_cast<std::size_t>(SimFault::count_);
const char* name_of(SimFault fault);

struct SimUpstreamOptions {
  std::uint64_t seed = 1;
  UpstreamLimits limits{307'020, 307'020, false};
  /// Each leg of a call takes a time drawn from here.
  Time latency_min = std::chrono::microseconds(200);
  Time latency_max = std::chrono::milliseconds(5);
  Time slow = std::chrono::seconds(2);
  Time late = std::chrono::seconds(100);
  /// What was accepted is durable this long after the first change since the last flush; 0 = at once.
  Time flush_interval = std::chrono::minutes(5);
  Time upstream_timeout = std::chrono::seconds(120);
  Time read_patience = std::chrono::seconds(10);
  Time probe_timeout = std::chrono::seconds(2);
  /// Unknown VMs exist, and have a vTPM.
  bool provision = false;
};

class SimUpstream {
 public:
  using CallId = std::uint64_t;
  struct DeliverDone {
    CallId call = 0;
    Outcome outcome;
  };
  struct FetchDone {
    CallId call = 0;
    Fetched fetched;
  };
  struct ProbeDone {
    CallId call = 0;
    Outcome outcome;
  };
  struct SessionEnded {
    Epoch epoch = 0;
  };
  struct SignOfLife {};
  using Output = std::variant<DeliverDone, FetchDone, ProbeDone, SessionEnded, SignOfLife>;

  explicit SimUpstream(SimUpstreamOptions options);

  // --- The guard's side ---

  /// As guard::Upstream. Ids are the caller's; unique among the calls under way. Nothing happens before
  /// step().
  void submit(CallId id, Delivery delivery, Time now);
  void submit_fetch(CallId id, Owner owner, Time now);
  void submit_probe(CallId id, Time now);
  /// When something happens next by itself; nullopt = never.
  std::optional<Time> next_time() const;
  /// Lets everything happen that is due, in order, and appends what the guard gets to see of it.
  void step(Time now, std::vector<Output>& out);
  /// The guard has died or was stopped: nobody waits for an answer any more, connections are lost. Updates
  /// that were sent may still act; those that hang act late or never, as the seed says.
  void guard_died(Time now);

  // --- The world's side. All take effect at once. ---

  void set_fault(SimFault fault, double probability);
  /// For one VM, in addition.
  void set_fault(SimFault fault, double probability, const Uuid& vm);
  void clear_faults();

  /// Killed: what was not flushed is lost, the session is over, calls under way are lost. Down until start().
  void crash(Time now);
  /// Like crash(), but flushes first.
  void stop(Time now);
  void start(Time now);
  bool is_up() const { return up_; }
  /// While frozen, requests arrive and nothing is done with them.
  void freeze() { frozen_ = true; }
  void thaw(Time now);
  /// The session becomes invalid without a restart; nothing is lost.
  void end_session() { ++server_session_; }
  void flush();
  /// Updates that hang (of one VM, or all): act and are answered now; or act now, or never, with their
  /// connection lost.
  enum class Release { apply, apply_and_drop, drop };
  void release(Release how, std::optional<Uuid> vm, Time now);

  void add_vm(const Uuid& vm, const Uuid& vtpm);
  void delete_vm(const Uuid& vm);
  void set_elsewhere(const Uuid& vm, bool elsewhere) { vms_[vm].elsewhere = elsewhere; }
  /// Somebody else changes a slot.
  void edit(const Owner& owner, Slot slot, Value value, Time now);
  /// A snapshot revert or a new vTPM: with other contents.
  void replace_vtpm(const Uuid& vm, const Uuid& vtpm, const Contents& contents, Time now);
  /// The contents cannot be understood until somebody edits them.
  void damage(const Owner& owner) { device(owner).malformed = true; }

  // --- For the oracle ---

  enum class Writer : std::uint8_t { guard, somebody, went_back };
  /// A value that came to stand in a slot.
  struct Stood {
    Time when{};
    Slot slot = Slot::permall;
    Value value;
    Uuid vtpm;
    Writer writer = Writer::guard;
    Sequence sequence = 0;  ///< of the guard's write; 0 for slots that were merged, and for other writers
    CallId call = 0;
    bool forced = false;
    UpdateFlag update = UpdateFlag::unspecified;  ///< the guard's, of UEFI variables
    /// The guard's: something was changed between what the update was merged from and its effect; of an
    /// update merged from what was known before, in the session in which that was learned.
    bool unseen = false;
    bool late = false;  ///< the guard's: after its caller had been told `unknown`, or had died
  };
  /// In order; begins with the first change.
  const std::vector<Stood>& history(const Owner& owner) const;
  /// What stands there, and what a crash would leave. All empty for an owner nobody has named.
  Contents accepted(const Owner& owner) const;
  Contents durable(const Owner& owner) const;
  bool is_damaged(const Owner& owner) const;
  /// Updates of this owner that were sent and may still take effect, answered or not.
  unsigned may_still_act(const Owner& owner) const;
  std::size_t calls_under_way() const { return calls_.size(); }
  std::size_t hanging() const;
  /// How often each fault was drawn.
  const std::array<std::uint64_t, sim_fault_count>& drawn() const { return drawn_; }

 private:
  struct Call {
    enum class Kind : std::uint8_t { delivery, fetch, probe };
    enum class Stage : std::uint8_t { read, update, verify };
    Kind kind = Kind::delivery;
    Stage stage = Stage::read;
    CallId id = 0;  ///< the caller's
    Owner owner;
    Time submitted{};
    Delivery delivery;
    std::optional<Contents> found;
    Contents merged;
    std::uint64_t merged_from = 0;  ///< version of the device when it was read; 0 = from a base
    std::uint64_t arrived_at = 0;   ///< version of the device when the update arrived
    std::uint64_t session = 0;      ///< of the server, in which the update was sent
    Epoch epoch = 0;
    bool connected = true;  ///< its caller waits for an answer
    bool slowed = false;
    bool drop_reply = false;
    bool read_again = false;
  };
  struct Event {
    enum class Kind : std::uint8_t { arrive, act, give_up, flush };
    Time when{};
    std::uint64_t order = 0;
    Kind kind = Kind::arrive;
    CallId call = 0;  ///< internal number
    bool operator<(const Event& other) const {
      return when != other.when ? when > other.when : order > other.order;
    }
  };
  using Thresholds = std::array<std::uint32_t, sim_fault_count>;
  struct Vm {
    bool exists = false;
    bool deleted = false;
    bool elsewhere = false;
    bool has_faults = false;
    Thresholds faults{};
  };
  struct DeviceState {
    Contents accepted;
    Contents durable;
    std::uint64_t version = 1;  ///< counts changes
    /// The client's session in which it was changed last, 0 = in none.
    Epoch changed_in = 0;
    bool dirty = false;
    bool malformed = false;
    std::vector<Stood> history;
  };

  std::uint64_t random();
  Time latency();
  std::optional<SimFault> draw(SimFault first, SimFault last, const Uuid& vm);
  DeviceState& device(const Owner& owner);
  bool vm_exists(const Uuid& vm);
  void schedule(Time when, Event::Kind kind, CallId number);
  Call& begin(Call::Kind kind, CallId id, const Owner& owner, Time now);

  void happen(const Event& event);
  void arrive(CallId number, Call& call, Time now);
  bool reaches(CallId number, Call& call);
  void log_in();
  void arrive_read(CallId number, Call& call, Time now);
  bool read_is_troubled(CallId number, Call& call, Time now);
  void merge(CallId number, Call& call, Time now);
  void send_update(CallId number, Call& call, Time now);
  void arrive_update(CallId number, Call& call, Time now);
  bool update_is_refused(CallId number, Call& call, Time now);
  void read_back(CallId number, Call& call);
  void act(CallId number, Call& call, Time now);
  bool take_effect(Call& call, DeviceState& state, Time now);
  void lose_all_calls();
  void mark_dirty(const Owner& owner, DeviceState& state, Time now);
  Time time_limit(const Call& call) const;
  void give_up(CallId number, Call& call);

  void tell(Call& call, Outcome::Kind kind, const char* reason, bool suspect = false);
  void tell_delivered(Call& call);
  void end(CallId number, Call& call, Outcome::Kind kind, const char* reason, bool suspect = false);

  SimUpstreamOptions options_;
  std::uint64_t random_state_;
  Thresholds faults_{};
  std::array<std::uint64_t, sim_fault_count> drawn_{};
  bool up_ = true;
  bool frozen_ = false;
  std::uint64_t server_session_ = 1;  ///< the one that is valid
  // The guard's client.
  Epoch epoch_ = 0;  ///< 0 = not logged in
  Epoch last_epoch_ = 0;
  std::uint64_t client_session_ = 0;

  std::unordered_map<Uuid, Vm> vms_;
  std::unordered_map<Owner, DeviceState> devices_;
  std::vector<Owner> dirty_;
  bool flush_scheduled_ = false;
  /// By an internal number, in the order of submission: an update may outlive its caller, and its id.
  std::map<CallId, Call> calls_;
  std::vector<CallId> hung_;
  std::vector<CallId> frozen_calls_;
  std::priority_queue<Event> events_;
  std::uint64_t last_order_ = 0;
  CallId last_number_ = 0;
  Time now_{};
  std::vector<Output> outputs_;
};

}  // namespace guard::testing
