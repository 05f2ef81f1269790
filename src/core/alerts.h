// Alerts: messages about VMs on their way to the upstream. Pure: see events.h.
//
// An alert is an entry of its own: nothing replaces it, and it is delivered at least once. It has nothing to
// do with the lane of its VM's variables; neither ever waits for the other.
//
//   state            event                     next             actions
//   ---------------- ------------------------- ---------------- --------------------------------
//   -                alert, upstream up        calling          raise
//   -                alert, else               committing       commit
//   -                alert, 16 of the VM wait  -                answer refused; report
//   calling          delivered                 -                answer done
//   calling          transient, unknown, late  committing       commit
//   calling          lane, payload             -                answer refused
//   committing       durable                   durable          answer done
//   committing       full, failed              -                answer unavailable
//   durable          its turn                  loading          read the text back
//   loading          read                      raising          raise
//   loading          lost                      removing         report; remove
//   raising          delivered                 removing         remove
//   raising          anything else             durable          at the VM's own pace
//   removing         durable                   -                -
//
// One call of a VM at a time. A commit that failed may be on the disk all the same: then the alert comes once
// more after a crash, which does no harm.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/shared.h"

namespace guard::core {

/// What the journal holds of an alert: its priority, 8 bytes with the lowest first, then its text.
Value pack_alert(std::int64_t priority, const Value& body);
/// Inverse; nullopt when it is too short.
std::optional<std::pair<std::int64_t, Value>> unpack_alert(const Value& packed);

/// An alert that recovery found in the journal.
struct RecoveredAlert {
  Sequence sequence = 0;
  std::size_t size = 0;
  Time since{};  ///< on the core's clock, may be negative
};

class Alerts {
 public:
  void arrived(Context& cx, AlertArrived& event);
  void raised(Context& cx, const AlertRaised& event);
  /// Whether an answer of the journal is about one of these.
  bool owns(Owner owner, Sequence sequence) const;
  void commit_done(Context& cx, const CommitDone& event);
  void removal_done(Context& cx, const RemovalDone& event);
  void value_read(Context& cx, const ValueRead& event);
  void recover(Owner owner, const RecoveredAlert& alert);
  /// The operator gives all alerts of a VM up; `request` is answered by Done when that is durable. False:
  /// there are none.
  bool discard(Context& cx, std::optional<RequestId> request, Owner owner);
  void kick(Context& cx);
  void journal_stalled(Context& cx);
  /// Does what is due, and starts what may start.
  void run(Context& cx);

  std::optional<Time> next_wake() const { return wake_; }
  /// Calls under way whose alerts are nowhere else yet.
  std::size_t calling() const;
  bool at_rest() const;

  struct View {
    Owner owner;
    Sequence sequence = 0;
    std::size_t size = 0;
    Time since{};
  };
  struct HeldView {
    Owner owner;
    std::string reason;
    Time since{};
  };
  /// How many are pending: durable in the journal, not yet removed.
  std::size_t pending() const { return pending_; }
  std::vector<View> views() const;
  std::vector<HeldView> held() const;

 private:
  struct One {
    Sequence sequence = 0;
    std::size_t size = 0;  ///< of the packed form
    Time since{};
    std::optional<Value> packed;  ///< absent: in the journal only
    std::optional<RequestId> request;
    CallId call = 0;
    Time called{};
    bool counted = false;     ///< its call counts against the bound on calls
    bool loading = false;     ///< its text is being read back
    bool committing = false;  ///< handed to the journal
    bool durable = false;
    bool ended = false;  ///< delivered or given up: only its removal is left
    bool removing = false;
    Time retry_removal{};
  };
  struct Vm {
    std::vector<One> alerts;  ///< oldest first
    Time retry_at{};          ///< no delivery before
    Backoff backoff;
    std::string held;  ///< why the last one was refused, empty = it was not
    Time held_since{};
    bool full_reported = false;
  };
  struct Operation {
    RequestId request = 0;
    Owner owner;
    Sequence up_to = 0;
    std::size_t entries = 0;
  };

  One* find(Owner owner, Sequence sequence);
  void send(Context& cx, Owner owner, One& one);
  void uncount(One& one);
  void commit(Context& cx, Owner owner, One& one);
  void remove(Context& cx, Owner owner, One& one);
  void refused(Context& cx, Owner owner, const Outcome& outcome);
  static void answer(Context& cx, One& one, UefiOutcome::Kind kind, std::string reason);
  /// Forgets those that nobody waits for and that stand nowhere.
  void sweep(Context& cx, Owner owner);
  void finish_operations(Context& cx, Owner owner, bool failed);
  void start(Context& cx, Owner owner, Vm& vm);
  void set_wake(const Context& cx);

  std::map<Owner, Vm> vms_;
  std::vector<Operation> operations_;
  unsigned calls_ = 0;  ///< calls and reads under way that count
  std::size_t pending_ = 0;
  bool touched_ = false;
  bool allowed_ = false;
  std::optional<Time> wake_;
};

}  // namespace guard::core
