// The commands of the control plane: typed, and as JSON-RPC text. Knows no transport: text in, text out.
//
// JSON-RPC in its version 1 form, as the clients of the original daemon speak it: all named parameters form
// one object, the first element of "params", unnamed ones follow; the answer is
// {"result":R,"error":null,"id":0} or {"result":null,"error":["InternalError",TEXT],"id":0}, always with id
// 0.
//
// Thread: the loop thread only.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "base/log.h"
#include "control/registry.h"
#include "guard/result.h"
#include "guard/types.h"
#include "wire/json.h"

namespace guard::control {

/// Words of the caller for the log (`dbg`); never interpreted.
using DebugText = std::string;

/// vtpm_create, varstore_create.
struct CreateSocket {
  DebugText debug;
  SocketEntry socket;
};
/// vtpm_destroy, varstore_destroy.
struct DestroySocket {
  DebugText debug;
  Device device = Device::vtpm;
  std::uint32_t gid = 0;
  std::string path;
};
/// vtpm_get_contents.
struct GetContents {
  DebugText debug;
  Uuid vtpm;
};
/// vtpm_set_contents: the whole packed string, opaque here.
struct SetContents {
  DebugText debug;
  Uuid vtpm;
  Value contents;
};
/// status, pending: our own, for operators.
struct GetStatus {};
struct ListPending {};
/// drain, with the optional parameter timeout_ms (integer).
struct Drain {
  std::chrono::milliseconds timeout{};
};
/// discard and deliver_force, with "vm_uuid" and the optional parameter "slot" (absent: all slots).
struct DiscardEntries {
  Uuid vm;
  std::optional<Slot> slot;
};
struct DeliverByForce {
  Uuid vm;
  std::optional<Slot> slot;
};
/// quarantine_list, quarantine_purge.
struct ListQuarantine {};
struct PurgeQuarantine {};
/// journal_set_aside.
struct SetJournalAside {
  std::string directory;
};
using Command =
    std::variant<CreateSocket, DestroySocket, GetContents, SetContents, GetStatus, ListPending, Drain,
                 DiscardEntries, DeliverByForce, ListQuarantine, PurgeQuarantine, SetJournalAside>;

/// Reads one request. The error is the text for InternalError. As lenient as the original where its clients
/// may rely on it: unknown parameters are ignored, gid may be decimal text, anything may follow the 36
/// characters of a uuid, and version 2 requests are understood.
std::expected<Command, std::string> parse_request(std::string_view payload);

std::string success_reply(const wire::Json& result);
std::string failure_reply(std::string_view text);

/// What the commands need from the rest of the daemon. Thread: the loop thread; each `done` is called exactly
/// once, possibly before the call returns; an error becomes an InternalError with its message.
class Operations {
 public:
  using Done = std::function<void(Result<wire::Json>)>;
  virtual ~Operations() = default;

  /// The object of `status --json` (man page xapi-guardctl(1)): version, mode, upstream, pending, held,
  /// parked, doubt, buffering, journal, sockets, counters.
  virtual void status(Done done) = 0;
  /// An array with one object per entry that is not delivered, oldest first: "vm" and "slot" (strings),
  /// "sequence" and "bytes" (numbers), "age_seconds" (number), "state" ("pending", "held" or "parked") and,
  /// unless pending, "reason" (string).
  virtual void pending(Done done) = 0;
  /// Delivers what is pending now, without waiting for back-offs. The object {"drained":bool,"entries":n} is
  /// given as soon as nothing is pending, or after `timeout` with what is left.
  virtual void drain(std::chrono::milliseconds timeout, Done done) = 0;
  /// vtpm_get_contents: the packed string. Answered before limits::caller_patience is over.
  virtual void get_contents(Uuid vtpm, Done done) = 0;
  /// vtpm_set_contents: null.
  virtual void set_contents(Uuid vtpm, Value contents, Done done) = 0;
  /// Gives up what is pending or parked of a VM. {"entries":n} once that is durable; not_found when there is
  /// nothing.
  virtual void discard(Uuid vm, std::optional<Slot> slot, Done done) = 0;
  /// Delivers it whatever stands upstream. {"entries":n} when that has begun; not_found when there is
  /// nothing.
  virtual void deliver_by_force(Uuid vm, std::optional<Slot> slot, Done done) = 0;
  /// {"files":[{"name","bytes"}],"omitted":n,"bytes":n,"set_aside":[names]}: what is kept of damaged ranges
  /// of the journal, and the journals set aside.
  virtual void quarantine_list(Done done) = 0;
  /// Removes the former. {"files":n,"bytes":n,"left":n,"error":text or null}.
  virtual void quarantine_purge(Done done) = 0;
  /// Moves the journal of the state directory `directory` out of the way; refused unless it is this daemon's
  /// and could not be read. {"set_aside":PATH}.
  virtual void set_journal_aside(const std::string& directory, Done done) = 0;
};

/// Who asks, and for how long he has been waiting.
struct Caller {
  enum class Transport { control_socket, message_switch };
  Transport transport = Transport::control_socket;
  /// Nullopt: nobody knows.
  std::optional<std::chrono::milliseconds> waited_at_most = std::chrono::milliseconds(0);
  std::chrono::milliseconds waited_at_least{};
};

/// Executes commands. The objects given must outlive it; callbacks under way when it ends do nothing harmful
/// as long as the registry and the operations drop theirs.
class Commands {
 public:
  Commands(Registry& registry, Operations& operations, Logger& log);

  /// Executes the request `payload`; `reply` gets the answer, exactly once, possibly before the call returns.
  /// Requests for one path are executed in order, all others concurrently.
  void handle(std::string_view payload, std::function<void(std::string)> reply);

  /// The same for a request that was read already (parse_request). Over the message switch only the six calls
  /// of the privileged interface and those that change nothing are served: a request may lie in it for long,
  /// and is executed on arrival. For the same reason a vtpm_set_contents that may be older than
  /// limits::contents_age is refused (newer states could stand), and so are creates and vtpm_get_contents
  /// whose caller has certainly given up.
  void execute(std::expected<Command, std::string> command, const Caller& caller,
               std::function<void(std::string)> reply);

  void run(Command command, Operations::Done done);

 private:
  Registry& registry_;
  Operations& operations_;
  Logger& log_;
};

}  // namespace guard::control
