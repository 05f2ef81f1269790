// Whether a VM runs on another host. Thread: the loop thread.
#pragma once

#include <expected>
#include <functional>
#include <string>

#include "guard/types.h"
#include "upstream/xapi_session.h"

namespace guard::upstream {

class Residence {
 public:
  /// `own_host` = the uuid of this host; nil = unknown, then nobody is asked and nobody runs elsewhere.
  Residence(XapiSession& session, Uuid own_host) : session_(session), own_host_(own_host) {}

  using Answer = std::expected<bool, Failure>;

  /// `done(true)` when the VM is up (running or paused) and resident on a host that is not this one. At most
  /// three look-ups; one less once a host's uuid is known (host references do not change).
  void runs_elsewhere(std::string vm_reference, Time deadline, std::function<void(Answer)> done);

 private:
  void find_host(std::string vm_reference, Time deadline, std::function<void(Answer)> done);
  void compare(std::string host_reference, Time deadline, std::function<void(Answer)> done);

  XapiSession& session_;
  const Uuid own_host_;
  std::string own_reference_;  ///< of this host, once it was seen
};

}  // namespace guard::upstream
