#include "daemon/service_environment.h"

#include <unistd.h>

#include <charconv>
#include <cstdint>
#include <cstdlib>

namespace guard::daemon {

namespace {

/// A decimal number and nothing else.
std::optional<std::uint64_t> number(const std::string& text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Whether variables that name a process by `name` are meant for `self`.
bool meant_for(pid_t self, const char* name, const std::string& text, ServiceEnvironment& found) {
  const auto pid = number(text);
  if (!pid) found.problems.push_back(std::string(name) + " is no number");
  return pid && *pid == static_cast<std::uint64_t>(self);
}

void read_watchdog(const Lookup& lookup, pid_t self, ServiceEnvironment& found) {
  const auto usec = lookup("WATCHDOG_USEC");
  if (!usec) return;
  const auto pid = lookup("WATCHDOG_PID");
  if (pid && !meant_for(self, "WATCHDOG_PID", *pid, found)) return;
  const auto value = number(*usec);
  if (!value || *value == 0 || *value > static_cast<std::uint64_t>(INT64_MAX)) {
    found.problems.emplace_back("WATCHDOG_USEC is no length of time");
    return;
  }
  found.watchdog = std::chrono::microseconds(static_cast<std::int64_t>(*value));
}

}  // namespace

ServiceEnvironment read_service_environment(const Lookup& lookup, pid_t self) {
  ServiceEnvironment found;
  found.notify_socket = lookup("NOTIFY_SOCKET").value_or("");
  read_watchdog(lookup, self, found);
  return found;
}

ServiceEnvironment take_service_environment() {
  const Lookup lookup = [](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
  ServiceEnvironment found = read_service_environment(lookup, ::getpid());
  for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) ::unsetenv(name);
  return found;
}

}  // namespace guard::daemon
