#include "daemon/service_environment.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdlib>

#include "base/limits.h"

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

/// One for each descriptor, or none at all: names of which one is missing name nothing for sure. Systemd
/// before 227 gives none.
std::vector<std::string> names_of(const std::string& text, std::uint64_t count, ServiceEnvironment& found) {
  std::vector<std::string> names;
  for (std::size_t begin = 0; begin <= text.size() && names.size() <= count;) {
    const std::size_t end = std::min(text.find(':', begin), text.size());
    names.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  if (names.size() == count) return names;
  found.problems.emplace_back("LISTEN_FDNAMES does not name each descriptor");
  return {};
}

void take_descriptors(const Lookup& lookup, pid_t self, int first_fd, ServiceEnvironment& found) {
  const auto pid = lookup("LISTEN_PID");
  const auto fds = lookup("LISTEN_FDS");
  if (!pid || !fds || !meant_for(self, "LISTEN_PID", *pid, found)) return;
  const auto said = number(*fds);
  if (!said) {
    found.problems.emplace_back("LISTEN_FDS is no number");
    return;
  }
  const std::uint64_t count = std::min<std::uint64_t>(*said, limits::inherited_descriptors);
  if (*said > count) {
    found.problems.push_back("LISTEN_FDS says " + *fds + ", of which only the first " +
                             std::to_string(count) + " are looked at");
  }
  const auto named = lookup("LISTEN_FDNAMES");
  const auto names = named ? names_of(*named, *said, found) : std::vector<std::string>();
  std::size_t missing = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const int fd = first_fd + static_cast<int>(i);
    if (::fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
      ++missing;
      continue;
    }
    found.inherited.push_back({control::OwnedFd(fd), i < names.size() ? names[i] : std::string()});
  }
  if (missing > 0)
    found.problems.push_back(std::to_string(missing) + " descriptors were promised and not passed");
}

}  // namespace

ServiceEnvironment read_service_environment(const Lookup& lookup, pid_t self, int first_fd) {
  ServiceEnvironment found;
  found.notify_socket = lookup("NOTIFY_SOCKET").value_or("");
  read_watchdog(lookup, self, found);
  take_descriptors(lookup, self, first_fd, found);
  return found;
}

ServiceEnvironment take_service_environment() {
  const Lookup lookup = [](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
  ServiceEnvironment found = read_service_environment(lookup, ::getpid());
  for (const char* name :
       {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) {
    ::unsetenv(name);
  }
  return found;
}

}  // namespace guard::daemon
