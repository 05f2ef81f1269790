// One call on the daemon's control socket. Blocking; a connection per call.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>

#include "wire/json.h"

namespace guard::cli {

struct CallError {
  enum class Kind {
    unreachable,  ///< no answer that makes sense: nobody listens, no permission, the daemon ended, time is up
    refused,      ///< the daemon answered with an error
  };
  Kind kind = Kind::unreachable;
  std::string text;  ///< for people
  wire::Json error;  ///< as received, when refused
};

/// The text of a request: `named` parameters form one object, the first of "params"; `unnamed` ones follow.
std::string request_of(std::string_view method, const wire::JsonObject& named,
                       const wire::JsonArray& unnamed = {});

/// The length that the head of an HTTP answer announces; nullopt when it announces none. `head` is in lower
/// case, each line with its end.
std::optional<std::uint64_t> content_length(std::string_view head);

/// What the daemon answered, from the text of its answer. CallError::unreachable when it is none.
std::expected<wire::Json, CallError> result_of(std::string_view answer);

/// Sends the request `payload` (request_of) to the control socket. `patience` bounds each step: connecting,
/// sending, and every wait for more of the answer.
std::expected<wire::Json, CallError> send_to(const std::string& socket_path, const std::string& payload,
                                             std::chrono::milliseconds patience);

/// Calls `method` with the named parameters `params`. See send_to.
std::expected<wire::Json, CallError> call(const std::string& socket_path, std::string_view method,
                                          const wire::JsonObject& params, std::chrono::milliseconds patience);

}  // namespace guard::cli
