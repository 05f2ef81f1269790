// The composition root: builds every part, hands each what it needs and nothing more, runs, and stops in
// order.
#pragma once

#include <memory>

#include "base/log.h"
#include "daemon/notify.h"
#include "daemon/options.h"

namespace guard::daemon {

/// Runs the daemon until SIGTERM or SIGINT. Returns the exit status of the process: 0 after an orderly stop,
/// 1 when it could not start (the reason was logged).
int run(const Options& options, Logger& log, const Notifier& notifier);

}  // namespace guard::daemon
