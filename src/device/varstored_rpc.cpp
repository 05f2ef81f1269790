#include "device/varstored_rpc.h"

#include <algorithm>
#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/text.h"
#include "device/patience.h"
#include "wire/json.h"
#include "wire/xmlrpc.h"

namespace guard::device {

namespace {

using Method = VarstoredStats::Method;
using Result = VarstoredStats::Result;
using wire::XmlRpcCall;
using wire::XmlRpcParam;

struct MethodEntry {
  std::string_view name;
  Method method;
  std::size_t params;                                    ///< at least
  std::optional<std::size_t> integer_at = std::nullopt;  ///< which of them is no string
};

constexpr std::array<MethodEntry, 8> method_table{{
    {"session.login_with_password", Method::login, 4},
    {"session.logout", Method::logout, 1},
    {"VM.get_by_uuid", Method::get_by_uuid, 2},
    {"VM.get_NVRAM", Method::get_nvram, 2},
    {"VM.set_NVRAM_EFI_variables", Method::set_nvram, 3},
    {"VM.set_NVRAM_EFI_variables_v2", Method::set_nvram, 4},
    {"VM.get_secureboot_certificates_state", Method::get_secureboot, 2},
    {"message.create", Method::alert, 6, 2},
}};

std::string_view name_of(Method method) {
  const auto found = std::ranges::find(method_table, method, &MethodEntry::method);
  return found == method_table.end() ? "other" : found->name;
}

// --- Answers ----------------------------------------------------------------------------------------------

std::string head_of(std::string_view status, std::size_t body_size) {
  std::string head = "HTTP/1.1 ";
  head += status;
  return head + "\r\ncontent-length: " + std::to_string(body_size) + "\r\n\r\n";
}

net::Reply reply_with(std::string_view status, std::string body) {
  std::string head = head_of(status, body.size());
  return {std::move(head), Value(std::move(body)), false};
}

net::Reply ok(std::string body) { return reply_with("200 OK", std::move(body)); }
net::Reply not_allowed() { return reply_with("405 Method Not Allowed", wire::xmlrpc_not_allowed()); }

std::string marshal_error(std::string_view text) { return "Idl.MarshalError(\"" + std::string(text) + "\")"; }

/// The client's word for a method, as far as it can be shown.
std::string unknown_method(std::string_view name) {
  std::string shown(name.substr(0, limits::echoed_text));
  std::ranges::replace_if(shown, [](unsigned char c) { return c < 0x20 || c >= 0x7f || c == '"'; }, '?');
  return "Idl.UnknownMethod(\"" + shown + "\")";
}

// --- Parameters -------------------------------------------------------------------------------------------

/// What is wrong with the parameters, or nothing.
std::optional<std::string> check(const MethodEntry& entry, const std::vector<XmlRpcParam>& params) {
  if (params.size() < entry.params) return marshal_error("Incorrect number of arguments");
  for (std::size_t i = 0; i < entry.params; ++i) {
    const bool integer = entry.integer_at == i;
    if (integer ? params[i].integer().has_value() : params[i].kind == XmlRpcParam::Kind::string) continue;
    return marshal_error(std::string("Expected ") + (integer ? "int" : "string") + ", got '" +
                         std::string(wire::name_of(params[i].kind)) + "'");
  }
  return std::nullopt;
}

/// Whether xapi takes a request with this string in it.
bool fits_xapi(std::string_view text) {
  if (text.size() + limits::xapi_envelope_uefi > limits::xapi_request) return false;
  std::string encoded;
  wire::append_string(encoded, text);
  return encoded.size() + limits::xapi_envelope_uefi <= limits::xapi_request;
}

/// Whether varstored could read these variables back.
bool fits_varstored(std::string_view value) {
  constexpr std::size_t room = limits::varstored_response - limits::varstored_response_rest;
  if (value.size() > room) return false;
  std::string encoded;
  wire::append_xml(encoded, value);
  return encoded.size() <= room;
}

std::optional<std::string> refusal_of_value(std::string_view value) {
  if (value.empty()) return "Invalid_argument(\"the variables are empty\")";
  if (fits_xapi(value) && fits_varstored(value)) return std::nullopt;
  return "Invalid_argument(\"the variables are too large\")";
}

UpdateFlag update_flag(std::string_view text) {
  if (text == "yes") return UpdateFlag::yes;
  if (text == "no") return UpdateFlag::no;
  return UpdateFlag::unspecified;
}

// --- The service of one socket ----------------------------------------------------------------------------

class Service : public std::enable_shared_from_this<Service> {
 public:
  Service(UefiAccess& access, net::Loop& loop, const VarstoredOptions& options, VarstoredStats& stats,
          Logger& log)
      : access_(access),
        loop_(loop),
        options_(options),
        stats_(stats),
        log_(log),
        patience_(loop, {options.patience, options.renewed, options.grace, options.retry}) {}

  void handle(net::Request request, net::Responder respond);

 private:
  /// One call on its way to its answer. Shared by the asker and the attempt under way, whichever ends last.
  struct Exchange {
    net::Responder respond;
    Method method;
    std::uint64_t connection;
    bool close;
  };

  void answer(Exchange exchange, Result result, std::string body);
  void fail(Exchange exchange, std::string_view reason);
  void dispatch(Exchange exchange, XmlRpcCall call);
  void ask(Exchange exchange, bool in_order, Patience::Attempt attempt);
  void report_waiting(bool first);

  Patience::Attempt getting_nvram();
  Patience::Attempt getting_secureboot();
  Patience::Attempt setting_nvram(Value value, UpdateFlag update);
  Patience::Attempt alerting(std::int64_t priority, Value body);

  UefiAccess& access_;
  net::Loop& loop_;
  const VarstoredOptions options_;
  VarstoredStats& stats_;
  Logger& log_;
  std::optional<Time> failure_logged_;
  std::uint64_t failures_omitted_ = 0;
  Patience patience_;
};

void Service::handle(net::Request request, net::Responder respond) {
  Exchange exchange{std::move(respond), Method::other, request.connection, !request.has_length};
  if (request.method != "POST") {
    ++stats_.requests[Method::other][Result::failure];
    return exchange.respond(not_allowed());
  }
  auto call = wire::parse_xmlrpc_call(request.body, limits::max_body_xmlrpc);
  request.body = std::string();
  if (!call) return fail(std::move(exchange), call.error().message);
  const auto entry = std::ranges::find(method_table, call->method, &MethodEntry::name);
  if (entry == method_table.end()) return fail(std::move(exchange), unknown_method(call->method));
  exchange.method = entry->method;
  if (const auto wrong = check(*entry, call->params)) return fail(std::move(exchange), *wrong);
  dispatch(std::move(exchange), std::move(*call));
}

void Service::dispatch(Exchange exchange, XmlRpcCall call) {
  auto& params = call.params;
  switch (exchange.method) {
    case Method::login:
      return answer(std::move(exchange), Result::success, wire::xmlrpc_success("DUMMYSESSION"));
    case Method::logout:
      return answer(std::move(exchange), Result::success, wire::xmlrpc_success());
    case Method::get_by_uuid:
      return answer(std::move(exchange), Result::success, wire::xmlrpc_success("DUMMYVM"));
    case Method::get_nvram:
      return ask(std::move(exchange), false, getting_nvram());
    case Method::get_secureboot:
      return ask(std::move(exchange), false, getting_secureboot());
    case Method::set_nvram: {
      if (const auto refused = refusal_of_value(params[2].text)) return fail(std::move(exchange), *refused);
      const bool with_flag = call.method.ends_with("_v2");
      const UpdateFlag update = with_flag ? update_flag(params[3].text) : UpdateFlag::unspecified;
      return ask(std::move(exchange), true, setting_nvram(Value(std::move(params[2].text)), update));
    }
    case Method::alert:
      if (!fits_xapi(params[5].text))
        return fail(std::move(exchange), "Invalid_argument(\"the body is too large\")");
      return ask(std::move(exchange), false,
                 alerting(*params[2].integer(), Value(std::move(params[5].text))));
    case Method::other:
    case Method::methods:
      break;
  }
}

// --- One attempt each -------------------------------------------------------------------------------------

Patience::Attempt Service::getting_nvram() {
  return [this](Patience::Answer answer) {
    access_.get_nvram([answer = std::move(answer)](NvramResult result) {
      if (result.outcome.kind != UefiOutcome::Kind::done) return answer(std::move(result.outcome), {});
      std::string body = wire::xmlrpc_success(result.entries);
      // varstored would see an end that is none.
      if (head_of("200 OK", body.size()).size() + body.size() > limits::varstored_response) {
        return answer({UefiOutcome::Kind::refused, "the map of variables is too large for varstored"}, {});
      }
      answer({UefiOutcome::Kind::done, {}}, std::move(body));
    });
  };
}

Patience::Attempt Service::getting_secureboot() {
  return [this](Patience::Answer answer) {
    access_.get_secureboot_state([answer = std::move(answer)](SecurebootResult result) {
      answer(std::move(result.outcome), wire::xmlrpc_success(result.state));
    });
  };
}

Patience::Attempt Service::setting_nvram(Value value, UpdateFlag update) {
  return [this, value = std::move(value), update](Patience::Answer answer) {
    access_.set_nvram(value, update, [answer = std::move(answer)](UefiOutcome outcome) {
      answer(std::move(outcome), wire::xmlrpc_success());
    });
  };
}

Patience::Attempt Service::alerting(std::int64_t priority, Value body) {
  return [this, priority, body = std::move(body)](Patience::Answer answer) {
    access_.alert(priority, body, [answer = std::move(answer)](UefiOutcome outcome) {
      answer(std::move(outcome), wire::xmlrpc_success());
    });
  };
}

void Service::ask(Exchange exchange, bool in_order, Patience::Attempt attempt) {
  // A callback must be copyable, and a Responder is not.
  const auto shared = std::make_shared<Exchange>(std::move(exchange));
  patience_.ask({.in_order = in_order,
                 .attempt = std::move(attempt),
                 .waits =
                     [weak = weak_from_this()](bool first) {
                       if (const auto self = weak.lock()) self->report_waiting(first);
                     },
                 .done =
                     [weak = weak_from_this(), shared](const UefiOutcome& outcome, std::string body) {
                       const auto self = weak.lock();
                       if (!self) return;
                       if (outcome.kind == UefiOutcome::Kind::done) {
                         return self->answer(std::move(*shared), Result::success, std::move(body));
                       }
                       if (outcome.kind == UefiOutcome::Kind::unavailable) ++self->stats_.gave_up;
                       self->fail(std::move(*shared), outcome.reason);
                     }});
}

// --- Answering --------------------------------------------------------------------------------------------

void Service::answer(Exchange exchange, Result result, std::string body) {
  ++stats_.requests[exchange.method][result];
  net::Reply reply = ok(std::move(body));
  // What follows a POST without a length may be its body, and must not be read as the next request.
  reply.close = exchange.close;
  if (log_.enabled(LogLevel::debug)) {
    log_.log(LogLevel::debug, "varstored_request",
             {{"vm", options_.vm},
              {"method", name_of(exchange.method)},
              {"result", result == Result::success ? "success" : "failure"},
              {"reply_bytes", reply.body.size()},
              {"connection", exchange.connection}});
  }
  exchange.respond(std::move(reply));
}

void Service::fail(Exchange exchange, std::string_view reason) {
  const Time now = loop_.now();
  if (failure_logged_ && now - *failure_logged_ < options_.renewed) {
    ++failures_omitted_;
  } else {
    failure_logged_ = now;
    // The name of a method that nobody knows is the guest's.
    const std::string_view shown = exchange.method == Method::other ? "not a call of this interface" : reason;
    log_.log(LogLevel::warning, "varstored_failure",
             {{"vm", options_.vm},
              {"method", name_of(exchange.method)},
              {"reason", shown},
              {"omitted", std::exchange(failures_omitted_, 0)}});
  }
  answer(std::move(exchange), Result::failure, wire::xmlrpc_failure(reason));
}

void Service::report_waiting(bool first) {
  ++stats_.waited;
  if (first) log_.log(LogLevel::notice, "varstored_waits", {{"vm", options_.vm}});
}

}  // namespace

net::Server::Handler make_varstored_handler(UefiAccess& access, net::Loop& loop, VarstoredOptions options,
                                            VarstoredStats& stats, Logger& log) {
  return [service = std::make_shared<Service>(access, loop, options, stats, log)](net::Request request,
                                                                                  net::Responder respond) {
    // An answer may end the Server, and with it this handler.
    std::shared_ptr<Service>(service)->handle(std::move(request), std::move(respond));
  };
}

net::ServerLimits varstored_limits() {
  net::ServerLimits limits;
  limits.max_body = guard::limits::max_body_xmlrpc;
  return limits;
}

net::Reply varstored_too_large() { return ok(wire::xmlrpc_failure("the request is too large")); }

}  // namespace guard::device
