// One history: the whole core and the real journal, on a simulated disk, upstream and clock, with clients.
// Single-threaded; everything follows from the plan.
//
//   clients -> Core -> actions -> engine/translate -> queue -> Store (run later, as by the journal's thread)
//                              -> SimUpstream
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/core.h"
#include "journal/journal.h"
#include "testing/sim_disk.h"
#include "testing/sim_upstream.h"
#include "testing/simulation/ledger.h"
#include "testing/simulation/plan.h"

namespace guard::simulation {

/// What a history was made of, for medians and for the proof that things happened.
struct Tally {
  unsigned operations = 0;
  unsigned crashes = 0;
  unsigned troubles = 0;  ///< other faults
  std::uint64_t events = 0;
  std::uint64_t delivered = 0;
  std::uint64_t journaled = 0;
  std::uint64_t direct = 0;
  std::uint64_t redelivered = 0;
  std::uint64_t parked = 0;
};

class World {
 public:
  /// `say`, if any, gets one line per thing that happens.
  explicit World(const Plan& plan, std::function<void(const std::string&)> say = nullptr);
  ~World();

  /// Plays the whole plan, heals everything, and lets time run until rest. Returns the first broken promise,
  /// or nothing.
  std::string play();
  const Tally& tally() const { return tally_; }

 private:
  // world.cpp: time and steps
  bool failed() const { return !ledger_.failure().empty(); }
  void run_until(Time end);
  std::optional<Time> next_time() const;
  bool happen();
  void fulfil(const Step& step);
  void client(const Step& step);
  void later(Time delay, Step step);
  void heal_everything();
  void come_to_rest();
  void last_round();
  /// The line is only made when somebody reads it.
  template <class Text>
  void say(Text text) {
    if (say_) say_(stamp() + text());
  }
  std::string stamp() const;

  // world_guard.cpp: the guard's shell
  void start_guard();
  void die(bool power);
  void stop_orderly();
  void end_stop();
  void feed(core::Event event);
  void act(core::AnswerWrite& action);
  void act(core::AnswerRead& action);
  void act(core::AnswerContents& action);
  void act(core::AnswerAlert&) { ledger_.fail("an alert was answered, and none was sent"); }
  void act(core::RaiseAlert&) { ledger_.fail("an alert was raised, and none was sent"); }
  void act(core::Done& action);
  void act(core::Commit& action);
  void act(core::Remove& action);
  void act(core::ReadBack& action);
  void act(core::Note& action);
  void act(core::Unnote& action);
  void act(core::Deliver& action);
  void act(core::Fetch& action);
  void act(core::Probe& action);
  void act(core::Report& action);
  void hear(std::vector<testing::SimUpstream::Output>& outputs);
  void hear(testing::SimUpstream::DeliverDone& done);
  void hear(testing::SimUpstream::FetchDone& done);
  void hear(testing::SimUpstream::ProbeDone& done);
  void hear(testing::SimUpstream::SessionEnded& ended);
  void hear(testing::SimUpstream::SignOfLife& sign);
  void open_journal();
  void plan_journal();
  void journal_turn();
  void look_at_figures();
  std::int64_t wall_ms() const;

  // world_trouble.cpp
  void trouble(const Step& step);
  void trouble_upstream(const Step& step);
  void trouble_disk(const Step& step);
  void trouble_people(const Step& step);
  void set_fault(const Step& step, double probability);
  void foreign(const Step& step, bool whole_vtpm);

  struct Later {
    Time when{};
    std::uint64_t order = 0;
    Step step;
  };
  struct Running {
    enum class Kind { delivery, fetch, probe } kind = Kind::delivery;
    Owner owner;
    core::CallId call = 0;
  };

  Plan plan_;
  std::function<void(const std::string&)> say_;
  Dice dice_;
  Tally tally_;
  Ledger ledger_;
  Time now_{std::chrono::hours(1)};
  std::int64_t wall_offset_ms_ = 1'700'000'000'000;
  std::vector<Later> later_;
  std::uint64_t last_later_ = 0;
  bool healing_ = false;
  Time disturbed_until_{};  ///< of the disk: until then answers may be late

  testing::SimDisk disk_;
  testing::SimUpstream upstream_;
  core::Config config_;
  journal::Options journal_options_;

  std::unique_ptr<core::Core> core_;  ///< null = there is no guard
  bool stopping_ = false;
  Time stop_deadline_{};
  bool note_lost_ = false;
  Time session_began_{};  ///< of the upstream's present session
  Time doubt_of_all_until_{};
  std::array<bool, vm_count> socket_open_{};
  std::array<bool, vm_count> replaced_{};  ///< the device served is not the one that has the vTPM now
  std::map<Owner, std::vector<core::NotedValue>> notes_;
  core::RequestId last_request_ = 0;
  testing::SimUpstream::CallId last_call_ = 0;
  std::map<testing::SimUpstream::CallId, Running> running_;
  bool feeding_ = false;

  std::unique_ptr<journal::Store> store_;
  std::vector<journal::Request> queue_;
  std::optional<Time> journal_at_;  ///< when the journal's thread does its next piece
  Time stalled_until_{};
  std::uint64_t salt_ = 0;
  bool idle_left_ = false;
  Time next_revival_{};
};

}  // namespace guard::simulation
