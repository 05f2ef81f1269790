#include "upstream/embedded_upstream.h"

#include <pthread.h>

#include <algorithm>
#include <cassert>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "upstream/embedded_worker.h"
#include "upstream/socket_watch.h"
#include "upstream/timer.h"

namespace guard::upstream {

namespace {

/// Calls on their way to the thread that serves them. Bounded by the callers: a lane has one update and a few
/// reads under way, and a read that was given up is taken out.
class Queue {
 public:
  void push(EmbeddedCall call) {
    {
      const std::lock_guard lock(mutex_);
      calls_.push_back(std::move(call));
    }
    wake_.notify_one();
  }
  void remove(EmbeddedCallId id) {
    const std::lock_guard lock(mutex_);
    std::erase_if(calls_, [id](const EmbeddedCall& call) { return call.id == id; });
  }
  /// Blocks until there is something to do. Empty = the end.
  std::vector<EmbeddedCall> take() {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return ended_ || !calls_.empty(); });
    std::vector<EmbeddedCall> taken;
    if (ended_) return taken;
    const auto count = std::min(calls_.size(), limits::embedded_batch);
    const auto end = calls_.begin() + static_cast<std::ptrdiff_t>(count);
    taken.assign(std::move_iterator(calls_.begin()), std::move_iterator(end));
    calls_.erase(calls_.begin(), end);
    return taken;
  }
  void end() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    wake_.notify_one();
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<EmbeddedCall> calls_;
  bool ended_ = false;
};

class Embedded final : public EmbeddedUpstream, public UefiUpstream {
 public:
  Embedded(net::Loop& loop, EmbeddedOptions options, Logger& log)
      : loop_(loop),
        options_(options),
        log_(log),
        self_(std::make_shared<Embedded*>(this)),
        deadline_timer_(loop),
        watch_(loop, options.file,
               [this] {
                 if (events_) events_->sign_of_life();
               }),
        worker_(std::move(options),
                [this](std::vector<EmbeddedAnswer> answers) { emit(std::move(answers)); }),
        thread_([this] { serve(); }) {}

  ~Embedded() override {
    *self_ = nullptr;
    queue_.end();
    thread_.join();
  }

  UpstreamLimits limits() const override {
    return {limits::embedded_vtpm, limits::embedded_nvram, true, true};
  }
  void set_events(UpstreamEvents* events) override { events_ = events; }
  Result<> supports(Device) const override { return {}; }
  UefiUpstream* uefi() override { return this; }

  /// Where there is no toolstack, the log is what operators read. The text of the alert comes from outside
  /// and stays out of it.
  void raise(Alert alert, std::function<void(Outcome)> done) override {
    // What the guard has to say of itself stands there already.
    if (alert.name == Alert().name) {
      log_.log(LogLevel::error, "vm_secure_boot_failed",
               {{"vm", alert.vm}, {"priority", alert.priority}, {"text_bytes", alert.body.size()}});
    }
    Outcome outcome;
    outcome.kind = Outcome::Kind::delivered;
    done(std::move(outcome));
  }

  /// Nobody renews certificates here.
  void certificates_state(Uuid, std::function<void(CertificatesState)> done) override {
    done({Outcome::Kind::delivered, {}, false, "ok"});
  }
  Epoch epoch() const override { return epoch_; }
  Figures figures() const override {
    return {{"upstream_sessions", sessions_}, {"upstream_calls_waiting", waiting_.size()}};
  }

  void deliver(Delivery delivery, std::function<void(Outcome)> done) override {
    for (const SlotWrite& write : delivery.writes) assert(device_of(write.slot) == delivery.owner.device);
    submit(std::move(delivery), std::move(done), std::nullopt);
  }

  void fetch(Owner owner, std::function<void(Fetched)> done) override {
    submit(EmbeddedCall::Fetch{owner}, std::move(done), options_.read_patience);
  }

  void probe(std::function<void(Outcome)> done) override {
    watch_.ensure();
    submit(EmbeddedCall::Probe{}, std::move(done), options_.probe_timeout);
  }

  void find_vm(Uuid vtpm, std::chrono::milliseconds patience,
               std::function<void(Result<std::optional<Uuid>>)> done) override {
    submit(EmbeddedCall::FindVm{vtpm}, std::move(done), patience);
  }

  void logout(std::function<void()> done) override {
    submit(EmbeddedCall::Close{}, std::move(done), limits::logout_timeout);
  }

 private:
  using Done = std::variant<std::function<void(Outcome)>, std::function<void(Fetched)>,
                            std::function<void(Result<std::optional<Uuid>>)>, std::function<void()>>;
  struct Waiting {
    Done done;
    std::optional<Time> deadline;
  };

  template <class What, class Callback>
  void submit(What what, Callback done, std::optional<std::chrono::milliseconds> patience) {
    const EmbeddedCallId id = ++last_id_;
    Waiting waiting{Done(std::move(done)), std::nullopt};
    if (patience) waiting.deadline = loop_.now() + *patience;
    waiting_.emplace(id, std::move(waiting));
    if (patience) watch_deadlines();
    queue_.push({id, std::move(what)});
  }

  // --- The store's thread ---
  void serve() {
    pthread_setname_np(pthread_self(), "guard-store");
    for (;;) {
      std::vector<EmbeddedCall> calls = queue_.take();
      if (calls.empty()) return;
      worker_.serve(std::move(calls));
    }
  }

  void emit(std::vector<EmbeddedAnswer> answers) {
    loop_.post([self = self_, shared = std::make_shared<std::vector<EmbeddedAnswer>>(std::move(answers)),
                sessions = worker_.counters().opens] {
      if (*self == nullptr) return;
      (*self)->sessions_ = sessions;
      for (EmbeddedAnswer& answer : *shared) {
        if (*self != nullptr) (*self)->answered(std::move(answer));
      }
    });
  }

  // --- The loop thread ---
  void answered(EmbeddedAnswer answer) {
    if (const auto* ended = std::get_if<EmbeddedAnswer::Ended>(&answer.what)) return session_ended(*ended);
    const auto found = waiting_.find(answer.id);
    if (found == waiting_.end()) return;  // given up meanwhile
    const Done done = std::move(found->second.done);
    waiting_.erase(found);
    if (auto* outcome = std::get_if<Outcome>(&answer.what)) {
      saw_epoch(outcome->epoch);
      std::get<0>(done)(std::move(*outcome));
    } else if (auto* fetched = std::get_if<Fetched>(&answer.what)) {
      saw_epoch(fetched->epoch);
      std::get<1>(done)(std::move(*fetched));
    } else if (auto* vm = std::get_if<EmbeddedAnswer::FoundVm>(&answer.what)) {
      std::get<2>(done)(std::move(*vm));
    } else {
      last_ended_ = std::max(last_ended_, std::exchange(epoch_, 0));
      std::get<3>(done)();
    }
  }

  void saw_epoch(Epoch epoch) {
    if (epoch > std::max(epoch_, last_ended_)) epoch_ = epoch;
  }

  void session_ended(const EmbeddedAnswer::Ended& ended) {
    last_ended_ = ended.epoch;
    log_.log(LogLevel::warning, "store_closed", {{"file", options_.file}, {"reason", ended.reason}});
    epoch_ = 0;
    if (events_) events_->session_ended(ended.epoch);
  }

  void watch_deadlines() {
    std::optional<Time> earliest;
    for (const auto& [id, waiting] : waiting_) {
      if (waiting.deadline && (!earliest || *waiting.deadline < *earliest)) earliest = waiting.deadline;
    }
    if (!earliest || (deadline_timer_.is_set() && alarm_ <= *earliest)) return;
    alarm_ = *earliest;
    deadline_timer_.set(alarm_, [this] { give_up(); });
  }

  /// What the thread has not begun is not begun any more; what it has begun goes on without us.
  void give_up() {
    const Time now = loop_.now();
    std::vector<Done> late;
    for (auto it = waiting_.begin(); it != waiting_.end();) {
      if (it->second.deadline && *it->second.deadline <= now) {
        queue_.remove(it->first);
        late.push_back(std::move(it->second.done));
        it = waiting_.erase(it);
      } else {
        ++it;
      }
    }
    watch_deadlines();
    for (const Done& done : late) time_out(done);
  }

  static void time_out(const Done& done) {
    const std::string reason = "the store has not answered in time";
    if (const auto* probe = std::get_if<0>(&done)) {
      Outcome outcome;
      outcome.reason = reason;
      outcome.upstream_suspect = true;
      (*probe)(std::move(outcome));
    } else if (const auto* fetch = std::get_if<1>(&done)) {
      (*fetch)(Fetched{Outcome::Kind::transient, reason, true, 0, {}});
    } else if (const auto* find = std::get_if<2>(&done)) {
      (*find)(std::unexpected(Error{Errc::timeout, 0, reason}));
    } else {
      std::get<3>(done)();
    }
  }

  net::Loop& loop_;
  const EmbeddedOptions options_;
  Logger& log_;
  UpstreamEvents* events_ = nullptr;
  std::shared_ptr<Embedded*> self_;  ///< what posted work holds: null once this is gone
  EmbeddedCallId last_id_ = 0;
  std::map<EmbeddedCallId, Waiting> waiting_;
  Timer deadline_timer_;  ///< set only while a call with a deadline waits, or a little longer
  Time alarm_{};          ///< what it is set to
  SocketWatch watch_;
  Epoch epoch_ = 0;
  Epoch last_ended_ = 0;
  std::uint64_t sessions_ = 0;
  Queue queue_;
  EmbeddedWorker worker_;  ///< used by the thread only
  std::thread thread_;     ///< last: ends before anything it uses
};

}  // namespace

Result<std::unique_ptr<EmbeddedUpstream>> make_embedded_upstream(net::Loop& loop, EmbeddedOptions options,
                                                                 Logger& log) {
  for (const std::string* path : {&options.file, &options.identity_file}) {
    if (path->size() < 2 || path->front() != '/' || path->back() == '/') {
      return std::unexpected(Error::invalid("the store and the file that names it need absolute paths"));
    }
  }
  if (options.file == options.identity_file) {
    return std::unexpected(Error::invalid("the store and the file that names it are the same"));
  }
  return std::make_unique<Embedded>(loop, std::move(options), log);
}

}  // namespace guard::upstream
