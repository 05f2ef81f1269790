// xapi-guard(8): keeps the device state of VMs safe while xapi is away. See ARCHITECTURE.md.
#include <sys/stat.h>

#include <csignal>
#include <cstdlib>
#include <exception>
#include <string>

#include "base/log.h"
#include "daemon/daemon.h"
#include "daemon/notify.h"
#include "daemon/options.h"

int main(int argc, char** argv) {
  using namespace guard;
  const daemon::Parsed parsed = daemon::parse_options(argc, argv);
  if (!parsed.options) return parsed.exit_status;
  // Files are created with explicit modes; this is for those that a library might create.
  ::umask(0077);
  // A peer that has gone away is an error of write(2), not the end of the process.
  std::signal(SIGPIPE, SIG_IGN);
  const char* notify_socket = std::getenv("NOTIFY_SOCKET");
  const daemon::Notifier notifier(notify_socket != nullptr ? notify_socket : "");
  const auto log = make_stderr_logger(parsed.options->log_level);
  try {
    return daemon::run(*parsed.options, *log, notifier);
  } catch (const std::exception& error) {
    // systemd restarts the daemon, and restarts are invisible (P12).
    log->log(LogLevel::error, "ended_by_exception", {{"error", error.what()}});
    return 1;
  }
}
