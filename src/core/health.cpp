#include "core/health.h"

#include "base/limits.h"

namespace guard::core {

void Health::suspect(const std::string& reason, Time now, Random& random, Actions& out) {
  last_error_ = reason;
  if (state_ == State::down) return;
  go_down(reason, now, out);
  if (!probing_ && !next_probe_) {
    next_probe_ = now + backoff_.next(limits::probe_backoff_min, limits::probe_backoff_max, random);
  }
}

void Health::doubtful(Actions& out) {
  if (state_ != State::down) probe(out);
}

void Health::sign_of_life(Actions& out) {
  // Also when it is up: a socket file that appears anew means a restart, and what was accepted may be lost.
  backoff_.reset();
  probe(out);
}

bool Health::probed(const ProbeDone& event, Time now, Random& random, Actions& out) {
  probing_ = false;
  if (!event.answers) {
    last_error_ = event.reason;
    if (state_ != State::down) go_down(event.reason, now, out);
    next_probe_ = now + backoff_.next(limits::probe_backoff_min, limits::probe_backoff_max, random);
    return false;
  }
  backoff_.reset();
  next_probe_.reset();
  const bool was_up = state_ == State::up;
  if (state_ == State::down) {
    const auto outage = std::chrono::duration_cast<std::chrono::milliseconds>(now - since_).count();
    out.push_back(Report{Report::What::upstream_up, std::nullopt, {}, static_cast<std::uint64_t>(outage)});
  }
  if (!was_up) since_ = now;
  state_ = State::up;
  return !was_up;
}

void Health::tick(Time now, Actions& out) {
  if (next_probe_ && *next_probe_ <= now) probe(out);
}

void Health::probe(Actions& out) {
  if (probing_) return;
  probing_ = true;
  next_probe_.reset();
  out.push_back(Probe{});
}

void Health::go_down(const std::string& reason, Time now, Actions& out) {
  state_ = State::down;
  since_ = now;
  out.push_back(Report{Report::What::upstream_down, std::nullopt, reason, 0});
}

}  // namespace guard::core
