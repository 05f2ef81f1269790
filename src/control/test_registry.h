// For the tests of the registry: a registry on real sockets and files whose worker works only when told to.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "control/registry.h"
#include "control/socket_birth.h"
#include "control/test_daemon.h"
#include "control/test_dir.h"

namespace guard::control {

inline const Uuid vm_a = *Uuid::parse("3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10");
inline const Uuid vm_b = *Uuid::parse("321e3a5e-b32b-4b26-be1c-c20c902c3cff");
inline const std::uint32_t gid = test_gid();

inline std::string contents_of(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

/// A registry with a worker that works when told to, so that a test decides what is under way.
class Daemon {
 public:
  explicit Daemon(const TestDir& dir, std::vector<Device> devices = {Device::vtpm},
                  DescriptorStore* store = nullptr, std::vector<InheritedFd> inherited = {})
      : registry({.resume_file = dir / "resume.json",
                  .devices = std::move(devices),
                  .open = [this](const SocketEntry& entry, int fd) { return open(entry, fd); },
                  .run_blocking = [this](auto work,
                                         auto then) { works.emplace_back(std::move(work), std::move(then)); },
                  .store = store,
                  .inherited = std::move(inherited)},
                 log) {}

  /// Does the oldest work (or the one at `index`), then what follows it.
  void work(std::size_t index = 0) {
    ASSERT_LT(index, works.size());
    auto [work, then] = std::move(works[index]);
    works.erase(works.begin() + static_cast<std::ptrdiff_t>(index));
    work();
    then();
  }
  void work_all() {
    while (!works.empty()) work();
  }

  /// Notes the result of an operation under a name, "ok" or the error's message.
  Registry::Done note(const std::string& name) {
    return [this, name](Result<> result) {
      done.push_back(name + ": " + (result ? "ok" : result.error().message));
    };
  }
  std::string create(SocketEntry entry) {
    done.clear();
    registry.create(std::move(entry), note("create"));
    work_all();
    return done.size() == 1 ? done[0] : "not answered once";
  }
  std::string destroy(std::string path, std::uint32_t of_gid = gid, Device device = Device::vtpm) {
    done.clear();
    registry.destroy(device, std::move(path), of_gid, note("destroy"));
    work_all();
    return done.size() == 1 ? done[0] : "not answered once";
  }

  LogLines log;
  std::deque<std::pair<std::function<void()>, std::function<void()>>> works;
  std::vector<std::string> done;
  std::string cannot_open;          ///< the path whose opening throws
  std::vector<std::string> events;  ///< "open <path>", "close <path>"
  Registry registry;

 private:
  struct Handle final : SocketHandle {
    Handle(Daemon& d, SocketEntry e, int fd) : daemon(d), entry(std::move(e)), listener(fd) {}
    ~Handle() override { daemon.events.push_back("close " + entry.path); }
    void retire() override { ::shutdown(listener.get(), SHUT_RDWR); }
    Daemon& daemon;
    SocketEntry entry;
    OwnedFd listener;
  };
  std::unique_ptr<SocketHandle> open(const SocketEntry& entry, int fd) {
    if (entry.path == cannot_open) {
      ::close(fd);
      throw std::system_error(ENOSPC, std::generic_category(), "epoll_ctl");
    }
    events.push_back("open " + entry.path);
    return std::make_unique<Handle>(*this, entry, fd);
  }
};

inline SocketEntry entry_of(std::string path, Uuid vm = vm_a) {
  return {Device::vtpm, gid, std::move(path), vm};
}

class RegistryTest : public ::testing::Test {
 protected:
  RegistryTest() {
    for (const char* name : {"a", "b", "c"}) std::filesystem::create_directory(dir / name);
  }
  std::string resume_file() const { return contents_of(dir / "resume.json"); }
  static std::string object(const std::string& path, const char* typ = "Swtpm", Uuid vm = vm_a) {
    return R"({"typ":")" + std::string(typ) + R"(","gid":)" + std::to_string(gid) + R"(,"path":")" + path +
           R"(","vm_uuid":")" + vm.str() + R"("})";
  }
  TestDir dir{memory};
};

}  // namespace guard::control
