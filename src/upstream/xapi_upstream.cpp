#include "upstream/xapi_upstream.h"

#include <sys/un.h>

#include <cassert>
#include <string_view>
#include <utility>

#include "upstream/alert_call.h"
#include "upstream/delivery.h"
#include "upstream/health_check.h"
#include "upstream/residence.h"
#include "upstream/socket_watch.h"
#include "upstream/variable_store.h"
#include "upstream/vtpm_lookup.h"
#include "upstream/vtpm_store.h"
#include "upstream/xapi_session.h"

namespace guard::upstream {

namespace {

constexpr std::string_view scheme = "unix:";

PoolOptions pool_options(const XapiOptions& options) {
  PoolOptions pool;
  pool.http.socket_path = options.uri.substr(scheme.size());
  pool.counted = options.connections;
  pool.ceiling = options.connection_ceiling;
  pool.overdue = options.direct_timeout;
  return pool;
}

class Xapi final : public XapiUpstream, public UefiUpstream {
 public:
  Xapi(net::Loop& loop, const XapiOptions& options, Logger& log)
      : loop_(loop),
        options_(options),
        calls_(loop, pool_options(options), log),
        session_(loop, calls_, {options.client_version, options.login_timeout}, log),
        vtpms_(calls_, session_, log, limits::reference_cache),
        variables_(calls_, session_, log, limits::reference_cache),
        health_(loop, session_, options.probe_timeout),
        residence_(session_, options.host),
        watch_(loop, options.uri.substr(scheme.size()), [this] {
          if (events_) events_->sign_of_life();
        }) {
    session_.on_ended([this](Epoch epoch) {
      if (events_) events_->session_ended(epoch);
    });
  }

  UpstreamLimits limits() const override {
    constexpr std::size_t room = limits::xapi_request - limits::xapi_envelope;
    return {room, room, false};
  }

  void set_events(UpstreamEvents* events) override { events_ = events; }

  Result<> supports(Device) const override { return {}; }
  UefiUpstream* uefi() override { return this; }

  void deliver(Delivery delivery, std::function<void(Outcome)> done) override {
    for ([[maybe_unused]] const SlotWrite& write : delivery.writes)
      assert(device_of(write.slot) == delivery.owner.device);
    deliver_to(
        {loop_, session_, store_of(delivery.owner.device), health_, residence_, options_.upstream_timeout},
        std::move(delivery), std::move(done));
  }

  void fetch(Owner owner, std::function<void(Fetched)> done) override {
    auto answered = [this, done = std::move(done)](DeviceStore::ReadResult read) {
      if (read) {
        Fetched fetched;
        fetched.kind = Outcome::Kind::delivered;
        fetched.epoch = read->epoch;
        fetched.contents = std::move(read->contents);
        return done(std::move(fetched));
      }
      health_.judge(std::move(read.error()), [this, done](Failure failure) {
        Fetched fetched;
        fetched.kind = failure.kind == Failure::Kind::vm ? Outcome::Kind::lane : Outcome::Kind::transient;
        fetched.reason = std::move(failure.reason);
        fetched.upstream_suspect = failure.host_wide;
        fetched.epoch = session_.epoch();
        done(std::move(fetched));
      });
    };
    store_of(owner.device).read(owner.vm, read_deadline(), std::move(answered));
  }

  void certificates_state(Uuid vm, std::function<void(CertificatesState)> done) override {
    auto answered = [this, done = std::move(done)](VariableStore::StateResult state) {
      if (state) return done({Outcome::Kind::delivered, {}, false, std::move(*state)});
      health_.judge(std::move(state.error()), [done](Failure failure) {
        const bool vm_only = failure.kind == Failure::Kind::vm;
        done({vm_only ? Outcome::Kind::lane : Outcome::Kind::transient,
              std::move(failure.reason),
              failure.host_wide,
              {}});
      });
    };
    variables_.certificates_state(vm, read_deadline(), std::move(answered));
  }

  void raise(Alert alert, std::function<void(Outcome)> done) override {
    raise_alert({calls_, session_, health_}, std::move(alert), loop_.now() + options_.upstream_timeout,
                std::move(done));
  }

  void find_vm(Uuid vtpm, std::chrono::milliseconds patience,
               std::function<void(Result<std::optional<Uuid>>)> done) override {
    find_vm_of_vtpm(session_, vtpm, loop_.now() + Time(patience), std::move(done));
  }

  void probe(std::function<void(Outcome)> done) override {
    watch_.ensure();
    health_.check(loop_.now() + options_.probe_timeout,
                  [this, done = std::move(done)](std::optional<Failure> trouble) {
                    Outcome outcome;
                    outcome.kind = trouble ? Outcome::Kind::transient : Outcome::Kind::delivered;
                    if (trouble) outcome.reason = std::move(trouble->reason);
                    outcome.upstream_suspect = trouble.has_value();
                    outcome.epoch = session_.epoch();
                    done(std::move(outcome));
                  });
  }

  Epoch epoch() const override { return session_.epoch(); }
  const XapiCounters& counters() const override { return calls_.counters(); }
  std::size_t connections() const override { return calls_.pool().busy() + calls_.pool().idle(); }
  Figures figures() const override {
    return {{"upstream_connects", counters().connects},
            {"upstream_logins", counters().logins},
            {"upstream_connections_open", connections()}};
  }
  void logout(std::function<void()> done) override { session_.logout(std::move(done)); }

 private:
  DeviceStore& store_of(Device device) {
    if (device == Device::uefi) return variables_;
    return vtpms_;
  }
  /// What remains of the patience is for a second opinion on a failure.
  Time read_deadline() const {
    return loop_.now() +
           std::max(options_.read_patience - options_.probe_timeout, options_.read_patience / 2);
  }

  net::Loop& loop_;
  const XapiOptions options_;
  UpstreamEvents* events_ = nullptr;
  // In the order of use, so that what calls back is destroyed after what it calls. Callbacks that are still
  // waiting are destroyed uncalled.
  XapiCalls calls_;
  XapiSession session_;
  VtpmStore vtpms_;
  VariableStore variables_;
  HealthCheck health_;
  Residence residence_;
  SocketWatch watch_;
};

}  // namespace

Result<std::unique_ptr<XapiUpstream>> make_xapi_upstream(net::Loop& loop, XapiOptions options, Logger& log) {
  if (!options.uri.starts_with(scheme) || options.uri.size() == scheme.size()) {
    return std::unexpected(Error::invalid("the address of xapi is not of the form unix:PATH"));
  }
  if (options.uri.size() - scheme.size() >= sizeof(sockaddr_un::sun_path)) {
    return std::unexpected(Error::invalid("the path of xapi's socket is too long for a socket address"));
  }
  return std::make_unique<Xapi>(loop, options, log);
}

}  // namespace guard::upstream
