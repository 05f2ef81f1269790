#include "upstream/health_check.h"

#include <utility>

namespace guard::upstream {

HealthCheck::HealthCheck(net::Loop& loop, XapiSession& session, std::chrono::milliseconds limit)
    : loop_(loop), session_(session), limit_(limit) {}

void HealthCheck::check(Time deadline, std::function<void(std::optional<Failure>)> done) {
  session_.look_up(Method::vm_get_by_uuid, Uuid().str(), deadline,
                   [done = std::move(done)](XapiSession::FoundResult found) {
                     const bool healthy = found || found.error().kind == Failure::Kind::vm;
                     done(healthy ? std::nullopt : std::optional(std::move(found.error())));
                   });
}

void HealthCheck::judge(Failure failure, std::function<void(Failure)> done) {
  if (failure.kind != Failure::Kind::transient || failure.host_wide) {
    done(std::move(failure));
    return;
  }
  cases_.push_back({std::move(failure), std::move(done)});
  if (cases_.size() > 1) return;
  check(loop_.now() + limit_, [this](std::optional<Failure> trouble) { decided(trouble.has_value()); });
}

void HealthCheck::decided(bool host_wide) {
  for (Case& one : std::exchange(cases_, {})) {
    one.failure.host_wide = host_wide;
    one.done(std::move(one.failure));
  }
}

}  // namespace guard::upstream
