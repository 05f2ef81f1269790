// An upstream of somebody else's making, made fit for the engine: its callbacks may come on any thread, more
// than once, never (destroyed instead), or as an exception, and the engine sees each exactly once, on the
// buffer's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "base/log.h"
#include "buffer/loop.h"
#include "guard/upstream.h"

namespace guard::buffer {

class ForeignUpstream final : public Upstream, private UpstreamEvents {
 public:
  /// `limits` are inner.limits(), checked. `inner` outlives this; the callbacks it was given hold `loop` and
  /// nothing else of ours, so that they may outlive everything.
  ForeignUpstream(Upstream& inner, UpstreamLimits limits, std::shared_ptr<Loop> loop, Logger& log);
  ~ForeignUpstream() override;

  /// Buffer's thread: from now on updates that are asked for are `transient` and not sent; those under way
  /// go on.
  void refuse_updates() { refusing_ = true; }

  UpstreamLimits limits() const override { return limits_; }
  void set_events(UpstreamEvents* events) override;
  void deliver(Delivery delivery, std::function<void(Outcome)> done) override;
  void fetch(Owner owner, std::function<void(Fetched)> done) override;
  void probe(std::function<void(Outcome)> done) override;

 private:
  /// What the inner upstream has reported and the engine has not yet heard; at most one message about it is
  /// on its way, however often the upstream calls (P8).
  struct Reported {
    std::mutex mutex;
    UpstreamEvents* engine = nullptr;  ///< used on the buffer's thread only
    Epoch ended = 0;
    bool sign_of_life = false;
    bool on_its_way = false;
  };
  static void tell(Reported& reported);

  // UpstreamEvents, from any thread.
  void session_ended(Epoch epoch) override;
  void sign_of_life() override;
  void report(Epoch ended, bool sign_of_life);

  Upstream& inner_;
  UpstreamLimits limits_;
  std::shared_ptr<Loop> loop_;
  Logger& log_;
  std::shared_ptr<Reported> reported_;
  bool refusing_ = false;
};

}  // namespace guard::buffer
