// What happens in one history: a list of steps, made from a seed. Pure. A plan can be played with steps or
// kinds of faults left out, so that a failing one can be shrunk.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "guard/env.h"
#include "guard/types.h"

namespace guard::simulation {

/// Numbers from a seed (splitmix64).
struct Dice {
  std::uint64_t state = 0;
  std::uint64_t next();
  std::uint64_t below(std::uint64_t n) { return next() % n; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }
  Time between(Time low, Time high);
};

/// Kinds of trouble: what a mask switches on. Names: name_of().
enum class Trouble : std::uint8_t {
  upstream_down,     ///< stops, flushing first, or freezes; comes back
  upstream_slow,     ///< calls are slow or hang
  upstream_refuses,  ///< the VM, the value, or for the time being
  upstream_forgets,  ///< crashes and loses what it had not flushed
  replies_lost,      ///< the update acts and nobody hears of it, or never acts
  acts_late,         ///< the update acts long after its connection was lost
  reads_fail,        ///< reading contents and probes
  edits,             ///< somebody else changes a value
  new_vtpm,          ///< the vTPM is replaced by another
  elsewhere,         ///< the VM runs on another host for a while
  guard_killed,      ///< kill -9
  power_cut,
  note_lost,      ///< a killed guard does not know which updates were under way
  disk_errors,    ///< EIO, failed syncs
  disk_full,      ///< ENOSPC
  disk_stalls,    ///< the journal answers late
  disk_damaged,   ///< bits flip, sectors cannot be read
  clock,          ///< the machine sleeps; the wall clock is set
  operator_acts,  ///< discard, deliver --force
  sockets,        ///< device sockets close and open
  orderly_stop,
  small_bounds,  ///< memory for next to nothing, one delivery at a time, a journal that is soon full
  count_
};
inline constexpr std::size_t trouble_count = static_cast<std::size_t>(Trouble::count_);
const char* name_of(Trouble trouble);

using Mask = std::uint32_t;
constexpr Mask bit(Trouble trouble) { return Mask{1} << static_cast<unsigned>(trouble); }
/// Names separated by blanks.
std::string names_in(Mask mask);

enum class Op : std::uint8_t {
  // Clients.
  write,
  erase,
  read,
  get_contents,
  set_contents,
  // The upstream.
  stop_upstream,
  crash_upstream,
  start_upstream,
  freeze,
  thaw,
  end_session,
  fault,  ///< `a` = SimFault, `b` = percent
  heal_faults,
  release,  ///< `a` = SimUpstream::Release
  edit,     ///< `b` odd: to the empty value
  replace_vtpm,
  move_away,
  come_home,
  delete_vm,
  restore_vm,
  // The guard and its disk.
  kill,
  cut_power,
  stop_guard,
  start_guard,
  fail_disk_once,  ///< `a` operations from now
  fail_disk,       ///< `a` = kind of operation
  fill_disk,
  heal_disk,
  stall_disk,
  flip_bit,
  make_unreadable,
  // People and sockets.
  discard,
  force,
  kick,
  close_socket,
  open_socket,
  sleep,
  set_wall_clock,
  count_
};
const char* name_of(Op op);
constexpr bool is_client(Op op) { return op <= Op::set_contents; }

struct Step {
  Op op = Op::write;
  unsigned vm = 0;
  Slot slot = Slot::permall;
  bool whole = false;             ///< all VMs (fault, release), or all slots (discard, force)
  std::uint64_t a = 0;            ///< see Op
  std::uint64_t b = 0;            ///< size of a value; more at Op
  Time gap{};                     ///< before it
  Time lasts{};                   ///< then it is undone, if it is something that can be
  Trouble why = Trouble::count_;  ///< the kind it belongs to; count_ = none
};

inline constexpr unsigned vm_count = 4;

struct Plan {
  std::uint64_t seed = 0;
  Mask mask = 0;
  std::vector<Step> steps;
};

/// At least 100 operations of clients, one crash of the guard and two other troubles.
Plan make_plan(std::uint64_t seed);
/// The same with only these troubles.
Plan make_plan(std::uint64_t seed, Mask mask);

}  // namespace guard::simulation
