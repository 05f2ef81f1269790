#include "engine/engine.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "engine/report.h"
#include "engine/translate.h"

namespace guard::engine {

namespace {

core::Config with_limits(core::Config config, Upstream& upstream) {
  config.upstream = upstream.limits();
  config.takes_alerts = upstream.uefi() != nullptr;
  return config;
}

Error unread_error() { return {Errc::unavailable, 0, "the journal could not be read yet"}; }

template <class Map>
std::optional<typename Map::mapped_type> take(Map& map, core::RequestId request) {
  auto node = map.extract(request);
  if (!node) return std::nullopt;
  return std::move(node.mapped());
}

}  // namespace

/// One device socket's way to its lane; it cannot name another.
class Engine::Access final : public LaneAccess {
 public:
  Access(std::shared_ptr<Engine*> engine, Owner owner) : engine_(std::move(engine)), owner_(owner) {
    (*engine_)->opened(owner_);
  }
  ~Access() override {
    if (*engine_ != nullptr) (*engine_)->closed(owner_);
  }
  void write(Slot slot, Value value, std::function<void(WriteStatus)> done) override {
    if (device_of(slot) != owner_.device) return done(WriteStatus::unavailable);
    (*engine_)->write(owner_, slot, std::move(value), UpdateFlag::unspecified, std::move(done));
  }
  void read(Slot slot, std::function<void(ReadResult)> done) override {
    if (device_of(slot) != owner_.device) return done(ReadResult{});
    (*engine_)->read(owner_, slot,
                     [done = std::move(done)](core::AnswerRead answer) { done(std::move(answer.result)); });
  }

 private:
  std::shared_ptr<Engine*> engine_;
  Owner owner_;
};

/// The same for UEFI variables.
class Engine::Uefi final : public UefiAccess {
 public:
  Uefi(std::shared_ptr<Engine*> engine, Uuid vm) : engine_(std::move(engine)), owner_{vm, Device::uefi} {
    (*engine_)->opened(owner_);
  }
  ~Uefi() override {
    if (*engine_ != nullptr) (*engine_)->closed(owner_);
  }
  void get_nvram(std::function<void(NvramResult)> done) override {
    (*engine_)->read(owner_, Slot::nvram,
                     [engine = engine_, owner = owner_, done = std::move(done)](core::AnswerRead answer) {
                       done(nvram_of(**engine, owner, std::move(answer)));
                     });
  }
  void set_nvram(Value value, UpdateFlag update, std::function<void(UefiOutcome)> done) override {
    auto answered = [engine = engine_, owner = owner_, done = std::move(done)](WriteStatus status) {
      if (status == WriteStatus::accepted) return done({UefiOutcome::Kind::done, {}});
      if (status == WriteStatus::too_large) {
        return done({UefiOutcome::Kind::refused, "the variables are more than the upstream takes"});
      }
      done((*engine)->uefi_failure(owner));
    };
    (*engine_)->write(owner_, Slot::nvram, std::move(value), update, std::move(answered));
  }
  void get_secureboot_state(std::function<void(SecurebootResult)> done) override {
    (*engine_)->certificates_state(owner_.vm, std::move(done));
  }
  void alert(std::int64_t priority, Value body, std::function<void(UefiOutcome)> done) override {
    (*engine_)->alert(owner_, priority, std::move(body), std::move(done));
  }

 private:
  /// The whole map, with the value in its place; at the end where the upstream has no such entry yet.
  static NvramResult nvram_of(const Engine& engine, Owner owner, core::AnswerRead answer) {
    if (answer.result.source == ReadResult::Source::none) return {engine.uefi_failure(owner), {}};
    NvramResult result{{UefiOutcome::Kind::done, {}}, std::move(answer.map)};
    bool placed = false;
    for (auto& [name, value] : result.entries) {
      if (name != efi_variables) continue;
      value = answer.result.value;
      placed = true;
    }
    if (!placed && !answer.result.value.empty()) {
      result.entries.emplace_back(efi_variables, std::move(answer.result.value));
    }
    return result;
  }

  std::shared_ptr<Engine*> engine_;
  Owner owner_;
};

Engine::Engine(Host host, core::Config config, Upstream& upstream, Logger& log)
    : host_(std::move(host)),
      upstream_(upstream),
      log_(log),
      doubt_window_(config.doubt_window),
      core_(with_limits(config, upstream)),
      self_(std::make_shared<Engine*>(this)) {
  upstream_.set_events(this);
}

Engine::~Engine() {
  *self_ = nullptr;
  upstream_.set_events(nullptr);
}

void Engine::start(std::unique_ptr<journal::Store> store, std::unique_ptr<CallNotes> notes, bool first_start,
                   std::optional<journal::Recovery> recovery) {
  assert(notes != nullptr);
  notes_ = std::move(notes);
  recover(recovery ? *recovery : store->recovery(), first_start);
  journal_ = std::make_unique<journal::Journal>(
      std::move(store), [self = self_, post = host_.post](std::vector<journal::Completion> completions) {
        post([self, done = std::make_shared<std::vector<journal::Completion>>(std::move(completions))] {
          if (*self != nullptr) (*self)->completed(std::move(*done));
        });
      });
  feed(core::JournalRead{});
  look_for_damage();
  // Delivers what was found, and probes before anybody's write has to find out.
  feed(core::Kick{});
}

void Engine::recover(const journal::Recovery& recovery, bool first_start) {
  const Time now = host_.now();
  const std::int64_t wall_ms = host_.wall_ms();
  for (const journal::LiveEntry& found : recovery.live) {
    if (const auto alert = to_recovered_alert(found, now, wall_ms)) {
      core_.recover(found.owner, *alert);
      continue;
    }
    std::optional<core::RecoveredEntry> entry = to_recovered(found, now, wall_ms);
    if ((found.flags & journal::flag_lost) != 0) lost_.insert(found.sequence);
    if (entry) {
      core_.recover(found.owner, std::move(*entry), now);
    } else {
      // It stays in the journal untouched, for a version that can deliver it.
      log_.log(LogLevel::warning, "entry_of_a_later_version", {{"vm", found.owner.vm}, {"slot", found.slot}});
    }
  }
  core_.recover_sequence(recovery.highest_sequence);
  recover_doubt(first_start);
}

/// Before anything is sent. What was noted stays in the file until the core says that it is over.
void Engine::recover_doubt(bool first_start) {
  const CallNotes::Found& found = notes_->found();
  if (found.unknown && first_start) return notes_->forget_unknown();
  const Time now = host_.now();
  if (found.unknown) {
    log_.log(LogLevel::notice, "all_in_doubt", {{"reason", found.why}});
    core_.recover_doubt_of_all(now);
    host_.at(now + doubt_window_, [self = self_] {
      if (*self != nullptr) (*self)->notes_->forget_unknown();
    });
  }
  for (const auto& [owner, values] : found.calls) {
    log_.log(LogLevel::notice, "in_doubt", {{"vm", owner.vm}, {"device", name_of(owner.device)}});
    core_.recover_doubt(owner, values, now);
  }
}

std::unique_ptr<LaneAccess> Engine::open_lane(Owner owner) { return std::make_unique<Access>(self_, owner); }

std::unique_ptr<UefiAccess> Engine::open_uefi(Uuid vm) { return std::make_unique<Uefi>(self_, vm); }

void Engine::opened(Owner owner) {
  if (open_[owner]++ == 0) feed(core::SocketOpened{owner});
}

void Engine::closed(Owner owner) {
  if (--open_[owner] > 0) return;
  open_.erase(owner);
  feed(core::SocketClosed{owner});
}

std::optional<journal::Stats> Engine::journal_stats() const {
  if (!journal_) return std::nullopt;
  return journal_->stats();
}

// --- Requests ---------------------------------------------------------------------------------------------

void Engine::write(Owner owner, Slot slot, Value value, UpdateFlag update, WriteDone done) {
  if (!journal_) return done(WriteStatus::unavailable);
  const core::RequestId request = ++last_request_;
  writes_.emplace(request, Write{host_.now(), std::move(done)});
  core_.set_buffering(buffering());
  feed(core::WriteArrived{request, owner, slot, std::move(value), update});
}

void Engine::read(Owner owner, Slot slot, ReadDone done) {
  if (!journal_) return done(core::AnswerRead{});
  const core::RequestId request = ++last_request_;
  reads_.emplace(request, std::move(done));
  feed(core::ReadArrived{request, owner, slot});
}

void Engine::alert(Owner owner, std::int64_t priority, Value body, AlertDone done) {
  if (!journal_) return done({UefiOutcome::Kind::unavailable, unread_error().message});
  const core::RequestId request = ++last_request_;
  alerts_.emplace(request, std::move(done));
  feed(core::AlertArrived{request, owner, priority, std::move(body)});
}

/// Straight to the upstream: nothing of it is kept here.
void Engine::certificates_state(Uuid vm, std::function<void(SecurebootResult)> done) {
  UefiUpstream* uefi = upstream_.uefi();
  if (uefi == nullptr) return done({{UefiOutcome::Kind::refused, "nobody knows of certificates here"}, {}});
  if (!core_.upstream_worth_trying()) return done({uefi_failure({vm, Device::uefi}), {}});
  uefi->certificates_state(vm, [done = std::move(done)](CertificatesState state) {
    using Kind = UefiOutcome::Kind;
    if (state.kind == Outcome::Kind::delivered) return done({{Kind::done, {}}, std::move(state.state)});
    const Kind kind = state.kind == Outcome::Kind::transient ? Kind::unavailable : Kind::refused;
    done({{kind, std::move(state.reason)}, {}});
  });
}

/// Why a read or write of variables was not answered.
UefiOutcome Engine::uefi_failure(Owner owner) const {
  using Kind = UefiOutcome::Kind;
  if (!journal_) return {Kind::unavailable, unread_error().message};
  const core::Lane* lane = core_.lane(owner);
  const auto held = lane != nullptr ? lane->held() : std::nullopt;
  if (held && held->permanent) return {Kind::refused, held->reason};
  if (!core_.upstream_worth_trying()) return {Kind::unavailable, "the upstream does not answer"};
  return {Kind::unavailable, held ? held->reason : "neither the upstream nor the journal can be used now"};
}

void Engine::set_contents(Owner owner, std::array<Value, 3> values, Uuid vtpm, SetDone done) {
  if (!journal_ || owner.device != Device::vtpm) return done(WriteStatus::unavailable);
  const core::RequestId request = ++last_request_;
  sets_.emplace(request, std::move(done));
  core_.set_buffering(buffering());
  feed(core::ContentsSet{request, owner, std::move(values), vtpm});
}

void Engine::get_contents(Owner owner, GetDone done) {
  if (!journal_ || owner.device != Device::vtpm) return done(std::nullopt);
  const core::RequestId request = ++last_request_;
  gets_.emplace(request, std::move(done));
  feed(core::ContentsGet{request, owner});
}

void Engine::discard(Owner owner, std::optional<Slot> slot, OperatorDone done) {
  if (!journal_) return done(std::unexpected(unread_error()));
  const core::RequestId request = ++last_request_;
  operations_.emplace(request, std::move(done));
  feed(core::Discard{request, owner, slot});
}

void Engine::deliver_by_force(Owner owner, std::optional<Slot> slot, OperatorDone done) {
  if (!journal_) return done(std::unexpected(unread_error()));
  const core::RequestId request = ++last_request_;
  operations_.emplace(request, std::move(done));
  feed(core::ForceDelivery{request, owner, slot});
}

void Engine::drain(Time deadline, std::function<void(bool)> done) {
  add_waiter(Waiter{deadline, false, std::move(done)});
  feed(core::Kick{});
}

void Engine::stop(Time deadline, std::function<void(bool)> done) {
  if (!journal_) return done(true);
  add_waiter(Waiter{deadline, true, std::move(done)});
  feed(core::Stop{});
}

void Engine::add_waiter(Waiter waiter) {
  host_.at(waiter.deadline, [self = self_] {
    if (*self != nullptr) (*self)->check_waiters();
  });
  waiters_.push_back(std::move(waiter));
}

void Engine::check_waiters() {
  if (waiters_.empty()) return;
  const Time now = host_.now();
  const bool drained = started() && core_.pending_entries() == 0;
  const bool at_rest = core_.at_rest();
  std::vector<std::pair<std::function<void(bool)>, bool>> ready;
  std::erase_if(waiters_, [&](Waiter& waiter) {
    const bool reached = waiter.for_rest ? at_rest : drained;
    if (!reached && now < waiter.deadline) return false;
    ready.emplace_back(std::move(waiter.done), reached);
    return true;
  });
  for (auto& [done, reached] : ready) done(reached);
}

// --- Events in, actions out -------------------------------------------------------------------------------

void Engine::session_ended(Epoch epoch) { feed(core::SessionEnded{epoch}); }

void Engine::sign_of_life() { feed(core::SignOfLife{}); }

/// An action may bring the next event about before it returns (a callback in place): one at a time, in order.
void Engine::feed(core::Event event) {
  events_.push_back(std::move(event));
  if (feeding_) return;
  feeding_ = true;
  while (!events_.empty()) {
    core::Event next = std::move(events_.front());
    events_.pop_front();
    actions_.clear();
    core_.step(std::move(next), host_.now(), actions_);
    core::Actions now = std::exchange(actions_, {});
    carry_out(now);
    actions_ = std::move(now);  // keeps its memory
  }
  feeding_ = false;
  arm();
  if (host_.changed) host_.changed();
  check_waiters();
}

void Engine::carry_out(core::Actions& actions) {
  for (core::Action& action : actions) {
    std::visit([this](auto& a) { act(a); }, action);
  }
  if (!journal_requests_.empty()) journal_->submit(std::exchange(journal_requests_, {}));
}

void Engine::completed(std::vector<journal::Completion> completions) {
  for (journal::Completion& done : completions) {
    if (done.kind == journal::Completion::Kind::read && lost_.contains(done.sequence) && done.result) {
      done.result = std::unexpected(Error::corrupt("it was lost before it came here"));
    }
    if (!done.result && log_.enabled(LogLevel::debug)) {
      log_.log(LogLevel::debug, "journal_request_failed",
               {{"vm", done.owner.vm}, {"slot", done.slot}, {"error", done.result.error().message}});
    }
    feed(to_event(std::move(done)));
  }
  look_for_damage();
}

void Engine::look_for_damage() {
  const std::uint64_t found = journal_->stats().corrupt_records;
  if (found <= damage_known_) return;
  feed(core::DamageFound{found - std::exchange(damage_known_, found)});
}

/// One alarm for the earliest thing the core waits for; none when it waits for nothing.
void Engine::arm() {
  const std::optional<Time> wake = core_.next_wake();
  if (!wake || (armed_ && *armed_ <= *wake)) return;
  armed_ = wake;
  host_.at(*wake, [self = self_, when = *wake] {
    if (*self == nullptr) return;
    Engine& engine = **self;
    if (engine.armed_ != when) return;  // an earlier alarm took its place
    engine.armed_.reset();
    engine.feed(core::Tick{});
  });
}

void Engine::act(core::AnswerWrite& action) {
  auto write = take(writes_, action.request);
  if (!write) return;
  if (action.status == WriteStatus::accepted) {
    Histogram& times = action.journaled ? acknowledge_times_.journal : acknowledge_times_.direct;
    times.record(host_.now() - write->since);
  }
  write->done(action.status);
}

void Engine::act(core::AnswerRead& action) {
  if (auto done = take(reads_, action.request)) (*done)(std::move(action));
}

void Engine::act(core::AnswerContents& action) {
  if (auto set = take(sets_, action.request)) return (*set)(action.status);
  auto get = take(gets_, action.request);
  if (!get) return;
  if (action.status != WriteStatus::accepted) return (*get)(std::nullopt);
  (*get)(std::move(action.contents));
}

void Engine::act(core::AnswerAlert& action) {
  if (auto done = take(alerts_, action.request)) (*done)(std::move(action.outcome));
}

void Engine::act(core::RaiseAlert& action) {
  upstream_.uefi()->raise(std::move(action.alert),
                          [self = self_, owner = action.owner, call = action.call](Outcome outcome) {
                            if (*self != nullptr)
                              (*self)->feed(core::AlertRaised{owner, call, std::move(outcome)});
                          });
}

void Engine::act(core::Done& action) {
  auto done = take(operations_, action.request);
  if (!done) return;
  if (action.ok) return (*done)(action.entries);
  (*done)(std::unexpected(
      Error{action.entries == 0 ? Errc::not_found : Errc::unavailable, 0, std::move(action.text)}));
}

void Engine::act(core::Commit& action) {
  journal_requests_.push_back(to_request(std::move(action), host_.wall_ms()));
}

void Engine::act(core::Remove& action) { journal_requests_.push_back(to_request(action)); }

void Engine::act(core::ReadBack& action) { journal_requests_.push_back(to_request(action)); }

void Engine::act(core::Note& action) { notes_->note(action.owner, action.values); }

void Engine::act(core::Unnote& action) { notes_->erase(action.owner); }

void Engine::act(core::Deliver& action) {
  const Owner owner = action.delivery.owner;
  upstream_.deliver(std::move(action.delivery), [self = self_, owner, call = action.call](Outcome outcome) {
    if (*self != nullptr) (*self)->feed(core::DeliverDone{owner, call, std::move(outcome)});
  });
}

void Engine::act(core::Fetch& action) {
  upstream_.fetch(action.owner, [self = self_, owner = action.owner, call = action.call](Fetched fetched) {
    if (*self != nullptr) (*self)->feed(core::FetchDone{owner, call, std::move(fetched)});
  });
}

void Engine::act(core::Probe&) {
  upstream_.probe([self = self_](Outcome outcome) {
    if (*self == nullptr) return;
    (*self)->feed(
        core::ProbeDone{outcome.kind == Outcome::Kind::delivered, std::move(outcome.reason), outcome.epoch});
  });
}

void Engine::act(core::Report& action) { log_report(log_, action); }

}  // namespace guard::engine
