// What goes wrong in a simulated world. See world.h.
#include <cerrno>
#include <utility>

#include "testing/simulation/world.h"

namespace guard::simulation {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using testing::SimDisk;
using testing::SimFault;
using testing::SimUpstream;

void World::trouble(const Step& step) {
  if (step.why != Trouble::count_) {
    if (step.op != Op::kill && step.op != Op::cut_power) ++tally_.troubles;
    if (say_) {
      say_(stamp() + "* " + name_of(step.op) + (step.whole ? "" : ", VM " + std::to_string(step.vm)) + " (" +
           name_of(step.why) + ")");
    }
  }
  if (step.op <= Op::restore_vm) return trouble_upstream(step);
  if (step.op <= Op::make_unreadable) return trouble_disk(step);
  trouble_people(step);
}

// --- The upstream -----------------------------------------------------------------------------------------

void World::set_fault(const Step& step, double probability) {
  const auto fault = static_cast<SimFault>(step.a);
  if (step.whole || fault == SimFault::probe_fails) {
    upstream_.set_fault(fault, probability);
  } else {
    upstream_.set_fault(fault, probability, owner_of(step.vm).vm);
  }
}

void World::foreign(const Step& step, bool whole_vtpm) {
  const Owner owner = owner_of(step.vm);
  const auto value = [&](Slot slot) {
    return ledger_.make_value(step.vm, slot, step.b % 4 == 1 ? 0 : step.b, true, now_);
  };
  if (!whole_vtpm) {
    upstream_.edit(owner, step.slot, value(step.slot), now_);
  } else {
    Uuid vtpm = owner.vm;
    vtpm.bytes[0] = 0xCC;
    vtpm.bytes[1] = static_cast<std::uint8_t>(step.a);
    vtpm.bytes[2] = static_cast<std::uint8_t>(step.a >> 8);
    Contents contents;
    for (const Slot slot : {Slot::permall, Slot::savestate, Slot::volatilestate})
      contents[slot] = value(slot);
    upstream_.replace_vtpm(owner.vm, vtpm, contents, now_);
    upstream_.flush();
  }
  ledger_.moved(step.vm);
  ledger_.watch(upstream_, now_);
  if (!whole_vtpm) return;
  replaced_[step.vm] = true;
  // The device that was served is gone with its vTPM; another one comes sooner or later.
  Step device = step;
  device.op = Op::close_socket;
  later(dice_.between(Time{}, milliseconds(200)), device);
}

void World::trouble_upstream(const Step& step) {
  const Uuid vm = owner_of(step.vm).vm;
  Step undo = step;
  undo.why = Trouble::count_;
  const auto undo_by = [&](Op op) {
    undo.op = op;
    later(step.lasts, undo);
  };
  switch (step.op) {
    case Op::stop_upstream:
    case Op::crash_upstream:
      if (step.op == Op::stop_upstream) {
        upstream_.stop(now_);
      } else {
        upstream_.crash(now_);
      }
      ledger_.watch(upstream_, now_);
      session_began_ = now_;
      ledger_.rolled_back(core_.get(), now_);
      return undo_by(Op::start_upstream);
    case Op::start_upstream:
      say([] { return std::string("upstream is up"); });
      return upstream_.start(now_);
    case Op::freeze:
      upstream_.freeze();
      // What it does afterwards of what it had received is only feared for as long as a doubt lasts.
      undo.op = Op::thaw;
      return later(std::min(step.lasts, Time(seconds(60))), undo);
    case Op::thaw:
      return upstream_.thaw(now_);
    case Op::end_session:
      session_began_ = now_;
      return upstream_.end_session();
    case Op::fault:
      say([&] {
        return "fault " + std::string(testing::name_of(static_cast<SimFault>(step.a))) + " " +
               std::to_string(step.b) + "%";
      });
      set_fault(step, static_cast<double>(step.b) / 100.0);
      undo_by(Op::heal_faults);
      if (static_cast<SimFault>(step.a) == SimFault::hang) {
        undo.op = Op::release;
        undo.a = dice_.below(3);
        later(step.lasts + dice_.between(Time{}, minutes(3)), undo);
      }
      return;
    case Op::heal_faults:
      return set_fault(step, 0);
    case Op::release:
      return upstream_.release(static_cast<SimUpstream::Release>(step.a % 3),
                               step.whole ? std::nullopt : std::optional(vm), now_);
    case Op::edit:
    case Op::replace_vtpm:
      return foreign(step, step.op == Op::replace_vtpm);
    case Op::move_away:
      upstream_.set_elsewhere(vm, true);
      ledger_.moved(step.vm);
      return undo_by(Op::come_home);
    case Op::come_home:
      return upstream_.set_elsewhere(vm, false);
    case Op::delete_vm:
      upstream_.delete_vm(vm);
      return undo_by(Op::restore_vm);
    default:  // restore_vm
      return upstream_.add_vm(vm, upstream_.accepted(owner_of(step.vm)).vtpm);
  }
}

// --- The guard and its disk -------------------------------------------------------------------------------

void World::trouble_disk(const Step& step) {
  Step heal;
  heal.op = Op::heal_disk;
  switch (step.op) {
    case Op::kill:
      note_lost_ = note_lost_ || (plan_.mask & bit(Trouble::note_lost)) != 0;
      return die(false);
    case Op::cut_power:
      die(true);
      if ((plan_.mask & bit(Trouble::upstream_forgets)) == 0 || step.whole) return;
      heal.op = Op::crash_upstream;
      heal.lasts = step.lasts;
      return trouble_upstream(heal);
    case Op::stop_guard:
      return stop_orderly();
    case Op::start_guard:
      if (!core_) start_guard();
      return;
    case Op::fail_disk_once:
      return disk_.fail_at(disk_.operations() + 1 + step.a % 12, EIO);
    case Op::fail_disk:
      disk_.fail_all(static_cast<SimDisk::Kind>(step.a % 4), EIO);
      return later(step.lasts, heal);
    case Op::fill_disk:
      disk_.fail_all(step.whole ? SimDisk::Kind::write : SimDisk::Kind::sync, ENOSPC);
      return later(step.lasts, heal);
    case Op::heal_disk:
      stalled_until_ = Time{};
      if (store_) plan_journal();
      return disk_.heal();
    case Op::stall_disk:
      stalled_until_ = now_ + step.lasts;
      if (journal_at_) journal_at_ = std::max(*journal_at_, stalled_until_);
      return;
    default:
      break;
  }
  // Damage.
  const std::vector<std::string> files = disk_.list("");
  if (files.empty()) return;
  const std::string& file = files[step.a % files.size()];
  const std::vector<std::byte> bytes = disk_.contents(file);
  if (bytes.empty()) return;
  const std::size_t end =
      step.whole ? bytes.size() : std::min<std::size_t>(bytes.size(), 12 * limits::journal_block);
  const std::size_t offset = (step.a >> 8) % end;
  ledger_.disk_damaged();
  if (step.op == Op::make_unreadable) return disk_.make_unreadable(file, offset);
  const std::byte flipped = bytes[offset] ^ (std::byte{1} << (step.a >> 40 & 7));
  disk_.damage(file, offset, {&flipped, 1});
}

// --- People and sockets -----------------------------------------------------------------------------------

void World::trouble_people(const Step& step) {
  const Owner owner = owner_of(step.vm);
  const std::optional<Slot> slot = step.whole ? std::nullopt : std::optional(step.slot);
  switch (step.op) {
    case Op::discard:
    case Op::force: {
      if (!core_ || stopping_) return;
      Ledger::Asked asked;
      asked.kind = Ledger::Asked::Kind::operation;
      asked.vm = step.vm;
      asked.limit = now_ + Time(minutes(5));
      ledger_.asked(++last_request_, asked);
      if (step.op == Op::discard) {
        ledger_.discarding(step.vm, slot, now_);
        return feed(core::Discard{last_request_, owner, slot});
      }
      ledger_.forcing(step.vm);
      return feed(core::ForceDelivery{last_request_, owner, slot});
    }
    case Op::kick:
      if (core_) feed(core::Kick{});
      return;
    case Op::close_socket: {
      replaced_[step.vm] = false;
      if (!std::exchange(socket_open_[step.vm], false)) return;
      ledger_.guard_blind(step.vm);
      if (core_) feed(core::SocketClosed{owner});
      Step undo = step;
      undo.why = Trouble::count_;
      undo.op = Op::open_socket;
      return later(step.lasts, undo);
    }
    case Op::open_socket:
      if (std::exchange(socket_open_[step.vm], true)) return;
      if (core_) feed(core::SocketOpened{owner});
      return;
    case Op::sleep: {
      const Time slept = step.lasts * 4;
      now_ += slept;
      ledger_.forgive_lateness(slept + Time(seconds(20)));
      return;
    }
    default:  // set_wall_clock
      wall_offset_ms_ += static_cast<std::int64_t>(step.a % 7'200'000) - 3'600'000;
      return;
  }
}

}  // namespace guard::simulation
