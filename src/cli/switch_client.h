// One call through the message switch, as xenopsd makes its calls. Blocking.
#pragma once

#include <chrono>
#include <expected>
#include <string>

#include "cli/rpc_client.h"
#include "wire/json.h"

namespace guard::cli {

/// Sends the request `payload` to the daemon's queue and waits for its response: `patience` for everything
/// together. A switch that is not there is waited for. `token` names this client and its reply queue:
/// "<program>:<pid>". CallError::unreachable does not mean that nothing will happen: a request without a
/// response in time stays in the switch, and is executed when a daemon comes.
std::expected<wire::Json, CallError> call_through_switch(const std::string& socket_path,
                                                         const std::string& token, const std::string& payload,
                                                         std::chrono::milliseconds patience);

}  // namespace guard::cli
