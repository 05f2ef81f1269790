// The shell around the core: turns requests, journal completions and upstream answers into events, and
// carries out the actions. Everything that the disk cache is, without sockets, HTTP or a particular upstream.
//
// Thread: one, the loop thread of the host; only the journal runs on a thread of its own.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/histogram.h"
#include "base/log.h"
#include "core/core.h"
#include "engine/call_notes.h"
#include "guard/lane.h"
#include "guard/result.h"
#include "guard/upstream.h"
#include "journal/journal.h"

namespace guard::engine {

/// What the engine needs of the program around it.
struct Host {
  /// Any thread: runs the work on the loop thread, in order.
  std::function<void(std::function<void()>)> post;
  /// Loop thread: runs the work at or shortly after a moment of `now`.
  std::function<void(Time, std::function<void()>)> at;
  std::function<Time()> now;
  /// Milliseconds since 1970, for people only.
  std::function<std::int64_t()> wall_ms;
  /// Loop thread, may be empty: called whenever what brief() says may have changed. Must be cheap.
  std::function<void()> changed;
  /// Loop thread: whether writes may be buffered at this moment; asked at each write. Empty = always.
  std::function<bool()> buffering;
};

/// The state of the whole in three values, which cost nothing to ask for.
struct Brief {
  core::Mode mode = core::Mode::direct;
  core::Health::State upstream = core::Health::State::unknown;
  std::size_t pending_entries = 0;
};

class Engine final : public UpstreamEvents {
 public:
  /// `config.upstream` is taken from `upstream.limits()`. The upstream and the logger outlive the engine.
  Engine(Host host, core::Config config, Upstream& upstream, Logger& log);
  ~Engine() override;
  Engine(const Engine&) = delete;

  /// Loads what recovery found and starts the journal thread. Until then every request is answered
  /// `unavailable`: an unread journal makes every lane unknown (P4). Called once.
  ///
  /// `notes` tells which updates were under way when the last process ended: those lanes are in doubt (P2).
  /// Where it cannot tell, all are for the length of the doubt window, unless this is the `first_start` in
  /// this place: no process was here before. What is under way from now on is noted there.
  ///
  /// `recovery` is what to go on with instead of what the store recovered: the same, with what was imported
  /// since. What is marked as lost in it (journal::flag_lost) is unknown (P4): reads of the slot are answered
  /// `unavailable` and its lane is held until it is written or discarded.
  void start(std::unique_ptr<journal::Store> store, std::unique_ptr<CallNotes> notes, bool first_start,
             std::optional<journal::Recovery> recovery = std::nullopt);
  /// Before start(), as often as it fails: why the journal cannot be read. Somebody should look at it.
  void journal_unread(const std::string& reason) { feed(core::JournalUnread{reason}); }
  bool started() const { return journal_ != nullptr; }

  /// Access to one lane for one device socket; while it lives, the lane counts as served. Several may exist
  /// for one owner. Must not outlive the engine; callbacks not yet invoked when it ends are dropped.
  std::unique_ptr<LaneAccess> open_lane(Owner owner);

  /// The same for the UEFI variables of a VM, and for what else their device may ask.
  std::unique_ptr<UefiAccess> open_uefi(Uuid vm);

  /// Forgets back-offs, then calls `done(true)` once nothing is pending, or `done(false)` at `deadline`.
  void drain(Time deadline, std::function<void(bool)> done);
  /// An orderly stop: no update is started any more, what is retained in memory alone goes to the journal.
  /// Calls `done(true)` once nothing is on its way to or from the upstream or the journal, or `done(false)`
  /// at `deadline`. Requests are still answered, from and to the journal. Before start(): at once.
  void stop(Time deadline, std::function<void(bool)> done);

  using SetDone = std::function<void(WriteStatus)>;
  /// Nullopt: it could not be told in time what the vTPM holds.
  using GetDone = std::function<void(std::optional<std::array<Value, 3>>)>;
  /// How many entries it was about, or why there was nothing to do (not_found) or nothing was done.
  using OperatorDone = std::function<void(Result<std::size_t>)>;

  /// All slots of a vTPM (permall, savestate, volatilestate) as one write, which supersedes whatever is
  /// pending; `vtpm` is the vTPM that was named. Answered like a write (P1), within
  /// limits::contents_patience.
  void set_contents(Owner owner, std::array<Value, 3> values, Uuid vtpm, SetDone done);
  /// What the vTPM holds, all acknowledged writes included (P11).
  void get_contents(Owner owner, GetDone done);
  /// Gives entries up: pending and parked ones of one slot, or of all; done when that is durable.
  void discard(Owner owner, std::optional<Slot> slot, OperatorDone done);
  /// Delivers entries, parked ones too, whatever stands upstream and whatever is in doubt. `done` says that
  /// it has begun.
  void deliver_by_force(Owner owner, std::optional<Slot> slot, OperatorDone done);

  /// The lane of a vTPM, as far as lanes know.
  std::optional<core::Core::VtpmOwner> owner_of_vtpm(const Uuid& vtpm) const {
    return core_.owner_of_vtpm(vtpm);
  }

  Brief brief() const { return {core_.mode(), core_.health(), core_.pending_entries()}; }
  core::Snapshot snapshot() const { return core_.snapshot(); }
  std::vector<core::PendingView> pending() const { return core_.pending(); }
  /// Figures of the journal; nullopt before start().
  std::optional<journal::Stats> journal_stats() const;
  /// From when a write was received until it was acknowledged.
  struct AcknowledgeTimes {
    Histogram direct;   ///< because the upstream accepted it
    Histogram journal;  ///< because it is durable here
  };
  const AcknowledgeTimes& acknowledge_times() const { return acknowledge_times_; }
  Time now() const { return host_.now(); }
  /// Whether a write that came now would be buffered if the upstream did not take it.
  bool buffering() const { return !host_.buffering || host_.buffering(); }

  // UpstreamEvents
  void session_ended(Epoch epoch) override;
  void sign_of_life() override;

 private:
  class Access;
  class Uefi;
  struct Waiter {
    Time deadline{};
    bool for_rest = false;
    std::function<void(bool)> done;
  };
  using WriteDone = std::function<void(WriteStatus)>;
  struct Write {
    Time since{};
    WriteDone done;
  };
  using ReadDone = std::function<void(core::AnswerRead)>;
  using AlertDone = std::function<void(UefiOutcome)>;

  void recover(const journal::Recovery& recovery, bool first_start);
  void recover_doubt(bool first_start);
  void add_waiter(Waiter waiter);
  void opened(Owner owner);
  void closed(Owner owner);
  void write(Owner owner, Slot slot, Value value, UpdateFlag update, WriteDone done);
  void read(Owner owner, Slot slot, ReadDone done);
  void alert(Owner owner, std::int64_t priority, Value body, AlertDone done);
  void certificates_state(Uuid vm, std::function<void(SecurebootResult)> done);
  UefiOutcome uefi_failure(Owner owner) const;
  void feed(core::Event event);
  void carry_out(core::Actions& actions);
  void completed(std::vector<journal::Completion> completions);
  void look_for_damage();
  void check_waiters();
  void arm();

  void act(core::AnswerWrite& action);
  void act(core::AnswerRead& action);
  void act(core::AnswerContents& action);
  void act(core::AnswerAlert& action);
  void act(core::RaiseAlert& action);
  void act(core::Done& action);
  void act(core::Commit& action);
  void act(core::Remove& action);
  void act(core::ReadBack& action);
  void act(core::Note& action);
  void act(core::Unnote& action);
  void act(core::Deliver& action);
  void act(core::Fetch& action);
  void act(core::Probe& action);
  void act(core::Report& action);

  Host host_;
  Upstream& upstream_;
  Logger& log_;
  const Time doubt_window_;
  core::Core core_;
  std::unique_ptr<CallNotes> notes_;
  std::shared_ptr<Engine*> self_;  ///< what callbacks hold: null once the engine is gone
  std::unordered_map<core::RequestId, Write> writes_;
  AcknowledgeTimes acknowledge_times_;
  std::unordered_map<core::RequestId, ReadDone> reads_;
  std::unordered_map<core::RequestId, AlertDone> alerts_;
  std::unordered_map<core::RequestId, SetDone> sets_;
  std::unordered_map<core::RequestId, GetDone> gets_;
  std::unordered_map<core::RequestId, OperatorDone> operations_;
  core::RequestId last_request_ = 0;
  std::unordered_map<Owner, unsigned> open_;
  std::unordered_set<Sequence> lost_;  ///< entries that stand for a value that is lost
  std::deque<core::Event> events_;
  bool feeding_ = false;
  core::Actions actions_;
  std::vector<journal::Request> journal_requests_;
  std::vector<Waiter> waiters_;
  std::optional<Time> armed_;
  std::uint64_t damage_known_ = 0;             ///< damaged records that the core knows of
  std::unique_ptr<journal::Journal> journal_;  ///< last: its thread ends before anything it calls into
};

}  // namespace guard::engine
