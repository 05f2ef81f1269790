// The composition root: builds every part, hands each what it needs and nothing more, runs, and stops in
// order.
#pragma once

#include <memory>

#include "base/log.h"
#include "daemon/notify.h"
#include "daemon/options.h"
#include "daemon/service_environment.h"

namespace guard::daemon {

/// Runs the daemon until SIGTERM or SIGINT. Returns the exit status of the process: 0 after an orderly stop,
/// 1 when it could not start (the reason was logged).
/// `environment` is what systemd said, `notifier` how it is answered.
int run(const Options& options, LineLogger& log, ServiceEnvironment environment, const Notifier& notifier);

}  // namespace guard::daemon
