// Where the daemon's log goes: option --log-to, and what `auto` finds.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/log.h"

namespace guard::daemon {

/// Sockets of the log daemons where systems have them.
struct LogPlaces {
  std::string journal = "/run/systemd/journal/socket";
  std::string journal_stream =
      "/run/systemd/journal/stdout";  ///< what journald gives services as standard error
  std::string syslog = "/dev/log";
};

/// `auto`, `stderr`, `journal`, `syslog`, or the latter two with `:` and the absolute path of a socket.
/// Nullopt: none of these. An engaged LogChoice without a target is `auto`.
struct LogChoice {
  std::optional<LogTarget> target;
};
std::optional<LogChoice> parse_log_to(std::string_view text, const LogPlaces& places = {});

/// What `auto` is for a program whose standard error is `stderr_fd`: the journal if that leads to it (the
/// variable JOURNAL_STREAM names it, or journald is at its other end, as before systemd 231) and can be
/// reached; syslog if it leads nowhere, as with a daemon started by an init script; else standard error.
LogTarget find_log(int stderr_fd, const std::optional<std::string>& journal_stream,
                   const LogPlaces& places = {});

}  // namespace guard::daemon
