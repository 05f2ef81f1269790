#include "upstream/xapi_message.h"

#include <array>
#include <utility>

namespace guard::upstream {

namespace {

constexpr std::array<std::string_view, method_count> names{"session.login_with_password",
                                                           "session.logout",
                                                           "VM.get_by_uuid",
                                                           "VM.get_VTPMs",
                                                           "VTPM.get_uuid",
                                                           "VTPM.get_contents",
                                                           "VTPM.set_contents",
                                                           "VM.get_power_state",
                                                           "VM.get_resident_on",
                                                           "host.get_uuid",
                                                           "VM.get_NVRAM",
                                                           "VM.set_NVRAM_EFI_variables",
                                                           "VM.get_secureboot_certificates_state",
                                                           "message.create",
                                                           "VTPM.get_by_uuid",
                                                           "VTPM.get_VM",
                                                           "VM.get_uuid"};

constexpr std::size_t max_reason = 200;

Error not_an_answer(std::string_view why) {
  return Error::invalid("not a XenAPI answer: " + std::string(why));
}

/// [CODE, P1, P2, ...], all strings.
Result<XapiError> read_error_array(wire::JsonArray& elements) {
  XapiError error;
  for (wire::Json& element : elements) {
    auto* text = std::get_if<std::string>(&element.value);
    if (!text) return std::unexpected(not_an_answer("an error with something else than strings"));
    if (&element == elements.data()) {
      error.code = std::move(*text);
    } else {
      error.params.push_back(std::move(*text));
    }
  }
  if (error.code.empty()) return std::unexpected(not_an_answer("an error without a code"));
  return error;
}

/// {"code":N,"message":CODE,"data":[P1,...]}, as a xapi answers calls in version 2 form.
Result<XapiError> read_error_object(const wire::Json& object) {
  XapiError error;
  const wire::Json* message = object.find("message");
  if (!message || !message->string() || message->string()->empty()) {
    return std::unexpected(not_an_answer("an error without a code"));
  }
  error.code = *message->string();
  const wire::Json* data = object.find("data");
  if (data && data->array()) {
    for (const wire::Json& element : *data->array()) {
      if (element.string()) error.params.push_back(*element.string());
    }
  }
  return error;
}

bool answers_call(const wire::Json* id, std::uint64_t expected) {
  return id && id->integer() && std::cmp_equal(*id->integer(), expected);
}

wire::Json* member(wire::JsonObject& object, std::string_view name) {
  for (auto& [key, value] : object) {
    if (key == name) return &value;
  }
  return nullptr;
}

bool names_table(const XapiError& error, std::string_view table) {
  return !error.params.empty() && error.params.front() == table;
}

/// CODE, and for codes whose parameters are table names and references, those too.
std::string reason_of(const XapiError& error) {
  std::string reason = error.code;
  if (error.code == "HANDLE_INVALID" || error.code == "UUID_INVALID" || error.code == "HOST_IS_SLAVE") {
    for (const std::string& param : error.params) reason += " " + param;
  }
  return bounded_reason(std::move(reason));
}

}  // namespace

std::string_view name_of(Method method) { return names[static_cast<std::size_t>(method)]; }

std::string encode_call(Method method, std::span<const Param> params, std::uint64_t id) {
  std::size_t size = 64 + name_of(method).size();
  for (const Param& param : params) {
    const auto* text = std::get_if<std::string_view>(&param.value);
    size += (text != nullptr ? text->size() : 20) + 3;
  }
  std::string out;
  out.reserve(size);
  out += R"({"method":")";
  out += name_of(method);
  out += R"(","params":[)";
  for (std::size_t i = 0; i < params.size(); ++i) {
    if (i != 0) out += ',';
    if (const auto* text = std::get_if<std::string_view>(&params[i].value)) {
      wire::append_string(out, *text);
    } else {
      out += std::to_string(std::get<std::int64_t>(params[i].value));
    }
  }
  out += R"(],"id":)";
  out += std::to_string(id);
  out += '}';
  return out;
}

Result<Answer> parse_answer(std::string_view body, std::uint64_t id) {
  auto json = wire::parse_json(body, {.max_depth = 8, .max_bytes = body.size()});
  if (!json) return std::unexpected(not_an_answer(json.error().message));
  wire::JsonObject* object = json->object();
  if (!object) return std::unexpected(not_an_answer("no object"));
  wire::Json* error = member(*object, "error");
  const wire::Json* number = member(*object, "id");
  if (error && !error->is_null()) {
    // A refusal in version 2 form with a bare array has the id 0, because the call was not even read.
    const bool emergency = error->array() && member(*object, "jsonrpc") != nullptr;
    if (!emergency && !answers_call(number, id)) return std::unexpected(not_an_answer("another id"));
    Result<XapiError> refusal = error->array() ? read_error_array(*error->array())
                                : error->object()
                                    ? read_error_object(*error)
                                    : std::unexpected(not_an_answer("an error of no known shape"));
    if (!refusal) return std::unexpected(refusal.error());
    refusal->emergency = emergency;
    return Answer(std::move(*refusal));
  }
  wire::Json* result = member(*object, "result");
  if (!result) return std::unexpected(not_an_answer("neither result nor error"));
  if (!answers_call(number, id)) return std::unexpected(not_an_answer("another id"));
  return Answer(std::move(*result));
}

Failure classify(Method method, const XapiError& error) {
  using Kind = Failure::Kind;
  const std::string& code = error.code;
  Failure failure{Kind::transient, reason_of(error)};
  if (error.emergency) {
    failure.host_wide = true;
  } else if (code == "SESSION_INVALID" || (code == "HANDLE_INVALID" && names_table(error, "session"))) {
    failure.kind = Kind::session;
  } else if (code == "HANDLE_INVALID" && (names_table(error, "VM") || names_table(error, "VTPM"))) {
    failure.kind = Kind::reference;
  } else if (code == "HANDLE_INVALID" && names_table(error, "secret")) {
    failure.kind = Kind::race;
  } else if (code == "UUID_INVALID" && (names_table(error, "VM") || names_table(error, "VTPM"))) {
    failure.kind = Kind::vm;
  } else if (code == "UUID_INVALID" || code == "HOST_STILL_BOOTING" || code == "HOST_IS_SLAVE") {
    // The database is not loaded yet, or the host is changing its role: nothing to do with this VM.
    failure.host_wide = true;
  } else if (code == "INVALID_VALUE" && is_update(method)) {
    failure.kind = Kind::payload;
  } else if (code == "MESSAGE_METHOD_UNKNOWN" || code == "MESSAGE_PARAMETER_COUNT_MISMATCH") {
    failure.kind = Kind::unsupported;
  } else if (code == "SESSION_AUTHENTICATION_FAILED" || code == "RBAC_PERMISSION_DENIED") {
    failure.alarm = true;
  }
  return failure;
}

std::string bounded_reason(std::string text) {
  if (text.size() > max_reason) text.resize(max_reason);
  for (char& c : text) {
    if (c < ' ' || c > '~') c = '?';
  }
  return text;
}

}  // namespace guard::upstream
