#include "daemon/metrics.h"

#include <array>
#include <chrono>

#include "daemon/exposition.h"

namespace guard::daemon {

namespace {

void add_pending(Exposition& out, const MetricsView& view) {
  const core::Snapshot& core = view.core;
  out.gauge("xapi_guard_pending_entries", "Entries in the journal that are not delivered.",
            core.pending_entries);
  out.gauge("xapi_guard_pending_vms", "VMs with such entries.", core.pending_vms);
  out.gauge("xapi_guard_pending_bytes", "Bytes of these entries.", core.pending_bytes);
  out.gauge("xapi_guard_pending_alerts", "Alerts of VMs among these entries.", core.alerts);
  const Time age = core.oldest_since ? view.now - *core.oldest_since : Time{};
  out.gauge("xapi_guard_pending_oldest_seconds", "Age of the oldest of these entries, 0 when there is none.",
            std::chrono::duration<double>(age).count());
  out.states("xapi_guard_mode", "1 for the present mode.", "mode", {"direct", "engaged", "disengaged"},
             core::name_of(core.mode));
}

void add_trouble(Exposition& out, const MetricsView& view) {
  const core::Snapshot& core = view.core;
  out.gauge("xapi_guard_held_lanes", "Devices whose delivery fails for a reason of their own.",
            core.held.size());
  out.gauge("xapi_guard_parked_entries", "Entries set aside because somebody else's value stands in xapi.",
            core.parked.size());
  out.counter("xapi_guard_parked_total", "Entries set aside in conflicts so far.", core.counters.parked);
  out.gauge("xapi_guard_doubtful_lanes", "Devices with an update whose outcome is not known.", core.doubt);
  out.gauge("xapi_guard_retained_entries", "Delivered values kept because xapi may forget them in a crash.",
            core.retained);
  out.counter("xapi_guard_redelivered_total", "Values delivered again because xapi had lost them.",
              core.counters.redelivered);
  out.gauge("xapi_guard_messages_waiting", "Messages about such troubles that wait for xapi.", core.messages);
  out.counter("xapi_guard_messages_created_total", "Messages about such troubles that xapi has.",
              core.counters.messages_created);
  out.counter("xapi_guard_discarded_total", "Entries given up by an operator.", core.counters.discarded);
  out.counter("xapi_guard_bugs_total", "States that should be impossible, survived; worth a report.",
              core.counters.invariants);
}

void add_upstream(Exposition& out, const MetricsView& view) {
  static constexpr std::array<std::string_view, 3> names{"unknown", "up", "down"};
  const auto state = static_cast<std::size_t>(view.core.upstream);
  const core::Counters& c = view.core.counters;
  out.states("xapi_guard_upstream_state", "1 for the present state of xapi as the guard sees it.", "state",
             {names[0], names[1], names[2]}, names[state]);
  out.family("xapi_guard_update_calls_total", "counter", "Updates sent to xapi by kind.");
  out.sample({{"kind", "direct"}}, c.direct_calls);
  out.sample({{"kind", "delivery"}}, c.delivery_calls);
  out.family("xapi_guard_updates_total", "counter", "Updates by outcome.");
  out.sample({{"outcome", "delivered"}}, c.delivered);
  out.sample({{"outcome", "transient"}}, c.failed_transient);
  out.sample({{"outcome", "lane"}}, c.failed_lane);
  out.sample({{"outcome", "payload"}}, c.failed_payload);
  out.sample({{"outcome", "conflict"}}, c.failed_conflict);
  out.sample({{"outcome", "unknown"}}, c.failed_unknown);
  out.counter("xapi_guard_alerts_accepted_total", "Alerts taken from VMs.", c.alerts_accepted);
  out.counter("xapi_guard_alerts_delivered_total", "Of these, those that xapi has.", c.alerts_delivered);
}

void add_clients(Exposition& out, const MetricsView& view) {
  const core::Counters& c = view.core.counters;
  out.family("xapi_guard_writes_total", "counter", "Writes of device clients by outcome.");
  out.sample({{"outcome", "direct"}}, c.writes_direct);
  out.sample({{"outcome", "journaled"}}, c.writes_journaled);
  out.sample({{"outcome", "unavailable"}}, c.writes_unavailable);
  out.sample({{"outcome", "too_large"}}, c.writes_too_large);
  out.histograms("xapi_guard_acknowledge_seconds",
                 "Time until a write was acknowledged, by what accepted it.", "path",
                 {{"direct", &view.direct}, {"journal", &view.journal}});
  out.family("xapi_guard_reads_total", "counter", "Reads of device clients by source.");
  out.sample({{"source", "pending"}}, c.reads_pending);
  out.sample({{"source", "upstream"}}, c.reads_upstream);
  out.sample({{"source", "known"}}, c.reads_known);
  out.sample({{"source", "unavailable"}}, c.reads_unavailable);
}

void add_requests(Exposition& out, const MetricsView& view) {
  using Swtpm = device::SwtpmStats;
  static constexpr std::array<std::string_view, Swtpm::methods> verbs{"GET", "HEAD", "PUT", "DELETE",
                                                                      "other"};
  static constexpr std::array<std::string_view, Swtpm::results> ends{"success", "refused", "unavailable"};
  out.family("xapi_guard_requests_total", "counter", "Requests of swtpm by method and result.");
  for (std::size_t m = 0; m < verbs.size(); ++m) {
    for (std::size_t r = 0; r < ends.size(); ++r) {
      out.sample({{"method", verbs[m]}, {"result", ends[r]}}, view.swtpm.requests[m][r]);
    }
  }
  using Varstored = device::VarstoredStats;
  static constexpr std::array<std::string_view, Varstored::methods> calls{
      "login", "logout", "get_by_uuid", "get_nvram", "set_nvram", "get_secureboot", "message", "other"};
  static constexpr std::array<std::string_view, Varstored::results> results{"success", "failure"};
  out.family("xapi_guard_varstored_calls_total", "counter", "Calls of varstored by method and result.");
  for (std::size_t m = 0; m < calls.size(); ++m) {
    for (std::size_t r = 0; r < results.size(); ++r) {
      out.sample({{"method", calls[m]}, {"result", results[r]}}, view.varstored.requests[m][r]);
    }
  }
  out.counter("xapi_guard_varstored_waited_total", "Calls that could not be answered at once.",
              view.varstored.waited);
  out.counter("xapi_guard_varstored_gave_up_total", "Of these, failed when no time was left.",
              view.varstored.gave_up);
}

void add_journal(Exposition& out, const MetricsView& view) {
  const journal::Stats stats = view.stats.value_or(journal::Stats{});
  out.states("xapi_guard_journal_state", "1 for the present state of the journal.", "state",
             {"ok", "failed", "stalled", "unread"}, view.stats ? journal::name_of(stats.state) : "unread");
  out.gauge("xapi_guard_journal_live_bytes", "Bytes of live records.", stats.live_bytes);
  out.gauge("xapi_guard_journal_capacity_bytes", "Size of one journal file.", stats.capacity_bytes);
  out.gauge("xapi_guard_journal_generation", "How often a file of the journal was begun.", stats.generation);
  out.gauge("xapi_guard_journal_reserved", "1 when writing needs no free space of the file system.",
            view.stats && stats.reserved ? 1 : 0);
  out.gauge("xapi_guard_journal_retained_entries", "Delivered entries kept in the journal for a while.",
            stats.retained_entries);
  out.counter("xapi_guard_journal_retained_given_up_total", "Of these, released early for lack of room.",
              stats.retained_given_up);
  out.counter("xapi_guard_journal_batches_total", "Batches written.", stats.batches);
  out.counter("xapi_guard_journal_syncs_total", "Syncs of journal files.", stats.syncs);
  out.histograms("xapi_guard_journal_batch_seconds",
                 "Time in which a batch became durable: a write and a sync, at times a change of the file.",
                 {}, {{{}, &stats.batch_times}});
  out.counter("xapi_guard_journal_corrupt_records_total", "Damaged records found.", stats.corrupt_records);
  out.gauge("xapi_guard_quarantine_bytes", "Bytes kept of damaged ranges of the journal.",
            view.quarantine_bytes);
}

void add_process(Exposition& out, const MetricsView& view) {
  out.gauge("xapi_guard_device_sockets", "Device sockets served.", view.sockets);
  out.gauge("xapi_guard_device_sockets_not_served", "Sockets of the resume file that could not be opened.",
            view.sockets_not_served);
  out.gauge("xapi_guard_resume_file_unsaved", "1 when a restart now would not find the latest sockets.",
            view.resume_file_unsaved ? 1 : 0);
  const auto& to_switch = view.message_switch;
  out.states("xapi_guard_switch_state", "1 for the present connection to the message switch.", "state",
             {"none", "away", "connected"},
             !to_switch             ? "none"
             : to_switch->connected ? "connected"
                                    : "away");
  out.counter("xapi_guard_switch_requests_total", "Requests of the message switch that were executed.",
              to_switch ? to_switch->requests : 0);
  out.gauge("xapi_guard_buffering", "0 while the fist point switches buffering off.", view.buffering ? 1 : 0);
  out.counter("xapi_guard_log_lines_lost_total", "Lines of the log that found no taker.", view.log_lost);
  out.counter("xapi_guard_log_lines_suppressed_total",
              "Lines of the log left out because there were too many.", view.log_suppressed);
  out.family("xapi_guard_build_info", "gauge", "Always 1; the label tells the version.");
  out.sample({{"version", view.version}}, 1);
  out.gauge("xapi_guard_start_time_seconds", "When the daemon was started, since 1970.", view.start_seconds);
}

}  // namespace

std::string metrics_text(const MetricsView& view) {
  Exposition out;
  add_pending(out, view);
  add_trouble(out, view);
  add_upstream(out, view);
  add_clients(out, view);
  add_requests(out, view);
  add_journal(out, view);
  add_process(out, view);
  return out.take();
}

}  // namespace guard::daemon
