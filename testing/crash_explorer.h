// Exhaustive enumeration of crashes of a journal: a scenario is run once, and wherever the disk changes every
// content that a power cut or a kill could leave there is made, recovered and compared with the oracle.
//
// One such content is a *state*. Each is recovered; recovered again after a further power cut, if recovery
// wrote anything, with the same result; made to take a new write and to read back everything; and recovered
// once more. Of some states the recovery itself is explored in the same way.
//
// A state has an address, like `switch:eio-once@17/12:0.1.g.0`: the scenario, the fault, and for each level
// the point of the disk's history and what was decided there (`k` = kill -9; otherwise for each effect the
// version that is left, `g` = garbage). The same address is always the same state.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "journal/journal.h"
#include "testing/journal_oracle.h"
#include "testing/sim_disk.h"

namespace guard::journal {

/// How much is done at one point.
struct Budget {
  std::size_t exhaustive = 0;  ///< up to so many subsets all of them are visited
  std::size_t samples = 0;     ///< otherwise so many: the regular ones first, then random ones
};

/// One operation of the disk that fails, or every one from it on.
struct Fault {
  std::uint64_t operation = 0;  ///< counted from the start of the scenario; 0 = none
  int os_errno = 0;
  bool for_ever = false;
  testing::SimDisk::FailedWrite write = testing::SimDisk::FailedWrite::some;
};

class CrashExplorer {
 public:
  struct Settings {
    std::string name;     ///< of the scenario
    Options options;      ///< of the journal
    Budget outer;         ///< at the points of the scenario
    Budget inner;         ///< at the points of a recovery
    Budget faulty_outer;  ///< the same in runs with a fault
    Budget faulty_inner;
    /// The recovery of each state with this number, and its multiples, is explored; 0 = of none but those
    /// after a kill.
    std::uint64_t every = 0;
    bool gives_up = false;  ///< a write after a recovery may end retained entries, for lack of room
    std::uint64_t seed = 1;
    std::string replay;  ///< address of the only state to be visited; empty = all
  };

  explicit CrashExplorer(Settings settings);

  /// Whether any state of this run of the scenario is to be visited. `run` tells it from others: "" or the
  /// fault.
  bool wanted(const std::string& run) const;
  /// Begins a run.
  void begin(const std::string& run, bool faulty);
  /// A point in the history of `disk`, to be called whenever it or the oracle has changed. `faulty` = an
  /// operation has failed: then what it left behind may be reported as damage, but nothing may be lost.
  void point(const testing::SimDisk& disk, const Oracle& oracle, bool faulty);

  std::uint64_t states() const { return states_; }
  std::uint64_t points() const { return points_; }
  /// States in which damage was reported, as is allowed after a failed operation only.
  std::uint64_t damaged() const { return damaged_; }
  /// What is wrong with the first state that was, and its address after shrinking; empty = nothing.
  const std::string& failure() const { return failure_; }
  const Settings& settings() const { return settings_; }

 private:
  using Choices = std::vector<std::uint16_t>;
  using Effects = std::vector<testing::SimDisk::Effect>;
  struct Level {
    std::string address;  ///< of everything above, and ends with a slash
    bool damage_allowed = false;
    std::uint64_t point = 0;
  };

  void visit_all(const testing::SimDisk& disk, const Oracle& oracle, const Effects& effects);
  void visit_samples(const Effects& effects, const Budget& budget, bool with_garbage,
                     const std::function<void(const Choices&)>& visit);
  void visit(const testing::SimDisk& disk, const Oracle& oracle, const Effects& effects,
             const Choices& choices);
  void visit_kill(const testing::SimDisk& disk, const Oracle& oracle, bool faulty);
  void replay_point(const testing::SimDisk& disk, const Oracle& oracle, const Effects& effects, bool faulty);
  void fail(const testing::SimDisk& disk, const Oracle& oracle, const Effects& effects, Choices choices,
            std::string problem);
  std::string address_of(const Choices& choices) const;
  std::string here() const;

  std::string cut(const testing::SimDisk& disk, const Oracle& oracle, const Choices& choices, bool explored);
  std::string recover(testing::SimDisk& disk, const Oracle& oracle, std::uint64_t salt, bool explored);
  std::string recover_again(const testing::SimDisk& disk, const std::vector<LiveEntry>& expected);
  std::string go_on(testing::SimDisk& disk, Store& store, Oracle* known);
  std::vector<Removal> may_end(std::span<const LiveEntry> live) const;

  Settings settings_;
  Budget outer_;
  Budget inner_;
  std::vector<Level> levels_;
  std::uint64_t states_ = 0;
  std::uint64_t points_ = 0;
  std::uint64_t damaged_ = 0;
  std::string failure_;
};

}  // namespace guard::journal
