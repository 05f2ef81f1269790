// The command line and the configuration file of xapi-guard.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/limits.h"
#include "base/log.h"
#include "control/metrics_socket.h"
#include "guard/types.h"

namespace guard::daemon {

/// Every option with its default. The long option of a member is its name with dashes; the same names stand
/// in the configuration file (TOML), where an unknown key is an error.
struct Options {
  LogLevel log_level = LogLevel::info;
  std::string log_to = "auto";  ///< see parse_log_to()
  std::string upstream = "unix:/var/lib/xcp/xapi";
  std::string state_dir = "/var/lib/xapi-guard";
  std::string runtime_dir = "/run/xapi-guard";
  std::string resume_file = "/run/nonpersistent/varstored-guard-active.json";
  std::string control_socket;    ///< empty: <runtime_dir>/control.sock
  std::string metrics = "none";  ///< loopback ADDR:PORT where metrics are served over TCP, too
  std::string switch_socket = "/var/run/message-switch/sock";
  std::string fist_file = "/tmp/fist_disable_xapi_guard_cache";
  std::chrono::milliseconds direct_timeout = limits::direct_timeout;
  std::chrono::milliseconds upstream_timeout = limits::upstream_timeout;
  std::chrono::milliseconds doubt_window = limits::doubt_window;
  std::chrono::milliseconds retain = limits::retain;              ///< zero: nothing is retained
  std::chrono::milliseconds alert_after = limits::pending_alert;  ///< zero: never
  /// Of this host; nil = unknown, then nobody asks whether a VM runs elsewhere.
  Uuid host_uuid;
  unsigned queue_capacity = static_cast<unsigned>(limits::queue_entries);
  unsigned delivery_concurrency = limits::delivery_concurrency;
  std::uint64_t journal_size = limits::journal_size;
  std::uint64_t journal_max = limits::journal_max;
  std::uint64_t max_body = limits::max_body_vtpm;
  std::chrono::milliseconds varstored_patience = limits::varstored_patience;

  bool operator==(const Options&) const = default;

  /// The path behind `--upstream embedded:`; nullopt when the upstream is xapi.
  std::optional<std::string> embedded_file() const {
    constexpr std::string_view scheme = "embedded:";
    if (!upstream.starts_with(scheme)) return std::nullopt;
    return upstream.substr(scheme.size());
  }
  /// Whether requests are taken from the message switch.
  bool uses_switch() const { return switch_socket != "none"; }
  /// Nullopt: only on the control socket.
  std::optional<control::LoopbackAddress> metrics_address() const {
    return control::LoopbackAddress::parse(metrics);
  }
  std::string control_socket_path() const {
    return control_socket.empty() ? runtime_dir + "/control.sock" : control_socket;
  }
};

/// What to do after reading the command line: run with `options`, or end with `exit_status` because help or
/// the version was printed (0) or something was wrong (2, with a message on standard error).
struct Parsed {
  std::optional<Options> options;
  int exit_status = 0;
};

/// `inventory` is where the uuid of the host is looked up unless it is given.
Parsed parse_options(int argc, const char* const* argv,
                     const std::string& inventory = "/etc/xensource-inventory");

}  // namespace guard::daemon
