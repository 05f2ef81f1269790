// The guard's shell in a simulated world: what src/engine and the journal's thread do in the real one.
#include <algorithm>
#include <utility>

#include "engine/translate.h"
#include "testing/simulation/world.h"

namespace guard::simulation {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::SimUpstream;

namespace {

std::string words_of(const Delivery& delivery, const Ledger& ledger) {
  std::string text = " VM " + std::to_string(vm_of(delivery.owner)) + ":";
  for (const SlotWrite& write : delivery.writes) {
    text += " " + std::string(name_of(write.slot)) + "=" +
            ledger.words(vm_of(delivery.owner), write.slot, write.value) + " (" +
            std::to_string(write.sequence) + ", " + std::to_string(write.known.size()) + " known" +
            (write.force ? ", forced)" : ")");
  }
  if (delivery.base) text += ", merged";
  if (delivery.verify) text += ", verify";
  if (delivery.ask_residence) text += ", ask residence";
  return text;
}

}  // namespace

std::int64_t World::wall_ms() const {
  return wall_offset_ms_ + std::chrono::duration_cast<milliseconds>(now_).count();
}

// --- Birth and death --------------------------------------------------------------------------------------

void World::start_guard() {
  open_journal();
  if (!store_) {
    say([] { return std::string("guard cannot open its journal"); });
    return later(Time(seconds(1)), Step{.op = Op::start_guard});
  }
  core_ = std::make_unique<core::Core>(config_);
  for (const journal::LiveEntry& found : store_->recovery().live) {
    auto entry = engine::to_recovered(found, now_, wall_ms());
    if (!entry) continue;
    say([&] {
      return "recovered VM " + std::to_string(vm_of(found.owner)) + " " + std::string(name_of(found.slot)) +
             " (" + std::to_string(found.sequence) + (found.retained ? ", retained" : "") +
             (found.suspect ? ", suspect)" : ")");
    });
    core_->recover(found.owner, std::move(*entry), now_);
  }
  core_->recover_sequence(store_->recovery().highest_sequence);
  // Who dies before the doubt of all lanes is over leaves no note behind that would be worth anything.
  if (std::exchange(note_lost_, false) || now_ < doubt_of_all_until_) {
    notes_.clear();
    doubt_of_all_until_ = now_ + config_.doubt_window;
    core_->recover_doubt_of_all(now_);
    ledger_.notes_lost();
  } else {
    for (const auto& [owner, values] : notes_) core_->recover_doubt(owner, values, now_);
  }
  say([] { return std::string("guard started"); });
  for (unsigned vm = 0; vm < vm_count; ++vm) {
    if (socket_open_[vm]) feed(core::SocketOpened{owner_of(vm)});
  }
  feed(core::Kick{});
}

void World::open_journal() {
  auto opened = journal::Store::open(
      disk_.root(), journal_options_, [this] { return salt_ += 0x9E3779B97F4A7C15ull; }, null_logger());
  if (!opened) return;
  store_ = std::move(*opened);
  const journal::Recovery& recovery = store_->recovery();
  if (recovery.corrupt_records > 0 || recovery.quarantined_bytes > 0) ledger_.damage_reported();
  std::vector<journal::Request> reads;
  for (const journal::LiveEntry& found : recovery.live) {
    reads.emplace_back(journal::ReadBack{found.owner, found.slot, found.sequence});
  }
  std::vector<journal::Completion> values;
  if (!reads.empty()) values = store_->run(std::move(reads));
  const Mask troubled = bit(Trouble::disk_errors) | bit(Trouble::disk_full);
  ledger_.recovered(recovery, values, (plan_.mask & troubled) != 0);
  idle_left_ = true;
  plan_journal();
}

/// kill -9, or a power cut: the batch under way ends somewhere.
void World::die(bool power) {
  if (!core_ && !power) return;
  ++tally_.crashes;
  say([&] { return std::string(power ? "power cut" : "kill -9"); });
  if (store_ && !queue_.empty() && dice_.one_in(2)) {
    for (const journal::Request& request : queue_) ledger_.running(request);
    disk_.stop_at(disk_.operations() + 1 + dice_.below(4));
    store_->run(std::move(queue_));
    look_at_figures();
  }
  end_stop();
  if (power) {
    disk_.crash();
    note_lost_ = true;  // it is kept in memory
  }
}

/// The process is gone.
void World::end_stop() {
  const bool orderly = std::exchange(stopping_, false);
  if (orderly) say([] { return std::string("guard ended"); });
  queue_.clear();
  journal_at_.reset();
  core_.reset();
  store_.reset();
  disk_.kill();
  disk_.heal();
  running_.clear();
  upstream_.guard_died(now_);
  ledger_.guard_died(now_);
  std::vector<SimUpstream::Output> none;
  upstream_.step(now_, none);
  ledger_.watch(upstream_, now_);
  const Time delay =
      dice_.between(milliseconds(1), dice_.one_in(4) ? Time(seconds(20)) : Time(milliseconds(300)));
  later(delay, Step{.op = Op::start_guard});
}

void World::stop_orderly() {
  if (!core_ || stopping_) return;
  say([] { return std::string("orderly stop begins"); });
  stopping_ = true;
  stop_deadline_ = now_ + Time(seconds(10));
  feed(core::Stop{});
}

// --- Actions ----------------------------------------------------------------------------------------------

void World::feed(core::Event event) {
  core::Actions actions;
  core_->step(std::move(event), now_, actions);
  for (core::Action& action : actions) {
    std::visit([this](auto& a) { act(a); }, action);
  }
  if (failed()) return;
  for (unsigned vm = 0; vm < vm_count; ++vm) ledger_.check(vm, core_.get());
}

void World::act(core::AnswerWrite& action) {
  static constexpr std::array<const char*, 3> words{"accepted", "too large", "unavailable"};
  say([&] {
    return "  answer #" + std::to_string(action.request) + " " +
           words[static_cast<std::size_t>(action.status)] + (action.journaled ? ", journaled" : "");
  });
  // Every value here fits, so that "never" may only be said of one that the upstream refused as such.
  const auto refused = upstream_.drawn()[static_cast<std::size_t>(testing::SimFault::refuse_payload)];
  if (action.status == WriteStatus::too_large && refused == 0) {
    ledger_.fail("P6: request " + std::to_string(action.request) +
                 " was told that its value can never be stored");
  }
  ledger_.answered(action, now_);
}

void World::act(core::AnswerRead& action) {
  static constexpr std::array<const char*, 4> words{"unavailable", "pending", "upstream", "known"};
  say([&] {
    return "  answer #" + std::to_string(action.request) + " " +
           words[static_cast<std::size_t>(action.result.source)] + ": " +
           std::string(action.result.value.view().substr(0, action.result.value.view().find('x')));
  });
  ledger_.answered(action, now_);
}

void World::act(core::AnswerContents& action) {
  say([&] {
    return "  answer #" + std::to_string(action.request) +
           (action.status == WriteStatus::accepted ? " accepted" : " unavailable");
  });
  ledger_.answered(action, now_);
}

void World::act(core::Done& action) {
  say([&] {
    return "  answer #" + std::to_string(action.request) + " done: " + std::to_string(action.entries) +
           action.text;
  });
  ledger_.answered(action, now_);
}

void World::act(core::Commit& action) {
  say([&] {
    const unsigned vm = vm_of(action.owner);
    return "  commit VM " + std::to_string(vm) + " " +
           (action.contents
                ? "contents"
                : std::string(name_of(action.slot)) + "=" + ledger_.words(vm, action.slot, action.value)) +
           " (" + std::to_string(action.sequence) + ", " + std::to_string(action.known.size()) + " known)";
  });
  ledger_.committing(action);
  queue_.push_back(engine::to_request(std::move(action), wall_ms()));
  plan_journal();
}

void World::act(core::Remove& action) {
  say([&] {
    return "  remove VM " + std::to_string(vm_of(action.owner)) + " " + std::string(name_of(action.slot)) +
           " up to " + std::to_string(action.up_to) + (action.retained ? ", retained" : "");
  });
  queue_.push_back(engine::to_request(action));
  plan_journal();
}

void World::act(core::ReadBack& action) {
  queue_.push_back(engine::to_request(action));
  plan_journal();
}

void World::act(core::Note& action) { notes_[action.owner] = std::move(action.values); }

void World::act(core::Unnote& action) {
  notes_.erase(action.owner);
  for (const auto& [id, running] : running_) {
    if (running.kind == Running::Kind::delivery && running.owner == action.owner &&
        !ledger_.forced(vm_of(action.owner))) {
      ledger_.fail("P2: an update under way is noted no more");
    }
  }
}

void World::act(core::Deliver& action) {
  const Owner owner = action.delivery.owner;
  say([&] { return "  update" + words_of(action.delivery, ledger_); });
  for (const auto& [id, running] : running_) {
    if (running.kind == Running::Kind::delivery && running.owner == owner && !ledger_.forced(vm_of(owner))) {
      ledger_.fail("P2: two updates of VM " + std::to_string(vm_of(owner)) + " at once");
    }
  }
  const auto& noted = notes_[owner];
  for (const SlotWrite& write : action.delivery.writes) {
    if (std::ranges::none_of(noted, [&write](const core::NotedValue& value) {
          return value.slot == write.slot && value.digest == write.value.digest() &&
                 value.sequence >= write.sequence;
        })) {
      ledger_.fail("P2: an update was sent that is not noted");
    }
  }
  ledger_.delivering(action, ++last_call_, socket_open_[vm_of(owner)], *core_);
  running_[last_call_] = {Running::Kind::delivery, owner, action.call};
  upstream_.submit(last_call_, std::move(action.delivery), now_);
}

void World::act(core::Fetch& action) {
  running_[++last_call_] = {Running::Kind::fetch, action.owner, action.call};
  upstream_.submit_fetch(last_call_, action.owner, now_);
}

void World::act(core::Probe&) {
  for (const auto& [id, running] : running_) {
    if (running.kind == Running::Kind::probe) ledger_.fail("P8: two probes at once");
  }
  running_[++last_call_] = {Running::Kind::probe, {}, 0};
  upstream_.submit_probe(last_call_, now_);
}

void World::act(core::Report& action) {
  static constexpr std::array<const char*, 22> words{"upstream down",
                                                     "upstream up",
                                                     "held",
                                                     "released",
                                                     "parked",
                                                     "elsewhere",
                                                     "went back",
                                                     "suspended",
                                                     "retention lost",
                                                     "alerts full",
                                                     "alert lost",
                                                     "journal stalled",
                                                     "doubt long",
                                                     "journal trouble",
                                                     "journal well",
                                                     "held long",
                                                     "pending long",
                                                     "message created",
                                                     "message dropped",
                                                     "message unconfirmed",
                                                     "mode",
                                                     "invariant"};
  static_assert(words.size() == static_cast<std::size_t>(core::Report::What::invariant) + 1);
  say([&] {
    return std::string("  report ") + words[static_cast<std::size_t>(action.what)] +
           (action.owner ? " VM " + std::to_string(vm_of(*action.owner)) : "") + " " + action.text;
  });
  if (action.what == core::Report::What::lane_parked) ++tally_.parked;
  if (action.what == core::Report::What::went_back) ++tally_.redelivered;
  ledger_.reported(action, now_);
}

// --- What the upstream says -------------------------------------------------------------------------------

void World::hear(std::vector<SimUpstream::Output>& outputs) {
  for (auto& output : outputs) {
    if (!core_ || failed()) return;
    std::visit([this](auto& done) { hear(done); }, output);
  }
}

void World::hear(SimUpstream::DeliverDone& done) {
  const auto found = running_.find(done.call);
  if (found == running_.end()) return;
  const Running running = found->second;
  running_.erase(found);
  const unsigned vm = vm_of(running.owner);
  say([&] {
    return "update of VM " + std::to_string(vm) + ": " + std::string(name_of(done.outcome.kind)) + " " +
           done.outcome.reason;
  });
  if (done.outcome.kind == Outcome::Kind::delivered) ledger_.delivered(done.call);
  feed(core::DeliverDone{running.owner, running.call, std::move(done.outcome)});
  if (done.outcome.kind == Outcome::Kind::delivered && socket_open_[vm]) ledger_.guard_looked(vm);
}

void World::hear(SimUpstream::FetchDone& done) {
  const auto found = running_.find(done.call);
  if (found == running_.end()) return;
  const Running running = found->second;
  running_.erase(found);
  const unsigned vm = vm_of(running.owner);
  const bool ok = done.fetched.kind == Outcome::Kind::delivered;
  say([&] { return "fetch of VM " + std::to_string(vm) + ": " + (ok ? "ok" : done.fetched.reason); });
  feed(core::FetchDone{running.owner, running.call, std::move(done.fetched)});
}

void World::hear(SimUpstream::ProbeDone& done) {
  running_.erase(done.call);
  const bool answers = done.outcome.kind == Outcome::Kind::delivered;
  say([&] { return std::string("probe ") + (answers ? "answered" : "failed"); });
  feed(core::ProbeDone{answers, done.outcome.reason, done.outcome.epoch});
}

void World::hear(SimUpstream::SessionEnded& ended) {
  say([&] { return "session " + std::to_string(ended.epoch) + " ended"; });
  ledger_.session_over(session_began_);
  feed(core::SessionEnded{ended.epoch});
}

void World::hear(SimUpstream::SignOfLife&) { feed(core::SignOfLife{}); }

// --- The journal's thread ---------------------------------------------------------------------------------

void World::plan_journal() {
  std::optional<Time> when;
  if (!queue_.empty()) {
    when = now_ + dice_.between(microseconds(50), milliseconds(3));
  } else if (store_->stats().state == journal::State::failed) {
    when = std::max(now_, next_revival_);
  } else if (idle_left_) {
    when = now_ + Time(limits::journal_quiet);
  }
  if (when) when = std::max(*when, stalled_until_);
  if (!queue_.empty() && journal_at_ && when) when = std::min(*when, *journal_at_);
  journal_at_ = when;
}

/// What the journal says of itself.
void World::look_at_figures() {
  const journal::Stats stats = store_->stats();
  if (stats.corrupt_records > 0 || stats.quarantined_bytes > 0) ledger_.damage_reported();
  if (stats.retained_given_up == 0) return;
  say([] { return std::string("journal gave retained entries up"); });
  ledger_.retained_given_up();
}

void World::journal_turn() {
  journal_at_.reset();
  if (queue_.empty()) {
    if (store_->stats().state == journal::State::failed) {
      store_->revive();
      next_revival_ = now_ + Time(limits::journal_retry);
    } else {
      idle_left_ = store_->idle_work();
    }
    look_at_figures();
    return plan_journal();
  }
  std::vector<journal::Request> batch = std::exchange(queue_, {});
  for (const journal::Request& request : batch) ledger_.running(request);
  std::vector<journal::Completion> done = store_->run(std::move(batch));
  store_->grow_ahead();
  idle_left_ = true;
  look_at_figures();
  for (journal::Completion& completion : done) {
    ledger_.committed(completion);
    if (!completion.result) say([&] { return "journal: " + completion.result.error().message; });
    if (!failed()) feed(engine::to_event(std::move(completion)));
  }
  plan_journal();
}

}  // namespace guard::simulation
