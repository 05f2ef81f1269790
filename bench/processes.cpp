#include "bench/processes.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <thread>

#include "bench/load.h"

namespace guard::bench {

namespace fs = std::filesystem;
using wire::Json;
using wire::JsonArray;
using wire::JsonObject;

namespace {

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "bench: %s\n", what.c_str());
  std::exit(1);
}

std::string vm_uuid(unsigned number) {
  char text[37];
  std::snprintf(text, sizeof text, "%08x-0000-4000-8000-000000000001", number);
  return text;
}

/// Figures only, without the values.
JsonArray brief_dump() { return {JsonObject{{"contents", false}, {"history", false}}}; }

pid_t start(const std::string& program, const std::vector<std::string>& words, const std::string& log) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  const int fd = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  ::dup2(fd, 1);
  ::dup2(fd, 2);
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  ::execv(program.c_str(), argv.data());
  ::_exit(127);
}

void end(pid_t& pid, int signal) {
  if (pid < 0) return;
  ::kill(pid, signal);
  ::waitpid(pid, nullptr, 0);
  pid = -1;
}

/// One JSON-RPC call on a connection of its own; nullopt when nobody listens.
std::optional<Json> call(const std::string& socket, const std::string& path, const std::string& method,
                         JsonArray params) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket.data(), socket.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    ::close(fd);
    return std::nullopt;
  }
  const std::string body =
      to_string(Json(JsonObject{{"method", method}, {"params", std::move(params)}, {"id", 1}}));
  const std::string request =
      "POST " + path +
      " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: " + std::to_string(body.size()) +
      "\r\n\r\n" + body;
  if (::send(fd, request.data(), request.size(), MSG_NOSIGNAL) < 0) die("send");
  std::string answer;
  char buffer[65536];
  for (ssize_t got; (got = ::recv(fd, buffer, sizeof buffer, 0)) > 0;)
    answer.append(buffer, static_cast<std::size_t>(got));
  ::close(fd);
  const auto head = answer.find("\r\n\r\n");
  if (head == std::string::npos) die("no answer from " + socket);
  const auto json =
      wire::parse_json(std::string_view(answer).substr(head + 4), {.max_depth = 16, .max_bytes = 1u << 30});
  if (!json) die("no JSON from " + socket + ": " + json.error().message);
  if (const Json* error = json->find("error"); error != nullptr && !error->is_null())
    die(method + ": " + to_string(*error));
  const Json* result = json->find("result");
  return result != nullptr ? *result : Json();
}

double number(const Json* json) {
  if (json == nullptr) return 0;
  if (const auto* integer = json->integer()) return static_cast<double>(*integer);
  const auto* real = std::get_if<double>(&json->value);
  return real != nullptr ? *real : 0;
}

}  // namespace

Stack::Stack(std::string bin, std::string dir) : bin_(std::move(bin)), dir_(std::move(dir)) {
  // The database apart from the socket: the guard watches the directory of the socket.
  fs::create_directories(dir_ + "/db");
}

Stack::~Stack() {
  end(guard_, SIGKILL);
  end(sim_, SIGKILL);
  fs::remove_all(dir_);
}

void Stack::start_sim(const std::vector<std::string>& options) {
  std::vector<std::string> words{"--socket", dir_ + "/xapi", "--auto-provision", "--store",
                                 dir_ + "/db/xapi.json"};
  words.insert(words.end(), options.begin(), options.end());
  sim_ = start(bin_ + "/xapi-sim", words, dir_ + "/sim.log");
  for (int i = 0; i < 1000; ++i) {
    if (call(dir_ + "/xapi", "/jsonrpc", "sim.dump", brief_dump())) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  die("xapi-sim does not start");
}

void Stack::stop_sim() { end(sim_, SIGTERM); }

double Stack::start_guard(const std::vector<std::string>& options) {
  std::vector<std::string> words{"--upstream",    "unix:" + dir_ + "/xapi", "--state-dir",
                                 dir_ + "/state", "--runtime-dir",          dir_ + "/run",
                                 "--resume-file", dir_ + "/resume.json"};
  words.insert(words.end(), options.begin(), options.end());
  const double before = now_seconds();
  guard_ = start(bin_ + "/xapi-guard", words, dir_ + "/guard.log");
  for (int i = 0; i < 30'000; ++i) {
    if (call(dir_ + "/run/control.sock", "/", "status", {})) return now_seconds() - before;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  die("xapi-guard does not start");
}

void Stack::kill_guard() { end(guard_, SIGKILL); }

Json Stack::guard_call(const std::string& method, JsonArray params) {
  auto result = call(dir_ + "/run/control.sock", "/", method, std::move(params));
  if (!result) die("xapi-guard does not answer");
  return std::move(*result);
}

Json Stack::sim_call(const std::string& method, JsonArray params) {
  auto result = call(dir_ + "/xapi", "/jsonrpc", method, std::move(params));
  if (!result) die("xapi-sim does not answer");
  return std::move(*result);
}

std::vector<std::string> Stack::create_vms(unsigned count, unsigned first) {
  std::vector<std::string> sockets;
  for (unsigned i = first; i < first + count; ++i) {
    sockets.push_back(dir_ + "/" + std::to_string(i));
    guard_call("vtpm_create", {JsonObject{{"dbg", "bench"},
                                          {"vm_uuid", vm_uuid(i)},
                                          {"gid", std::int64_t{::getegid()}},
                                          {"path", sockets.back()}}});
  }
  return sockets;
}

void Stack::destroy_vms(const std::vector<std::string>& sockets) {
  for (const std::string& path : sockets) {
    guard_call("vtpm_destroy",
               {JsonObject{{"dbg", "bench"}, {"gid", std::int64_t{::getegid()}}, {"path", path}}});
  }
}

double Stack::counter(const std::string& name) {
  const Json status = guard_call("status", {});
  const Json* found = status.find("counters")->find(name);
  return number(found != nullptr ? found : status.find("journal")->find(name));
}

double Stack::pending_entries() { return number(guard_call("status", {}).find("pending")->find("entries")); }

double Stack::drain() {
  const double before = now_seconds();
  guard_call("drain", {JsonObject{{"timeout_ms", 60'000}}});
  return now_seconds() - before;
}

double Stack::guard_cpu_seconds() const {
  std::ifstream file("/proc/" + std::to_string(guard_) + "/stat");
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::string word;
  double ticks = 0;
  for (int i = 3; i <= 15 && fields >> word; ++i) {
    if (i == 14 || i == 15) ticks += std::stod(word);
  }
  return ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

ProcessFigures Stack::guard_figures() const {
  ProcessFigures figures;
  const std::string root = "/proc/" + std::to_string(guard_);
  const auto field = [](const std::string& path, const std::string& name) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
      if (line.rfind(name + ":", 0) == 0) return std::strtoul(line.c_str() + name.size() + 1, nullptr, 10);
    }
    return 0ul;
  };
  figures.resident_mb = static_cast<double>(field(root + "/status", "VmRSS")) / 1024;
  figures.threads = static_cast<unsigned>(field(root + "/status", "Threads"));
  for (const auto& task : fs::directory_iterator(root + "/task")) {
    figures.switches += field(task.path().string() + "/status", "voluntary_ctxt_switches");
  }
  figures.descriptors = static_cast<unsigned>(std::distance(fs::directory_iterator(root + "/fd"), {}));
  return figures;
}

double Stack::sim_calls() {
  const Json dump = sim_call("sim.dump", brief_dump());
  double total = 0;
  if (const Json* calls = dump.find("calls"); calls != nullptr && calls->object() != nullptr) {
    for (const auto& [name, count] : *calls->object()) {
      if (name.rfind("sim.", 0) != 0) total += number(&count);
    }
  }
  return total;
}

void Stack::hang_vm(unsigned vm) {
  sim_call("sim.set_fault", {JsonObject{{"method", "*"}, {"vm", vm_uuid(vm)}, {"kind", "hang"}}});
}

void Stack::release_hangs() {
  sim_call("sim.clear_faults", {});
  sim_call("sim.release", {JsonObject{{"action", "apply"}}});
}

}  // namespace guard::bench
