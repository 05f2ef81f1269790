#include "engine/report.h"

#include <string>
#include <string_view>

namespace guard::engine {

void log_report(Logger& log, const core::Report& report) {
  using What = core::Report::What;
  const std::string vm = report.owner ? report.owner->vm.str() : std::string();
  const std::string_view device = report.owner ? name_of(report.owner->device) : std::string_view();
  switch (report.what) {
    case What::upstream_down:
      return log.log(LogLevel::warning, "upstream_down", {{"reason", report.text}});
    case What::upstream_up:
      return log.log(LogLevel::notice, "upstream_up", {{"outage_ms", report.number}});
    case What::lane_held:
      return log.log(LogLevel::warning, "lane_held",
                     {{"vm", vm}, {"device", device}, {"reason", report.text}});
    case What::lane_released:
      return log.log(LogLevel::notice, "lane_released",
                     {{"vm", vm}, {"device", device}, {"reason", report.text}, {"held_ms", report.number}});
    case What::lane_parked:
      return log.log(LogLevel::error, "entries_parked",
                     {{"vm", vm}, {"device", device}, {"reason", report.text}});
    case What::lane_elsewhere:
      return log.log(LogLevel::error, "entries_parked",
                     {{"vm", vm}, {"device", device}, {"reason", report.text}, {"elsewhere", true}});
    case What::went_back:
      return log.log(LogLevel::warning, "upstream_went_back",
                     {{"vm", vm}, {"device", device}, {"delivering_again", report.number}});
    case What::suspended:
      return log.log(LogLevel::warning, "redelivery_suspended",
                     {{"vm", vm}, {"device", device}, {"reason", report.text}});
    case What::retention_lost:
      return log.log(LogLevel::error, "retained_value_lost",
                     {{"vm", vm}, {"device", device}, {"reason", report.text}});
    case What::alerts_full:
      return log.log(LogLevel::warning, "alert_refused", {{"vm", vm}, {"waiting", report.number}});
    case What::alert_lost:
      return log.log(LogLevel::error, "alert_lost", {{"vm", vm}, {"sequence", report.number}});
    case What::journal_stalled:
      return log.log(LogLevel::error, "journal_stalled", {{"unanswered_ms", report.number}});
    case What::doubt_long:
      return log.log(LogLevel::warning, "update_unanswered",
                     {{"vm", vm}, {"device", device}, {"unanswered_ms", report.number}});
    case What::journal_trouble:
      return log.log(LogLevel::error, "journal_trouble", {{"what", report.text}});
    case What::journal_well:
      return log.log(LogLevel::notice, "journal_well");
    case What::held_long:
      return log.log(LogLevel::warning, "lane_held_long",
                     {{"vm", vm}, {"device", device}, {"reason", report.text}, {"held_ms", report.number}});
    case What::pending_long:
      return log.log(LogLevel::warning, "pending_long",
                     {{"waiting", report.text}, {"oldest_ms", report.number}});
    case What::message_created:
      return log.log(LogLevel::info, "message_created", {{"vm", vm}, {"name", report.text}});
    case What::message_dropped:
      return log.log(LogLevel::warning, "message_dropped", {{"vm", vm}, {"reason", report.text}});
    case What::message_unconfirmed:
      return log.log(LogLevel::warning, "message_unconfirmed", {{"vm", vm}, {"reason", report.text}});
    case What::mode_changed:
      return log.log(LogLevel::debug, "mode", {{"mode", report.text}});
    case What::invariant:
      return log.log(LogLevel::error, "bug", {{"vm", vm}, {"device", device}, {"what", report.text}});
  }
}

}  // namespace guard::engine
