#include "daemon/log_choice.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

namespace guard::daemon {

namespace {

bool is_socket(const std::string& path) {
  struct stat st{};
  return ::stat(path.c_str(), &st) == 0 && S_ISSOCK(st.st_mode);
}

/// The path that the other end of a connected socket is bound to, empty if there is none.
std::string peer_of(int fd) {
  sockaddr_un address{};
  socklen_t size = sizeof address;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return {};
  if (address.sun_family != AF_UNIX || size <= offsetof(sockaddr_un, sun_path)) return {};
  return {address.sun_path, ::strnlen(address.sun_path, size - offsetof(sockaddr_un, sun_path))};
}

}  // namespace

std::optional<LogChoice> parse_log_to(std::string_view text, const LogPlaces& places) {
  if (text == "auto") return LogChoice{};
  if (text == "stderr") return LogChoice{LogTarget{}};
  const std::size_t colon = text.find(':');
  const std::string_view name = text.substr(0, colon);
  if (name != "journal" && name != "syslog") return std::nullopt;
  LogTarget target{name == "journal" ? LogTarget::Kind::journal : LogTarget::Kind::syslog,
                   name == "journal" ? places.journal : places.syslog};
  if (colon != std::string_view::npos) target.path = text.substr(colon + 1);
  if (!target.path.starts_with('/') || target.path.size() >= sizeof(sockaddr_un::sun_path))
    return std::nullopt;
  return LogChoice{std::move(target)};
}

LogTarget find_log(int stderr_fd, const std::optional<std::string>& journal_stream, const LogPlaces& places) {
  struct stat st{};
  const bool open = ::fstat(stderr_fd, &st) == 0;
  if (!open || (S_ISCHR(st.st_mode) && st.st_rdev == ::makedev(1, 3))) {  // 1:3 is /dev/null
    return {LogTarget::Kind::syslog, places.syslog};
  }
  const bool named = journal_stream == std::to_string(st.st_dev) + ":" + std::to_string(st.st_ino);
  if ((named || peer_of(stderr_fd) == places.journal_stream) && is_socket(places.journal)) {
    return {LogTarget::Kind::journal, places.journal};
  }
  return {};
}

}  // namespace guard::daemon
