// xapi-sim: a XenAPI stand-in that can fail in every way. For tests and demonstrations.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>

#include "base/text.h"
#include "sim/service.h"
#include "sim/store_file.h"

namespace guard::sim {
namespace {

struct Options {
  std::string socket;
  std::string store;
  bool auto_provision = false;
  std::vector<std::pair<Uuid, Uuid>> vms;  ///< VM and vTPM
  std::uint64_t flush_seconds = 5;
  std::chrono::milliseconds latency{0};
  LogLevel log_level = LogLevel::info;
  Uuid host;
};

/// A listening socket in place of whatever socket stood at `path`.
Result<int> listen_at(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return std::unexpected(Error::invalid("the socket path is too long"));
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  struct stat found{};
  if (::lstat(path.c_str(), &found) == 0) {
    if (!S_ISSOCK(found.st_mode)) return std::unexpected(Error::invalid(path + " is not a socket"));
    if (::unlink(path.c_str()) != 0) return std::unexpected(Error::system("unlink " + path, errno));
  }
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return std::unexpected(Error::system("socket", errno));
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(fd, SOMAXCONN) != 0) {
    const int reason = errno;
    ::close(fd);
    return std::unexpected(Error::system("listen at " + path, reason));
  }
  return fd;
}

Result<> prepare_world(World& world, StoreFile* store, const Options& options) {
  if (store) {
    const auto json = store->read();
    if (!json) return std::unexpected(json.error());
    if (!json->is_null()) {
      if (auto loaded = world.load(*json); !loaded) return loaded;
    }
  }
  if (options.auto_provision) world.auto_provision();
  for (const auto& [vm_uuid, vtpm_uuid] : options.vms) {
    if (world.vtpm_by_uuid(vtpm_uuid)) continue;
    Vm* vm = world.vm_by_uuid(vm_uuid);
    if (!vm) vm = &world.create_vm(vm_uuid);
    // A provisioned vTPM, or the one of a store made with other options, gives way.
    while (!vm->vtpms.empty()) world.destroy_vtpm(*world.vtpm_by_ref(vm->vtpms.back()));
    world.create_vtpm(*vm, vtpm_uuid, {});
  }
  return {};
}

int serve(const Options& options) {
  const auto logger = make_stderr_logger(options.log_level);
  const auto give_up = [&logger](const Error& error) {
    logger->log(LogLevel::error, "cannot_start", {{"reason", error.message}});
    return 1;
  };
  std::unique_ptr<StoreFile> store;
  if (!options.store.empty()) {
    auto opened = StoreFile::open(options.store, *logger);
    if (!opened) return give_up(opened.error());
    store = std::move(*opened);
  }
  std::random_device entropy;
  World world(options.host, std::uint64_t{entropy()} << 32 | entropy());
  if (auto prepared = prepare_world(world, store.get(), options); !prepared) return give_up(prepared.error());

  net::Loop loop;
  Service::Flush flush;
  if (store) {
    flush = [&store](wire::Json json, bool now) {
      now ? store->write_now(json) : store->write(std::move(json));
    };
  }
  std::unique_ptr<net::Server> server;
  Service service(
      loop, world, {options.latency, std::chrono::seconds(options.flush_seconds)}, flush,
      [&server] { return server->connections(); }, *logger);
  const auto fd = listen_at(options.socket);
  if (!fd) return give_up(fd.error());
  net::ServerLimits limits;
  limits.max_body = limits::xapi_request;
  limits.max_connections = 4096;
  limits.idle_deadline = std::chrono::hours(24);
  server = std::make_unique<net::Server>(
      loop, *fd, limits, too_large_failure(),
      [&service](net::Request request, net::Responder responder) {
        service.handle(std::move(request), std::move(responder));
      },
      *logger);
  loop.on_terminate([&loop] { loop.stop(); });
  logger->log(LogLevel::info, "ready", {{"socket", options.socket}, {"host", options.host}});
  loop.run();
  server.reset();
  ::unlink(options.socket.c_str());
  service.flush_now();
  return 0;
}

/// A uuid option, checked while the command line is read.
Uuid uuid_option(const std::string& name, std::string_view text) {
  const auto uuid = Uuid::parse(text);
  if (!uuid) throw CLI::ValidationError(name, "not a uuid: " + std::string(text));
  return *uuid;
}

int run(int argc, char** argv) {
  CLI::App app("A XenAPI stand-in that can fail in every way", "xapi-sim");
  Options options;
  std::string latency = "0ms", level = "info", host = "00000000-0000-4000-8000-000000000001";
  std::vector<std::string> vms;
  app.add_option("--socket", options.socket, "Unix socket to serve XenAPI calls on, at /jsonrpc")->required();
  app.add_option("--store", options.store, "File for the database; without it nothing survives a restart");
  app.add_flag("--auto-provision", options.auto_provision, "Every VM uuid exists and has one vTPM");
  app.add_option("--vm", vms, "VM_UUID=VTPM_UUID: this VM exists; may be repeated");
  app.add_option("--flush-seconds", options.flush_seconds,
                 "Seconds from a change until it is in the store; 0 = before the answer")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
  app.add_option("--latency", latency, "How long every call takes, e.g. 2ms")->capture_default_str();
  app.add_option("--host-uuid", host, "Uuid of the host on which VMs run")->capture_default_str();
  app.add_option("--log-level", level, "debug, info, notice, warning or error")->capture_default_str();
  try {
    app.parse(argc, argv);
    options.host = uuid_option("--host-uuid", host);
    for (const std::string& vm : vms) {
      const std::size_t equals = vm.find('=');
      if (equals == std::string::npos) throw CLI::ValidationError("--vm", "not VM_UUID=VTPM_UUID: " + vm);
      options.vms.emplace_back(uuid_option("--vm", std::string_view(vm).substr(0, equals)),
                               uuid_option("--vm", std::string_view(vm).substr(equals + 1)));
    }
    const auto duration = parse_duration(latency);
    if (!duration) throw CLI::ValidationError("--latency", "not a duration: " + latency);
    options.latency = *duration;
    const auto known_level = log_level_named(level);
    if (!known_level) throw CLI::ValidationError("--log-level", "unknown level: " + level);
    options.log_level = *known_level;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return serve(options);
}

}  // namespace
}  // namespace guard::sim

int main(int argc, char** argv) { return guard::sim::run(argc, argv); }
