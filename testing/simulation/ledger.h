// The oracle: what was promised to whom. A reference model that knows nothing of how the guard works: what
// clients asked for and were told, what stands upstream, what the disk holds. It finds the first promise that
// was broken; the numbers are those of docs/DURABILITY.md.
//
// Every value that anybody ever writes has an order, counting up, and is recognised by its text
// "<order>x...". Empty values are told apart by the sequence that the core gives them, and otherwise taken to
// be the newest that they can be.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/core.h"
#include "journal/journal.h"
#include "testing/sim_upstream.h"
#include "testing/simulation/plan.h"

namespace guard::simulation {

using Order = std::uint64_t;

Owner owner_of(unsigned vm);
inline unsigned vm_of(const Owner& owner) { return owner.vm.bytes[15]; }

class Ledger {
 public:
  static constexpr std::size_t slots = 3;

  /// The first broken promise, in words; empty as long as there is none.
  const std::string& failure() const { return failure_; }
  void fail(const std::string& what);

  // --- Values ---
  /// A new value of this size (0 = the empty one).
  Value make_value(unsigned vm, Slot slot, std::size_t size, bool foreign, Time now);
  /// What stands upstream now is how the history begins.
  void begin();
  /// Of the value made last.
  Order last_order() const { return values_.size(); }
  std::string words(unsigned vm, Slot slot, const Value& value) const;

  // --- Clients ---
  struct Asked {
    enum class Kind { write, read, get, set, operation } kind = Kind::write;
    unsigned vm = 0;
    Slot slot = Slot::permall;
    std::array<Order, slots>
        orders{};  ///< of a write or a set, what is to be written; else what must be seen
    Time when{};
    Time limit{};  ///< it must be answered by then
  };
  void asked(core::RequestId id, Asked asked);
  void answered(const core::AnswerWrite& answer, Time now);
  void answered(const core::AnswerRead& answer, Time now);
  void answered(const core::AnswerContents& answer, Time now);
  void answered(const core::Done& answer, Time now);
  /// Nobody was forgotten.
  void check_limits(Time now);
  /// Clocks jumped: nobody is late.
  void forgive_lateness(Time by);
  bool anybody_waits() const { return !asked_.empty(); }
  /// The last answer was "not now".
  bool refused_last() const { return refused_last_; }

  // --- The journal ---
  void committing(const core::Commit& commit);
  /// The store is about to run this; whatever comes of it may be on the disk from now on.
  void running(const journal::Request& request);
  void committed(const journal::Completion& done);
  /// What a new store has found; `read` reads its values back.
  /// `troubled`: it may be that they cannot be read now.
  void recovered(const journal::Recovery& recovery, const std::vector<journal::Completion>& values,
                 bool troubled);
  /// The journal said that something is damaged.
  void damage_reported() { damage_reported_ = true; }
  /// Bits were flipped or sectors made unreadable: from now on losses are fine that the journal reports.
  void disk_damaged() { damaged_ = true; }
  bool damaged() const { return damaged_; }
  void retained_given_up() { given_up_ = true; }
  /// It has so little room that it may, also in a batch that fails, without having counted it.
  void may_give_up_retained() { may_give_up_ = true; }
  /// Nobody knows which updates were under way when the last guard died.
  void notes_lost() { notes_lost_in_ = life_; }

  // --- The upstream ---
  /// `call`: under which the upstream knows it.
  void delivering(const core::Deliver& action, testing::SimUpstream::CallId call, bool socket_open,
                  const core::Core& core);
  /// The upstream answered `delivered`, perhaps without doing anything.
  void delivered(testing::SimUpstream::CallId call);
  /// What came to stand there since the last call.
  void watch(const testing::SimUpstream& upstream, Time now);
  /// The upstream lost what it had not flushed; `core` is null when there is no guard.
  void rolled_back(const core::Core* core, Time now);
  /// The guard has heard of the end of its session; `began`: when the next one did.
  void session_over(Time began) { session_since_ = began; }
  /// The guard has seen what stands there, with its socket open.
  void guard_looked(unsigned vm);
  void guard_blind(unsigned vm) { vms_[vm].looked = false; }
  void moved(unsigned vm) { vms_[vm].disturbed = true; }

  // --- The guard ---
  void guard_died(Time now);
  /// It ended in good order: what it held in memory alone is in the journal now.
  void guard_saved();
  void reported(const core::Report& report, Time now);
  void discarding(unsigned vm, std::optional<Slot> slot, Time now);
  void forcing(unsigned vm);
  /// An operator took over: what he does is not held against the guard.
  bool forced(unsigned vm) const { return vms_[vm].forced; }
  /// After each step: nothing that was acknowledged is lost. `core` may be null.
  void check(unsigned vm, const core::Core* core);
  /// After all faults are healed and time has run until rest.
  void at_rest(const core::Core& core);

 private:
  struct Known {
    unsigned vm = 0;
    Slot slot = Slot::permall;
    bool foreign = false;
    bool empty = false;
    bool based = false;     ///< the guard knew what stood there when it came
    bool contents = false;  ///< from vtpm_set_contents
    Time when{};
    Value value;
  };
  struct OnDisk {
    Order order = 0;
    bool durable = false;       ///< certainly there
    bool perhaps_gone = false;  ///< a removal of it failed or was cut off
    bool retained = false;
    bool perhaps_retained = false;
  };
  struct SlotState {
    Order acked = 0;
    bool acked_direct = false;
    unsigned acked_life = 0;
    Order floor = 0;     ///< of reads
    Order covered = 0;   ///< up to here nothing need be kept any more
    bool aside = false;  ///< set aside in a conflict, out of the data path, since the last acknowledgement
    Time excused{-1};    ///< reads asked before may see less
    Order standing = 0;  ///< upstream
    bool standing_foreign = false;
    bool standing_empty = true;
    Time empty_until{};  ///< the last moment at which it was empty
    std::map<Sequence, Order> orders;
    std::map<Sequence, OnDisk> disk;
    std::vector<Order> stood;  ///< what stood there, for going back
  };
  struct Vm {
    std::array<SlotState, slots> slot;
    bool disturbed = false;  ///< somebody else had a hand in it
    bool forced = false;
    bool looked = false;
    std::size_t seen = 0;    ///< how much of the upstream's history
    bool told = false;       ///< vtpm_get_contents was answered
    bool went_back = false;  ///< the upstream lost something
    unsigned baseless = 0;   ///< the life in which an entry went out that knows no base
    Order contents_set = 0;  ///< the newest vtpm_set_contents
  };

  SlotState& at(unsigned vm, Slot slot) { return vms_[vm].slot[static_cast<std::size_t>(slot)]; }
  const SlotState& at(unsigned vm, Slot slot) const { return vms_[vm].slot[static_cast<std::size_t>(slot)]; }
  /// 0 = it is nobody's.
  Order order_of(unsigned vm, Slot slot, const Value& value) const;
  Order order_of(unsigned vm, Slot slot, Sequence sequence, const Value& value);
  Order empty_order(unsigned vm, Slot slot, Sequence sequence);
  Order best(unsigned vm, Slot slot, const core::Core* core) const;
  std::optional<Asked> take(core::RequestId id, Time now);
  void acknowledge(unsigned vm, Slot slot, Order order, bool direct);
  void check_seen(const Asked& asked, Slot slot, const Value& value, bool pending, const char* promise,
                  Time now);
  void stood(unsigned vm, const testing::SimUpstream::Stood& stood);
  void note_durable(unsigned vm, Slot slot, Sequence sequence);
  void excuse(unsigned vm, Time now);
  void give_up(unsigned vm);
  bool may_conflict(unsigned vm) const;
  std::string name(unsigned vm, Slot slot) const;

  std::string failure_;
  std::vector<Known> values_;
  std::map<Sequence, bool> as_contents_;  ///< how a sequence was committed last
  std::map<core::RequestId, Asked> asked_;
  std::array<Vm, vm_count> vms_;
  /// What updates carry: VM, slot and order.
  struct Carried {
    unsigned vm = 0;
    bool entry = false;  ///< of the journal, or retained; not a direct write
    std::array<Order, slots> orders{};
  };
  std::map<testing::SimUpstream::CallId, Carried> calls_;
  unsigned life_ = 1;
  unsigned notes_lost_in_ = 0;  ///< a life
  Time session_since_{};
  bool damaged_ = false;
  bool damage_reported_ = false;
  bool given_up_ = false;
  bool may_give_up_ = false;
  bool refused_last_ = false;
};

}  // namespace guard::simulation
