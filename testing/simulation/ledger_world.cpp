// The oracle's view of the journal and of the upstream. See ledger.h.
#include <algorithm>
#include <utility>

#include "testing/simulation/ledger.h"

namespace guard::simulation {

using testing::SimUpstream;

namespace {

constexpr std::array<Slot, Ledger::slots> all_slots{Slot::permall, Slot::savestate, Slot::volatilestate};

}  // namespace

// --- The journal ------------------------------------------------------------------------------------------

void Ledger::committing(const core::Commit& commit) {
  const unsigned vm = vm_of(commit.owner);
  const auto enter = [&](Slot slot, const Value& value) {
    const Order order = order_of(vm, slot, commit.sequence, value);
    if (order == 0) return fail("a value was committed that nobody wrote");
    auto& entry = at(vm, slot).disk[commit.sequence];
    // A value retained in memory is written with its old sequence.
    entry.order = order;
  };
  as_contents_[commit.sequence] = commit.contents.has_value();
  if (!commit.contents) return enter(commit.slot, commit.value);
  for (const Slot slot : all_slots) enter(slot, (*commit.contents)[static_cast<std::size_t>(slot)]);
}

/// A newer durable record ends the older ones of its slot.
void Ledger::note_durable(unsigned vm, Slot slot, Sequence sequence) {
  auto& disk = at(vm, slot).disk;
  const auto found = disk.find(sequence);
  if (found == disk.end()) return;
  found->second.durable = true;
  found->second.perhaps_gone = false;
  disk.erase(disk.begin(), found);
}

void Ledger::committed(const journal::Completion& done) {
  const unsigned vm = vm_of(done.owner);
  if (done.kind == journal::Completion::Kind::read) return;
  if (!done.result && done.result.error().code == Errc::invalid) {
    return fail("the journal was asked for something invalid: " + done.result.error().message);
  }
  if (done.kind == journal::Completion::Kind::entry) {
    for (const Slot slot : all_slots) {
      // A contents entry stands for all three.
      auto& disk = at(vm, slot).disk;
      if (slot != done.slot && !as_contents_[done.sequence]) continue;
      const auto found = disk.find(done.sequence);
      if (found == disk.end()) continue;
      if (done.result) {
        note_durable(vm, slot, done.sequence);
      } else if (done.result.error().code == Errc::no_space && !found->second.durable) {
        disk.erase(found);
      }
    }
    return;
  }
  auto& disk = at(vm, done.slot).disk;
  // Whether it retains is known from what was asked: running() is told before the store runs.
  for (auto it = disk.begin(); it != disk.end() && it->first <= done.sequence;) {
    OnDisk& entry = it->second;
    if (!done.result) {
      ++it;
    } else if (entry.perhaps_retained && it->first == done.sequence && entry.durable) {
      entry.retained = true;
      entry.perhaps_gone = entry.perhaps_retained = false;
      ++it;
    } else {
      SlotState& s = at(vm, done.slot);
      if (entry.order >= s.acked && (entry.retained || s.standing >= entry.order)) {
        // It stands upstream, and its retention ends, or cannot be had because of a failed commit above it:
        // from now on it is safe as a direct write is, upstream and in memory.
        s.acked_direct = true;
        s.acked_life = life_;
      }
      it = disk.erase(it);
    }
  }
}

void Ledger::running(const journal::Request& request) {
  const auto* removal = std::get_if<journal::Removal>(&request);
  if (removal == nullptr) return;
  SlotState& s = at(vm_of(removal->owner), removal->slot);
  for (auto& [sequence, entry] : s.disk) {
    if (sequence > removal->up_to) continue;
    if (removal->retained && sequence == removal->up_to) {
      entry.perhaps_retained = true;
    } else {
      // A retention that ends: from now on it may be as safe as a direct write is, whether or not anybody
      // lives to hear of it.
      if (entry.retained && entry.order >= s.acked) {
        s.acked_direct = true;
        s.acked_life = life_;
      }
      entry.perhaps_gone = true;
      entry.perhaps_retained = false;
    }
  }
}

void Ledger::recovered(const journal::Recovery& recovery, const std::vector<journal::Completion>& values,
                       bool troubled) {
  std::array<std::array<std::map<Sequence, OnDisk>, slots>, vm_count> now;
  for (std::size_t i = 0; i < recovery.live.size(); ++i) {
    const journal::LiveEntry& live = recovery.live[i];
    const unsigned vm = vm_of(live.owner);
    SlotState& s = at(vm, live.slot);
    const auto before = s.disk.find(live.sequence);
    OnDisk entry;
    entry.durable = true;
    entry.retained = live.retained;
    if (before == s.disk.end()) {
      if (!damaged_) {
        return fail("P2: " + name(vm, live.slot) + ": the journal brought back entry " +
                    std::to_string(live.sequence) + ", which was durably ended or never written");
      }
      const auto order = s.orders.find(live.sequence);
      entry.order = order == s.orders.end() ? 0 : order->second;
    } else {
      entry.order = before->second.order;
      if (before->second.retained && !live.retained && !damaged_) {
        return fail("P2: " + name(vm, live.slot) + ": entry " + std::to_string(live.sequence) +
                    " was retained and counts as pending again");
      }
    }
    const bool unreadable = !values[i].result.has_value();
    if (unreadable && damaged_) {
      damage_reported_ = true;
      continue;
    }
    if (unreadable && !troubled) return fail("P10: an entry on a disk that is well cannot be read back");
    if (!unreadable && order_of(vm, live.slot, live.sequence, values[i].value) != entry.order) {
      return fail("P10: " + name(vm, live.slot) + ": the journal shows another value under " +
                  std::to_string(live.sequence));
    }
    now[vm][static_cast<std::size_t>(live.slot)].emplace(live.sequence, entry);
  }
  for (unsigned vm = 0; vm < vm_count; ++vm) {
    for (const Slot slot : all_slots) {
      auto& found = now[vm][static_cast<std::size_t>(slot)];
      for (const auto& [sequence, entry] : at(vm, slot).disk) {
        const bool superseded = !found.empty() && found.rbegin()->first > sequence;
        if (!entry.durable || entry.perhaps_gone || found.contains(sequence) || superseded) continue;
        if ((entry.retained || entry.perhaps_retained) && (given_up_ || may_give_up_)) {
          given_up_ = true;
          continue;
        }
        if (damaged_ && damage_reported_) continue;
        fail((damaged_ ? "P10: lost without a word: " : "P1: ") + name(vm, slot) + ": entry " +
             std::to_string(sequence) + " was durable and is gone after a restart");
      }
      at(vm, slot).disk = std::move(found);
      // What never came to the journal may be numbered once more.
      std::erase_if(at(vm, slot).orders,
                    [&](const auto& known) { return !at(vm, slot).disk.contains(known.first); });
    }
  }
  if (!given_up_) return;
  // For lack of room the journal gave up what the upstream may lose.
  for (unsigned vm = 0; vm < vm_count; ++vm) {
    for (const Slot slot : all_slots) {
      SlotState& s = at(vm, slot);
      const Order safe = best(vm, slot, nullptr);
      if (safe >= s.acked) continue;
      s.covered = s.acked;
      s.floor = std::min(s.floor, std::max(safe, s.standing));
    }
  }
}

// --- The upstream -----------------------------------------------------------------------------------------

void Ledger::begin() {
  for (Vm& vm : vms_) {
    vm.disturbed = false;
    for (SlotState& s : vm.slot) s.acked = s.floor = s.covered = s.standing;
  }
}

void Ledger::delivering(const core::Deliver& action, SimUpstream::CallId call, bool socket_open,
                        const core::Core& core) {
  const unsigned vm = vm_of(action.delivery.owner);
  const core::Lane* lane = core.lane(action.delivery.owner);
  bool forced = true;
  bool kept = false;  // the value is one that the journal holds, or that is retained
  for (const SlotWrite& write : action.delivery.writes) {
    forced = forced && write.force;
    const Order order = order_of(vm, write.slot, write.sequence, write.value);
    if (order == 0) fail("an update carries a value that nobody wrote");
    Carried& carried = calls_[call];
    carried.vm = vm;
    carried.orders[static_cast<std::size_t>(write.slot)] = order;
    if (write.force && !vms_[vm].forced) fail("P14: an update is forced, and no operator said so");
    if (write.known.size() == 1 && write.known.front() == write.value.digest()) vms_[vm].baseless = life_;
    const auto& disk = at(vm, write.slot).disk;
    const auto entry = disk.find(write.sequence);
    if (entry != disk.end() && entry->second.durable) kept = true;
    const core::Retained* retained = lane == nullptr ? nullptr : lane->retained(write.slot);
    if (retained != nullptr && retained->entry.sequence == write.sequence) kept = true;
  }
  calls_[call].entry = kept;
  if (kept) {
    if (!socket_open && !forced && !action.delivery.ask_residence) {
      fail("P14: an entry is delivered for a VM without a socket, and nobody asked where it runs");
    }
    return;
  }
  // Direct: only when the journal holds nothing of the lane, not even possibly (rule 1).
  if (damaged_) return;
  for (const Slot slot : all_slots) {
    const bool written = std::ranges::any_of(action.delivery.writes,
                                             [slot](const SlotWrite& write) { return write.slot == slot; });
    const core::Entry* parked = lane == nullptr ? nullptr : lane->parked(slot);
    for (const auto& [sequence, entry] : at(vm, slot).disk) {
      const bool aside = entry.retained || entry.perhaps_retained || (parked && parked->sequence == sequence);
      if (written || !aside) {
        fail("P2: " + name(vm, slot) + ": direct while the journal may hold entry " +
             std::to_string(sequence));
      }
    }
  }
}

void Ledger::delivered(SimUpstream::CallId call) {
  const auto carried = calls_.find(call);
  if (carried == calls_.end()) return;
  for (const Slot slot : all_slots) {
    const Order order = carried->second.orders[static_cast<std::size_t>(slot)];
    SlotState& s = at(carried->second.vm, slot);
    if (order == 0 || !values_[order - 1].empty || !s.standing_empty) continue;
    s.covered = std::max(s.covered, order);  // there was nothing to do
    if (order <= s.standing) continue;
    s.standing = order;
    s.standing_foreign = false;
    s.stood.push_back(order);
  }
}

void Ledger::watch(const SimUpstream& upstream, Time now) {
  for (unsigned vm = 0; vm < vm_count; ++vm) {
    const auto& history = upstream.history(owner_of(vm));
    for (; vms_[vm].seen < history.size(); ++vms_[vm].seen) stood(vm, history[vms_[vm].seen]);
    for (SlotState& s : vms_[vm].slot) {
      if (s.standing_empty) s.empty_until = now;
    }
  }
}

void Ledger::stood(unsigned vm, const SimUpstream::Stood& event) {
  SlotState& s = at(vm, event.slot);
  const Order before = s.standing;
  const bool before_foreign = s.standing_foreign;
  Order order = 0;
  if (!event.value.empty()) {
    order = order_of(vm, event.slot, event.value);
    if (order == 0)
      return fail("P10: " + name(vm, event.slot) + ": a value that nobody wrote came to stand upstream");
  } else if (event.writer == SimUpstream::Writer::guard && event.sequence != 0) {
    order = calls_[event.call].orders[static_cast<std::size_t>(event.slot)];
  } else {
    // The newest that stood there and was empty; 0 = from the beginning.
    for (const Order old : s.stood) {
      if (old == 0 || values_[old - 1].empty) order = std::max(order, old);
    }
    if (event.writer == SimUpstream::Writer::somebody) {
      order = values_.size();
      while (order > 0 && !(values_[order - 1].vm == vm && values_[order - 1].slot == event.slot &&
                            values_[order - 1].foreign && values_[order - 1].empty)) {
        --order;
      }
    }
  }
  s.standing = order;
  s.standing_foreign = order != 0 && values_[order - 1].foreign;
  s.standing_empty = event.value.empty();
  s.stood.push_back(order);
  if (event.writer == SimUpstream::Writer::somebody) {
    vms_[vm].disturbed = true;
    // What was overwritten there is gone, by somebody else's hand.
    if (!before_foreign) s.covered = std::max(s.covered, before);
    return;
  }
  if (event.writer == SimUpstream::Writer::went_back) vms_[vm].went_back = true;
  if (event.writer == SimUpstream::Writer::went_back || vms_[vm].forced) return;
  if (order >= before) {
    if (!before_foreign || event.unseen || order == before) return;
    return;
  }
  if (!before_foreign) {
    // An erase that was refused and took effect all the same cannot be told from an upstream that went back
    // to when there was nothing yet; what was acknowledged before it is delivered again (P13).
    if (before > s.acked && before != 0 && values_[before - 1].empty) return;
    return fail("P2: " + name(vm, event.slot) + ": the upstream went back from " + std::to_string(before) +
                " to " + std::to_string(order) + (event.late ? ", by an update that came late" : ""));
  }
  if (event.sequence == 0 && !event.unseen && !event.late) {
    return fail(
        "P14: " + name(vm, event.slot) + ": somebody else's " + std::to_string(before) +
        " was undone by an update of another slot, merged from what stood there in an earlier session");
  }
  // An empty value of somebody else cannot be told from an upstream that went back.
  if (event.unseen || order == 0 || values_[before - 1].empty) return;
  const Known& ours = values_[order - 1];
  if (!ours.based || vms_[vm].contents_set > 0 || !calls_[event.call].entry) return;
  fail("P14: " + name(vm, event.slot) + ": somebody else's " + std::to_string(before) +
       " was overwritten by " + std::to_string(order) + ", which is older");
}

void Ledger::rolled_back(const core::Core* core, Time now) {
  for (unsigned vm = 0; vm < vm_count; ++vm) {
    for (const Slot slot : all_slots) {
      SlotState& s = at(vm, slot);
      const Order safe = best(vm, slot, core);
      if (s.acked <= s.covered || s.aside) {
        s.floor = std::min(s.floor, s.aside ? s.standing : std::max(safe, s.standing));
        s.excused = now;
        if (s.acked <= s.covered) continue;
      }
      if (safe >= s.acked) continue;
      // What the upstream alone had, since the guard died with the only other copy.
      if ((s.acked_direct && s.acked_life < life_) || given_up_) {
        s.covered = s.acked;
        s.floor = std::min(s.floor, std::max(safe, s.standing));
        s.excused = now;
      }
    }
  }
}

}  // namespace guard::simulation
