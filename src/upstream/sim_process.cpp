#include "upstream/sim_process.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <utility>

namespace guard::upstream::testing {

namespace {

using wire::Json;
using wire::JsonArray;
using wire::JsonObject;

int connect_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), std::min(path.size(), sizeof(address.sun_path) - 1));
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return fd;
  ::close(fd);
  return -1;
}

}  // namespace

SimProcess::SimProcess(std::string program, std::string socket, std::string store,
                       std::vector<std::string> arguments)
    : program_(std::move(program)), socket_(std::move(socket)), arguments_([&] {
        std::vector<std::string> all{program_, "--socket", socket_,         "--log-level",
                                     "error",  "--store",  std::move(store)};
        all.insert(all.end(), arguments.begin(), arguments.end());
        return all;
      }()) {}

SimProcess::~SimProcess() {
  if (pid_ > 0) kill();
}

void SimProcess::start() {
  pid_ = ::fork();
  if (pid_ == 0) {
    std::vector<char*> argv;
    for (const std::string& argument : arguments_) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    ::execv(program_.c_str(), argv.data());
    ::_exit(127);
  }
  for (int i = 0; i < 2000; ++i) {
    const int fd = connect_to(socket_);
    if (fd >= 0) {
      ::close(fd);
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  throw std::runtime_error(program_ + " does not listen");
}

void SimProcess::kill() {
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void SimProcess::freeze() { ::kill(pid_, SIGSTOP); }
void SimProcess::thaw() { ::kill(pid_, SIGCONT); }

Json SimProcess::control(std::string_view method, JsonObject argument) {
  const std::string body = wire::to_string(
      JsonObject{{"method", method}, {"params", JsonArray{Json(std::move(argument))}}, {"id", 1}});
  const std::string request =
      "POST /jsonrpc HTTP/1.1\r\nconnection: close\r\ncontent-length: " + std::to_string(body.size()) +
      "\r\n\r\n" + body;
  const int fd = connect_to(socket_);
  if (fd < 0) throw std::runtime_error("xapi-sim is not there");
  std::string answer;
  if (::send(fd, request.data(), request.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(request.size())) {
    std::array<char, 65536> buffer{};
    for (ssize_t n = 0; (n = ::recv(fd, buffer.data(), buffer.size(), 0)) > 0;) {
      answer.append(buffer.data(), static_cast<std::size_t>(n));
    }
  }
  ::close(fd);
  const std::size_t blank = answer.find("\r\n\r\n");
  const auto json = wire::parse_json(
      blank == std::string::npos ? std::string_view() : std::string_view(answer).substr(blank + 4),
      {.max_bytes = 1 << 26});
  if (!json || !json->find("result") || !json->find("error")->is_null()) {
    throw std::runtime_error(std::string(method) + " failed: " + answer);
  }
  return *json->find("result");
}

void SimProcess::fault(std::string_view method, std::string_view kind, JsonObject more, int count) {
  more.emplace_back("method", method);
  more.emplace_back("kind", kind);
  more.emplace_back("count", count);
  control("sim.set_fault", std::move(more));
}

std::string SimProcess::contents(const Uuid& vm) {
  const Json dump = control("sim.dump", {{"vm", vm.str()}, {"history", false}});
  const JsonArray& vms = *dump.find("vms")->array();
  if (vms.empty() || vms[0].find("vtpms")->array()->empty()) return "(none)";
  return *vms[0].find("vtpms")->array()->front().find("contents")->string();
}

void SimProcess::set_contents(const Uuid& vm, std::string contents) {
  control("sim.edit", {{"action", "set_contents"}, {"vm", vm.str()}, {"contents", std::move(contents)}});
}

std::int64_t SimProcess::calls(std::string_view method) {
  const Json dump = control("sim.dump", {{"contents", false}, {"history", false}});
  const Json* count = dump.find("calls")->find(method);
  return count ? *count->integer() : 0;
}

}  // namespace guard::upstream::testing
