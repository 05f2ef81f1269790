// The upstream's health, shared by all lanes: one probe at a time, two reports per outage.
//
//   state    event                         next     actions
//   unknown  probe answers                 up       -
//   any      suspect (connect, login or    down     report down (once); probe after back-off
//            a small call failed)
//   up       doubtful (a call is late)     up       probe now
//   any      probe fails                   down     report down (once); probe after back-off 100 ms .. 5 s
//   down     probe answers                 up       report up
//   any      sign of life                  same     probe now, back-off forgotten
#pragma once

#include <optional>
#include <string>

#include "core/backoff.h"
#include "core/events.h"

namespace guard::core {

class Health {
 public:
  enum class State { unknown, up, down };

  State state() const { return state_; }
  /// Whether it makes sense to try: true until the upstream is known to be down.
  bool worth_trying() const { return state_ != State::down; }
  Time since() const { return since_; }
  const std::string& last_error() const { return last_error_; }
  /// When the next probe is due, if one is planned.
  std::optional<Time> next_probe() const { return next_probe_; }

  void suspect(const std::string& reason, Time now, Random& random, Actions& out);
  /// Some call is late: ask for a sign of life without declaring anything.
  void doubtful(Actions& out);
  void sign_of_life(Actions& out);
  /// Returns true when the upstream has just come up.
  bool probed(const ProbeDone& event, Time now, Random& random, Actions& out);
  /// Sends the planned probe when it is due.
  void tick(Time now, Actions& out);

 private:
  void probe(Actions& out);
  void go_down(const std::string& reason, Time now, Actions& out);

  State state_ = State::unknown;
  Time since_{};
  std::string last_error_;
  bool probing_ = false;
  std::optional<Time> next_probe_;
  Backoff backoff_;
};

constexpr const char* name_of(Health::State state) {
  switch (state) {
    case Health::State::unknown:
      return "unknown";
    case Health::State::up:
      return "up";
    case Health::State::down:
      return "down";
  }
  return "unknown";
}

}  // namespace guard::core
