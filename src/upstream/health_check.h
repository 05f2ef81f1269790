// Tells trouble of xapi from trouble of one VM. Thread: the loop thread.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <vector>

#include "guard/env.h"
#include "net/loop.h"
#include "upstream/xapi_session.h"

namespace guard::upstream {

class HealthCheck {
 public:
  /// `limit`: how long a second opinion may take.
  HealthCheck(net::Loop& loop, XapiSession& session, std::chrono::milliseconds limit);

  /// A small call that proves that xapi accepts the session (logging in if there is none) and its database
  /// answers. It asks for a VM that does not exist, so no VM's trouble can make it fail. nullopt = healthy.
  void check(Time deadline, std::function<void(std::optional<Failure>)> done);

  /// Decides whether a failed look-up or read speaks against xapi as a whole, and says so in `host_wide`.
  /// Where the failure itself does not tell, a check is made: a VM whose calls hang or fail for a reason of
  /// its own must not make all others believe that xapi is down. One check serves all who ask meanwhile.
  void judge(Failure failure, std::function<void(Failure)> done);

 private:
  struct Case {
    Failure failure;
    std::function<void(Failure)> done;
  };
  void decided(bool host_wide);

  net::Loop& loop_;
  XapiSession& session_;
  const std::chrono::milliseconds limit_;
  std::vector<Case> cases_;  ///< not empty = a check is under way for them
};

}  // namespace guard::upstream
