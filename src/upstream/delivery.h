// One delivery to a device: from the values to be written to the outcome. Thread: the loop thread.
#pragma once

#include <chrono>
#include <functional>

#include "guard/upstream.h"
#include "net/loop.h"
#include "upstream/device_store.h"
#include "upstream/health_check.h"
#include "upstream/residence.h"
#include "upstream/xapi_session.h"

namespace guard::upstream {

/// What a delivery works with; all of it outlives the delivery.
struct DeliveryTools {
  net::Loop& loop;
  XapiSession& session;
  DeviceStore& store;
  HealthCheck& health;
  Residence& residence;
  std::chrono::milliseconds patience;  ///< for everything but the update's answer
};

/// Carries out `delivery` as guard::Upstream::deliver promises. `done` comes exactly once, possibly before
/// the return, unless the tools are destroyed first.
///
///   base given:   session and references still good?  no -> stale
///                 merge, one update
///   no base:      does the VM run elsewhere (when that is to be asked)? read; conflict (P14)?
///                 nothing to do? else merge, update;
///                 references refused by the update: all of it once more
///   verify:       read after a successful update
void deliver_to(const DeliveryTools& tools, Delivery delivery, std::function<void(Outcome)> done);

}  // namespace guard::upstream
