// The lane: everything the guard knows and does for one device of one VM. Pure: see events.h.
//
// State: upstream call {none, direct, delivery} x doubt {none, open, window} x held {no, yes, permanent}; per
// slot {none, committing, durable, removing}, where a newer value can be committing above a durable or
// removing one. *Idle* = no call, no doubt, all slots none and no failed commit behind them.
//
//   state              event                       next                actions
//   ------------------ --------------------------- -------------------
//   ----------------------------------------- idle, up           write                       call direct push
//   (merged into what is known) idle, down         write                       committing          commit
//   call direct        write                       same; value waits   -
//   call direct        delivered                   idle                answer accepted (P1); next waiting:
//   push call direct        transient, unknown          committing          commit sent and waiting values
//   call direct        stale                       call direct         push again, reading first (twice at
//   most) call direct        lane                        held                answer unavailable, not
//   journaled (P7) call direct        payload                     idle                answer too large call
//   direct        direct-timeout              doubt open          commit sent and waiting values; probe any
//   but idle       write                       committing          commit; if one is under way, after it
//   committing         durable                     durable             answer accepted; readers get the value
//   committing         full, failed                none, stained       answer unavailable (P9, rule 10)
//   stained            retry time                  removing            remove up to the failed sequence
//   durable            courier's turn              call delivery       push all durable slots (values read
//   back) call delivery      delivered                   removing            remove up to what was delivered
//   call delivery      transient, stale            durable             back-off
//   call delivery      lane, payload, conflict     durable, held       retry at the lane's own pace
//   any call           unknown                     doubt window        no update until it ends; then verify
//   doubt open         the call's answer           as that answer      values it delivered are removed
//   doubt window       window over, session ended  durable             next update is read back
//   removing           durable                     none                idle when nothing else is left
//   removing           failed                      durable, delivered  removal again after a while
//   any                read, slot durable          same                answer the pending value
//   any                read, slot committing       same                answer when the commit ends (rule 3)
//   any                read, otherwise, up         same                fetch (joined when nothing changed
//   since) any                read, otherwise, down       same                what is known in this session,
//   else 503
//
// The complete table, every reachable (state, event) with its actions, is generated and checked by
// lane_table_test.cpp: docs/LANE_TABLE.md.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "core/shared.h"

namespace guard::core {

/// A pending write as the core knows it.
struct Entry {
  Sequence sequence = 0;
  std::optional<Value> value;  ///< absent: in the journal only
  std::size_t size = 0;
  Digest digest;
  std::vector<Digest> known;  ///< see SlotWrite::known
  Uuid vtpm;
  Time since{};
  bool queued = false;   ///< holds a place in the delivery queue
  bool suspect = false;  ///< recovered from a damaged file
};

/// An entry that recovery found in the journal.
struct RecoveredEntry {
  Slot slot = Slot::permall;
  Sequence sequence = 0;
  std::size_t size = 0;
  Digest digest;
  std::vector<Digest> known;
  Uuid vtpm;
  Time since{};  ///< on the core's clock, may be negative
  bool suspect = false;
};

struct HeldView {
  std::string reason;
  Time since{};
  bool permanent = false;
};

class Lane {
 public:
  explicit Lane(Owner owner) : owner_(owner) {}

  void write(Context& cx, RequestId request, Slot slot, Value value);
  void read(Context& cx, RequestId request, Slot slot);
  void commit_done(Context& cx, const CommitDone& event);
  void removal_done(Context& cx, const RemovalDone& event);
  void value_read(Context& cx, const ValueRead& event);
  void deliver_done(Context& cx, const DeliverDone& event);
  void fetch_done(Context& cx, const FetchDone& event);
  void session_ended(Context& cx, Epoch epoch);
  void socket_opened() { socket_open_ = true; }
  void socket_closed(Context& cx);
  void kick(Context& cx);
  /// Does what is due at cx.now.
  void tick(Context& cx);
  /// Hands waiting values over: direct or to the journal, whichever is right now.
  void advance(Context& cx);
  /// There may be room in commit_bytes now.
  void leave_backlog(Context& cx);
  void recover(Context& cx, RecoveredEntry entry);

  /// Whether the courier may start a delivery now; `oldest_pending` is then its place in the line.
  bool deliverable(const Context& cx) const;
  void start_delivery(Context& cx);
  /// When tick() has something to do, if ever.
  std::optional<Time> next_wake(const Context& cx) const;
  /// Nothing would be lost by forgetting this lane.
  bool disposable() const;

  Owner owner() const { return owner_; }
  bool has_pending() const;
  Sequence oldest_pending() const;
  std::optional<Time> oldest_since() const;
  bool updating() const { return call_.has_value(); }
  bool in_doubt() const { return doubt_.has_value() || (call_ && call_->late); }
  std::optional<HeldView> held() const;
  /// Pending (durable, not yet removed) entry of a slot.
  const Entry* pending(Slot slot) const;
  /// The abstract state, as it stands in docs/LANE_TABLE.md.
  std::string describe() const;

 private:
  struct Waiting {
    Entry entry;
    std::vector<RequestId> writers;
  };
  struct SlotState {
    std::optional<Waiting> next;            ///< newest value not yet handed to anybody
    std::optional<Waiting> committing;      ///< handed to the journal, not acknowledged
    std::optional<Entry> durable;           ///< newest acknowledged entry, until its removal is durable
    Sequence removing = 0;                  ///< removal under way up to this sequence
    Sequence delivered = 0;                 ///< entries up to this sequence have arrived upstream
    Sequence failed = 0;                    ///< a failed commit that may be on the disk all the same
    Time retry_removal{};                   ///< not before
    std::vector<RequestId> commit_readers;  ///< wait for the commit or removal under way
    std::vector<std::pair<RequestId, Sequence>> back_readers;  ///< wait for a value from the journal
    std::vector<Digest> history;  ///< what was known upstream, then what was attempted since
    bool base_known = false;      ///< history starts with a value confirmed by the upstream

    bool none() const { return !next && journal_clean(); }
    bool journal_clean() const { return !committing && !durable && removing == 0 && failed == 0; }
  };
  struct Call {
    enum class Kind { direct, delivery };
    CallId id = 0;
    Kind kind = Kind::direct;
    Time started{};
    bool late = false;     ///< unanswered for direct-timeout: the lane is in doubt, others are not held up
    bool counted = false;  ///< counts against delivery-concurrency
    bool reported = false;
    std::array<bool, slot_count> loading{};  ///< values still being read back; the update was not sent yet
    bool load_failed = false;                ///< the disk refused one of them
    std::optional<Slot> unreadable;          ///< one of them is damaged or lost for good
    unsigned restarts = 0;
    std::array<std::optional<Waiting>, slot_count> sent;

    bool is_loading() const { return std::find(loading.begin(), loading.end(), true) != loading.end(); }
  };
  struct Doubt {
    Time until{};
    Epoch epoch = 0;
    Time probe_at{};  ///< when to ask again whether the session still lives
  };
  struct Held {
    Outcome::Kind kind = Outcome::Kind::lane;
    std::string reason;
    Time since{};
    unsigned count = 0;
    bool permanent = false;
    Time retry_at{};
    Backoff backoff;
  };
  struct Known {
    Contents contents;
    Epoch epoch = 0;
    std::size_t bytes = 0;
  };
  struct FetchCall {
    CallId id = 0;
    std::uint64_t generation = 0;
    bool overlapped = false;
    std::vector<std::pair<RequestId, Slot>> readers;
  };

  SlotState& at(Slot slot) { return slots_[static_cast<std::size_t>(slot)]; }
  const SlotState& at(Slot slot) const { return slots_[static_cast<std::size_t>(slot)]; }
  static Slot slot_at(std::size_t i) { return static_cast<Slot>(i); }

  bool fits(const Context& cx, Slot slot, std::size_t size) const;
  bool journal_clean() const;
  bool may_go_direct(const Context& cx) const;
  void start_direct(Context& cx);
  void send_direct(Context& cx);
  void direct_done(Context& cx, Call call, const Outcome& outcome);
  void call_done_late(Context& cx, Call call, const Outcome& outcome);
  void to_journal(Context& cx, Call& call);
  void start_commit(Context& cx, Slot slot);
  void start_removal(Context& cx, Slot slot);
  void value_loaded(Context& cx, const ValueRead& event, bool lost);
  void send_delivery(Context& cx);
  void settle_delivered(Context& cx, const Call& call, const Outcome& outcome);
  void uncount(Context& cx, Call& call);
  void enter_doubt(Context& cx, Epoch epoch);
  void note_failure(Context& cx, Outcome::Kind kind, const std::string& reason);
  void clear_held(Context& cx);
  void set_known(Context& cx, const Contents& contents, Epoch epoch);
  void drop_known(Context& cx);
  bool known_valid(const Context& cx) const;
  void learn(Slot slot, Digest digest);
  void attempt(Slot slot, Digest digest);
  void replace_durable(Context& cx, Slot slot, std::optional<Entry> entry);
  void start_fetch(Context& cx, RequestId request, Slot slot);
  void answer_known_or_unavailable(Context& cx, RequestId request, Slot slot);
  void requeue_readers(Context& cx, std::vector<RequestId> readers, Slot slot);
  void invariant(Context& cx, const char* what);

  static void answer(Context& cx, std::vector<RequestId>& writers, WriteStatus status, bool journaled);
  static void answer(Context& cx, RequestId reader, ReadResult::Source source, Value value);
  static void journal_trouble(Context& cx, bool trouble, const char* what);

  Owner owner_;
  std::array<SlotState, slot_count> slots_;
  std::optional<Call> call_;
  std::optional<Doubt> doubt_;
  std::optional<Held> held_;
  /// What the upstream was last known to hold. Answers reads while the upstream is down; the slots that a
  /// doubtful update may change are pending, and pending values come first.
  std::optional<Known> known_;
  bool known_is_base_ = false;  ///< and updates may be merged into it: no doubt since (rule 4)
  std::vector<FetchCall> fetches_;
  std::uint64_t generation_ = 0;  ///< counts starts and ends of updates
  bool verify_next_ = false;      ///< the next update is the first after doubt
  bool socket_open_ = false;
  bool in_backlog_ = false;
  Uuid vtpm_;        ///< as last seen upstream while the socket is open
  Time retry_at_{};  ///< no delivery before
  Backoff retry_backoff_;
};

}  // namespace guard::core
