#include "testing/simulation/plan.h"

#include <algorithm>
#include <array>
#include <bit>

#include "testing/sim_upstream.h"

namespace guard::simulation {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using testing::SimFault;

std::uint64_t Dice::next() {
  std::uint64_t z = (state += 0x9E3779B97F4A7C15ull);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

Time Dice::between(Time low, Time high) {
  return low + Time(static_cast<Time::rep>(below(static_cast<std::uint64_t>((high - low).count()) + 1)));
}

const char* name_of(Trouble trouble) {
  static constexpr std::array<const char*, trouble_count> names{
      "upstream_down", "upstream_slow", "upstream_refuses", "upstream_forgets", "replies_lost", "acts_late",
      "reads_fail",    "edits",         "new_vtpm",         "elsewhere",        "guard_killed", "power_cut",
      "note_lost",     "disk_errors",   "disk_full",        "disk_stalls",      "disk_damaged", "clock",
      "operator_acts", "sockets",       "orderly_stop",     "small_bounds"};
  return names[static_cast<std::size_t>(trouble)];
}

std::string names_in(Mask mask) {
  std::string text;
  for (std::size_t i = 0; i < trouble_count; ++i) {
    if ((mask >> i & 1) == 0) continue;
    if (!text.empty()) text += ' ';
    text += name_of(static_cast<Trouble>(i));
  }
  return text;
}

const char* name_of(Op op) {
  static constexpr std::array<const char*, static_cast<std::size_t>(Op::count_)> names{
      "write",
      "erase",
      "read",
      "get contents",
      "set contents",
      "stop upstream",
      "crash upstream",
      "start upstream",
      "freeze upstream",
      "thaw upstream",
      "end session",
      "fault",
      "heal faults",
      "release hanging calls",
      "somebody edits",
      "somebody replaces the vTPM",
      "VM runs elsewhere",
      "VM runs here",
      "VM deleted",
      "VM restored",
      "kill -9",
      "power cut",
      "orderly stop",
      "start guard",
      "disk fails once",
      "disk fails",
      "disk is full",
      "disk healed",
      "disk stalls",
      "bit flips",
      "sector becomes unreadable",
      "operator discards",
      "operator forces",
      "kick",
      "socket closes",
      "socket opens",
      "machine sleeps",
      "wall clock is set"};
  return names[static_cast<std::size_t>(op)];
}

namespace {

class Maker {
 public:
  explicit Maker(Plan& plan) : plan_(plan), dice_{plan.seed * 0x2545F4914F6CDD1Dull + 7} {}

  void make() {
    const unsigned clients = 100 + static_cast<unsigned>(dice_.below(30));
    for (unsigned i = 0; i < clients; ++i) client();
    for (std::size_t kind = 0; kind < trouble_count; ++kind) {
      if ((plan_.mask >> kind & 1) == 0) continue;
      const unsigned times = 1 + static_cast<unsigned>(dice_.below(3));
      for (unsigned i = 0; i < times; ++i) insert(static_cast<Trouble>(kind));
    }
  }

 private:
  Time gap() {
    switch (dice_.below(20)) {
      case 0:
        return dice_.between(seconds(60), seconds(400));
      case 1:
        return dice_.between(seconds(3), seconds(60));
      case 2:
      case 3:
      case 4:
        return dice_.between(milliseconds(300), seconds(3));
      case 5:
      case 6:
      case 7:
      case 8:
        return dice_.between(milliseconds(5), milliseconds(300));
      default:
        return dice_.between(Time(0), milliseconds(5));
    }
  }

  Slot slot() {
    static constexpr std::array<Slot, 6> all{Slot::permall,       Slot::permall,   Slot::permall,
                                             Slot::volatilestate, Slot::savestate, Slot::volatilestate};
    return all[dice_.below(all.size())];
  }

  void client() {
    Step step;
    if (dice_.one_in(3)) vm_ = static_cast<unsigned>(dice_.below(vm_count));
    step.vm = vm_;
    step.slot = slot();
    step.gap = gap();
    step.b = 8 + dice_.below(dice_.one_in(8) ? 600 : 60);
    const auto kind = dice_.below(40);
    step.op = kind < 20   ? Op::write
              : kind < 22 ? Op::erase
              : kind < 36 ? Op::read
              : kind < 38 ? Op::get_contents
                          : Op::set_contents;
    plan_.steps.push_back(step);
  }

  void put(Step step) {
    step.gap = gap();
    const std::size_t at = dice_.below(plan_.steps.size() + 1);
    plan_.steps.insert(plan_.steps.begin() + static_cast<std::ptrdiff_t>(at), step);
  }

  Step make_step(Trouble kind, Op op) {
    Step step;
    step.op = op;
    step.why = kind;
    step.vm = static_cast<unsigned>(dice_.below(vm_count));
    step.slot = slot();
    step.a = dice_.next();
    step.b = 8 + dice_.below(60);
    step.whole = dice_.one_in(2);
    step.lasts = dice_.one_in(3) ? dice_.between(seconds(10), minutes(4))
                                 : dice_.between(milliseconds(10), seconds(8));
    return step;
  }

  void fault(Trouble kind, std::initializer_list<SimFault> which) {
    Step step = make_step(kind, Op::fault);
    step.a =
        static_cast<std::uint64_t>(*(which.begin() + static_cast<std::ptrdiff_t>(dice_.below(which.size()))));
    static constexpr std::array<std::uint64_t, 4> percent{10, 30, 60, 100};
    step.b = percent[dice_.below(percent.size())];
    put(step);
  }

  void insert(Trouble kind) {
    switch (kind) {
      case Trouble::upstream_down:
        return put(make_step(kind, dice_.one_in(3)   ? Op::freeze
                                   : dice_.one_in(5) ? Op::end_session
                                                     : Op::stop_upstream));
      case Trouble::upstream_slow:
        if (dice_.one_in(4)) put(make_step(kind, Op::release));
        return fault(kind, {SimFault::slow, SimFault::hang, SimFault::read_slow, SimFault::read_hangs});
      case Trouble::upstream_refuses:
        if (dice_.one_in(5)) return put(make_step(kind, Op::delete_vm));
        return fault(kind, {SimFault::refuse_transient, SimFault::refuse_lane, SimFault::refuse_payload});
      case Trouble::upstream_forgets:
        return put(make_step(kind, Op::crash_upstream));
      case Trouble::replies_lost:
        return fault(kind, {SimFault::drop_request, SimFault::drop_reply, SimFault::verify_differs});
      case Trouble::acts_late:
        return fault(kind, {SimFault::act_late, SimFault::act_late, SimFault::hang});
      case Trouble::reads_fail:
        return fault(kind, {SimFault::read_fails, SimFault::read_suspect, SimFault::probe_fails});
      case Trouble::edits:
        return put(make_step(kind, Op::edit));
      case Trouble::new_vtpm:
        return put(make_step(kind, Op::replace_vtpm));
      case Trouble::elsewhere:
        return put(make_step(kind, Op::move_away));
      case Trouble::guard_killed:
        return put(make_step(kind, Op::kill));
      case Trouble::power_cut:
        return put(make_step(kind, Op::cut_power));
      default:
        return insert_near(kind);
    }
  }

  /// Troubles of the guard's own machine.
  void insert_near(Trouble kind) {
    switch (kind) {
      case Trouble::disk_errors:
        return put(make_step(kind, dice_.one_in(3) ? Op::fail_disk : Op::fail_disk_once));
      case Trouble::disk_full:
        return put(make_step(kind, Op::fill_disk));
      case Trouble::disk_stalls:
        return put(make_step(kind, Op::stall_disk));
      case Trouble::disk_damaged:
        return put(make_step(kind, dice_.one_in(3) ? Op::make_unreadable : Op::flip_bit));
      case Trouble::clock:
        return put(make_step(kind, dice_.one_in(2) ? Op::sleep : Op::set_wall_clock));
      case Trouble::operator_acts:
        return put(make_step(kind, dice_.one_in(3) ? Op::kick : dice_.one_in(2) ? Op::discard : Op::force));
      case Trouble::sockets:
        return put(make_step(kind, Op::close_socket));
      case Trouble::orderly_stop:
        return put(make_step(kind, Op::stop_guard));
      default:
        return;  // settings, not steps
    }
  }

  Plan& plan_;
  Dice dice_;
  unsigned vm_ = 0;
};

}  // namespace

Plan make_plan(std::uint64_t seed) {
  Dice dice{seed};
  Mask mask = dice.one_in(2) ? bit(Trouble::guard_killed) : bit(Trouble::power_cut);
  const unsigned wanted = 3 + static_cast<unsigned>(dice.below(5));
  while (std::popcount(mask) < static_cast<int>(wanted)) {
    mask |= Mask{1} << dice.below(trouble_count);
  }
  return make_plan(seed, mask);
}

Plan make_plan(std::uint64_t seed, Mask mask) {
  Plan plan;
  plan.seed = seed;
  plan.mask = mask;
  Maker(plan).make();
  return plan;
}

}  // namespace guard::simulation
