#include "upstream/residence.h"

#include <utility>

namespace guard::upstream {

void Residence::runs_elsewhere(std::string vm_reference, Time deadline, std::function<void(Answer)> done) {
  if (own_host_.is_nil()) return done(false);
  auto answered = [this, vm_reference, deadline, done = std::move(done)](XapiSession::FoundResult found) {
    auto state = text_of(Method::vm_get_power_state, std::move(found));
    if (!state) return done(std::unexpected(std::move(state.error())));
    // A VM that is not up is nowhere: a suspended one may come back here.
    if (*state != "Running" && *state != "Paused") return done(false);
    find_host(vm_reference, deadline, done);
  };
  session_.look_up(Method::vm_get_power_state, vm_reference, deadline, std::move(answered));
}

void Residence::find_host(std::string vm_reference, Time deadline, std::function<void(Answer)> done) {
  auto answered = [this, deadline, done = std::move(done)](XapiSession::FoundResult found) {
    auto host = text_of(Method::vm_get_resident_on, std::move(found));
    if (!host) return done(std::unexpected(std::move(host.error())));
    if (*host == null_reference || *host == own_reference_) return done(false);
    compare(std::move(*host), deadline, done);
  };
  session_.look_up(Method::vm_get_resident_on, std::move(vm_reference), deadline, std::move(answered));
}

void Residence::compare(std::string host_reference, Time deadline, std::function<void(Answer)> done) {
  auto answered = [this, host_reference, done = std::move(done)](XapiSession::FoundResult found) {
    auto uuid = text_of(Method::host_get_uuid, std::move(found));
    if (!uuid) return done(std::unexpected(std::move(uuid.error())));
    const bool here = Uuid::parse(*uuid) == own_host_;
    if (here) own_reference_ = host_reference;
    done(!here);
  };
  session_.look_up(Method::host_get_uuid, host_reference, deadline, std::move(answered));
}

}  // namespace guard::upstream
