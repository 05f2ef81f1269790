// For the tests of this folder: a registry and commands with real sockets and files in a test directory,
// whose worker works at once, or when told to.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "control/commands.h"
#include "control/registry.h"
#include "control/socket_birth.h"
#include "control/test_dir.h"

namespace guard::control {

/// A group the tests may give a socket.
inline std::uint32_t test_gid() { return ::geteuid() == 0 ? 131076 : ::getegid(); }

/// Collects the lines of the log.
class LogLines final : public Logger {
 public:
  void log(LogLevel, std::string_view event, std::initializer_list<Field> fields) override {
    std::string line(event);
    for (const Field& field : fields) line += " " + std::string(field.key) + "=" + field.text;
    lines.push_back(std::move(line));
  }
  bool enabled(LogLevel) const override { return true; }
  std::size_t count(std::string_view start) const {
    return static_cast<std::size_t>(
        std::ranges::count_if(lines, [&](const auto& line) { return line.starts_with(start); }));
  }
  std::vector<std::string> lines;
};

/// The rest of the daemon as the control plane sees it: answers what the test says and notes what was asked.
class TestOperations final : public Operations {
 public:
  void status(Done done) override { give("status", done); }
  void pending(Done done) override { give("pending", done); }
  void discard(Uuid vm, std::optional<Slot> slot, Done done) override {
    give("discard " + vm.str() + (slot ? " " + std::string(name_of(*slot)) : ""), done);
  }
  void deliver_by_force(Uuid vm, std::optional<Slot> slot, Done done) override {
    give("deliver_force " + vm.str() + (slot ? " " + std::string(name_of(*slot)) : ""), done);
  }
  void drain(std::chrono::milliseconds timeout, Done done) override {
    give("drain " + std::to_string(timeout.count()), done);
  }
  void get_contents(Uuid vtpm, Done done) override { give("get_contents " + vtpm.str(), done); }
  void set_contents(Uuid vtpm, Value contents, Done done) override {
    give("set_contents " + vtpm.str() + " " + std::string(contents.view()), done);
  }
  void quarantine_list(Done done) override { give("quarantine_list", done); }
  void quarantine_purge(Done done) override { give("quarantine_purge", done); }
  void set_journal_aside(const std::string& directory, Done done) override {
    give("set_journal_aside " + directory, done);
  }
  Result<wire::Json> answer;
  std::vector<std::string> asked;
  bool silent = false;  ///< keep the answers back in `kept`
  std::vector<Done> kept;

 private:
  void give(std::string what, const Done& done) {
    asked.push_back(std::move(what));
    if (silent) {
      kept.push_back(done);
    } else {
      done(answer);
    }
  }
};

class TestDaemon {
 public:
  explicit TestDaemon(const TestDir& dir)
      : registry({.resume_file = dir / "resume.json",
                  .devices = {Device::vtpm, Device::uefi},
                  .open =
                      [](const SocketEntry&, int fd) {
                        auto handle = std::make_unique<Handle>();
                        handle->listener = OwnedFd(fd);
                        return handle;
                      },
                  .run_blocking =
                      [this](auto work, auto then) {
                        works.emplace_back(std::move(work), std::move(then));
                        if (!hold) work_oldest_first();
                      }},
                 log) {
    registry.serve();
  }

  void work_oldest_first() {
    while (!works.empty()) {
      auto [work, then] = std::move(works.front());
      works.pop_front();
      work();
      then();
    }
  }
  void work_newest_first() {
    while (!works.empty()) {
      auto [work, then] = std::move(works.back());
      works.pop_back();
      work();
      then();
    }
  }

  LogLines log;
  bool hold = false;  ///< leave works in `works`
  std::deque<std::pair<std::function<void()>, std::function<void()>>> works;
  TestOperations operations;
  Registry registry;
  Commands commands{registry, operations, log};

 private:
  struct Handle final : SocketHandle {
    void retire() override { ::shutdown(listener.get(), SHUT_RDWR); }
    OwnedFd listener;
  };
};

}  // namespace guard::control
