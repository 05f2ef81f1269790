// What varstored and its tools speak to: a few calls of XenAPI as XML-RPC, for the one VM of a device socket.
// Answers are byte for byte those of the daemon this one replaces.
//
//   call                                                     answer
//   session.login_with_password, session.logout,             constants; nobody is asked
//   VM.get_by_uuid
//   VM.get_NVRAM                                             all entries, pending variables laid over them
//   VM.set_NVRAM_EFI_variables (session, vm, value)          success when accepted or durable (P1)
//   VM.set_NVRAM_EFI_variables_v2 (.., update)               the same with "yes" or "no"; other text:
//   unspecified VM.get_secureboot_certificates_state                     as the upstream says message.create
//   (.., priority, .., .., body)              an alert about this VM, whatever else is named any other, too
//   few parameters, wrong types, no XML       Failure, with HTTP status 200 methods other than POST 405
//
// Sessions and VMs named by the client are ignored (P5). Surplus parameters are ignored, too.
//
// varstored takes whatever is no success for final: its VM does not start, or the guest's SetVariable fails.
// So a request that cannot be answered yet waits and is tried again, `patience` in all from the first request
// of the socket that waits; then Failure. Never an empty map (P4): varstored would take it for a first boot
// and overwrite everything. When that time is used up, requests that cannot be answered fail at once, until
// `renewed` after its begin. Writes are taken one by one in the order in which their last bytes arrived.
//
// Failure at once: what the upstream refuses for good; an empty value; values that do not fit a request to
// xapi or could not be read back, because varstored cuts answers off at 262,143 bytes.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "base/limits.h"
#include "base/log.h"
#include "guard/lane.h"
#include "net/http_server.h"
#include "net/loop.h"

namespace guard::device {

/// How many calls were answered how; what the server refused by itself never gets here and is not counted.
/// Loop thread only.
struct VarstoredStats {
  enum Method : std::size_t {
    login,
    logout,
    get_by_uuid,
    get_nvram,
    set_nvram,
    get_secureboot,
    alert,
    other,  ///< unknown, malformed, or not POST
    methods
  };
  enum Result : std::size_t { success, failure, results };
  std::array<std::array<std::uint64_t, results>, methods> requests{};
  std::uint64_t waited = 0;   ///< requests that could not be answered at once
  std::uint64_t gave_up = 0;  ///< requests that failed because no time to wait was left

  std::uint64_t operator()(Method method, Result result) const { return requests[method][result]; }
};

struct VarstoredOptions {
  Uuid vm{};  ///< for log lines only
  std::chrono::milliseconds patience = limits::varstored_patience;
  /// At least `patience`.
  std::chrono::milliseconds renewed = limits::varstored_patience_renewed;
  std::chrono::milliseconds grace = limits::varstored_grace;
  std::chrono::milliseconds retry = limits::varstored_retry;
};

/// The handler of one device socket, bound to one VM for its life.
///
/// `access`, `loop`, `stats` and `log` must outlive the Server that gets the handler; `stats` and `log` also
/// every callback of `access`. Thread: the loop thread. Logs one line per request at debug level, and at most
/// one line about failures and one about waiting per `renewed`; none contains a byte of the guest's.
net::Server::Handler make_varstored_handler(UefiAccess& access, net::Loop& loop, VarstoredOptions options,
                                            VarstoredStats& stats, Logger& log);

/// Limits of such a socket, for the Server.
net::ServerLimits varstored_limits();
/// The answer to a body over the limit, for the Server.
net::Reply varstored_too_large();

}  // namespace guard::device
