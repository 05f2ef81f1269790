// What monitoring sees: all figures as one text in the format of Prometheus. No series names a VM, so that
// their number is the same on every host. The table of docs/OPERATIONS.md is compared with it by a test.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/histogram.h"
#include "control/message_switch.h"
#include "core/core.h"
#include "device/swtpm_rest.h"
#include "device/varstored_rpc.h"
#include "journal/journal.h"

namespace guard::daemon {

/// Everything that is told, as of one moment.
struct MetricsView {
  core::Snapshot core;
  Histogram direct;                     ///< acknowledgements of writes that the upstream accepted
  Histogram journal;                    ///< and of those that became durable here
  std::optional<journal::Stats> stats;  ///< nullopt: the journal is not read
  std::uint64_t quarantine_bytes = 0;
  std::size_t sockets = 0;
  std::size_t sockets_not_served = 0;
  bool resume_file_unsaved = false;
  device::SwtpmStats swtpm;
  device::VarstoredStats varstored;
  std::optional<control::MessageSwitchStats> message_switch;  ///< nullopt: it is not used
  bool buffering = true;
  std::uint64_t log_lost = 0;
  std::uint64_t log_suppressed = 0;
  Time now{};
  double start_seconds = 0;  ///< since 1970
  std::string_view version;
};

std::string metrics_text(const MetricsView& view);

}  // namespace guard::daemon
