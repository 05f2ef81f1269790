// A journal on a simulated disk whose every step is shown to a CrashExplorer.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "testing/crash_explorer.h"

namespace guard::journal {

class CrashWorld {
 public:
  /// An empty journal, created and open. Nothing is explored before explore().
  CrashWorld(CrashExplorer& explorer, const Fault& fault);
  /// Without a journal yet: a scenario that begins with its creation.
  struct Empty {};
  CrashWorld(CrashExplorer& explorer, const Fault& fault, Empty);
  CrashWorld(const CrashWorld&) = delete;

  // --- What scenarios are made of. Without a store, because it could not be opened, all but reopen() and
  // power_cut() do nothing.
  /// From here on everything is explored, and the fault is armed.
  void explore();
  void run(std::vector<Request> batch);
  void idle();  ///< one piece of idle work
  void seal();
  void revive();
  /// kill -9 and a new start.
  void reopen();
  /// The power fails in the middle of this batch: `percent` of what it wrote is left; then a new start.
  void power_cut(std::vector<Request> batch, unsigned percent);
  /// From here on the journal may end these retentions by itself, for lack of room.
  void may_end(std::vector<Removal> ends) { may_end_ = std::move(ends); }
  /// What comes next does not fail, whatever the fault.
  void heal();

  Sequence next() { return ++sequence_; }
  Entry write(unsigned vm_number, Slot slot, std::size_t size);
  Entry contents(unsigned vm_number, std::size_t size);
  Entry alert(unsigned vm_number, std::size_t size);
  /// Of everything written to the slot so far.
  Removal removal(unsigned vm_number, Slot slot, bool retained = false);
  Stats stats() const { return store_ ? store_->stats() : Stats(); }
  bool fault_happened() const { return faulty_ || disk_->fault_happened(); }

  /// Heals the disk; then the journal must work again without help, or after a new start.
  void end();
  const std::string& problem() const { return problem_; }

 private:
  void look();
  void open();
  void arm(std::uint64_t operation);
  void attach();

  CrashExplorer& explorer_;
  Fault fault_;
  Options options_;
  std::unique_ptr<testing::SimDisk> disk_;
  std::unique_ptr<Store> store_;
  Oracle oracle_;
  std::vector<Removal> may_end_;
  Sequence sequence_ = 0;
  std::uint64_t salt_ = 1;
  std::uint64_t armed_ = 0;  ///< which operation of the disk is to fail; 0 = none
  bool exploring_ = false;
  bool faulty_ = false;
  std::string problem_;
};

using Scenario = std::function<void(CrashWorld&)>;

/// Runs a scenario without a fault, then with each fault at each operation, and explores all of it.
struct Campaign {
  Scenario scenario;
  bool from_nothing = false;  ///< there is no journal at its start
};
/// Empty = nothing was wrong.
std::string run_campaign(CrashExplorer& explorer, const Campaign& campaign);

}  // namespace guard::journal
