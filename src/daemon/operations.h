// What the control plane asks of the daemon as a whole: status, pending, drain, and the metrics text.
#pragma once

#include <string>

#include "base/log_limit.h"
#include "control/commands.h"
#include "control/message_switch.h"
#include "control/registry.h"
#include "daemon/contents_calls.h"
#include "daemon/maintenance.h"
#include "daemon/metrics.h"
#include "device/swtpm_rest.h"
#include "device/varstored_rpc.h"
#include "engine/engine.h"
#include "upstream/managed_upstream.h"

namespace guard::daemon {

/// Thread: the loop thread. The objects given outlive it.
class DaemonOperations final : public control::Operations {
 public:
  /// Sockets are listed from the registry, which is made after this object: set_registry before use.
  DaemonOperations(engine::Engine& engine, upstream::ManagedUpstream& upstream,
                   const device::SwtpmStats& requests, const device::VarstoredStats& calls,
                   Maintenance& maintenance, std::string upstream_uri, std::function<std::int64_t()> wall_ms);
  void set_registry(const control::Registry* registry) { registry_ = registry; }
  /// Null: there is none.
  void set_message_switch(const control::MessageSwitch* message_switch) { switch_ = message_switch; }
  /// Whose losses are told to monitoring.
  void set_log(const LineLogger* sink, const LogLimit* limit) {
    log_sink_ = sink;
    log_limit_ = limit;
  }
  /// What keeps the journal from being read, empty when it was read.
  void set_journal_error(std::string error) { journal_error_ = std::move(error); }

  void status(Done done) override;
  void pending(Done done) override;
  void drain(std::chrono::milliseconds timeout, Done done) override;
  void get_contents(Uuid vtpm, Done done) override { contents_.get(vtpm, std::move(done)); }
  void set_contents(Uuid vtpm, Value contents, Done done) override {
    contents_.set(vtpm, contents, std::move(done));
  }
  void discard(Uuid vm, std::optional<Slot> slot, Done done) override;
  void deliver_by_force(Uuid vm, std::optional<Slot> slot, Done done) override;
  void quarantine_list(Done done) override { maintenance_.quarantine_list(std::move(done)); }
  void quarantine_purge(Done done) override { maintenance_.quarantine_purge(std::move(done)); }
  void set_journal_aside(const std::string& directory, Done done) override {
    maintenance_.set_journal_aside(directory, std::move(done));
  }

  /// All figures, for monitoring (metrics.h).
  std::string metrics() const;

 private:
  wire::Json status_json() const;
  wire::Json journal_json() const;
  wire::Json resume_file_json() const;
  wire::Json switch_json() const;
  wire::JsonArray held_json(const core::Snapshot& view) const;
  wire::JsonArray parked_json(const core::Snapshot& view) const;
  MetricsView view() const;
  std::string since(Time when) const;

  engine::Engine& engine_;
  upstream::ManagedUpstream& upstream_;
  const device::SwtpmStats& requests_;
  const device::VarstoredStats& varstored_;
  Maintenance& maintenance_;
  ContentsCalls contents_;
  std::string upstream_uri_;
  std::function<std::int64_t()> wall_ms_;
  const std::int64_t started_ms_;
  const control::Registry* registry_ = nullptr;
  const control::MessageSwitch* switch_ = nullptr;
  std::string journal_error_;
  const LineLogger* log_sink_ = nullptr;
  const LogLimit* log_limit_ = nullptr;
};

}  // namespace guard::daemon
