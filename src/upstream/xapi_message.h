// XenAPI calls as JSON-RPC texts: encoding a call, reading its answer, and what a refusal means to us. Pure.
//
// The version 1 form of JSON-RPC is used, because xapi's answers to it are regular; one kind of refusal comes
// in version 2 form whatever was asked (see XapiError::emergency).
#pragma once

#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "guard/result.h"
#include "guard/upstream.h"
#include "wire/json.h"

namespace guard::upstream {

/// The calls this guard makes.
enum class Method : std::uint8_t {
  login,
  logout,
  vm_get_by_uuid,
  vm_get_vtpms,
  vtpm_get_uuid,
  vtpm_get_contents,
  vtpm_set_contents,
  vm_get_power_state,
  vm_get_resident_on,
  host_get_uuid,
  vm_get_nvram,
  vm_set_nvram,
  vm_get_certificates_state,
  message_create,
  vtpm_get_by_uuid,
  vtpm_get_vm,
  vm_get_uuid,
};
inline constexpr std::size_t method_count = 17;
/// As on the wire: "VM.get_by_uuid".
std::string_view name_of(Method method);
/// Whether it changes what xapi holds; all others may be repeated without harm.
constexpr bool is_update(Method method) {
  return method == Method::vtpm_set_contents || method == Method::vm_set_nvram ||
         method == Method::message_create;
}

/// A parameter of a call: a text, which must outlive the object, or a number.
struct Param {
  Param(std::string_view text) : value(text) {}
  Param(const std::string& text) : value(std::string_view(text)) {}
  Param(const char* text) : value(std::string_view(text)) {}
  Param(std::int64_t number) : value(number) {}
  std::variant<std::string_view, std::int64_t> value;
};

/// {"method":NAME,"params":[...],"id":ID}; the session comes first.
std::string encode_call(Method method, std::span<const Param> params, std::uint64_t id);

/// A refusal by xapi.
struct XapiError {
  std::string code;
  std::vector<std::string> params;
  /// It came in the shape that xapi uses before it looks at the call at all: the whole host is in trouble
  /// (HOST_STILL_BOOTING and the like).
  bool emergency = false;
};

/// The value of `result`, or the refusal.
using Answer = std::variant<wire::Json, XapiError>;

/// Reads the body of an answer to the call `id`. Errc::invalid when it is not JSON, has no known shape, or
/// belongs to another call; the message shows nothing of the content.
Result<Answer> parse_answer(std::string_view body, std::uint64_t id);

/// Why a call did not do what was asked, in terms of what to do next.
struct Failure {
  enum class Kind {
    transient,    ///< certainly not done; later perhaps
    unknown,      ///< an update that was sent, and no usable answer
    session,      ///< the session is gone: log in again
    reference,    ///< a cached VM or VTPM reference is stale: look it up again
    race,         ///< the vTPM's secret changed hands during the call: a read is repeated at once
    vm,           ///< this VM cannot be served: it, or its vTPM, does not exist, or is unusable
    payload,      ///< this value will never be taken
    unsupported,  ///< this xapi does not have the call in this form
  };
  Kind kind = Kind::transient;
  /// For operators; no guest bytes; at most 200 characters.
  std::string reason;
  /// It speaks against the upstream as a whole, not only against this call.
  bool host_wide = false;
  /// The answer says that something is set up wrongly (not the trusted socket, missing rights).
  bool alarm = false;
};

/// Sorts a refusal into the classes of xapi-client 7. Only the names and references in HANDLE_INVALID and
/// UUID_INVALID get into the reason: parameters of other errors may hold guest bytes.
Failure classify(Method method, const XapiError& error);

/// Cuts a reason to its bound and replaces what is not printable ASCII.
std::string bounded_reason(std::string text);

}  // namespace guard::upstream
