// For tests: a control socket with its loop on a thread of its own.
#pragma once

#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "control/control_socket.h"
#include "control/test_daemon.h"
#include "control/test_dir.h"
#include "net/loop.h"

namespace guard::control {

/// What it holds may be touched only through on_loop() while it runs.
class Served {
 public:
  explicit Served(const TestDir& dir) : path(dir / "control.sock"), daemon(dir) {
    auto opened =
        ControlSocket::open(loop, {path, [] { return "guard_up 1\n"; }}, daemon.commands, daemon.log);
    if (!opened) {
      error = opened.error();
      return;
    }
    socket = std::move(*opened);
    thread = std::thread([this] { loop.run(); });
  }
  ~Served() {
    if (!thread.joinable()) return;
    on_loop([this] { socket.reset(); });
    loop.stop();
    thread.join();
  }
  void on_loop(std::function<void()> work) {
    std::promise<void> done;
    loop.post([&] {
      work();
      done.set_value();
    });
    done.get_future().wait();
  }

  const std::string path;
  TestDaemon daemon;
  Error error;
  net::Loop loop;
  std::unique_ptr<ControlSocket> socket;
  std::thread thread;
};

}  // namespace guard::control
