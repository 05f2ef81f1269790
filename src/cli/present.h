// What the daemon's answers look like to people. Pure: JSON in, text out. Members that are missing (an older
// or newer daemon) are shown as "-", never an error; control characters never reach the terminal.
#pragma once

#include <cstdint>
#include <string>

#include "wire/json.h"

namespace guard::cli {

/// "512 B", "96.0 KiB", "1.2 GiB".
std::string human_size(std::int64_t bytes);
/// "0.4 s", "42 s", "5 min 3 s", "2 h 5 min", "3 d 4 h".
std::string human_duration(double seconds);

/// The answer to `status`, several lines.
std::string present_status(const wire::Json& status);
/// The answer to `pending`: a table, or one line.
std::string present_pending(const wire::Json& pending);

/// The answer to `quarantine_list`: a table, the sum, and the journals set aside.
std::string present_quarantine(const wire::Json& quarantine);
/// The answer to `quarantine_purge`.
std::string present_purge(const wire::Json& purged);

struct Check {
  int exit_status = 3;  ///< 0 direct, 1 pending, 2 held, parked or failed, 3 not a status
  std::string line;  ///< for monitoring systems: "OK: ...", "WARNING: ...", "CRITICAL: ...", "UNKNOWN: ..."
};
Check check_status(const wire::Json& status);

}  // namespace guard::cli
