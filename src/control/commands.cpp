#include "control/commands.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/limits.h"
#include "base/text.h"

namespace guard::control {

namespace {

using wire::Json;
template <class T>
using Parsed = std::expected<T, std::string>;

// --- Texts of errors --------------------------------------------------------------------------------------
// The original answers the printed form of its exceptions; its clients show them to people. We use the same
// words, so that what operators know and search for stays the same.

/// A string as an OCaml literal, cut to a bounded length.
std::string literal(std::string_view text) {
  std::string out = "\"";
  for (const char c : text.substr(0, limits::echoed_text)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\b') {
      out += "\\b";
    } else if (byte < ' ' || byte >= 0x7f) {
      out.push_back('\\');
      for (const int digit : {byte / 100, byte / 10 % 10, byte % 10})
        out.push_back(static_cast<char>('0' + digit));
    } else {
      out.push_back(c);
    }
  }
  return out + "\"";
}

std::unexpected<std::string> malformed(std::string_view what) {
  return std::unexpected("Jsonrpc.Malformed_method_request(" + literal(what) + ")");
}

std::unexpected<std::string> marshal_error(std::string_view what) {
  return std::unexpected("Idl.MarshalError(" + literal(what) + ")");
}

// --- Parameters -------------------------------------------------------------------------------------------

struct Request {
  std::string method;
  wire::JsonArray params;
};

Parsed<Request> parse_envelope(std::string_view payload) {
  auto json = wire::parse_json(payload, {.max_depth = 16, .max_bytes = limits::max_body_control});
  if (!json) return std::unexpected("Cannot parse the request: " + json.error().message);
  if (json->object() == nullptr) return malformed("Invalid request body");
  const Json* method = json->find("method");
  if (method == nullptr) return malformed("Required field method is missing");
  if (method->string() == nullptr) return malformed("Invalid field 'method' in request body");
  const Json* version = json->find("jsonrpc");
  if (version != nullptr && *version != Json("2.0"))
    return malformed("Invalid field 'jsonrpc' in request body");
  const Json* params = json->find("params");
  Request request{*method->string(), {}};
  if (params != nullptr && params->array() != nullptr) {
    request.params = *params->array();
  } else if (version != nullptr && params != nullptr && params->object() != nullptr) {
    request.params.push_back(*params);
  } else if (version == nullptr || (params != nullptr && !params->is_null())) {
    return malformed(params == nullptr ? "Required field params is missing"
                                       : "Invalid field 'params' in request body");
  }
  const Json* id = json->find("id");
  if (id == nullptr || (id->integer() == nullptr && id->string() == nullptr)) {
    return malformed("Invalid field 'id' in request body");
  }
  return request;
}

/// Reads named parameters one after the other; the first that is missing or wrong decides the error.
class Arguments {
 public:
  explicit Arguments(const Request& request) : request_(request) {}

  std::string text(std::string_view name) {
    const Json* value = named(name);
    if (value == nullptr) return {};
    if (value->string() != nullptr) return *value->string();
    fail("Expected string for argument '" + std::string(name) + "'");
    return {};
  }

  std::uint32_t gid() {
    const Json* value = named("gid");
    if (value == nullptr) return 0;
    std::optional<std::uint64_t> number;
    if (const auto* integer = value->integer(); integer != nullptr && *integer >= 0) {
      number = static_cast<std::uint64_t>(*integer);
    } else if (value->string() != nullptr) {
      number = parse_decimal(*value->string());
    }
    // 2^32 - 1 means "no group" to the system calls.
    if (number && *number < UINT32_MAX) return static_cast<std::uint32_t>(*number);
    fail("Expected int for argument 'gid'");
    return 0;
  }

  Uuid uuid(std::string_view name) {
    const std::string value = text(name);
    if (error_) return {};
    const auto uuid = Uuid::parse(std::string_view(value).substr(0, 36));
    if (!uuid) fail("typ_of_vm_uuid: not a valid UUID: " + value);
    return uuid.value_or(Uuid());
  }

  /// Absent: nullopt.
  std::optional<Slot> slot() {
    if (error_ || request_.params.empty() || request_.params[0].find("slot") == nullptr) return std::nullopt;
    const std::string name = text("slot");
    const auto slot = slot_named(name);
    if (!error_ && !slot) fail("not a slot: " + name);
    return slot;
  }

  /// The first parameter after the object of named ones.
  std::string unnamed() {
    if (error_) return {};
    if (request_.params.size() < 2) {
      fail("Incorrect number of arguments");
    } else if (request_.params[1].string() == nullptr) {
      fail("Expected string for the unnamed argument");
    } else {
      return *request_.params[1].string();
    }
    return {};
  }

  /// `command`, unless a parameter was wrong.
  Parsed<Command> result(Command command) {
    if (error_) return marshal_error(*error_);
    return command;
  }

 private:
  const Json* named(std::string_view name) {
    if (error_) return nullptr;
    if (request_.params.empty() || request_.params[0].object() == nullptr) {
      fail("Marshalling error: Expecting dict as first argument when named parameters exist");
      return nullptr;
    }
    const Json* value = request_.params[0].find(name);
    if (value == nullptr) fail("Expecting named argument '" + std::string(name) + "'");
    return value;
  }

  void fail(std::string text) {
    if (!error_) error_ = std::move(text);
  }

  const Request& request_;
  std::optional<std::string> error_;
};

Parsed<Command> parse_create(const Request& request, Device device) {
  Arguments arguments(request);
  CreateSocket command;
  command.debug = arguments.text("dbg");
  command.socket.device = device;
  command.socket.vm = arguments.uuid("vm_uuid");
  command.socket.gid = arguments.gid();
  command.socket.path = arguments.text("path");
  return arguments.result(std::move(command));
}

Parsed<Command> parse_destroy(const Request& request, Device device) {
  Arguments arguments(request);
  DestroySocket command;
  command.debug = arguments.text("dbg");
  command.device = device;
  command.gid = arguments.gid();
  command.path = arguments.text("path");
  return arguments.result(std::move(command));
}

Parsed<Command> parse_get_contents(const Request& request) {
  Arguments arguments(request);
  GetContents command;
  command.debug = arguments.text("dbg");
  command.vtpm = arguments.uuid("vtpm_uuid");
  return arguments.result(std::move(command));
}

Parsed<Command> parse_set_contents(const Request& request) {
  Arguments arguments(request);
  SetContents command;
  command.debug = arguments.text("dbg");
  command.vtpm = arguments.uuid("vtpm_uuid");
  command.contents = Value(arguments.unnamed());
  return arguments.result(std::move(command));
}

Parsed<Command> parse_drain(const Request& request) {
  Drain command{limits::drain_default};
  const Json* timeout = request.params.empty() ? nullptr : request.params[0].find("timeout_ms");
  if (timeout != nullptr) {
    const std::int64_t* ms = timeout->integer();
    if (ms == nullptr || *ms < 0) return marshal_error("Expected int for argument 'timeout_ms'");
    constexpr std::chrono::milliseconds most = limits::drain_max;
    command.timeout = std::chrono::milliseconds(std::min<std::int64_t>(*ms, most.count()));
  }
  return command;
}

template <class Operation>
Parsed<Command> parse_operation(const Request& request) {
  Arguments arguments(request);
  Operation command;
  command.vm = arguments.uuid("vm_uuid");
  command.slot = arguments.slot();
  return arguments.result(command);
}

Parsed<Command> parse_set_aside(const Request& request) {
  Arguments arguments(request);
  SetJournalAside command;
  command.directory = arguments.text("dir");
  return arguments.result(std::move(command));
}

/// The caller's words for the log: the first line (tracing data may follow it), cut to a bounded length.
std::string_view brief(std::string_view debug) {
  return debug.substr(0, debug.find('\n')).substr(0, limits::echoed_text);
}

/// The caller's words, empty where a command has none.
std::string task_of(const Command& command) {
  return std::visit(
      [](const auto& c) -> std::string {
        if constexpr (requires { c.debug; }) return std::string(brief(c.debug));
        return {};
      },
      command);
}

/// Why the command is not executed for this caller; nullopt when it is.
std::optional<std::string> refusal_of(const Command& command, const Caller& caller) {
  if (caller.transport == Caller::Transport::control_socket) return std::nullopt;
  const bool sets = std::holds_alternative<SetContents>(command);
  const bool creates = std::holds_alternative<CreateSocket>(command);
  const bool gets = std::holds_alternative<GetContents>(command);
  if (sets && (!caller.waited_at_most || *caller.waited_at_most > limits::contents_age)) {
    return "The request has waited too long, or nobody knows how long: the vTPM may hold a newer state";
  }
  if ((creates || gets) && caller.waited_at_least > limits::caller_patience) {
    return "The request has waited for longer than its caller does";
  }
  const bool other = std::holds_alternative<DestroySocket>(command) ||
                     std::holds_alternative<GetStatus>(command) ||
                     std::holds_alternative<ListPending>(command);
  if (!sets && !creates && !gets && !other) return "This call is served on the control socket only";
  return std::nullopt;
}

}  // namespace

std::expected<Command, std::string> parse_request(std::string_view payload) {
  const auto request = parse_envelope(payload);
  if (!request) return std::unexpected(request.error());
  const std::string& method = request->method;
  if (method == "vtpm_create") return parse_create(*request, Device::vtpm);
  if (method == "vtpm_destroy") return parse_destroy(*request, Device::vtpm);
  if (method == "varstore_create") return parse_create(*request, Device::uefi);
  if (method == "varstore_destroy") return parse_destroy(*request, Device::uefi);
  if (method == "vtpm_get_contents") return parse_get_contents(*request);
  if (method == "vtpm_set_contents") return parse_set_contents(*request);
  if (method == "status") return GetStatus{};
  if (method == "pending") return ListPending{};
  if (method == "drain") return parse_drain(*request);
  if (method == "discard") return parse_operation<DiscardEntries>(*request);
  if (method == "deliver_force") return parse_operation<DeliverByForce>(*request);
  if (method == "quarantine_list") return ListQuarantine{};
  if (method == "quarantine_purge") return PurgeQuarantine{};
  if (method == "journal_set_aside") return parse_set_aside(*request);
  return std::unexpected("Idl.UnknownMethod(" + literal(method) + ")");
}

std::string success_reply(const Json& result) {
  std::string reply = "{\"result\":";
  wire::append(reply, result);
  return reply + ",\"error\":null,\"id\":0}";
}

std::string failure_reply(std::string_view text) {
  std::string reply = "{\"result\":null,\"error\":[\"InternalError\",";
  wire::append_string(reply, text);
  return reply + "],\"id\":0}";
}

Commands::Commands(Registry& registry, Operations& operations, Logger& log)
    : registry_(registry), operations_(operations), log_(log) {}

void Commands::handle(std::string_view payload, std::function<void(std::string)> reply) {
  execute(parse_request(payload), Caller{}, std::move(reply));
}

void Commands::execute(std::expected<Command, std::string> command, const Caller& caller,
                       std::function<void(std::string)> reply) {
  std::string task;
  if (command) {
    task = task_of(*command);
    if (auto refusal = refusal_of(*command, caller)) command = std::unexpected(std::move(*refusal));
  }
  if (!command) {
    log_.log(LogLevel::warning, "request_refused", {{"error", command.error()}, {"task", task}});
    return reply(failure_reply(command.error()));
  }
  run(std::move(*command), [reply = std::move(reply)](Result<Json> result) {
    reply(result ? success_reply(*result) : failure_reply(result.error().message));
  });
}

namespace {

/// Executes one command; an overload per kind.
struct Runner {
  Registry& registry;
  Operations& operations;
  Logger& log;
  Operations::Done done;

  Registry::Done without_result(std::string_view method, const std::string& path, std::string_view debug) {
    return [done = std::move(done), &log = log, method, path,
            words = std::string(brief(debug))](Result<> result) {
      if (result) return done(Json(nullptr));
      log.log(LogLevel::warning, "command_failed",
              {{"method", method}, {"path", path}, {"error", result.error().message}, {"task", words}});
      done(std::unexpected(std::move(result).error()));
    };
  }

  void operator()(CreateSocket& c) {
    const bool uefi = c.socket.device == Device::uefi;
    auto after = without_result(uefi ? "varstore_create" : "vtpm_create", c.socket.path, c.debug);
    registry.create(std::move(c.socket), std::move(after), std::string(brief(c.debug)));
  }
  void operator()(DestroySocket& c) {
    const bool uefi = c.device == Device::uefi;
    auto after = without_result(uefi ? "varstore_destroy" : "vtpm_destroy", c.path, c.debug);
    registry.destroy(c.device, std::move(c.path), c.gid, std::move(after), std::string(brief(c.debug)));
  }
  /// Logs the end with the words of the caller.
  Operations::Done watched(std::string_view method, Uuid vtpm, std::string_view debug) {
    return [done = std::move(done), &log = log, method, vtpm,
            words = std::string(brief(debug))](Result<Json> result) {
      if (result) {
        log.log(LogLevel::info, "command_done", {{"method", method}, {"vtpm", vtpm}, {"task", words}});
      } else {
        log.log(LogLevel::warning, "command_failed",
                {{"method", method}, {"vtpm", vtpm}, {"error", result.error().message}, {"task", words}});
      }
      done(std::move(result));
    };
  }
  void operator()(GetContents& c) {
    operations.get_contents(c.vtpm, watched("vtpm_get_contents", c.vtpm, c.debug));
  }
  void operator()(SetContents& c) {
    operations.set_contents(c.vtpm, std::move(c.contents), watched("vtpm_set_contents", c.vtpm, c.debug));
  }
  void operator()(GetStatus&) { operations.status(std::move(done)); }
  void operator()(ListPending&) { operations.pending(std::move(done)); }
  void operator()(Drain& c) { operations.drain(c.timeout, std::move(done)); }
  /// Whoever gives data up, or overrides others, is named in the log by what he did.
  Operations::Done logged(std::string_view event, Uuid vm, std::optional<Slot> slot) {
    return [done = std::move(done), &log = log, event, vm, slot](Result<Json> result) {
      const std::string what(slot ? name_of(*slot) : "all");
      log.log(LogLevel::notice, event,
              {{"vm", vm}, {"slot", what}, {"error", result ? std::string() : result.error().message}});
      done(std::move(result));
    };
  }
  void operator()(DiscardEntries& c) {
    operations.discard(c.vm, c.slot, logged("discarded_by_operator", c.vm, c.slot));
  }
  void operator()(DeliverByForce& c) {
    operations.deliver_by_force(c.vm, c.slot, logged("delivery_forced_by_operator", c.vm, c.slot));
  }
  void operator()(ListQuarantine&) { operations.quarantine_list(std::move(done)); }
  void operator()(PurgeQuarantine&) { operations.quarantine_purge(std::move(done)); }
  void operator()(SetJournalAside& c) { operations.set_journal_aside(c.directory, std::move(done)); }
};

}  // namespace

void Commands::run(Command command, Operations::Done done) {
  std::visit(Runner{registry_, operations_, log_, std::move(done)}, command);
}

}  // namespace guard::control
