// One call on the daemon's control socket. Blocking; a connection per call.
#pragma once

#include <chrono>
#include <expected>
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

/// Calls `method` with the named parameters `params`. `patience` bounds each step: connecting, sending, and
/// every wait for more of the answer.
std::expected<wire::Json, CallError> call(const std::string& socket_path, std::string_view method,
                                          const wire::JsonObject& params, std::chrono::milliseconds patience);

}  // namespace guard::cli
