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

/// A write as the core knows it: on its way, pending, parked or retained.
struct Entry {
  Sequence sequence = 0;
  std::optional<Value> value;  ///< absent: in the journal only
  std::size_t size = 0;
  Digest digest;
  /// Digests that are known to this entry (P14): those before this position of the slot's history, or `known`
  /// where that is 0. Neither = nothing known, no check.
  std::uint64_t known_end = 0;
  std::vector<Digest> known;
  Uuid vtpm;
  Time since{};
  Epoch epoch = 0;  ///< the session that accepted it, 0 = not yet or an unknown one
  Time accepted_at{};
  bool queued = false;         ///< holds a place in the delivery queue
  bool suspect = false;        ///< recovered from a damaged file
  bool recovered = false;      ///< found at start
  bool over_anything = false;  ///< from vtpm_set_contents, or on top of such a one: values are not compared
  bool handed_over = false;    ///< vtpm_get_contents told it: delivered only over what it is based on
  bool force = false;          ///< the operator said so
  UpdateFlag update = UpdateFlag::unspecified;  ///< of slot nvram
};

/// A delivered value that is kept, because accepted by the upstream is not yet durable there (P13).
struct Retained {
  enum class State {
    standing,    ///< as far as is known it stands upstream
    uncompared,  ///< the session that accepted it is over: it counts as pending until compared
    suspended,   ///< somebody else's value stands there; looked at again after the next session
  };
  Entry entry;
  State state = State::standing;
  bool journaled = false;  ///< the journal holds it (else memory alone does)
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
  bool retained = false;
  bool over_anything = false;  ///< as in Entry
  UpdateFlag update = UpdateFlag::unspecified;
};

struct HeldView {
  std::string reason;
  Time since{};
  bool permanent = false;
};

class Lane {
 public:
  explicit Lane(Owner owner) : owner_(owner) {}

  void write(Context& cx, WriteArrived& event);
  void read(Context& cx, RequestId request, Slot slot);
  void set_contents(Context& cx, ContentsSet& event);
  void get_contents(Context& cx, RequestId request);
  void discard(Context& cx, const Discard& event);
  void force_delivery(Context& cx, const ForceDelivery& event);
  void commit_done(Context& cx, const CommitDone& event);
  void removal_done(Context& cx, const RemovalDone& event);
  void value_read(Context& cx, const ValueRead& event);
  void deliver_done(Context& cx, const DeliverDone& event);
  void fetch_done(Context& cx, const FetchDone& event);
  void session_ended(Context& cx, Epoch epoch);
  void socket_opened(Context& cx);
  void socket_closed(Context& cx);
  void kick(Context& cx);
  /// The upstream went down, or an orderly stop began: what is retained in memory alone goes to the journal.
  void save_retained(Context& cx);
  /// The journal owes answers for too long: nobody waits for it any more.
  void journal_stalled(Context& cx);
  /// A call answered in this session after retentions were due.
  void session_proved_alive() { awaiting_alive_ = false; }
  /// Does what is due at cx.now.
  void tick(Context& cx);
  /// Hands waiting values over: direct or to the journal, whichever is right now.
  void advance(Context& cx);
  /// There may be room in commit_bytes now.
  void leave_backlog(Context& cx);
  void recover(Context& cx, RecoveredEntry entry);
  /// An update of these values was under way when the last process ended: it may still take effect.
  void recover_doubt(Context& cx, const std::vector<NotedValue>& values, Time until);

  /// Whether the courier may start a delivery now; `place` is then its place in the line.
  bool deliverable(const Context& cx) const;
  /// The oldest sequence that waits for a delivery, 0 = none.
  Sequence place() const;
  void start_delivery(Context& cx);
  /// When tick() has something to do, if ever.
  std::optional<Time> next_wake(const Context& cx) const;
  /// Nothing would be lost by forgetting this lane.
  bool disposable() const;
  /// To be called before it is forgotten: gives back what it counted among the shared bounds.
  void let_go(Context& cx);

  Owner owner() const { return owner_; }
  /// This vTPM was seen upstream since the socket was opened.
  bool serves_vtpm(const Uuid& vtpm) const { return socket_open_ && vtpm_ == vtpm; }
  /// It is the vTPM last seen, or that of an entry.
  bool remembers_vtpm(const Uuid& vtpm) const;
  bool has_pending() const;
  /// Discard has something to end.
  bool discards_something() const;
  std::optional<Time> oldest_since() const;
  bool updating() const { return call_.has_value(); }
  /// Something of it is on its way to or from the journal, or waits to be.
  bool journaling() const;
  bool in_doubt() const { return doubt_.has_value() || (call_ && call_->late); }
  std::optional<HeldView> held() const;
  /// Pending (durable, not yet removed) entry of a slot.
  const Entry* pending(Slot slot) const;
  const Entry* parked(Slot slot) const;
  const Retained* retained(Slot slot) const;
  const std::string& parked_reason() const { return parked_reason_; }
  /// The abstract state, as it stands in docs/LANE_TABLE.md.
  std::string describe() const;

 private:
  struct Waiting {
    Entry entry;
    std::vector<RequestId> writers;
  };
  /// Why a removal is under way.
  struct Removal {
    enum class Why {
      retire,   ///< the entry was delivered
      release,  ///< a retention ends, because its time is over or a direct write comes next
      clear,    ///< a failed commit, or entries an operator gave up
    };
    Sequence up_to = 0;
    Why why = Why::retire;
    bool retained = false;
  };
  struct SlotState {
    std::optional<Waiting> next;            ///< newest value not yet handed to anybody
    std::optional<Waiting> committing;      ///< handed to the journal, not acknowledged
    std::optional<Entry> durable;           ///< newest acknowledged entry, until its removal is durable
    std::optional<Entry> parked;            ///< set aside in a conflict; older than anything else of the slot
    std::optional<Retained> retained;       ///< the value delivered last
    std::optional<Removal> removal;         ///< under way
    Sequence sent = 0;                      ///< the highest that was ever sent, also in an earlier life
    Sequence delivered = 0;                 ///< entries up to this sequence have arrived upstream
    Sequence failed = 0;                    ///< a failed commit that may be on the disk all the same
    Sequence kept = 0;                      ///< a retained record that the journal holds
    Sequence discard = 0;                   ///< an operator gave up everything up to this one
    bool release = false;                   ///< the retention is to end
    Time retry_removal{};                   ///< not before
    std::vector<RequestId> commit_readers;  ///< wait for the commit or removal under way
    std::vector<std::pair<RequestId, Sequence>> back_readers;  ///< wait for a value from the journal
    History history;

    /// Nothing that the journal holds, or may hold, stands between a write and the upstream.
    bool journal_clean() const { return !committing && !durable && !removal && failed == 0 && discard == 0; }
    /// Delivered, but its removal waits for that of a failed commit above it.
    bool blocked_by_failed() const {
      return failed != 0 && durable && durable->epoch != 0 && durable->sequence <= delivered;
    }
    bool uncompared() const { return retained && retained->state == Retained::State::uncompared; }
    /// The upstream's value is ours to know: nothing newer is pending here.
    bool settled() const { return !next && journal_clean() && !uncompared(); }
  };
  struct Call {
    enum class Kind { direct, delivery };
    CallId id = 0;
    Kind kind = Kind::direct;
    Time started{};
    bool late = false;     ///< unanswered for direct-timeout: the lane is in doubt, others are not held up
    bool counted = false;  ///< counts against delivery-concurrency
    bool reported = false;
    bool contents = false;                   ///< a direct vtpm_set_contents
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
    Time started{};
    std::uint64_t generation = 0;
    bool overlapped = false;
    bool for_contents = false;
    std::vector<std::pair<RequestId, Slot>> readers;
    std::vector<RequestId> rest_readers;  ///< of a pending value: only what stands around it is wanted
  };
  struct ContentsWrite {
    Sequence sequence = 0;
    std::array<Value, 3> values;
    Uuid vtpm;
    Time deadline{};
    bool to_disk = false;             ///< was sent direct already
    std::vector<RequestId> writers;   ///< of device writes that it supersedes
    std::vector<RequestId> requests;  ///< of vtpm_set_contents
  };
  struct ContentsReader {
    RequestId request = 0;
    Time deadline{};
    Sequence up_to = 0;               ///< writes received before it
    unsigned deliveries = 0;          ///< that ended since without bringing everything upstream
    std::array<Sequence, 3> asked{};  ///< of the journal
    std::array<std::optional<std::pair<Sequence, Value>>, 3> loaded;
  };
  struct Operation {
    RequestId request = 0;
    std::size_t entries = 0;
    std::array<Sequence, slot_count> up_to{};
  };

  SlotState& at(Slot slot) { return slots_[static_cast<std::size_t>(slot)]; }
  const SlotState& at(Slot slot) const { return slots_[static_cast<std::size_t>(slot)]; }
  static Slot slot_at(std::size_t i) { return static_cast<Slot>(i); }

  // lane.cpp: writes, direct calls, time
  bool fits(const Context& cx, Slot slot, std::size_t size) const;
  bool journal_clean() const;
  bool uncompared() const;
  bool may_go_direct(const Context& cx) const;
  bool refuses_writes(const Context& cx) const;
  void refuse_waiting(Context& cx, WriteStatus status);
  void start_direct(Context& cx);
  bool merges(const Context& cx) const;
  void send_direct(Context& cx);
  void direct_done(Context& cx, Call call, const Outcome& outcome);
  void to_journal(Context& cx, Call& call);
  static void share_base(SlotState& s, const Entry& entry);
  void end_doubt(Context& cx);
  void note(Context& cx);

  // lane_journal.cpp
  void start_commit(Context& cx, Slot slot);
  bool reserve_commit(Context& cx, std::size_t bytes);
  void prepare(Context& cx, SlotState& s, Entry& entry);
  static std::vector<Digest> journaled_known(const SlotState& s, const Entry& entry);
  void commit_done(Context& cx, Slot slot, Sequence sequence, CommitDone::Result result);
  std::optional<Removal> removal_due(const Context& cx, const SlotState& s) const;
  void start_removal(Context& cx, Slot slot);
  void reconsider(Context& cx, SlotState& s);
  void retire(Context& cx, Slot slot, const Removal& removal);
  void value_loaded(Context& cx, const ValueRead& event, bool lost);
  void replace_durable(Context& cx, Slot slot, std::optional<Entry> entry);
  /// The entry of this sequence that the journal holds, if this lane still wants it.
  Entry* live(SlotState& s, Sequence sequence);

  // lane_delivery.cpp
  void send_delivery(Context& cx);
  SlotWrite write_of(Slot slot, const Entry& entry) const;
  void call_done_late(Context& cx, Call call, const Outcome& outcome);
  void settle_delivered(Context& cx, const Call& call, const Outcome& outcome);
  void set_aside(Context& cx, const Call& call, const Outcome& outcome);
  void uncount(Context& cx, Call& call);
  void enter_doubt(Context& cx, Epoch epoch);
  void note_failure(Context& cx, Outcome::Kind kind, const std::string& reason);
  void clear_held(Context& cx);

  // lane_retention.cpp
  void retain(Context& cx, Slot slot, Entry entry, Epoch epoch, bool journaled);
  void drop_retained(Context& cx, Slot slot);
  bool keep_in_memory(Context& cx, Slot slot);
  Time release_time(const Context& cx, const Retained& retained) const;
  static bool outlived(const Shared& shared, const Entry& entry);
  void await_alive(Context& cx);
  void end_retentions(Context& cx);
  void save(Context& cx, Slot slot);

  // lane_reads.cpp
  void start_fetch(Context& cx, std::optional<std::pair<RequestId, Slot>> reader);
  FetchCall* fetch_call(Context& cx);
  void answer_known_or_unavailable(Context& cx, RequestId request, Slot slot);
  void requeue_readers(Context& cx, std::vector<RequestId> readers, Slot slot);
  void stop_verifying(Context& cx);
  void set_known(Context& cx, const Contents& contents, Epoch epoch);
  void confirm(Context& cx, const Contents& contents, const Call* update);
  void drop_known(Context& cx);
  bool known_valid(const Context& cx) const;

  void read_now(Context& cx, RequestId request, Slot slot);

  // lane_nvram.cpp
  static UpdateFlag inherited(UpdateFlag older, UpdateFlag newer);
  void inherit_pending(const SlotState& s, Entry& entry) const;
  bool wants_rest(const Context& cx, Slot slot) const;
  void remember_rest(const Contents& contents, Epoch epoch);
  void answer_pending(Context& cx, RequestId reader, Value value);

  // lane_contents.cpp
  bool contents_may_go_direct(const Context& cx) const;
  void start_contents(Context& cx);
  void commit_contents(Context& cx);
  std::vector<Digest> contents_known() const;
  static Entry entry_of(const ContentsWrite& write, std::size_t i, Time now);
  static void answer_contents(Context& cx, ContentsWrite& write, WriteStatus status, bool journaled);
  void serve_contents_readers(Context& cx, const Contents* fetched = nullptr);
  bool serve(Context& cx, ContentsReader& reader, const Contents* fetched);
  bool overlay(Context& cx, ContentsReader& reader, const Contents* base);

  // lane_operator.cpp
  void finish_operations(Context& cx, bool failed);

  void invariant(Context& cx, const char* what);
  static void answer(Context& cx, std::vector<RequestId>& writers, WriteStatus status, bool journaled);
  static void answer(Context& cx, RequestId reader, ReadResult::Source source, Value value,
                     NvramMap map = {});
  static void journal_trouble(Context& cx, bool trouble, const char* what);
  static void journal_works(Context& cx, bool works);
  static bool may_save(Context& cx);

  Owner owner_;
  std::array<SlotState, slot_count> slots_;
  std::optional<Call> call_;
  std::optional<Doubt> doubt_;
  std::optional<Held> held_;
  /// What the upstream was last known to hold. Answers reads while the upstream is down; the slots that a
  /// doubtful update may change are pending, and pending values come first.
  std::optional<Known> known_;
  /// What else stands in the NVRAM map, as last seen in session `rest_epoch_`; 0 = not known.
  NvramMap rest_;
  Epoch rest_epoch_ = 0;
  bool known_is_base_ = false;  ///< and updates may be merged into it: no doubt since (rule 4)
  std::vector<FetchCall> fetches_;
  std::uint64_t generation_ = 0;  ///< counts starts and ends of updates
  bool verify_next_ = false;      ///< the next update is the first after doubt
  bool socket_open_ = false;
  bool in_backlog_ = false;
  bool noted_ = false;
  bool awaiting_alive_ = false;
  bool recheck_parked_ = false;  ///< a new session: what was parked is looked at once more
  std::string parked_reason_;
  Uuid vtpm_;        ///< as last seen upstream while the socket is open
  Time retry_at_{};  ///< no delivery before
  Backoff retry_backoff_;
  std::optional<Time> save_at_;  ///< values retained in memory are to go to the journal
  /// Set at a socket's birth while older entries wait: reads let the upstream have a look at them first.
  std::optional<Time> verify_until_;
  bool verifying_ = false;
  std::vector<std::pair<RequestId, Slot>> verify_readers_;
  std::optional<ContentsWrite> contents_next_;        ///< not yet handed to anybody
  std::optional<ContentsWrite> contents_committing_;  ///< handed to the journal; its slots are `committing`
  std::optional<ContentsWrite> contents_sent_;        ///< in the direct call under way
  std::vector<ContentsReader> contents_readers_;
  Time contents_look_at_{};        ///< when to see again what can be done for them
  Time contents_fetch_at_{};       ///< not before: reading the upstream for them
  std::vector<CallId> abandoned_;  ///< calls that an operator gave up; their answers mean nothing any more
  std::vector<Operation> operations_;
};

}  // namespace guard::core
