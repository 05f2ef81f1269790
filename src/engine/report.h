// What the core reports, as lines of the log.
#pragma once

#include "base/log.h"
#include "core/events.h"

namespace guard::engine {

/// One line per report, key=value, no guest bytes.
void log_report(Logger& log, const core::Report& report);

}  // namespace guard::engine
