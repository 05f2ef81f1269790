// Bringing an alert to xapi. Thread: the loop thread.
#pragma once

#include <functional>

#include "guard/upstream.h"
#include "upstream/health_check.h"
#include "upstream/xapi_calls.h"
#include "upstream/xapi_session.h"

namespace guard::upstream {

/// What it works with; all of it outlives the call.
struct AlertTools {
  XapiCalls& calls;
  XapiSession& session;
  HealthCheck& health;
};

/// Creates the message of this VM, or of the host. Logs in if necessary, and
/// once more when the session is refused. An alert does no harm when it comes twice, so its call is given up
/// at `deadline`, sent or not: `unknown` if it was sent.
void raise_alert(const AlertTools& tools, Alert alert, Time deadline, std::function<void(Outcome)> done);

}  // namespace guard::upstream
