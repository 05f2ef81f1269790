// The simulated xapi as a service: takes HTTP requests, plants faults into them, keeps time, and flushes what
// was accepted to a file now and then, so that killing it loses what a real xapi would lose.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "base/log.h"
#include "net/http_server.h"
#include "net/loop.h"
#include "sim/faults.h"
#include "sim/rpc.h"
#include "sim/world.h"
#include "sim/xen_calls.h"

namespace guard::sim {

struct ServiceOptions {
  std::chrono::milliseconds latency{0};  ///< of every XenAPI call
  /// From a change until it is flushed; zero = before the call is answered, so that nothing is ever lost.
  std::chrono::milliseconds flush_after{5000};
};

/// Thread: the loop thread. Must outlive the timers it sets, so it lives until the loop has stopped.
class Service {
 public:
  /// `flush` writes the state (World::to_json) away: soon, or before it returns when `now` is set. It is
  /// called on the loop thread and may be empty. `connections` tells how many connections are open now.
  using Flush = std::function<void(wire::Json state, bool now)>;
  Service(net::Loop& loop, World& world, ServiceOptions options, Flush flush,
          std::function<unsigned()> connections, Logger& log);

  void handle(net::Request request, net::Responder responder);

  /// Has the present state written if it changed since the last time, before this returns.
  void flush_now() { flush_changes(true); }

 private:
  /// A XenAPI call that is not answered yet.
  struct InFlight {
    std::uint64_t number = 0;
    std::string method;
    std::optional<Uuid> vm;
    wire::Json id;
    bool version2 = false;
    Begun begun;
    FaultPlan plan;
    bool faulty = false;
    std::unique_ptr<net::Responder> responder;
  };

  void start_call(RpcRequest request, net::Responder responder);
  void complete(InFlight& call);
  void answer(InFlight& call, const Answer& result);
  void flush_soon();
  void flush_changes(bool now);

  // Methods for tests, in control_calls.cpp. Answers, or text about what is wrong with the call.
  using ControlAnswer = std::expected<wire::Json, std::string>;
  using ControlMethod = ControlAnswer (Service::*)(const wire::Json& argument);
  static ControlMethod control_method(std::string_view name);
  void control(const RpcRequest& request, net::Responder responder);
  ControlAnswer set_fault(const wire::Json& argument);
  ControlAnswer clear_faults(const wire::Json& argument);
  ControlAnswer release(const wire::Json& argument);
  ControlAnswer edit(const wire::Json& argument);
  ControlAnswer edit_vm(std::string_view action, Vm& vm, const wire::Json& argument);
  ControlAnswer dump(const wire::Json& argument);
  ControlAnswer digest(const wire::Json& argument);
  ControlAnswer flush(const wire::Json& argument);
  wire::Json dump_vm(const Vm& vm, bool contents, bool history);

  net::Loop& loop_;
  World& world_;
  ServiceOptions options_;
  Flush flush_;
  std::function<unsigned()> connections_;
  Logger& log_;
  XenCalls calls_{world_};
  Faults faults_;
  std::list<InFlight> hung_;
  std::uint64_t next_number_ = 1;
  std::uint64_t flushed_revision_ = 0;
  std::uint64_t flushes_ = 0;
  bool flush_scheduled_ = false;
  std::map<std::string, std::uint64_t, std::less<>> call_counts_;
  std::set<std::uint64_t> seen_connections_;  ///< that brought XenAPI calls
};

}  // namespace guard::sim
