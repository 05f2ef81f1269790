#include "daemon/options.h"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <functional>

#include "base/text.h"
#include "daemon/log_choice.h"

namespace guard::daemon {

namespace {

constexpr const char* default_config = "/etc/xapi-guard.toml";

/// Adds an option whose text `parse` turns into a value; what it cannot read is refused with `expected`.
template <class T>
CLI::Option* add_parsed(CLI::App& app, const std::string& name, T& target, const std::string& help,
                        const std::string& shown_default, const char* expected,
                        std::function<std::optional<T>(const std::string&)> parse) {
  return app
      .add_option_function<std::string>(
          name,
          [&target, parse, expected, name](const std::string& text) {
            const auto value = parse(text);
            if (!value) throw CLI::ValidationError(name, "'" + text + "' is not " + expected);
            target = *value;
          },
          help)
      ->default_str(shown_default);
}

enum class Zero { refused, allowed };

void add_duration(CLI::App& app, const std::string& name, std::chrono::milliseconds& target,
                  const char* shown, const std::string& help, Zero zero = Zero::refused) {
  add_parsed<std::chrono::milliseconds>(
      app, name, target, help, shown, "a duration such as 500ms, 2s or 15min",
      [zero](const std::string& text) -> std::optional<std::chrono::milliseconds> {
        const auto value = parse_duration(text);
        if (!value || (value->count() == 0 && zero == Zero::refused)) return std::nullopt;
        return value;
      });
}

void add_size(CLI::App& app, const std::string& name, std::uint64_t& target, const char* shown,
              const std::string& help) {
  add_parsed<std::uint64_t>(app, name, target, help, shown, "a size such as 512KiB or 32MiB",
                            [](const std::string& text) { return parse_size(text); });
}

/// The line INSTALLATION_UUID='...' of the host's inventory; nil when there is none.
Uuid host_uuid_of(const std::string& inventory) {
  constexpr std::string_view name = "INSTALLATION_UUID=";
  std::ifstream file(inventory);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(name)) continue;
    std::string_view value = std::string_view(line).substr(name.size());
    while (!value.empty() && (value.front() == '\'' || value.front() == '"')) value.remove_prefix(1);
    return Uuid::parse(value.substr(0, 36)).value_or(Uuid());
  }
  return {};
}

/// Bounds between options; the text of what is wrong, empty when all is well.
std::string wrong_with(const Options& options) {
  const std::string& upstream = options.upstream;
  if (!(upstream.starts_with("unix:/") || upstream.starts_with("embedded:/")) || upstream.ends_with('/')) {
    return "--upstream: expected unix:PATH or embedded:FILE with an absolute path";
  }
  for (const auto& [name, path] :
       {std::pair{"--state-dir", &options.state_dir}, std::pair{"--runtime-dir", &options.runtime_dir},
        std::pair{"--resume-file", &options.resume_file}, std::pair{"--fist-file", &options.fist_file}}) {
    if (path->empty() || path->front() != '/') return std::string(name) + ": expected an absolute path";
  }
  if (options.control_socket_path().front() != '/') return "--control-socket: expected an absolute path";
  if (options.uses_switch() && !options.switch_socket.starts_with('/')) {
    return "--switch-socket: expected an absolute path or none";
  }
  if (!parse_log_to(options.log_to)) {
    return "--log-to: expected auto, stderr, journal[:PATH] or syslog[:PATH] with an absolute path";
  }
  if (options.metrics != "none" && !options.metrics_address()) {
    return "--metrics: expected 127.0.0.1:PORT, another address of 127.0.0.0/8, [::1]:PORT, or none";
  }
  if (options.queue_capacity == 0) return "--queue-capacity: must be at least 1";
  if (options.delivery_concurrency == 0 || options.delivery_concurrency > limits::upstream_connections) {
    return "--delivery-concurrency: must be between 1 and " + std::to_string(limits::upstream_connections);
  }
  if (options.journal_size % limits::journal_block != 0 || options.journal_size < 4 * limits::MiB) {
    return "--journal-size: must be a multiple of 4KiB and at least 4MiB";
  }
  if (options.journal_max % limits::journal_block != 0 || options.journal_max > limits::journal_max) {
    return "--journal-max: must be a multiple of 4KiB and at most 1GiB";
  }
  if (options.journal_size > options.journal_max) {
    return "--journal-size: must not be larger than --journal-max";
  }
  if (options.max_body < 16 * limits::KiB || options.max_body > limits::MiB) {
    return "--max-body: must be between 16KiB and 1MiB";
  }
  if (options.varstored_patience > limits::varstored_patience_max) {
    return "--varstored-patience: must be at most 10min";
  }
  return {};
}

}  // namespace

Parsed parse_options(int argc, const char* const* argv, const std::string& inventory) {
  Options options;
  CLI::App app{
      "Keeps the state of virtual TPMs safe: stores it in xapi, and on local disk while xapi cannot be "
      "reached.",
      "xapi-guard"};
  app.set_version_flag("--version", std::string("xapi-guard ") + GUARD_VERSION);
  app.get_formatter()->column_width(40);
  app.allow_config_extras(CLI::config_extras_mode::error);
  // A default that does not exist is no error; one that was named is.
  const bool have_default = std::filesystem::exists(default_config);
  app.set_config("--config", have_default ? default_config : "",
                 "Configuration file (TOML, keys as the long options)");

  add_parsed<LogLevel>(app, "--log-level", options.log_level, "debug, info, notice, warning (warn), err",
                       "info", "a log level", [](const std::string& text) { return log_level_named(text); });
  app.add_option("--log-to", options.log_to,
                 "auto, stderr, journal or syslog; the latter two with :PATH of their socket")
      ->capture_default_str();
  app.add_option("--upstream", options.upstream,
                 "Where the values finally live: unix:PATH of xapi, or embedded:FILE, a store of our own")
      ->capture_default_str();
  app.add_option("--state-dir", options.state_dir, "Directory of the journal")->capture_default_str();
  app.add_option("--runtime-dir", options.runtime_dir, "Directory for what need not survive a reboot")
      ->capture_default_str();
  app.add_option("--resume-file", options.resume_file,
                 "List of the device sockets to serve again after a restart")
      ->capture_default_str();
  app.add_option("--control-socket", options.control_socket, "Socket of xapi-guardctl")
      ->default_str("<runtime-dir>/control.sock");
  app.add_option("--switch-socket", options.switch_socket,
                 "Socket of the message switch, by which the toolstack asks for device sockets; or none")
      ->capture_default_str();
  app.add_option("--metrics", options.metrics,
                 "Loopback ADDR:PORT where metrics are served over TCP, too; or none")
      ->capture_default_str();
  app.add_option("--fist-file", options.fist_file,
                 "While this file of root exists nothing is buffered: for tests of what failures do")
      ->capture_default_str();
  add_duration(app, "--direct-timeout", options.direct_timeout, "500ms",
               "How long a write waits for xapi before it is kept on disk");
  add_duration(app, "--upstream-timeout", options.upstream_timeout, "2min",
               "Limit of look-ups and reads in xapi");
  add_duration(app, "--doubt-window", options.doubt_window, "2min",
               "How long an update whose answer was lost may still take effect");
  add_duration(app, "--retain", options.retain, "15min",
               "How long a delivered value is kept, because xapi may forget it in a crash; 0s = not at all",
               Zero::allowed);
  add_duration(app, "--alert-after", options.alert_after, "15min",
               "How long data may be pending before xapi gets a message about it; 0s = it never does",
               Zero::allowed);
  add_parsed<Uuid>(
      app, "--host-uuid", options.host_uuid,
      "This host in xapi, to recognise VMs that run elsewhere; looked up in the inventory of the host",
      "INSTALLATION_UUID", "a uuid", [](const std::string& text) { return Uuid::parse(text); });
  app.add_option("--queue-capacity", options.queue_capacity,
                 "Pending entries whose values are kept in memory")
      ->capture_default_str();
  app.add_option("--delivery-concurrency", options.delivery_concurrency, "Deliveries to xapi at a time")
      ->capture_default_str();
  add_size(app, "--journal-size", options.journal_size, "32MiB",
           "Size of each of the two journal files when they are made");
  add_size(app, "--journal-max", options.journal_max, "1GiB",
           "Size up to which they grow when more is pending than fits in half of one");
  add_size(app, "--max-body", options.max_body, "320KiB", "Largest body a vTPM socket takes");
  add_duration(app, "--varstored-patience", options.varstored_patience, "20s",
               "How long requests for UEFI variables wait for xapi in all before they fail");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return {std::nullopt, app.exit(error) == 0 ? 0 : 2};
  }
  if (const std::string wrong = wrong_with(options); !wrong.empty()) {
    std::fprintf(stderr, "xapi-guard: %s\n", wrong.c_str());
    return {std::nullopt, 2};
  }
  if (options.host_uuid.is_nil()) options.host_uuid = host_uuid_of(inventory);
  return {std::move(options), 0};
}

}  // namespace guard::daemon
