// The simulated upstream behind the interface of a real one. Whoever drives it lends it a clock and an alarm;
// with those of a loop it runs in real time.
#pragma once

#include <functional>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "testing/sim_upstream.h"

namespace guard::testing {

/// Thread: the one that calls it. Callbacks come from pump(), never from within a call of the interface.
class SimUpstreamAdapter final : public Upstream {
 public:
  /// `at(when, work)` runs the work at or after a moment of `now`.
  SimUpstreamAdapter(SimUpstream& sim, UpstreamLimits limits, std::function<Time()> now,
                     std::function<void(Time, std::function<void()>)> at)
      : sim_(sim),
        limits_(limits),
        now_(std::move(now)),
        at_(std::move(at)),
        self_(std::make_shared<SimUpstreamAdapter*>(this)) {}
  ~SimUpstreamAdapter() override { *self_ = nullptr; }
  SimUpstreamAdapter(const SimUpstreamAdapter&) = delete;

  UpstreamLimits limits() const override { return limits_; }
  void set_events(UpstreamEvents* events) override { events_ = events; }
  void deliver(Delivery delivery, std::function<void(Outcome)> done) override {
    outcomes_.emplace(++last_, std::move(done));
    sim_.submit(last_, std::move(delivery), now_());
    arm();
  }
  void fetch(Owner owner, std::function<void(Fetched)> done) override {
    fetches_.emplace(++last_, std::move(done));
    sim_.submit_fetch(last_, owner, now_());
    arm();
  }
  void probe(std::function<void(Outcome)> done) override {
    outcomes_.emplace(++last_, std::move(done));
    sim_.submit_probe(last_, now_());
    arm();
  }

  /// Call it after the world was changed from outside: lets everything happen that is due.
  void pump() {
    std::vector<SimUpstream::Output> outputs;
    sim_.step(now_(), outputs);
    const auto self = self_;
    for (auto& output : outputs) {
      std::visit([this](auto& done) { hand_out(done); }, output);
      if (*self == nullptr) return;
    }
    arm();
  }

 private:
  template <class Map, class Result>
  static void call_back(Map& map, SimUpstream::CallId id, Result result) {
    const auto found = map.find(id);
    if (found == map.end()) return;
    auto done = std::move(found->second);
    map.erase(found);
    done(std::move(result));
  }
  void hand_out(SimUpstream::DeliverDone& done) { call_back(outcomes_, done.call, std::move(done.outcome)); }
  void hand_out(SimUpstream::ProbeDone& done) { call_back(outcomes_, done.call, std::move(done.outcome)); }
  void hand_out(SimUpstream::FetchDone& done) { call_back(fetches_, done.call, std::move(done.fetched)); }
  void hand_out(SimUpstream::SessionEnded& ended) {
    if (events_) events_->session_ended(ended.epoch);
  }
  void hand_out(SimUpstream::SignOfLife&) {
    if (events_) events_->sign_of_life();
  }

  void arm() {
    const auto next = sim_.next_time();
    if (!next) return;
    at_(*next, [self = self_] {
      if (*self != nullptr) (*self)->pump();
    });
  }

  SimUpstream& sim_;
  const UpstreamLimits limits_;
  const std::function<Time()> now_;
  const std::function<void(Time, std::function<void()>)> at_;
  std::shared_ptr<SimUpstreamAdapter*> self_;
  UpstreamEvents* events_ = nullptr;
  SimUpstream::CallId last_ = 0;
  std::unordered_map<SimUpstream::CallId, std::function<void(Outcome)>> outcomes_;
  std::unordered_map<SimUpstream::CallId, std::function<void(Fetched)>> fetches_;
};

}  // namespace guard::testing
