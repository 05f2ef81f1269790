#include "daemon/daemon.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

#include "base/log_limit.h"
#include "cache_tree/parked.h"
#include "control/commands.h"
#include "control/control_socket.h"
#include "control/message_switch.h"
#include "control/metrics_socket.h"
#include "control/registry.h"
#include "daemon/fist_point.h"
#include "daemon/maintenance.h"
#include "daemon/operations.h"
#include "daemon/service.h"
#include "daemon/state_dir.h"
#include "daemon/systemd_store.h"
#include "daemon/worker.h"
#include "device/swtpm_rest.h"
#include "device/varstored_rpc.h"
#include "engine/engine.h"
#include "net/http_server.h"
#include "net/loop.h"
#include "upstream/embedded_upstream.h"
#include "upstream/xapi_upstream.h"

namespace guard::daemon {

namespace {

using std::chrono::seconds;

/// How long an orderly stop waits for requests under way, and then for updates under way.
constexpr seconds stop_patience{10};
/// How soon a journal that could not be read is tried again.
constexpr seconds journal_retry{3};

std::int64_t to_seconds(Time time) { return std::chrono::duration_cast<seconds>(time).count(); }

std::int64_t wall_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

class Daemon;

/// One device socket: its listener, its connections and its access to one lane.
class DeviceSocket final : public control::SocketHandle {
 public:
  DeviceSocket(Daemon& daemon, const control::SocketEntry& entry, int listening_fd);
  ~DeviceSocket() override;
  void retire() override { server_->shutdown_listener(); }
  net::Server& server() { return *server_; }

 private:
  void serve_vtpm(const control::SocketEntry& entry, int listening_fd);
  void serve_variables(const control::SocketEntry& entry, int listening_fd);

  Daemon& daemon_;
  std::unique_ptr<LaneAccess> lane_;       ///< of a vTPM
  std::unique_ptr<UefiAccess> variables_;  ///< of UEFI variables
  std::unique_ptr<net::Server> server_;
};

class Daemon {
 public:
  Daemon(const Options& options, LineLogger& log, ServiceEnvironment environment, const Notifier& notifier)
      : options_(options),
        sink_(log),
        log_(
            log, [this] { return loop_.now(); }, [this](Time when) { flush_log_at(when); }),
        service_(loop_, notifier, environment.watchdog),
        systemd_store_(notifier, log_),
        inherited_(std::move(environment.inherited)),
        state_dir_(options.state_dir, {options.journal_size, options.journal_max}, log_),
        maintenance_(state_dir_, worker_, log_),
        worker_([this](std::function<void()> work) { loop_.post(std::move(work)); }) {}

  int run();

 private:
  friend class DeviceSocket;

  bool build();
  void flush_log_at(Time when);
  void open_metrics();
  Result<std::unique_ptr<upstream::ManagedUpstream>> make_upstream();
  Result<> open_notes();
  void start_engine(StateDir::Opened opened);
  void clear_cache_tree();
  void open_journal_first();
  Result<StateDir::Opened> open_journal();
  void journal_tried(Result<StateDir::Opened> opened);
  void retry_journal_later(const Error& error);
  void retry_journal();
  bool serve();
  ServiceView view() const;
  void stop();
  void count_down_stop();
  void stop_engine();
  void note_parked(std::function<void()> then);

  const Options& options_;
  LineLogger& sink_;  ///< for what must not be left out because of other lines
  net::Loop loop_;
  LogLimit log_;
  Service service_;
  SystemdStore systemd_store_;
  std::vector<control::InheritedFd> inherited_;  ///< until the registry has it
  std::size_t sockets_inherited_ = 0;
  StateDir state_dir_;
  Maintenance maintenance_;
  device::SwtpmStats device_stats_;
  device::VarstoredStats varstored_stats_;
  std::vector<DeviceSocket*> device_sockets_;
  std::unique_ptr<upstream::ManagedUpstream> upstream_;
  std::unique_ptr<engine::CallNotes> notes_;  ///< until the engine has it
  std::unique_ptr<engine::Engine> engine_;
  std::unique_ptr<DaemonOperations> operations_;
  std::unique_ptr<control::Registry> registry_;
  std::unique_ptr<control::Commands> commands_;
  std::unique_ptr<control::ControlSocket> control_socket_;
  std::unique_ptr<control::MetricsSocket> metrics_socket_;  ///< null when there is none
  std::unique_ptr<control::MessageSwitch> switch_;          ///< null when it is not used
  int exit_status_ = 0;
  bool stopping_ = false;
  bool engine_stopped_ = false;
  bool another_ran_ = false;  ///< since we did
  unsigned stop_steps_ = 0;
  Worker worker_;  ///< last: its thread ends before anything its work refers to
};

DeviceSocket::DeviceSocket(Daemon& daemon, const control::SocketEntry& entry, int listening_fd)
    : daemon_(daemon) {
  if (entry.device == Device::vtpm) {
    serve_vtpm(entry, listening_fd);
  } else {
    serve_variables(entry, listening_fd);
  }
  daemon.device_sockets_.push_back(this);
}

void DeviceSocket::serve_vtpm(const control::SocketEntry& entry, int listening_fd) {
  lane_ = daemon_.engine_->open_lane(Owner{entry.vm, Device::vtpm});
  net::ServerLimits limits;
  limits.max_body = daemon_.options_.max_body;
  server_ = std::make_unique<net::Server>(
      daemon_.loop_, listening_fd, limits, device::swtpm_too_large(),
      device::make_swtpm_handler(*lane_, daemon_.device_stats_, daemon_.log_), daemon_.log_, entry.path);
}

void DeviceSocket::serve_variables(const control::SocketEntry& entry, int listening_fd) {
  variables_ = daemon_.engine_->open_uefi(entry.vm);
  device::VarstoredOptions options;
  options.vm = entry.vm;
  options.patience = daemon_.options_.varstored_patience;
  options.renewed = std::max<std::chrono::milliseconds>(options.renewed, 3 * options.patience);
  server_ = std::make_unique<net::Server>(
      daemon_.loop_, listening_fd, device::varstored_limits(), device::varstored_too_large(),
      device::make_varstored_handler(*variables_, daemon_.loop_, options, daemon_.varstored_stats_,
                                     daemon_.log_),
      daemon_.log_, entry.path);
}

DeviceSocket::~DeviceSocket() { std::erase(daemon_.device_sockets_, this); }

/// `unix:PATH` is xapi; `embedded:FILE` a store of our own, named in the state directory.
Result<std::unique_ptr<upstream::ManagedUpstream>> Daemon::make_upstream() {
  if (const auto file = options_.embedded_file()) {
    upstream::EmbeddedOptions embedded;
    embedded.file = *file;
    embedded.identity_file = options_.state_dir + "/embedded-store";
    return upstream::make_embedded_upstream(loop_, std::move(embedded), log_);
  }
  upstream::XapiOptions xapi;
  xapi.uri = options_.upstream;
  xapi.client_version = GUARD_VERSION;
  xapi.host = options_.host_uuid;
  xapi.direct_timeout = options_.direct_timeout;
  xapi.upstream_timeout = options_.upstream_timeout;
  return upstream::make_xapi_upstream(loop_, xapi, log_);
}

/// Builds all parts in the order in which they depend on each other. Nothing is contacted yet but the disk.
bool Daemon::build() {
  auto upstream = make_upstream();
  if (!upstream) {
    log_.log(LogLevel::error, "upstream_unusable", {{"error", upstream.error().message}});
    return false;
  }
  upstream_ = std::move(*upstream);

  core::Config config;
  config.direct_timeout = options_.direct_timeout;
  config.doubt_window = options_.doubt_window;
  config.retain = options_.retain;
  config.concerns = true;
  config.pending_alert = options_.alert_after;
  config.host = options_.host_uuid;
  config.queue_entries = options_.queue_capacity;
  config.delivery_concurrency = options_.delivery_concurrency;
  config.seed = static_cast<std::uint64_t>(wall_ms());
  engine::Host host;
  host.post = [this](std::function<void()> work) { loop_.post(std::move(work)); };
  host.at = [this](Time when, std::function<void()> work) { loop_.at(when, std::move(work)); };
  host.now = [this] { return loop_.now(); };
  host.wall_ms = wall_ms;
  host.buffering = [point = FistPoint(options_.fist_file)] { return !point.is_set(); };
  host.changed = [this] { service_.changed(view()); };
  engine_ = std::make_unique<engine::Engine>(std::move(host), config, *upstream_, log_);
  operations_ = std::make_unique<DaemonOperations>(*engine_, *upstream_, device_stats_, varstored_stats_,
                                                   maintenance_, options_.upstream, wall_ms);
  operations_->set_log(&sink_, &log_);

  control::RegistryOptions registry;
  registry.resume_file = options_.resume_file;
  registry.devices = {Device::vtpm, Device::uefi};
  registry.open = [this](const control::SocketEntry& entry, int fd) {
    return std::make_unique<DeviceSocket>(*this, entry, fd);
  };
  registry.run_blocking = [this](std::function<void()> work, std::function<void()> then) {
    worker_.run(std::move(work), std::move(then));
  };
  registry.store = &systemd_store_;
  registry.inherited = std::move(inherited_);
  registry_ = std::make_unique<control::Registry>(std::move(registry), log_);
  operations_->set_registry(registry_.get());
  commands_ = std::make_unique<control::Commands>(*registry_, *operations_, log_);
  return true;
}

/// Opened before the journal, because without it nothing may be sent to the upstream.
Result<> Daemon::open_notes() {
  auto notes = engine::CallNotes::open(options_.runtime_dir, engine::identity_of(options_.state_dir));
  if (!notes) return std::unexpected(std::move(notes.error()));
  notes_ = std::move(*notes);
  return {};
}

void Daemon::start_engine(StateDir::Opened opened) {
  // A journal made in place of one that was set aside is no first start: others may have sent updates. Nor is
  // one in place of another daemon.
  const auto set_aside = state_dir_.list_set_aside();
  const bool first_start = opened.recovery.created && set_aside && set_aside->empty() && !another_ran_;
  engine_->start(std::move(opened.store), std::move(notes_), first_start, std::move(opened.recovery));
  clear_cache_tree();
}

/// Piece by piece: whoever creates a socket meanwhile waits for one piece at most.
void Daemon::clear_cache_tree() {
  if (stopping_) return;
  auto more = std::make_shared<bool>(false);
  worker_.run([this, more] { *more = state_dir_.clear_cache_tree(); },
              [this, more] {
                if (*more) clear_cache_tree();
              });
}

/// On the worker thread, so that a loop that waits for a slow disk is not taken for one that is stuck.
void Daemon::open_journal_first() {
  auto result = std::make_shared<Result<StateDir::Opened>>();
  worker_.run(
      [this, result] {
        *result = open_journal();
        maintenance_.look_first();
      },
      [this, result] { journal_tried(std::move(*result)); });
}

/// Worker thread; until the engine has the notes nobody else uses them.
Result<StateDir::Opened> Daemon::open_journal() {
  if (state_dir_.lock() && state_dir_.has_cache_tree()) {
    // Before its tree is gone: what its daemon had sent when it ended may still take effect (P2).
    another_ran_ = true;
    notes_->doubt_all("another daemon used the state directory");
  }
  return state_dir_.open_journal();
}

/// A journal that cannot be read stops nobody from asking: every request is answered 503 until it can be.
void Daemon::journal_tried(Result<StateDir::Opened> opened) {
  if (stopping_) return;
  if (opened) {
    start_engine(std::move(*opened));
  } else {
    log_.log(LogLevel::error, "journal_unreadable",
             {{"dir", options_.state_dir}, {"error", opened.error().message}});
    retry_journal_later(opened.error());
  }
  if (serve()) return service_.ready();
  exit_status_ = 1;
  loop_.stop();
}

void Daemon::retry_journal_later(const Error& error) {
  operations_->set_journal_error(error.message);
  engine_->journal_unread(error.message);
  loop_.at(loop_.now() + Time(journal_retry), [this] { retry_journal(); });
}

void Daemon::retry_journal() {
  if (stopping_) return;
  auto result = std::make_shared<Result<StateDir::Opened>>();
  worker_.run([this, result] { *result = open_journal(); },
              [this, result] {
                if (stopping_) return;
                if (!*result) return retry_journal_later(result->error());
                log_.log(LogLevel::notice, "journal_readable");
                start_engine(std::move(**result));
              });
}

ServiceView Daemon::view() const {
  const engine::Brief brief = engine_->brief();
  return {engine_->started(), core::name_of(brief.mode), core::name_of(brief.upstream),
          brief.pending_entries};
}

/// Any thread.
void Daemon::flush_log_at(Time when) {
  loop_.post([this, when] { loop_.at(when, [this] { log_.flush(); }); });
}

/// Monitoring that cannot be served is no reason to serve no VM.
void Daemon::open_metrics() {
  const auto address = options_.metrics_address();
  if (!address) return;
  auto opened =
      control::MetricsSocket::open(loop_, *address, [this] { return operations_->metrics(); }, log_);
  if (!opened) {
    return log_.log(LogLevel::error, "metrics_unusable",
                    {{"address", options_.metrics}, {"error", opened.error().message}});
  }
  metrics_socket_ = std::move(*opened);
}

int Daemon::run() {
  if (!build()) return 1;
  // Sockets listen before anything else is read or contacted: clients wait in the backlogs (P12). The lock on
  // the state directory comes even before, so that a second daemon takes no sockets away.
  const auto locked = state_dir_.lock();
  if (!locked && locked.error().code == Errc::busy) {
    log_.log(LogLevel::error, "already_running",
             {{"dir", options_.state_dir}, {"error", locked.error().message}});
    return 1;
  }
  if (const auto opened = open_notes(); !opened) {
    log_.log(LogLevel::error, "runtime_dir_unusable",
             {{"dir", options_.runtime_dir}, {"error", opened.error().message}});
    return 1;
  }
  sockets_inherited_ = registry_->resume().inherited;
  loop_.on_terminate([this] { stop(); });
  service_.begin();
  // Usually serve() is there long before.
  loop_.at(loop_.now() + Time(limits::ready_patience), [this] {
    if (!stopping_) service_.ready();
  });
  open_journal_first();
  loop_.run();

  // The loop has ended: connections first, then what they refer to.
  operations_->set_message_switch(nullptr);
  switch_.reset();
  metrics_socket_.reset();
  control_socket_.reset();
  registry_.reset();
  log_.flush(true);
  return exit_status_;
}

/// From here on requests are answered. False when nobody could give the daemon orders; the reason was logged.
bool Daemon::serve() {
  registry_->serve();
  auto control = control::ControlSocket::open(
      loop_, {options_.control_socket_path(), [this] { return operations_->metrics(); }}, *commands_, log_);
  if (!control) {
    log_.log(LogLevel::error, "control_socket_unusable", {{"error", control.error().message}});
    return false;
  }
  control_socket_ = std::move(*control);
  open_metrics();
  // Last: sockets are served and operators answered whether there is a switch or not.
  if (options_.uses_switch()) {
    switch_ = std::make_unique<control::MessageSwitch>(
        loop_,
        control::MessageSwitchOptions{.socket_path = options_.switch_socket,
                                      .token = std::to_string(::getpid())},
        *commands_, log_);
    operations_->set_message_switch(switch_.get());
  }
  log_.log(LogLevel::notice, "started",
           {{"version", GUARD_VERSION},
            {"upstream", options_.upstream},
            {"pending", engine_->snapshot().pending_entries},
            {"sockets", device_sockets_.size()},
            {"inherited", sockets_inherited_}});
  return true;
}

/// Finishes the requests under way, waits for updates under way, ends the session; then the loop ends. What
/// is pending stays in the journal.
void Daemon::stop() {
  if (std::exchange(stopping_, true)) return;
  service_.stopping();
  const core::Snapshot view = engine_->snapshot();
  sink_.log(view.pending_entries == 0 ? LogLevel::notice : LogLevel::warning, "stopping",
            {{"pending_entries", view.pending_entries},
             {"pending_vms", view.pending_vms},
             {"oldest_seconds", view.oldest_since ? to_seconds(engine_->now() - *view.oldest_since) : 0}});
  loop_.at(loop_.now() + 2 * Time(stop_patience), [this] { loop_.stop(); });
  // A client that never finishes its request takes no time from the updates.
  loop_.at(loop_.now() + Time(stop_patience), [this] { stop_engine(); });
  stop_steps_ =
      static_cast<unsigned>(device_sockets_.size()) + (control_socket_ ? 1 : 0) + (switch_ ? 1 : 0) + 1;
  for (DeviceSocket* socket : device_sockets_) {
    socket->server().drain([this] { count_down_stop(); });
  }
  if (control_socket_) control_socket_->drain([this] { count_down_stop(); });
  if (switch_) switch_->drain([this] { count_down_stop(); });
  count_down_stop();
}

void Daemon::count_down_stop() {
  if (--stop_steps_ == 0) stop_engine();
}

/// Before this the engine still sends updates: it finishes what clients wait for.
void Daemon::stop_engine() {
  if (std::exchange(engine_stopped_, true)) return;
  engine_->stop(loop_.now() + Time(stop_patience), [this](bool at_rest) {
    if (!at_rest) {
      log_.log(LogLevel::warning, "stopped_with_calls_under_way", {{"doubt", engine_->snapshot().doubt}});
    }
    note_parked([this] { upstream_->logout([this] { loop_.stop(); }); });
  });
}

/// For an export, which cannot find out by itself.
void Daemon::note_parked(std::function<void()> then) {
  if (!engine_->started()) return then();
  std::set<Sequence> parked;
  const core::Snapshot view = engine_->snapshot();
  for (const auto& entry : view.parked) parked.insert(entry.sequence);
  worker_.run(
      [this, parked = std::move(parked)] {
        const auto saved =
            state_dir_.with_state([&](Directory& state) { return cache_tree::save_parked(state, parked); });
        if (!saved) log_.log(LogLevel::warning, "parked_not_noted", {{"error", saved.error().message}});
      },
      std::move(then));
}

}  // namespace

int run(const Options& options, LineLogger& log, ServiceEnvironment environment, const Notifier& notifier) {
  for (const std::string& problem : environment.problems) {
    log.log(LogLevel::warning, "service_environment", {{"problem", problem}});
  }
  Daemon daemon(options, log, std::move(environment), notifier);
  return daemon.run();
}

}  // namespace guard::daemon
