// The one session with xapi that all calls share, and look-ups that survive its end.
//
// Nothing is contacted before the first use. However many calls need a session at the same time, there is
// one login; however many calls are refused for one session, its end is reported once.
//
// Thread: the loop thread.
#pragma once

#include <chrono>
#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/limits.h"
#include "base/log.h"
#include "guard/upstream.h"
#include "net/loop.h"
#include "upstream/timer.h"
#include "upstream/xapi_calls.h"

namespace guard::upstream {

struct SessionOptions {
  /// Free text that xapi records with the session.
  std::string client_version;
  std::chrono::milliseconds login_timeout = limits::login_timeout;
  std::chrono::milliseconds logout_timeout = limits::logout_timeout;
};

class XapiSession {
 public:
  struct Current {
    std::string reference;
    Epoch epoch = 0;
  };
  /// The result of a look-up and the session in which it was given.
  struct Found {
    wire::Json result;
    Epoch epoch = 0;
  };
  using FoundResult = std::expected<Found, Failure>;

  XapiSession(net::Loop& loop, XapiCalls& calls, SessionOptions options, Logger& log);

  /// The session, or nullptr when there is none; valid until the next event.
  const Current* current() const { return current_ ? &*current_ : nullptr; }
  /// The number of the current session, or 0.
  Epoch epoch() const { return current_ ? current_->epoch : 0; }
  void on_ended(std::function<void(Epoch)> ended) { ended_ = std::move(ended); }

  /// Makes sure that there is a session, logging in if necessary. `ready` gets nullopt (then current() is
  /// set), at once when there is one; or a transient, host-wide failure when the login failed or `deadline`
  /// passed. A login goes on when one of those who wait for it gives up.
  void acquire(Time deadline, std::function<void(std::optional<Failure>)> ready);

  /// xapi refused a call that was made in session `epoch`.
  void refused(Epoch epoch);

  /// Makes a call that changes nothing, with the session as its first parameter. Repeats it with a new
  /// session when the session is refused, and at once when the value changed hands meanwhile, both a bounded
  /// number of times. Failures of kind session, race, unknown and payload do not get out of here.
  void look_up(Method method, std::string param, Time deadline, std::function<void(FoundResult)> done);

  /// Ends the session at xapi if there is one; `done` comes within the time limit, whatever xapi does. No
  /// end of session is reported for it.
  void logout(std::function<void()> done);

 private:
  struct Waiter {
    Time deadline{};
    std::function<void(std::optional<Failure>)> ready;
  };
  struct LookUp;

  void log_in();
  void logged_in(CallResult result);
  void tell_waiters(const std::optional<Failure>& failure);
  void set_waiter_timer();
  void expire_waiters();
  void step(std::shared_ptr<LookUp> look_up);
  void send(std::shared_ptr<LookUp> look_up);
  void answered(std::shared_ptr<LookUp> look_up, Epoch epoch, CallResult result);

  net::Loop& loop_;
  XapiCalls& calls_;
  const SessionOptions options_;
  Logger& log_;
  std::function<void(Epoch)> ended_;
  std::optional<Current> current_;
  Epoch last_epoch_ = 0;
  bool logging_in_ = false;
  std::vector<Waiter> waiters_;
  Timer waiter_timer_;  ///< set only while somebody waits for a login
  Time waiter_wake_{};  ///< what it is set to
};

/// What xapi calls no object.
inline constexpr std::string_view null_reference = "OpaqueRef:NULL";

/// xapi answered `method` with something else than its API promises: `what`, such as "no string". Transient,
/// because nothing is known about the object.
Failure malformed(Method method, std::string_view what);

/// The text that a look-up with `method` found, or why there is none.
std::expected<std::string, Failure> text_of(Method method, XapiSession::FoundResult found);

}  // namespace guard::upstream
