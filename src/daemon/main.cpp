// xapi-guard(8): keeps the device state of VMs safe while xapi is away. See ARCHITECTURE.md.
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <exception>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "daemon/daemon.h"
#include "daemon/log_choice.h"
#include "daemon/notify.h"
#include "daemon/options.h"
#include "daemon/service_environment.h"

namespace {

/// Device sockets and their connections take descriptors; the usual soft limit of 1,024 is for programs that
/// use select(2). Too low a hard limit is said, not fatal.
void raise_descriptor_limit(guard::Logger& log) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = limit.rlim_max == RLIM_INFINITY ? 65'536 : limit.rlim_max;
  if (limit.rlim_cur < wanted) {
    limit.rlim_cur = wanted;
    (void)::setrlimit(RLIMIT_NOFILE, &limit);
    (void)::getrlimit(RLIMIT_NOFILE, &limit);
  }
  if (limit.rlim_cur < guard::limits::descriptors_wanted) {
    log.log(guard::LogLevel::warning, "few_descriptors",
            {{"limit", limit.rlim_cur}, {"wanted", guard::limits::descriptors_wanted}});
  }
}

guard::LogTarget log_target(const guard::daemon::Options& options) {
  const auto choice = guard::daemon::parse_log_to(options.log_to);
  if (choice && choice->target) return *choice->target;
  const char* stream = std::getenv("JOURNAL_STREAM");
  return guard::daemon::find_log(STDERR_FILENO,
                                 stream != nullptr ? std::optional<std::string>(stream) : std::nullopt);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace guard;
  // First, before anything can take the number of a descriptor that systemd has passed.
  daemon::ServiceEnvironment environment = daemon::take_service_environment();
  const daemon::Parsed parsed = daemon::parse_options(argc, argv);
  if (!parsed.options) return parsed.exit_status;
  // Files are created with explicit modes; this is for those that a library might create.
  ::umask(0077);
  // A peer that has gone away is an error of write(2), not the end of the process.
  std::signal(SIGPIPE, SIG_IGN);
  const daemon::Notifier notifier(environment.notify_socket);
  const auto log = make_logger(log_target(*parsed.options), parsed.options->log_level);
  raise_descriptor_limit(*log);
  try {
    return daemon::run(*parsed.options, *log, std::move(environment), notifier);
  } catch (const std::exception& error) {
    // systemd restarts the daemon, and restarts are invisible (P12).
    log->log(LogLevel::error, "ended_by_exception", {{"error", error.what()}});
    return 1;
  }
}
