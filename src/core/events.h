// What goes into the core and what comes out of it. The core has no I/O, no clock and no threads: the shell
// (engine/) turns the world into events and carries out the actions, in order.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "guard/env.h"
#include "guard/lane.h"
#include "guard/types.h"
#include "guard/upstream.h"

namespace guard::core {

/// Chosen by the shell; the core only hands it back in the answer.
using RequestId = std::uint64_t;
/// Chosen by the core; the shell hands it back with the result of the call.
using CallId = std::uint64_t;

// --- Events -----------------------------------------------------------------------------------------------

struct WriteArrived {
  RequestId request = 0;
  Owner owner;
  Slot slot = Slot::permall;
  Value value;
  UpdateFlag update = UpdateFlag::unspecified;  ///< of slot nvram
};
struct ReadArrived {
  RequestId request = 0;
  Owner owner;
  Slot slot = Slot::permall;
};
/// The journal's answer to Commit. After `full` the record is certainly not on the disk; after `failed` it
/// may be there all the same (rule 10).
struct CommitDone {
  enum class Result { durable, full, failed };
  Owner owner;
  Slot slot = Slot::permall;
  Sequence sequence = 0;
  Result result = Result::durable;
};
struct RemovalDone {
  Owner owner;
  Slot slot = Slot::permall;
  Sequence up_to = 0;
  bool durable = false;
};
/// The journal's answer to ReadBack.
struct ValueRead {
  enum class Trouble {
    none,     ///< `value` is there
    gone,     ///< no such entry: superseded or removed, or its record was lost
    damaged,  ///< the record is there and its value is not what was written
    failed,   ///< the disk refused; trying again may help
  };
  Owner owner;
  Slot slot = Slot::permall;
  Sequence sequence = 0;
  std::optional<Value> value;
  Trouble trouble = Trouble::none;
};
/// vtpm_set_contents: all slots of the vTPM as one write. Answered by AnswerContents.
struct ContentsSet {
  RequestId request = 0;
  Owner owner;
  std::array<Value, 3> values;  ///< permall, savestate, volatilestate
  Uuid vtpm;                    ///< the vTPM that was named
};
/// vtpm_get_contents: what the vTPM holds, all acknowledged writes included. Answered by AnswerContents.
struct ContentsGet {
  RequestId request = 0;
  Owner owner;
};
/// Answered by AnswerAlert.
struct AlertArrived {
  RequestId request = 0;
  Owner owner;
  std::int64_t priority = 0;
  Value body;
};
struct AlertRaised {
  Owner owner;
  CallId call = 0;
  Outcome outcome;
};
/// The operator gives entries up: pending, parked, retained ones of one slot or of all. Answered by Done.
struct Discard {
  RequestId request = 0;
  Owner owner;
  std::optional<Slot> slot;
};
/// The operator wants entries delivered whatever stands upstream, parked ones and those of a lane in doubt
/// included. Answered by Done.
struct ForceDelivery {
  RequestId request = 0;
  Owner owner;
  std::optional<Slot> slot;
};
struct DeliverDone {
  Owner owner;
  CallId call = 0;
  Outcome outcome;
};
struct FetchDone {
  Owner owner;
  CallId call = 0;
  Fetched fetched;
};
struct ProbeDone {
  bool answers = false;
  std::string reason;
  Epoch epoch = 0;  ///< the session in which it was answered
};
struct SessionEnded {
  Epoch epoch = 0;
};
struct SignOfLife {};
struct SocketOpened {
  Owner owner;
};
struct SocketClosed {
  Owner owner;
};
/// The journal has found damaged records; how many more than were known.
struct DamageFound {
  std::uint64_t records = 0;
};
/// Before the journal could be read: why not. It ends with the first thing that goes well.
struct JournalUnread {
  std::string reason;
};
/// It can be read after all.
struct JournalRead {};
/// Nothing happened but time.
struct Tick {};
/// The operator wants pending entries delivered now: back-offs are forgotten.
struct Kick {};
/// An orderly stop has begun: no update is started any more, what is retained in memory goes to the journal.
struct Stop {};

using Event = std::variant<WriteArrived, ReadArrived, ContentsSet, ContentsGet, AlertArrived, AlertRaised,
                           Discard, ForceDelivery, CommitDone, RemovalDone, ValueRead, DeliverDone, FetchDone,
                           ProbeDone, SessionEnded, SignOfLife, SocketOpened, SocketClosed, DamageFound,
                           JournalUnread, JournalRead, Tick, Kick, Stop>;

// --- Actions ----------------------------------------------------------------------------------------------

struct AnswerWrite {
  RequestId request = 0;
  WriteStatus status = WriteStatus::unavailable;
  bool journaled = false;  ///< which way it went, for metrics
};
struct AnswerRead {
  RequestId request = 0;
  ReadResult result;
  /// Of slot nvram: the map that the value belongs to, as Contents::nvram_map. Empty too when the value is
  /// pending and nobody can tell now what else there is.
  NvramMap map;
};
struct AnswerAlert {
  RequestId request = 0;
  UefiOutcome outcome;
};
struct AnswerContents {
  RequestId request = 0;
  WriteStatus status = WriteStatus::unavailable;  ///< of a set; of a get `accepted` = `contents` is the truth
  std::array<Value, 3> contents;
};
/// The answer to Discard and ForceDelivery.
struct Done {
  RequestId request = 0;
  bool ok = false;
  std::size_t entries = 0;  ///< how many it was about
  std::string text;         ///< why not
};
struct Commit {
  Owner owner;
  Slot slot = Slot::permall;
  Sequence sequence = 0;
  Uuid vtpm;
  std::vector<Digest> known;
  Value value;
  /// All slots of the vTPM as one record (then `slot` is permall and `value` is empty).
  std::optional<std::array<Value, 3>> contents;
  bool over_anything = false;  ///< see core::Entry; travels with the record, or a restart would forget it
  UpdateFlag update = UpdateFlag::unspecified;  ///< of slot nvram
  bool alert = false;                           ///< an alert, with pack_alert() as its value
};
/// Ends the entries of the slot up to `up_to`; with `retained` the one that was delivered is kept (P13).
struct Remove {
  Owner owner;
  Slot slot = Slot::permall;
  Sequence up_to = 0;
  Digest delivered;
  bool retained = false;
  bool alert = false;  ///< ends the alert whose sequence is `up_to`, and nothing else
};
/// A value of an update under way.
struct NotedValue {
  Slot slot = Slot::permall;
  Digest digest;
  Sequence sequence = 0;  ///< the highest of the slot that was ever sent: older values are sent again, too
  bool operator==(const NotedValue&) const = default;
};

/// To be noted where it survives the end of this process, before the next Deliver of the lane is carried
/// out: an update of these values may take effect from now on, until Unnote.
struct Note {
  Owner owner;
  std::vector<NotedValue> values;
};
struct Unnote {
  Owner owner;
};
struct ReadBack {
  Owner owner;
  Slot slot = Slot::permall;
  Sequence sequence = 0;
};
struct Deliver {
  CallId call = 0;
  Delivery delivery;
};
struct Fetch {
  CallId call = 0;
  Owner owner;
};
struct RaiseAlert {
  CallId call = 0;
  Owner owner;
  Alert alert;
};
struct Probe {};
/// Something an operator cares about, for the log. No guest bytes.
struct Report {
  enum class What {
    upstream_down,        ///< text = reason; once per outage
    upstream_up,          ///< number = length of the outage in ms; once per outage
    lane_held,            ///< text = reason
    lane_released,        ///< number = how long it was held, ms
    lane_parked,          ///< a conflict: entries were set aside; text = reason
    lane_elsewhere,       ///< the same, because the VM runs on another host
    went_back,            ///< retained values were delivered again; number = how many
    suspended,            ///< a retained value is not delivered again, because somebody else's stands there
    retention_lost,       ///< a retained value cannot be read back from the journal
    alerts_full,          ///< an alert was refused, because number of them wait; once until there is room
    alert_lost,           ///< the alert with sequence `number` cannot be read back from the journal
    journal_stalled,      ///< the journal has not answered for long; number = how long, ms
    doubt_long,           ///< number = how long an update has been unanswered, ms
    journal_trouble,      ///< a commit, removal or read failed; text = what; once until one succeeds
    journal_well,         ///< the journal works again
    held_long,            ///< held for limits::held_alert; text = reason, number = for how long, ms
    pending_long,         ///< text = entries and VMs, number = age of the oldest, ms
    message_created,      ///< xapi has a message about such a trouble; text = its name
    message_dropped,      ///< it will never have one; text = why
    message_unconfirmed,  ///< nobody knows whether it has; text = why
    mode_changed,         ///< text = the mode
    invariant,            ///< our own bug, survived; text = what
  };
  What what = What::invariant;
  std::optional<Owner> owner;
  std::string text;
  std::uint64_t number = 0;
};

using Action = std::variant<AnswerWrite, AnswerRead, AnswerContents, AnswerAlert, RaiseAlert, Done, Commit,
                            Remove, ReadBack, Note, Unnote, Deliver, Fetch, Probe, Report>;
using Actions = std::vector<Action>;

}  // namespace guard::core
