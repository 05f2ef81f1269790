#include "buffer/foreign_upstream.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <string>
#include <utility>

#include "base/limits.h"

namespace guard::buffer {

namespace {

/// What counts when a call ended without an answer: an update may have been sent all the same.
Outcome no_answer(std::string reason, Outcome::Kind kind) {
  Outcome outcome;
  outcome.kind = kind;
  outcome.reason = std::move(reason);
  return outcome;
}

Fetched no_contents(std::string reason) {
  Fetched fetched;
  fetched.reason = std::move(reason);
  return fetched;
}

/// One call of the upstream: carries the first answer to the buffer's thread, and answers itself if it is
/// destroyed without one.
template <class Answer>
class Call {
 public:
  using Unanswered = std::function<Answer(std::string)>;
  Call(std::shared_ptr<Loop> loop, std::function<void(Answer)> done, Unanswered unanswered)
      : loop_(std::move(loop)), done_(std::move(done)), unanswered_(std::move(unanswered)) {}
  ~Call() {
    if (!answered_) answer(unanswered_("the upstream gave no answer"));
  }
  Call(const Call&) = delete;

  void answer(Answer answer) {
    if (answered_.exchange(true)) return;
    if (answer.reason.size() > limits::echoed_text) answer.reason.resize(limits::echoed_text);
    loop_->post([done = std::move(done_), answer = std::make_shared<Answer>(std::move(answer))] {
      done(std::move(*answer));
    });
  }
  void threw(const std::string& what) { answer(unanswered_("the upstream threw: " + what)); }

 private:
  std::shared_ptr<Loop> loop_;
  std::function<void(Answer)> done_;
  Unanswered unanswered_;
  std::atomic<bool> answered_ = false;
};

/// Calls somebody else's code. Returns what it threw, empty when it did not.
template <class Function>
std::string guarded(Function function) {
  try {
    function();
    return {};
  } catch (const std::exception& error) {
    return std::string("exception: ") + error.what();
  } catch (...) {
    return "an exception";
  }
}

}  // namespace

ForeignUpstream::ForeignUpstream(Upstream& inner, UpstreamLimits limits, std::shared_ptr<Loop> loop,
                                 Logger& log)
    : inner_(inner),
      limits_(limits),
      loop_(std::move(loop)),
      log_(log),
      reported_(std::make_shared<Reported>()) {}

ForeignUpstream::~ForeignUpstream() = default;

void ForeignUpstream::deliver(Delivery delivery, std::function<void(Outcome)> done) {
  if (refusing_) return done(no_answer("the buffer is closing", Outcome::Kind::transient));
  auto call = std::make_shared<Call<Outcome>>(loop_, std::move(done), [](std::string reason) {
    return no_answer(std::move(reason), Outcome::Kind::unknown);
  });
  const std::string threw = guarded([this, &delivery, &call] {
    inner_.deliver(std::move(delivery), [call](Outcome outcome) { call->answer(std::move(outcome)); });
  });
  if (!threw.empty()) call->threw(threw);
}

void ForeignUpstream::fetch(Owner owner, std::function<void(Fetched)> done) {
  auto call = std::make_shared<Call<Fetched>>(loop_, std::move(done), no_contents);
  const std::string threw = guarded([this, owner, &call] {
    inner_.fetch(owner, [call](Fetched fetched) { call->answer(std::move(fetched)); });
  });
  if (!threw.empty()) call->threw(threw);
}

void ForeignUpstream::probe(std::function<void(Outcome)> done) {
  auto call = std::make_shared<Call<Outcome>>(loop_, std::move(done), [](std::string reason) {
    return no_answer(std::move(reason), Outcome::Kind::transient);
  });
  const std::string threw =
      guarded([this, &call] { inner_.probe([call](Outcome outcome) { call->answer(std::move(outcome)); }); });
  if (!threw.empty()) call->threw(threw);
}

// --- What the upstream notices by itself ------------------------------------------------------------------

void ForeignUpstream::set_events(UpstreamEvents* events) {
  reported_->engine = events;
  const std::string threw =
      guarded([this, events] { inner_.set_events(events == nullptr ? nullptr : this); });
  if (!threw.empty()) log_.log(LogLevel::error, "upstream_threw", {{"call", "set_events"}, {"what", threw}});
}

void ForeignUpstream::session_ended(Epoch epoch) { report(epoch, false); }

void ForeignUpstream::sign_of_life() { report(0, true); }

void ForeignUpstream::report(Epoch ended, bool sign_of_life) {
  {
    const std::lock_guard lock(reported_->mutex);
    // The engine counts sessions, so the newest one that ended stands for those before it.
    reported_->ended = std::max(reported_->ended, ended);
    reported_->sign_of_life = reported_->sign_of_life || sign_of_life;
    if (std::exchange(reported_->on_its_way, true)) return;
  }
  loop_->post([reported = reported_] { tell(*reported); });
}

void ForeignUpstream::tell(Reported& reported) {
  Epoch ended = 0;
  bool sign_of_life = false;
  {
    const std::lock_guard lock(reported.mutex);
    ended = std::exchange(reported.ended, 0);
    sign_of_life = std::exchange(reported.sign_of_life, false);
    reported.on_its_way = false;
  }
  if (reported.engine == nullptr) return;
  if (ended != 0) reported.engine->session_ended(ended);
  if (sign_of_life) reported.engine->sign_of_life();
}

}  // namespace guard::buffer
