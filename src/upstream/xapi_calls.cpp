#include "upstream/xapi_calls.h"

#include <cerrno>

#include <utility>

#include "base/limits.h"

namespace guard::upstream {

namespace {

Failure transport_failure(Method method, const net::HttpResult& result) {
  Failure failure;
  failure.reason = bounded_reason(std::string(name_of(method)) + ": " + result.answer.error().message);
  if (is_update(method) && result.sent == net::Sent::everything) {
    failure.kind = Failure::Kind::unknown;
    return failure;
  }
  // Nobody accepts connections. Anything else may be the trouble of this one call.
  // Nor does a want of descriptors or memory on our side speak against xapi.
  const int error = result.answer.error().os_errno;
  const bool ours = error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS;
  failure.host_wide = !result.connected && !ours && result.answer.error().code == Errc::unavailable;
  return failure;
}

}  // namespace

XapiCalls::XapiCalls(net::Loop& loop, PoolOptions options, Logger& log)
    : log_(log), pool_(loop, std::move(options)) {}

void XapiCalls::call(Method method, std::initializer_list<Param> params, CallTimes times,
                     std::function<void(CallResult)> done) {
  const std::uint64_t id = ++last_id_;
  net::HttpCall call;
  call.body = encode_call(method, {params.begin(), params.size()}, id);
  if (call.body.size() > limits::xapi_request) {
    done(std::unexpected(Failure{Failure::Kind::payload, std::string(name_of(method)) + ": a request of " +
                                                             std::to_string(call.body.size()) +
                                                             " bytes is more than xapi takes"}));
    return;
  }
  call.send_by = times.send_by;
  call.answer_by = times.answer_by;
  call.repeatable = !is_update(method);
  pool_.submit(std::move(call), times.urgent,
               [this, method, id, done = std::move(done)](net::HttpResult result) {
                 done(read_result(method, id, result));
               });
}

CallResult XapiCalls::read_result(Method method, std::uint64_t id, net::HttpResult& result) {
  counters_.connects += result.connects;
  auto& calls = counters_.calls[static_cast<std::size_t>(method)];
  if (!result.answer) {
    ++calls.failed;
    return std::unexpected(transport_failure(method, result));
  }
  return read_answer(method, id, *result.answer);
}

CallResult XapiCalls::read_answer(Method method, std::uint64_t id, const net::HttpAnswer& answer) {
  auto& calls = counters_.calls[static_cast<std::size_t>(method)];
  const std::string where = std::string(name_of(method)) + ": ";
  if (answer.status != 200) {
    ++calls.failed;
    // The size was checked before sending, so even a 500 says nothing about the payload.
    return std::unexpected(
        Failure{Failure::Kind::transient, where + "HTTP status " + std::to_string(answer.status)});
  }
  auto parsed = parse_answer(answer.body, id);
  if (!parsed) {
    ++calls.failed;
    // Whoever answers so, it does not say that the update was *not* done.
    const auto kind = is_update(method) ? Failure::Kind::unknown : Failure::Kind::transient;
    return std::unexpected(Failure{kind, bounded_reason(where + parsed.error().message)});
  }
  if (auto* error = std::get_if<XapiError>(&*parsed)) {
    ++calls.refused;
    Failure failure = classify(method, *error);
    failure.reason = bounded_reason(where + failure.reason);
    if (failure.alarm) raise_alarm(method, failure);
    return std::unexpected(std::move(failure));
  }
  ++calls.succeeded;
  if (method == Method::login) last_alarm_.clear();
  return std::get<wire::Json>(std::move(*parsed));
}

void XapiCalls::raise_alarm(Method method, const Failure& failure) {
  if (last_alarm_ == failure.reason) return;
  last_alarm_ = failure.reason;
  log_.log(LogLevel::error, "xapi_refuses_the_guard",
           {{"call", name_of(method)}, {"reason", failure.reason}});
}

}  // namespace guard::upstream
