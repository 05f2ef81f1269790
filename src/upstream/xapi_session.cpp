#include "upstream/xapi_session.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace guard::upstream {

struct XapiSession::LookUp {
  Method method;
  std::string param;
  Time deadline{};
  std::function<void(FoundResult)> done;
  unsigned renewals = 0;
  unsigned repeats = 0;
};

XapiSession::XapiSession(net::Loop& loop, XapiCalls& calls, SessionOptions options, Logger& log)
    : loop_(loop), calls_(calls), options_(std::move(options)), log_(log), waiter_timer_(loop) {}

void XapiSession::acquire(Time deadline, std::function<void(std::optional<Failure>)> ready) {
  if (current_) {
    ready(std::nullopt);
    return;
  }
  const bool earlier = waiters_.empty() || deadline < waiter_wake_;
  waiters_.push_back({deadline, std::move(ready)});
  if (earlier) set_waiter_timer();
  if (!logging_in_) log_in();
}

void XapiSession::log_in() {
  logging_in_ = true;
  const Time limit = loop_.now() + options_.login_timeout;
  // On xapi's own socket root needs no password: whoever can open that socket is root.
  calls_.call(Method::login, {"root", "", options_.client_version, "xapi-guard"}, {limit, limit, true},
              [this](CallResult result) { logged_in(std::move(result)); });
}

void XapiSession::logged_in(CallResult result) {
  logging_in_ = false;
  const std::string* reference = result ? result->string() : nullptr;
  if (reference && !reference->empty()) {
    current_ = Current{*reference, ++last_epoch_};
    ++calls_.counters().logins;
    log_.log(LogLevel::debug, "xapi_session_begins", {{"epoch", last_epoch_}});
    tell_waiters(std::nullopt);
    return;
  }
  ++calls_.counters().login_failures;
  // Whatever the reason, without a session nothing can be done with any VM, and nothing is wrong with any.
  Failure failure{Failure::Kind::transient, "session.login_with_password: the result is no session"};
  if (!result) failure.reason = result.error().reason;
  failure.host_wide = true;
  tell_waiters(failure);
}

void XapiSession::tell_waiters(const std::optional<Failure>& failure) {
  waiter_timer_.cancel();
  // A waiter may ask for a session again while it is told.
  for (Waiter& waiter : std::exchange(waiters_, {})) waiter.ready(failure);
}

void XapiSession::set_waiter_timer() {
  const auto first = std::min_element(waiters_.begin(), waiters_.end(), [](const Waiter& a, const Waiter& b) {
    return a.deadline < b.deadline;
  });
  if (first == waiters_.end()) return;
  waiter_wake_ = first->deadline;
  waiter_timer_.set(waiter_wake_, [this] { expire_waiters(); });
}

void XapiSession::expire_waiters() {
  const Time now = loop_.now();
  std::vector<Waiter> given_up, others;
  for (Waiter& waiter : waiters_) {
    (waiter.deadline <= now ? given_up : others).push_back(std::move(waiter));
  }
  waiters_ = std::move(others);
  set_waiter_timer();
  const Failure failure{Failure::Kind::transient, "session.login_with_password: no answer in time", true};
  for (Waiter& waiter : given_up) waiter.ready(failure);
}

void XapiSession::refused(Epoch epoch) {
  if (!current_ || current_->epoch != epoch) return;
  current_.reset();
  ++calls_.counters().sessions_ended;
  log_.log(LogLevel::debug, "xapi_session_ended", {{"epoch", epoch}});
  if (ended_) ended_(epoch);
}

void XapiSession::look_up(Method method, std::string param, Time deadline,
                          std::function<void(FoundResult)> done) {
  step(std::make_shared<LookUp>(LookUp{method, std::move(param), deadline, std::move(done)}));
}

void XapiSession::step(std::shared_ptr<LookUp> look_up) {
  acquire(look_up->deadline, [this, look_up](std::optional<Failure> failure) {
    if (failure) {
      look_up->done(std::unexpected(std::move(*failure)));
    } else {
      send(look_up);
    }
  });
}

void XapiSession::send(std::shared_ptr<LookUp> look_up) {
  calls_.call(look_up->method, {current_->reference, look_up->param}, {look_up->deadline, look_up->deadline},
              [this, look_up, epoch = current_->epoch](CallResult result) {
                answered(look_up, epoch, std::move(result));
              });
}

void XapiSession::answered(std::shared_ptr<LookUp> look_up, Epoch epoch, CallResult result) {
  if (result) {
    look_up->done(Found{std::move(*result), epoch});
    return;
  }
  Failure& failure = result.error();
  if (failure.kind == Failure::Kind::session) {
    refused(epoch);
    if (look_up->renewals++ < limits::session_renewals) {
      step(std::move(look_up));
      return;
    }
    failure.kind = Failure::Kind::transient;
    failure.host_wide = true;
  } else if (failure.kind == Failure::Kind::race) {
    if (look_up->repeats++ < limits::race_repeats) {
      step(std::move(look_up));
      return;
    }
    failure.kind = Failure::Kind::transient;
  } else if (failure.kind == Failure::Kind::payload) {
    failure.kind = Failure::Kind::transient;
  }
  look_up->done(std::unexpected(std::move(failure)));
}

void XapiSession::logout(std::function<void()> done) {
  if (!current_) {
    done();
    return;
  }
  const std::string reference = std::exchange(current_, std::nullopt)->reference;
  const Time limit = loop_.now() + options_.logout_timeout;
  calls_.call(Method::logout, {reference}, {limit, limit, true},
              [done = std::move(done)](CallResult) { done(); });
}

Failure malformed(Method method, std::string_view what) {
  return {Failure::Kind::transient, std::string(name_of(method)) + ": " + std::string(what)};
}

std::expected<std::string, Failure> text_of(Method method, XapiSession::FoundResult found) {
  if (!found) return std::unexpected(std::move(found.error()));
  if (const std::string* text = found->result.string()) return *text;
  return std::unexpected(malformed(method, "no string"));
}

}  // namespace guard::upstream
