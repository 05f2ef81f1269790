#include "sim/service.h"

#include <utility>

namespace guard::sim {

using wire::Json;
using Kind = FaultPlan::Kind;

namespace {

/// Methods that xapi's HTTP server knows; others are 501 there.
bool known_method(std::string_view method) {
  return method == "GET" || method == "POST" || method == "PUT" || method == "CONNECT" || method == "OPTIONS";
}

/// Method names come from the other side; only so many are counted one by one.
constexpr std::size_t counted_methods = 100;

}  // namespace

Service::Service(net::Loop& loop, World& world, ServiceOptions options, Flush flush,
                 std::function<unsigned()> connections, Logger& log)
    : loop_(loop),
      world_(world),
      options_(options),
      flush_(std::move(flush)),
      connections_(std::move(connections)),
      log_(log),
      flushed_revision_(world.revision()) {}

void Service::handle(net::Request request, net::Responder responder) {
  if (!known_method(request.method)) return responder(http_failure(501, ""));
  if (request.method != "POST" || request.path != "/jsonrpc") return responder(http_failure(403, ""));
  if (!request.has_length) return responder(http_failure(500, "no content-length"));
  auto rpc = read_rpc(request.body);
  if (!rpc) return responder(http_failure(500, "not a JSON-RPC call"));
  if (rpc->method.starts_with("sim.")) return control(*rpc, std::move(responder));
  seen_connections_.insert(request.connection);
  start_call(std::move(*rpc), std::move(responder));
}

void Service::start_call(RpcRequest request, net::Responder responder) {
  InFlight call;
  call.number = next_number_++;
  if (faults_.need_vm()) call.vm = calls_.vm_of(request.method, request.params);
  if (const auto plan = faults_.match(request.method, call.vm)) {
    call.plan = *plan;
    call.faulty = true;
    if (!call.vm) call.vm = calls_.vm_of(request.method, request.params);
  }
  if (call_counts_.size() < counted_methods || call_counts_.contains(request.method))
    ++call_counts_[request.method];
  call.begun = calls_.begin(request.method, std::move(request.params), request.utf8);
  call.method = std::move(request.method);
  call.id = std::move(request.id);
  call.version2 = request.version2;
  call.responder = std::make_unique<net::Responder>(std::move(responder));
  if (call.plan.kind == Kind::hang && call.faulty) {
    log_.log(LogLevel::info, "call_hangs", {{"method", call.method}, {"number", call.number}});
    hung_.push_back(std::move(call));
    return;
  }
  const auto wait = options_.latency + call.plan.delay;
  if (wait.count() == 0) return complete(call);
  auto later = std::make_shared<InFlight>(std::move(call));
  loop_.at(loop_.now() + wait, [this, later] { complete(*later); });
}

void Service::complete(InFlight& call) {
  if (!call.faulty) return answer(call, calls_.finish(call.begun));
  log_.log(LogLevel::info, "fault", {{"method", call.method}, {"number", call.number}});
  std::optional<Answer> result;
  if (call.plan.effect) {
    result = calls_.finish(call.begun);
    flush_soon();
  } else {
    calls_.abandon(call.begun);
  }
  net::Responder& respond = *call.responder;
  switch (call.plan.kind) {
    case Kind::delay:
      return answer(call, *result);
    case Kind::hang:
    case Kind::drop_reply:
    case Kind::drop_request:
      call.responder.reset();
      return;
    case Kind::http_status:
      return respond(http_failure(call.plan.status, "planted"));
    case Kind::error:
      return respond(rpc_failure(call.id, call.version2, call.plan.error));
    case Kind::error_v2:
      return respond(rpc_emergency(call.plan.error));
    case Kind::garbage:
      return respond(rpc_garbage());
  }
}

void Service::answer(InFlight& call, const Answer& result) {
  flush_soon();
  if (result) return (*call.responder)(rpc_success(call.id, call.version2, *result));
  log_.log(LogLevel::debug, "call_failed", {{"method", call.method}, {"error", result.error().front()}});
  (*call.responder)(rpc_failure(call.id, call.version2, result.error()));
}

void Service::flush_soon() {
  if (!flush_ || flush_scheduled_ || world_.revision() == flushed_revision_) return;
  if (options_.flush_after.count() == 0) return flush_now();
  flush_scheduled_ = true;
  loop_.at(loop_.now() + options_.flush_after, [this] {
    flush_scheduled_ = false;
    flush_changes(false);
  });
}

void Service::flush_changes(bool now) {
  if (!flush_ || (world_.revision() == flushed_revision_ && !now)) return;
  if (world_.revision() != flushed_revision_) ++flushes_;
  flushed_revision_ = world_.revision();
  flush_(world_.to_json(), now);
}

}  // namespace guard::sim
