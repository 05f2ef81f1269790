// The lane table: every state that one lane with one slot can reach, every event that can happen in it, what
// comes out. Explored exhaustively (breadth first over abstract states), checked against the oracle at every
// transition, and against the table in docs/LANE_TABLE.md, which this test writes when GUARD_WRITE_TABLE is
// set.
#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <fstream>
#include <map>
#include <ranges>
#include <set>
#include <sstream>
#include <string>
#include <string_view>

#include "testing/core_world.h"

namespace guard {
namespace {

using testing::Move;
using testing::World;

Owner the_owner() {
  Owner owner;
  owner.vm.bytes[15] = 1;
  return owner;
}

/// What tells two states of the lane apart in the table: no times, no values, no numbers.
std::string abstract(const World& world) {
  const core::Lane* lane = world.core.lane(the_owner());
  std::string text = lane == nullptr ? "gone" : lane->describe();
  text += world.core.upstream_worth_trying() ? "; upstream up" : "; upstream down";
  return text;
}

/// The abstract state plus what is under way outside of the lane: two worlds with the same key have the same
/// future, up to counts beyond the bounds below.
std::string key_of(const World& world) {
  std::string key = abstract(world);
  key += " c" + std::to_string(world.commits.size()) + " r" + std::to_string(world.removals.size());
  key += " l" + std::to_string(world.loads.size()) + " d" + std::to_string(world.delivers.size());
  key += " t" + std::to_string(world.late.size()) + " f" + std::to_string(world.fetches.size());
  key += world.probing ? " p" : "";
  key += world.core.next_wake() ? " w" : "";
  key += world.core.stalled() ? " s" : "";
  return key;
}

/// What the last step did, but for reports on the journal: those are about all lanes together.
std::string actions_of(const World& world) {
  std::string text;
  for (const auto part : std::views::split(world.last_actions, std::string_view(", "))) {
    const std::string_view action(part.begin(), part.end());
    if (action.starts_with("report journal ")) continue;
    if (!text.empty()) text += ", ";
    text += action;
  }
  return text;
}

struct Table {
  std::map<std::string, std::map<std::string, std::set<std::string>>> rows;  ///< state -> event -> outcomes
  std::size_t worlds = 0;
  std::size_t transitions = 0;
};

Table explore(std::vector<std::string>& failures, std::vector<Slot> slots, std::size_t limit,
              bool with_retention) {
  core::Config config;
  if (!with_retention) config.retain = config.journal_stall = {};
  core::Random random{1};
  Table table;
  std::set<std::string> seen;
  std::deque<World> open;
  open.emplace_back(config, std::vector<Owner>{the_owner()}, slots);
  seen.insert(key_of(open.front()));
  while (!open.empty() && table.worlds < limit) {
    const World world = std::move(open.front());
    open.pop_front();
    ++table.worlds;
    for (const Move& move : world.moves(false)) {
      if (move.kind == Move::Kind::read && world.fetches.size() >= 2) continue;
      World next = world;
      next.apply(move, random);
      ++table.transitions;
      for (const std::string& failure : next.failures) {
        failures.push_back(abstract(world) + " / " + testing::name_of(move.kind) + ": " + failure);
      }
      if (!failures.empty()) return table;
      const std::string actions = actions_of(next);
      const std::string outcome = abstract(next) + (actions.empty() ? "" : " [" + actions + "]");
      table.rows[abstract(world)][testing::name_of(move.kind)].insert(outcome);
      if (seen.insert(key_of(next)).second) open.push_back(std::move(next));
    }
  }
  return table;
}

/// The part that a person reads: a lane that is not held, upstream up, no failed commits behind it.
bool printed(const std::string& state) {
  return state.find("held=no") != std::string::npos && state.ends_with("upstream up") &&
         state.find("stained") == std::string::npos && state.find("(delivered)+") == std::string::npos;
}

std::string shortened(std::string text) {
  for (const std::string_view word : {" held=no", "; upstream up", " doubt=none", "permall=", "call=none "}) {
    for (auto at = text.find(word); at != std::string::npos; at = text.find(word))
      text.erase(at, word.size());
  }
  if (text.empty() || text.starts_with("[") || text.starts_with(" [")) text = "call=none" + text;
  return text == "call=none" ? "idle" : text;
}

std::string print(const Table& table) {
  std::ostringstream out;
  out << "# The lane table\n\n"
         "Generated and checked by `src/core/lane_table_test.cpp` (`GUARD_WRITE_TABLE=1` writes it anew). "
         "One lane, "
         "one slot, nothing retained, no stalled disk. The test\nexplores every reachable state ("
      << table.rows.size() << " states, " << table.transitions
      << " transitions) and checks the promises at each; printed here are the states of a lane\n"
         "that is not held, with the upstream up and no failed commit behind it. Several outcomes stand "
         "where the "
         "state leaves\nsomething open (a value that waits or not). Events that change nothing are left "
         "out.\n";
  for (const auto& [state, events] : table.rows) {
    if (!printed(state)) continue;
    out << "\n**" << shortened(state) << "**\n\n| event | next state [actions] |\n|---|---|\n";
    for (const auto& [event, outcomes] : events) {
      if (outcomes.size() == 1 && *outcomes.begin() == state) continue;
      out << "| " << event << " | ";
      bool first = true;
      for (const std::string& outcome : outcomes) {
        out << (first ? "" : "<br>") << (outcome == state ? "same" : shortened(outcome));
        first = false;
      }
      out << " |\n";
    }
  }
  return out.str();
}

TEST(LaneTable, IsExactlyWhatStandsInTheDocument) {
  std::vector<std::string> failures;
  const Table table = explore(failures, {Slot::permall}, 30'000, false);
  ASSERT_TRUE(failures.empty()) << failures.front();
  std::printf("%zu states, %zu worlds, %zu transitions\n", table.rows.size(), table.worlds,
              table.transitions);
  const std::string path = std::string(GUARD_SOURCE_DIR) + "/docs/LANE_TABLE.md";
  const std::string text = print(table);
  if (std::getenv("GUARD_WRITE_TABLE") != nullptr) std::ofstream(path) << text;
  std::ifstream file(path);
  const std::string standing((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  EXPECT_TRUE(standing == text) << "docs/LANE_TABLE.md differs; look at the change, then write it anew";
}

TEST(LaneTable, HoldsNoStateFromWhichTheLaneCannotComeToRest) {
  std::vector<std::string> failures;
  core::Config config;
  config.retain = config.journal_stall = {};
  core::Random random{1};
  std::set<std::string> seen;
  std::deque<World> open;
  open.emplace_back(config, std::vector<Owner>{the_owner()}, std::vector<Slot>{Slot::permall});
  for (int worlds = 0; worlds < 10'000 && !open.empty(); ++worlds) {
    const World world = std::move(open.front());
    open.pop_front();
    World resting = world;
    std::deque<std::string> way;
    resting.trace = [&](const Move& move) {
      way.push_back(std::string(testing::name_of(move.kind)) + " -> " + resting.last_actions + " | " +
                    abstract(resting));
      if (way.size() > 12) way.pop_front();
    };
    resting.settle(random);
    if (!resting.failures.empty()) {
      for (const std::string& step : way) std::printf("%s\n", step.c_str());
    }
    ASSERT_TRUE(resting.failures.empty()) << abstract(world) << ": " << resting.failures.front();
    for (const Move& move : world.moves(false)) {
      if (move.kind == Move::Kind::read && world.fetches.size() >= 2) continue;
      World next = world;
      next.apply(move, random);
      if (seen.insert(key_of(next)).second) open.push_back(std::move(next));
    }
  }
}

TEST(LaneTable, HoldsWithRetentionAsFarAsItIsExplored) {
  std::vector<std::string> failures;
  const Table table = explore(failures, {Slot::permall}, 60'000, true);
  ASSERT_TRUE(failures.empty()) << failures.front();
  std::printf("%zu states, %zu worlds, %zu transitions\n", table.rows.size(), table.worlds,
              table.transitions);
}

TEST(LaneTable, HoldsForTwoSlotsToo) {
  std::vector<std::string> failures;
  const Table table = explore(failures, {Slot::permall, Slot::volatilestate}, 40'000, true);
  ASSERT_TRUE(failures.empty()) << failures.front();
  std::printf("%zu states, %zu worlds, %zu transitions\n", table.rows.size(), table.worlds,
              table.transitions);
}

}  // namespace
}  // namespace guard
