// What goes into the core and what comes out of it. The core has no I/O, no clock and no threads: the shell
// (engine/) turns the world into events and carries out the actions, in order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
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
/// Nothing happened but time.
struct Tick {};
/// The operator wants pending entries delivered now: back-offs are forgotten.
struct Kick {};

using Event =
    std::variant<WriteArrived, ReadArrived, CommitDone, RemovalDone, ValueRead, DeliverDone, FetchDone,
                 ProbeDone, SessionEnded, SignOfLife, SocketOpened, SocketClosed, Tick, Kick>;

// --- Actions ----------------------------------------------------------------------------------------------

struct AnswerWrite {
  RequestId request = 0;
  WriteStatus status = WriteStatus::unavailable;
  bool journaled = false;  ///< which way it went, for metrics
};
struct AnswerRead {
  RequestId request = 0;
  ReadResult result;
};
struct Commit {
  Owner owner;
  Slot slot = Slot::permall;
  Sequence sequence = 0;
  Uuid vtpm;
  std::vector<Digest> known;
  Value value;
};
struct Remove {
  Owner owner;
  Slot slot = Slot::permall;
  Sequence up_to = 0;
  Digest delivered;
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
struct Probe {};
/// Something an operator cares about, for the log. No guest bytes.
struct Report {
  enum class What {
    upstream_down,    ///< text = reason; once per outage
    upstream_up,      ///< number = length of the outage in ms; once per outage
    lane_held,        ///< text = reason
    lane_released,    ///< number = how long it was held, ms
    doubt_long,       ///< number = how long an update has been unanswered, ms
    journal_trouble,  ///< a commit, removal or read failed; text = what; once until one succeeds
    journal_well,     ///< the journal works again
    mode_changed,     ///< text = the mode
    invariant,        ///< our own bug, survived; text = what
  };
  What what = What::invariant;
  std::optional<Owner> owner;
  std::string text;
  std::uint64_t number = 0;
};

using Action = std::variant<AnswerWrite, AnswerRead, Commit, Remove, ReadBack, Deliver, Fetch, Probe, Report>;
using Actions = std::vector<Action>;

}  // namespace guard::core
