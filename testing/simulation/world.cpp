#include "testing/simulation/world.h"

#include <algorithm>
#include <utility>

#include "wire/vtpm_contents.h"

namespace guard::simulation {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using testing::SimUpstream;

namespace {

constexpr std::array<Slot, 3> all_slots{Slot::permall, Slot::savestate, Slot::volatilestate};

/// More events than this in one history are a guard that spins.
constexpr std::uint64_t too_many_events = 200'000;

Uuid first_vtpm(unsigned vm) {
  Uuid vtpm = owner_of(vm).vm;
  vtpm.bytes[0] = 0xBB;
  return vtpm;
}

bool has(const Plan& plan, Trouble trouble) { return (plan.mask & bit(trouble)) != 0; }

testing::SimUpstreamOptions upstream_options(const Plan& plan) {
  testing::SimUpstreamOptions options;
  options.seed = plan.seed + 1;
  return options;
}

}  // namespace

World::World(const Plan& plan, std::function<void(const std::string&)> say)
    : plan_(plan),
      say_(std::move(say)),
      dice_{plan.seed ^ 0xD1CEull},
      disk_(plan.seed + 2),
      upstream_(upstream_options(plan)) {
  config_.upstream.vtpm_contents = 307'020;
  config_.seed = plan.seed + 3;
  if (has(plan, Trouble::small_bounds)) {
    config_.queue_entries = 1 + dice_.below(3);
    config_.queue_bytes = 200;
    config_.commit_bytes = 300;
    config_.known_bytes = dice_.below(2) * 400;
    config_.retained_bytes = dice_.below(2) * 200;
    config_.delivery_concurrency = 1;
    ledger_.may_give_up_retained();
  }
  journal_options_.size = (has(plan, Trouble::small_bounds) ? 20 : 32) * limits::journal_block;
  journal_options_.max_size = journal_options_.size;
  for (unsigned vm = 0; vm < vm_count; ++vm) {
    upstream_.add_vm(owner_of(vm).vm, first_vtpm(vm));
    for (const Slot slot : all_slots) {
      // Some VMs are new and have nothing, others have had a vTPM before.
      if (vm % 2 == 0) continue;
      const Value value = ledger_.make_value(vm, slot, 24, false, now_);
      upstream_.edit(owner_of(vm), slot, value, now_);
    }
  }
  upstream_.flush();
  ledger_.watch(upstream_, now_);
  ledger_.begin();
  std::vector<SimUpstream::Output> none;
  upstream_.step(now_, none);
}

World::~World() = default;

std::string World::stamp() const {
  const auto ms = std::chrono::duration_cast<milliseconds>(now_ - Time(std::chrono::hours(1))).count();
  std::string text = std::to_string(ms % 1000);
  text = std::string(3 - text.size(), '0') + text;
  text = std::to_string(ms / 1000) + "." + text;
  return std::string(text.size() < 9 ? 9 - text.size() : 0, ' ') + text + "  ";
}

// --- Playing ----------------------------------------------------------------------------------------------

std::string World::play() {
  for (socket_open_ = {true, true, true, true}; core_ == nullptr;) start_guard();
  for (const Step& step : plan_.steps) {
    run_until(now_ + step.gap);
    if (failed()) break;
    fulfil(step);
    if (failed()) break;
  }
  if (!failed()) heal_everything();
  if (!failed()) come_to_rest();
  if (!failed()) last_round();
  if (core_) {
    const core::Counters& counters = core_->counters();
    tally_.delivered += counters.delivered;
  }
  return ledger_.failure();
}

std::optional<Time> World::next_time() const {
  std::optional<Time> next = upstream_.next_time();
  const auto earlier = [&next](std::optional<Time> other) {
    if (other && (!next || *other < *next)) next = other;
  };
  if (core_) earlier(core_->next_wake());
  if (store_) earlier(journal_at_);
  if (!later_.empty()) earlier(later_.front().when);
  if (core_ && stopping_) earlier(stop_deadline_);
  return next;
}

void World::run_until(Time end) {
  while (!failed()) {
    const auto next = next_time();
    if (!next || *next > end) break;
    now_ = std::max(now_, *next);
    if (++tally_.events > too_many_events) {
      const bool spins = core_ && core_->next_wake() && *core_->next_wake() <= now_;
      return ledger_.fail(spins ? "P8: the guard wakes up again and again for nothing"
                                : "P8: the guard does not come to rest");
    }
    happen();
  }
  now_ = std::max(now_, end);
  ledger_.check_limits(now_);
}

/// One thing that is due; which of several is up to the seed.
bool World::happen() {
  const unsigned first = static_cast<unsigned>(dice_.below(4));
  for (unsigned i = 0; i < 4; ++i) {
    switch ((first + i) % 4) {
      case 0:
        if (later_.empty() || later_.front().when > now_) break;
        {
          const Step step = later_.front().step;
          later_.erase(later_.begin());
          return fulfil(step), true;
        }
      case 1: {
        const auto next = upstream_.next_time();
        if (!next || *next > now_) break;
        std::vector<SimUpstream::Output> outputs;
        upstream_.step(now_, outputs);
        ledger_.watch(upstream_, now_);
        return hear(outputs), true;
      }
      case 2:
        if (!store_ || !journal_at_ || *journal_at_ > now_) break;
        return journal_turn(), true;
      default:
        if (core_ && stopping_ && (stop_deadline_ <= now_ || core_->at_rest())) return end_stop(), true;
        if (core_ && core_->next_wake() && *core_->next_wake() <= now_) return feed(core::Tick{}), true;
        break;
    }
  }
  return false;
}

void World::later(Time delay, Step step) {
  Later entry{now_ + delay, ++last_later_, step};
  const auto place = std::ranges::upper_bound(later_, entry.when, {}, &Later::when);
  later_.insert(place, entry);
}

void World::fulfil(const Step& step) {
  if (is_client(step.op)) {
    client(step);
  } else {
    trouble(step);
  }
  if (core_) {
    for (unsigned vm = 0; vm < vm_count; ++vm) ledger_.check(vm, core_.get());
  }
}

// --- Clients ----------------------------------------------------------------------------------------------

void World::client(const Step& step) {
  if (!core_ || stopping_ || !socket_open_[step.vm]) return;
  ++tally_.operations;
  Ledger::Asked asked;
  asked.vm = step.vm;
  asked.slot = step.slot;
  asked.when = now_;
  // With a disk that is well nobody waits longer for it than for the upstream.
  const bool disk_suspect = now_ < disturbed_until_ || has(plan_, Trouble::disk_stalls);
  const Time disk_patience = disk_suspect ? Time(seconds(20)) : Time(milliseconds(900));
  const core::RequestId id = ++last_request_;
  const Owner owner = owner_of(step.vm);
  const std::string vm = " VM " + std::to_string(step.vm) + " ";
  const std::string where = vm + std::string(name_of(step.slot)) + " #" + std::to_string(id);
  switch (step.op) {
    case Op::write:
    case Op::erase: {
      asked.kind = Ledger::Asked::Kind::write;
      asked.limit = now_ + Time(limits::direct_timeout) + disk_patience;
      const Value value =
          ledger_.make_value(step.vm, step.slot, step.op == Op::write ? step.b : 0, false, now_);
      asked.orders[0] = ledger_.last_order();
      ledger_.asked(id, asked);
      say([&] {
        return (step.op == Op::write ? "write" : "erase") + where + " = " + std::to_string(asked.orders[0]);
      });
      return feed(core::WriteArrived{id, owner, step.slot, value});
    }
    case Op::read:
      asked.kind = Ledger::Asked::Kind::read;
      asked.limit = now_ + Time(limits::read_patience) + Time(seconds(2)) + disk_patience;
      ledger_.asked(id, asked);
      say([&] { return "read" + where; });
      return feed(core::ReadArrived{id, owner, step.slot});
    case Op::get_contents:
      asked.kind = Ledger::Asked::Kind::get;
      asked.limit = now_ + Time(limits::contents_patience) + disk_patience;
      ledger_.asked(id, asked);
      say([&] { return "get contents" + vm + "#" + std::to_string(id); });
      return feed(core::ContentsGet{id, owner});
    default:
      break;
  }
  core::ContentsSet set{id, owner, {}, upstream_.accepted(owner).vtpm};
  for (std::size_t i = 0; i < set.values.size(); ++i) {
    const bool empty = (step.b >> i & 3) == 0;
    set.values[i] = ledger_.make_value(step.vm, all_slots[i], empty ? 0 : step.b, false, now_);
    asked.orders[i] = ledger_.last_order();
  }
  asked.kind = Ledger::Asked::Kind::set;
  asked.limit = now_ + Time(limits::contents_patience) + disk_patience;
  ledger_.asked(id, asked);
  say([&] {
    return "set contents" + vm + "#" + std::to_string(id) + " = " + std::to_string(asked.orders[0]) + ", " +
           std::to_string(asked.orders[1]) + ", " + std::to_string(asked.orders[2]);
  });
  feed(std::move(set));
}

// --- The end ----------------------------------------------------------------------------------------------

void World::heal_everything() {
  healing_ = true;
  say([] { return std::string("--- all faults are healed"); });
  later_.clear();
  upstream_.clear_faults();
  for (unsigned vm = 0; vm < vm_count; ++vm) {
    Step step;
    step.vm = vm;
    step.op = Op::come_home;
    trouble(step);
    step.op = Op::restore_vm;
    trouble(step);
  }
  for (const Op op : {Op::thaw, Op::start_upstream, Op::heal_disk}) {
    Step step;
    step.op = op;
    trouble(step);
  }
  upstream_.release(dice_.one_in(2) ? SimUpstream::Release::apply : SimUpstream::Release::drop, {}, now_);
  run_until(now_ + Time(seconds(11)));  // an orderly stop under way ends, and a dead guard comes back
  Step step;
  step.op = Op::start_guard;
  if (!core_ && !failed()) trouble(step);
  for (step.vm = 0; step.vm < vm_count; ++step.vm) {
    step.op = Op::close_socket;
    if (replaced_[step.vm]) trouble(step);
    step.op = Op::open_socket;
    trouble(step);
  }
}

void World::come_to_rest() {
  // Doubt 2 min, back-off of a held lane 5 min, retention 15 min and half a minute.
  const Time end = now_ + Time(minutes(40));
  while (!failed() && now_ < end) {
    const auto next = next_time();
    if (!next) break;
    run_until(std::max(now_, *next));
  }
  if (failed()) return;
  if (!core_) return ledger_.fail("P12: the guard does not come up again");
  if (ledger_.anybody_waits()) return ledger_.fail("a request was never answered");
  // What was damaged on the disk keeps its lane at work until an operator has decided.
  const bool stuck = core_->pending_entries() != 0;
  if (stuck && !ledger_.damaged()) return ledger_.fail("P1: something is pending at rest");
  if (!stuck && !core_->at_rest()) return ledger_.fail("P12: an orderly stop would wait for ever");
  const core::Snapshot view = core_->snapshot();
  if (view.doubt != 0) return ledger_.fail("a lane is in doubt at rest");
  if (view.uncompared != 0 && !ledger_.damaged())
    return ledger_.fail("P13: something was not compared at rest");
  if (!stuck && !notes_.empty()) return ledger_.fail("an update is noted at rest");
  ledger_.at_rest(*core_);
}

/// P9, P5: everybody is served again, at once.
void World::last_round() {
  for (unsigned vm = 0; vm < vm_count && !failed(); ++vm) {
    for (const Op op : {Op::write, Op::read}) {
      Step step;
      step.op = op;
      step.vm = vm;
      step.b = 20;
      disturbed_until_ = Time{};
      client(step);
      run_until(now_ + Time(seconds(2)));
      if (failed()) return;
      if (ledger_.refused_last()) {
        return ledger_.fail("P9: VM " + std::to_string(vm) + " is not served after everything was healed");
      }
    }
  }
  if (!failed()) ledger_.at_rest(*core_);
}

}  // namespace guard::simulation
