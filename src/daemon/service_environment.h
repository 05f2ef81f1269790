// What systemd tells a service in its environment (sd_notify(3), sd_watchdog_enabled(3),
// sd_listen_fds(3)), read once by main.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "control/inherited.h"

namespace guard::daemon {

struct ServiceEnvironment {
  std::string notify_socket;  ///< empty: nobody wants to know anything
  /// systemd ends the service when it has not heard of it for so long; nullopt: it does not look.
  std::optional<std::chrono::microseconds> watchdog;
  /// Descriptors that were passed, all open, closed at exec.
  std::vector<control::InheritedFd> inherited;
  /// What could not be understood, one text each, for the log. Nothing of it keeps the daemon from starting.
  std::vector<std::string> problems;
};

/// The value of a variable, nullopt when it is not set.
using Lookup = std::function<std::optional<std::string>(const char* name)>;

/// Reads the variables; those meant for another process than `self` are as if they were not there. Takes over
/// the descriptors that were passed, from `first_fd` on (always 3, but for tests).
ServiceEnvironment read_service_environment(const Lookup& lookup, pid_t self, int first_fd = 3);

/// The same for this process, and removes the variables. Before any other thread exists and before anything
/// is opened, which could get the number of a descriptor that was promised and not passed.
ServiceEnvironment take_service_environment();

}  // namespace guard::daemon
