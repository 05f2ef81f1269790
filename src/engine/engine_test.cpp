// The engine with the real journal on a simulated disk, an upstream that answers when the test says so, and a
// loop of the test's own.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <map>
#include <thread>

#include "engine/place_test.h"

namespace guard::engine {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// Keeps contents in memory. Up: answers before the call returns. Down: refuses. Held back: answers later.
class TestUpstream final : public Upstream {
 public:
  UpstreamLimits limits() const override { return {1 << 20, 1 << 20}; }
  void set_events(UpstreamEvents* events) override { events_ = events; }
  void deliver(Delivery delivery, std::function<void(Outcome)> done) override {
    auto answer = [this, delivery = std::move(delivery), done = std::move(done)] {
      Outcome outcome;
      outcome.epoch = epoch;
      outcome.upstream_suspect = !up;
      outcome.reason = "down";
      if (up && conflict && !delivery.writes.front().force) {
        outcome.kind = Outcome::Kind::conflict;
        outcome.found = contents[delivery.owner];
      } else if (up) {
        Contents& standing = contents[delivery.owner];
        if (!delivery.base) outcome.found = standing;
        for (const SlotWrite& write : delivery.writes) standing[write.slot] = write.value;
        outcome.kind = Outcome::Kind::delivered;
        outcome.contents = standing;
      }
      done(std::move(outcome));
    };
    if (hold_back)
      held_back.push_back(std::move(answer));
    else
      answer();
  }
  void fetch(Owner owner, std::function<void(Fetched)> done) override {
    Fetched fetched;
    fetched.epoch = epoch;
    fetched.kind = up ? Outcome::Kind::delivered : Outcome::Kind::transient;
    fetched.contents = contents[owner];
    done(std::move(fetched));
  }
  void probe(std::function<void(Outcome)> done) override {
    Outcome outcome;
    outcome.epoch = epoch;
    if (up) outcome.kind = Outcome::Kind::delivered;
    done(std::move(outcome));
  }

  bool up = true;
  bool conflict = false;  ///< somebody else's value stands there
  Epoch epoch = 1;
  bool hold_back = false;
  std::vector<std::function<void()>> held_back;
  std::map<Owner, Contents> contents;
  UpstreamEvents* events_ = nullptr;
};

class EngineTest : public ::testing::Test, protected EnginePlace {
 protected:
  EngineTest() { owner.vm.bytes[0] = 7; }
  ~EngineTest() override {
    lane.reset();
    engine.reset();
  }

  void start() {
    engine = std::make_unique<Engine>(loop.host(), core::Config{}, upstream, null_logger());
    auto opened = store();
    const bool first_start = opened->recovery().created;
    engine->start(std::move(opened), notes(), first_start);
    lane = engine->open_lane(owner);
  }
  std::optional<WriteStatus> write(const std::string& bytes) {
    auto status = std::make_shared<std::optional<WriteStatus>>();
    lane->write(Slot::permall, Value(bytes), [status](WriteStatus s) { *status = s; });
    last = status;
    return *status;
  }
  ReadResult read() {
    std::optional<ReadResult> result;
    lane->read(Slot::permall, [&result](ReadResult r) { result = std::move(r); });
    loop.run_until([&result] { return result.has_value(); });
    return *result;
  }

  TestUpstream upstream;
  Owner owner;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<LaneAccess> lane;
  std::shared_ptr<std::optional<WriteStatus>> last;
};

TEST_F(EngineTest, AnswersADirectWriteThatTheUpstreamAnswersInPlace) {
  start();
  EXPECT_EQ(write("a"), WriteStatus::accepted);
  EXPECT_EQ(upstream.contents[owner][Slot::permall], Value("a"));
  EXPECT_EQ(engine->snapshot().counters.commits, 0u);
}

TEST_F(EngineTest, KeepsServesAndDeliversWhatTheUpstreamCannotTake) {
  start();
  upstream.up = false;
  write("a");
  loop.run_until([this] { return last->has_value(); });
  EXPECT_EQ(**last, WriteStatus::accepted);
  EXPECT_EQ(read().source, ReadResult::Source::pending);
  upstream.up = true;
  std::optional<bool> drained;
  engine->drain(engine->now() + seconds(5), [&drained](bool d) { drained = d; });
  loop.run_until([&drained] { return drained.has_value(); });
  EXPECT_TRUE(*drained);
  EXPECT_EQ(upstream.contents[owner][Slot::permall], Value("a"));
  EXPECT_EQ(engine->snapshot().mode, core::Mode::direct);
}

TEST_F(EngineTest, FindsAfterAKillWhatWasAcknowledged) {
  start();
  upstream.up = false;
  write("a");
  loop.run_until([this] { return last->has_value(); });
  disk.crash();
  lane.reset();
  engine.reset();
  start();
  EXPECT_EQ(engine->snapshot().pending_entries, 1u);
  const ReadResult result = read();
  EXPECT_EQ(result.source, ReadResult::Source::pending);
  EXPECT_EQ(result.value, Value("a"));
}

TEST_F(EngineTest, AnswersUnavailableWhileTheJournalIsUnread) {
  engine = std::make_unique<Engine>(loop.host(), core::Config{}, upstream, null_logger());
  lane = engine->open_lane(owner);
  EXPECT_EQ(write("a"), WriteStatus::unavailable);
  EXPECT_EQ(read().source, ReadResult::Source::none) << "an unread journal makes every lane unknown (P4)";
  engine->start(store(), notes(), true);
  EXPECT_EQ(write("a"), WriteStatus::accepted);
}

TEST_F(EngineTest, AValueThatIsLostIsUnknownUntilItIsWrittenOrDiscarded) {
  for (const bool discarded : {false, true}) {
    lane.reset();
    engine.reset();
    upstream.contents[owner][Slot::permall] = Value("older");
    engine = std::make_unique<Engine>(loop.host(), core::Config{}, upstream, null_logger());
    auto opened = store();
    journal::Entry entry;
    entry.owner = owner;
    entry.sequence = opened->recovery().highest_sequence + 1;
    entry.flags = journal::flag_lost;
    ASSERT_TRUE(opened->run({entry}).at(0).result);
    opened.reset();
    opened = store();
    engine->start(std::move(opened), notes(), true);
    lane = engine->open_lane(owner);
    std::optional<ReadResult> result;
    lane->read(Slot::permall, [&result](ReadResult r) { result = std::move(r); });
    loop.advance(limits::verify_patience);
    loop.run_until([&result] { return result.has_value(); });
    EXPECT_EQ(result->source, ReadResult::Source::none) << "neither empty nor what is older (P4)";
    EXPECT_EQ(upstream.contents[owner][Slot::permall], Value("older"));
    ASSERT_EQ(engine->snapshot().held.size(), 1u);
    EXPECT_EQ(engine->snapshot().held[0].reason, "payload: permall cannot be read back from the journal");
    if (discarded) {
      std::optional<Result<std::size_t>> answer;
      engine->discard(owner, Slot::permall,
                      [&answer](Result<std::size_t> done) { answer = std::move(done); });
      loop.run_until([&answer] { return answer.has_value(); });
      EXPECT_EQ(answer->value(), 1u);
      EXPECT_EQ(read().value, Value("older"));
    } else {
      write("new");
      loop.run_until([this] { return last->has_value(); });
      EXPECT_EQ(**last, WriteStatus::accepted);
      EXPECT_EQ(read().value, Value("new"));
      std::optional<bool> drained;
      engine->drain(engine->now() + seconds(5), [&drained](bool d) { drained = d; });
      loop.run_until([&drained] { return drained.has_value(); });
      EXPECT_EQ(upstream.contents[owner][Slot::permall], Value("new"));
    }
    EXPECT_TRUE(engine->snapshot().held.empty());
  }
}

TEST_F(EngineTest, GoesOnWithWhatWasImportedOnTopOfTheJournal) {
  engine = std::make_unique<Engine>(loop.host(), core::Config{}, upstream, null_logger());
  auto opened = store();
  journal::Entry entry;
  entry.owner = owner;
  entry.sequence = 5;
  entry.value = Value("imported");
  ASSERT_TRUE(opened->run({entry}).at(0).result);
  journal::Recovery recovery = opened->recovery();
  EXPECT_TRUE(recovery.live.empty());
  journal::LiveEntry live;
  live.owner = owner;
  live.sequence = 5;
  live.digest = entry.value.digest();
  live.size = 8;
  recovery.live.push_back(live);
  recovery.highest_sequence = 5;
  upstream.up = false;
  engine->start(std::move(opened), notes(), true, std::move(recovery));
  lane = engine->open_lane(owner);
  EXPECT_EQ(read().value, Value("imported"));
}

TEST_F(EngineTest, IsInDoubtOfEveryLaneAfterAnotherDaemonAlsoWhenItIsKilledThen) {
  start();
  for (const bool first : {true, false}) {
    lane.reset();
    engine.reset();
    engine = std::make_unique<Engine>(loop.host(), core::Config{}, upstream, null_logger());
    auto marked = notes();
    EXPECT_EQ(marked->found().unknown, !first);
    if (first) marked->doubt_all("another daemon");
    engine->start(store(), std::move(marked), false);
    lane = engine->open_lane(owner);
    EXPECT_EQ(engine->snapshot().doubt, 1u);
    write("a");
    loop.run_until([this] { return last->has_value(); });
    EXPECT_EQ(**last, WriteStatus::accepted);
    EXPECT_TRUE(upstream.contents[owner][Slot::permall].empty()) << "what it had sent may still arrive";
  }
  loop.advance(limits::doubt_window + seconds(1));
  loop.run_until([this] { return engine->snapshot().pending_entries == 0; });
  EXPECT_EQ(upstream.contents[owner][Slot::permall], Value("a"));
  lane.reset();
  engine.reset();
  EXPECT_FALSE(notes()->found().unknown);
}

TEST_F(EngineTest, SaysWhenADrainDoesNotFinish) {
  start();
  upstream.up = false;
  write("a");
  loop.run_until([this] { return last->has_value(); });
  std::optional<bool> drained;
  engine->drain(engine->now() + seconds(5), [&drained](bool d) { drained = d; });
  EXPECT_FALSE(drained);
  loop.advance(seconds(5));
  ASSERT_TRUE(drained);
  EXPECT_FALSE(*drained);
}

TEST_F(EngineTest, StopsOnceNothingIsUnderWayAndNotLaterThanItMay) {
  start();
  upstream.hold_back = true;
  write("a");
  std::vector<bool> stopped;
  engine->stop(engine->now() + seconds(10), [&stopped](bool at_rest) { stopped.push_back(at_rest); });
  engine->stop(engine->now() + milliseconds(100), [&stopped](bool at_rest) { stopped.push_back(at_rest); });
  EXPECT_TRUE(stopped.empty());
  loop.advance(milliseconds(100));
  EXPECT_EQ(stopped, (std::vector<bool>{false})) << "at its deadline";
  upstream.held_back.front()();
  EXPECT_EQ(stopped.size(), 1u) << "what was accepted is not written down yet";
  loop.advance(milliseconds(1));
  loop.run_until([&stopped] { return stopped.size() == 2; });
  EXPECT_TRUE(stopped.back()) << "once nothing is under way and what was accepted is written down";
  EXPECT_GE(engine->journal_stats()->retained_entries, 1u)
      << "an accepted value is not durable upstream (P13)";
}

TEST_F(EngineTest, CanBeStoppedBeforeItWasStarted) {
  engine = std::make_unique<Engine>(loop.host(), core::Config{}, upstream, null_logger());
  bool stopped = false;
  engine->stop(engine->now() + seconds(10), [&stopped](bool at_rest) { stopped = at_rest; });
  EXPECT_TRUE(stopped);
  Result<std::size_t> answer = 1;
  engine->discard(owner, std::nullopt, [&answer](Result<std::size_t> done) { answer = std::move(done); });
  EXPECT_EQ(answer.error().code, Errc::unavailable);
  answer = 1;
  engine->deliver_by_force(owner, std::nullopt, [&](Result<std::size_t> done) { answer = std::move(done); });
  EXPECT_EQ(answer.error().code, Errc::unavailable);
  WriteStatus status = WriteStatus::accepted;
  engine->set_contents(owner, {}, {}, [&status](WriteStatus s) { status = s; });
  EXPECT_EQ(status, WriteStatus::unavailable);
  std::optional<std::array<Value, 3>> contents = std::array<Value, 3>{};
  engine->get_contents(owner, [&](std::optional<std::array<Value, 3>> got) { contents = std::move(got); });
  EXPECT_FALSE(contents);
}

TEST_F(EngineTest, KeepsALaneInDoubtAcrossAKillWhileAnUpdateIsUnderWay) {
  start();
  upstream.hold_back = true;
  write("a");
  disk.crash();
  lane.reset();
  engine.reset();
  start();
  upstream.hold_back = false;
  EXPECT_EQ(engine->snapshot().doubt, 1u);
  write("b");
  loop.run_until([this] { return last->has_value(); });
  EXPECT_EQ(**last, WriteStatus::accepted);
  EXPECT_TRUE(upstream.contents[owner][Slot::permall].empty()) << "no update while the first may take effect";
  upstream.held_back.front()();  // the late effect
  loop.advance(limits::doubt_window + seconds(1));
  loop.run_until([this] { return engine->snapshot().pending_entries == 0; });
  EXPECT_EQ(upstream.contents[owner][Slot::permall], Value("b"));
  EXPECT_EQ(engine->snapshot().doubt, 0u);
  lane.reset();
  engine.reset();
  EXPECT_TRUE(notes()->found().calls.empty()) << "nothing is noted any more";
}

TEST_F(EngineTest, IsInDoubtOfEveryLaneWhereNobodyKnowsWhatWasUnderWay) {
  start();
  lane.reset();
  engine.reset();
  std::filesystem::remove(std::filesystem::path(dir()) / CallNotes::file_name);
  start();
  EXPECT_EQ(write("a"), std::nullopt) << "not direct";
  loop.run_until([this] { return last->has_value(); });
  EXPECT_EQ(engine->snapshot().doubt, 1u);
  EXPECT_TRUE(upstream.contents[owner][Slot::permall].empty());
  lane.reset();
  engine.reset();
  EXPECT_TRUE(notes()->found().unknown) << "a second crash finds the same doubt";
  start();
  loop.advance(limits::doubt_window + seconds(1));
  loop.run_until([this] { return engine->snapshot().pending_entries == 0; });
  EXPECT_EQ(upstream.contents[owner][Slot::permall], Value("a"));
  lane.reset();
  engine.reset();
  EXPECT_FALSE(notes()->found().unknown);
}

TEST_F(EngineTest, DeliversAgainWhatTheUpstreamForgotAfterARestartOfBoth) {
  start();
  EXPECT_EQ(write("a"), WriteStatus::accepted);
  bool stopped = false;
  engine->stop(engine->now() + seconds(10), [&stopped](bool) { stopped = true; });
  loop.run_until([&stopped] { return stopped; });
  lane.reset();
  engine.reset();
  upstream.contents.clear();
  ++upstream.epoch;
  start();
  loop.run_until([this] { return !upstream.contents[owner][Slot::permall].empty(); });
  EXPECT_EQ(upstream.contents[owner][Slot::permall], Value("a"));
  EXPECT_EQ(engine->snapshot().counters.redelivered, 1u);
}

TEST_F(EngineTest, KeepsContentsAsOneRecordAndFindsThemAfterAKill) {
  start();
  upstream.up = false;
  write("old");
  loop.run_until([this] { return last->has_value(); });
  std::optional<WriteStatus> status;
  engine->set_contents(owner, {Value("p"), Value("s"), Value("v")}, {}, [&](WriteStatus s) { status = s; });
  loop.run_until([&status] { return status.has_value(); });
  EXPECT_EQ(*status, WriteStatus::accepted);
  disk.crash();
  lane.reset();
  engine.reset();
  start();
  EXPECT_EQ(engine->snapshot().pending_entries, 3u);
  std::optional<std::array<Value, 3>> contents;
  engine->get_contents(owner, [&](std::optional<std::array<Value, 3>> got) { contents = std::move(got); });
  upstream.up = true;
  engine->drain(engine->now() + seconds(60), [](bool) {});
  loop.run_until([this] { return engine->snapshot().pending_entries == 0; });
  const Contents& standing = upstream.contents[owner];
  EXPECT_EQ(standing[Slot::permall], Value("p"));
  EXPECT_EQ(standing[Slot::savestate], Value("s"));
  EXPECT_EQ(standing[Slot::volatilestate], Value("v"));
  loop.run_until([&contents] { return contents.has_value(); });
  EXPECT_EQ((*contents)[2], Value("v"));
}

TEST_F(EngineTest, ParksWhatSomebodyElseOverwroteUntilItIsDiscardedOrForced) {
  for (const bool force : {false, true}) {
    upstream = TestUpstream();
    disk.crash();
    lane.reset();
    engine.reset();
    disk = testing::SimDisk{1};
    start();
    ASSERT_EQ(write("a"), WriteStatus::accepted);
    upstream.up = false;
    write("b");
    loop.run_until([this] { return last->has_value(); });
    upstream.conflict = true;
    upstream.up = true;
    engine->drain(engine->now() + seconds(60), [](bool) {});
    loop.run_until([this] { return !engine->snapshot().parked.empty(); });
    EXPECT_EQ(engine->snapshot().counters.parked, 1u);
    EXPECT_EQ(upstream.contents[owner][Slot::permall], Value("a"));
    upstream.conflict = false;
    std::optional<Result<std::size_t>> answer;
    const auto keep = [&answer](Result<std::size_t> done) { answer = std::move(done); };
    if (force) {
      engine->deliver_by_force(owner, std::nullopt, keep);
    } else {
      engine->discard(owner, Slot::permall, keep);
    }
    loop.run_until([&answer] { return answer.has_value(); });
    EXPECT_EQ(answer->value(), 1u);
    if (force) loop.run_until([this] { return engine->snapshot().pending_entries == 0; });
    EXPECT_EQ(upstream.contents[owner][Slot::permall], Value(force ? "b" : "a"));
    EXPECT_TRUE(engine->snapshot().parked.empty());
    answer.reset();
    engine->discard(owner, std::nullopt, keep);
    loop.run_until([&answer] { return answer.has_value(); });
    EXPECT_EQ(answer->error().code, Errc::not_found) << "nothing is left";
  }
}

TEST_F(EngineTest, SurvivesAnswersThatComeAfterItsEnd) {
  start();
  upstream.hold_back = true;
  write("a");
  loop.advance(milliseconds(500));
  lane.reset();
  engine.reset();
  upstream.held_back.front()();
  loop.advance(seconds(10));
}

TEST_F(EngineTest, RefusesASlotOfAnotherDevice) {
  start();
  std::optional<WriteStatus> status;
  lane->write(Slot::nvram, Value("a"), [&status](WriteStatus s) { status = s; });
  EXPECT_EQ(status, WriteStatus::unavailable);
  std::optional<ReadResult> result;
  lane->read(Slot::nvram, [&result](ReadResult r) { result = std::move(r); });
  EXPECT_EQ(result->source, ReadResult::Source::none);
}

TEST_F(EngineTest, AnswersUnavailableWhenTheDiskFailsAndTheUpstreamIsDownAndRecoversByItself) {
  start();
  upstream.up = false;
  disk.fail_all(testing::SimDisk::Kind::sync, EIO);
  write("a");
  loop.run_until([this] { return last->has_value(); });
  EXPECT_EQ(**last, WriteStatus::unavailable);
  disk.heal();
  // The client tries again, as swtpm does, until the journal has recovered.
  for (int i = 0; i < 1000 && **last != WriteStatus::accepted; ++i) {
    std::this_thread::sleep_for(milliseconds(50));
    write("a");
    loop.run_until([this] { return last->has_value(); });
  }
  EXPECT_EQ(**last, WriteStatus::accepted);
}

}  // namespace
}  // namespace guard::engine
