#include "upstream/alert_call.h"

#include <memory>
#include <utility>

namespace guard::upstream {

namespace {

class Run : public std::enable_shared_from_this<Run> {
 public:
  Run(const AlertTools& tools, Alert alert, Time deadline, std::function<void(Outcome)> done)
      : tools_(tools), alert_(std::move(alert)), deadline_(deadline), done_(std::move(done)) {}

  void start() {
    tools_.session.acquire(deadline_, [self = shared_from_this()](std::optional<Failure> failure) {
      if (failure) return self->failed(std::move(*failure));
      self->send();
    });
  }

 private:
  void send() {
    epoch_ = tools_.session.epoch();
    auto answered = [self = shared_from_this()](CallResult result) {
      if (result) return self->end(Outcome::Kind::delivered, {}, false);
      self->failed(std::move(result.error()));
    };
    tools_.calls.call(Method::message_create,
                      {tools_.session.current()->reference, alert_.name, alert_.priority,
                       alert_.about_host ? "Host" : "VM", alert_.vm.str(), alert_.body.view()},
                      {deadline_, deadline_, false}, std::move(answered));
  }

  void failed(Failure failure) {
    if (failure.kind == Failure::Kind::session) {
      tools_.session.refused(epoch_);
      if (!std::exchange(renewed_, true)) return start();
      failure.kind = Failure::Kind::transient;
      failure.host_wide = true;
    }
    auto judged = [self = shared_from_this()](Failure final) {
      self->end(kind_of(final.kind), std::move(final.reason), final.host_wide);
    };
    tools_.health.judge(std::move(failure), std::move(judged));
  }

  static Outcome::Kind kind_of(Failure::Kind kind) {
    switch (kind) {
      case Failure::Kind::unknown:
        return Outcome::Kind::unknown;
      case Failure::Kind::payload:
        return Outcome::Kind::payload;
      case Failure::Kind::vm:
      case Failure::Kind::reference:
      case Failure::Kind::unsupported:
        return Outcome::Kind::lane;
      case Failure::Kind::transient:
      case Failure::Kind::session:
      case Failure::Kind::race:
        break;
    }
    return Outcome::Kind::transient;
  }

  void end(Outcome::Kind kind, std::string reason, bool suspect) {
    Outcome outcome;
    outcome.kind = kind;
    outcome.reason = bounded_reason(std::move(reason));
    outcome.upstream_suspect = suspect;
    outcome.epoch = epoch_;
    done_(std::move(outcome));
  }

  const AlertTools tools_;
  const Alert alert_;
  const Time deadline_;
  const std::function<void(Outcome)> done_;
  Epoch epoch_ = 0;
  bool renewed_ = false;
};

}  // namespace

void raise_alert(const AlertTools& tools, Alert alert, Time deadline, std::function<void(Outcome)> done) {
  std::make_shared<Run>(tools, std::move(alert), deadline, std::move(done))->start();
}

}  // namespace guard::upstream
