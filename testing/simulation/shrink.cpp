#include "testing/simulation/shrink.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "testing/simulation/world.h"

namespace guard::simulation {

std::string failure_of(const Plan& plan) {
  try {
    return World(plan).play();
  } catch (const std::exception& error) {
    return std::string("exception: ") + error.what();
  }
}

namespace {

std::string promise_of(const std::string& failure) { return failure.substr(0, failure.find(':')); }

class Shrinker {
 public:
  Shrinker(Plan plan, unsigned most)
      : best_(std::move(plan)), left_(most), promise_(promise_of(failure_of(best_))) {}

  Plan run() {
    for (std::size_t kind = 0; kind < trouble_count; ++kind) leave_out(static_cast<Trouble>(kind));
    for (std::size_t piece = best_.steps.size() / 2; piece > 0; piece /= 2) {
      for (std::size_t from = 0; from < best_.steps.size() && left_ > 0;) {
        if (!without_steps(from, piece)) from += piece;
      }
    }
    // Once more, one by one: later steps may have needed earlier ones.
    for (std::size_t from = 0; from < best_.steps.size() && left_ > 0;) {
      if (!without_steps(from, 1)) ++from;
    }
    return best_;
  }

 private:
  bool fails(const Plan& plan) {
    if (left_ == 0) return false;
    --left_;
    return promise_of(failure_of(plan)) == promise_;
  }

  void leave_out(Trouble kind) {
    if ((best_.mask & bit(kind)) == 0) return;
    Plan plan = best_;
    plan.mask &= ~bit(kind);
    std::erase_if(plan.steps, [kind](const Step& step) { return step.why == kind; });
    if (fails(plan)) best_ = std::move(plan);
  }

  /// Time passes as before.
  bool without_steps(std::size_t from, std::size_t count) {
    Plan plan = best_;
    const std::size_t to = std::min(from + count, plan.steps.size());
    Time gap{};
    for (std::size_t i = from; i < to; ++i) gap += plan.steps[i].gap;
    plan.steps.erase(plan.steps.begin() + static_cast<std::ptrdiff_t>(from),
                     plan.steps.begin() + static_cast<std::ptrdiff_t>(to));
    if (fails(plan)) {
      best_ = std::move(plan);
      return true;
    }
    if (from < plan.steps.size()) {
      plan.steps[from].gap += gap;
      if (fails(plan)) {
        best_ = std::move(plan);
        return true;
      }
    }
    return false;
  }

  Plan best_;
  unsigned left_;
  std::string promise_;
};

}  // namespace

Plan shrink(const Plan& plan, unsigned most) { return Shrinker(plan, most).run(); }

}  // namespace guard::simulation
