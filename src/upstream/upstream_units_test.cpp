// The parts of the upstream that have something to prove by themselves.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "net/scripted_peer.h"
#include "upstream/connection_pool.h"
#include "upstream/socket_watch.h"
#include "upstream/timer.h"
#include "upstream/vtpm_store.h"

namespace guard::upstream {
namespace {

using net::testing::PeerConnection;
using net::testing::run_until;
using net::testing::ScriptedPeer;
using net::testing::SocketPath;
using net::testing::xapi_http_answer;
using std::chrono::milliseconds;
using std::chrono::seconds;

Uuid numbered(unsigned number) {
  Uuid uuid;
  uuid.bytes[15] = static_cast<std::uint8_t>(number);
  uuid.bytes[14] = static_cast<std::uint8_t>(number >> 8);
  return uuid;
}

TEST(ReferenceCache, ForgetsTheOneUnusedForLongestWhenItIsFull) {
  ReferenceCache cache(3);
  for (unsigned i = 1; i <= 3; ++i) cache.put(numbered(i), {"vm" + std::to_string(i), "vtpm", {}});
  ASSERT_TRUE(cache.find(numbered(1)));
  cache.put(numbered(4), {"vm4", "vtpm", {}});
  EXPECT_EQ(cache.size(), 3u);
  EXPECT_FALSE(cache.find(numbered(2)));
  EXPECT_EQ(cache.find(numbered(1))->vm, "vm1");
  EXPECT_EQ(cache.find(numbered(3))->vm, "vm3");
}

TEST(ReferenceCache, ReplacesAndDrops) {
  ReferenceCache cache(3);
  cache.put(numbered(1), {"old", "vtpm", {}});
  cache.put(numbered(1), {"new", "vtpm", {}});
  EXPECT_EQ(cache.size(), 1u);
  EXPECT_EQ(cache.find(numbered(1))->vm, "new");
  cache.drop(numbered(1));
  cache.drop(numbered(1));
  EXPECT_EQ(cache.size(), 0u);
}

TEST(Timer, RunsOnceAtItsTimeAndCanBeSetAnewFromWithin) {
  net::Loop loop;
  Timer timer(loop);
  int runs = 0;
  const Time start = loop.now();
  timer.set(start + milliseconds(20), [&] {
    ++runs;
    timer.set(loop.now() + milliseconds(20), [&runs] { ++runs; });
  });
  EXPECT_TRUE(timer.is_set());
  EXPECT_TRUE(run_until(loop, [&runs] { return runs == 2; }));
  EXPECT_GE(loop.now() - start, milliseconds(39));
  EXPECT_FALSE(timer.is_set());
}

TEST(Timer, SettingAnewReplacesAndCancellingForgets) {
  net::Loop loop;
  auto timer = std::make_unique<Timer>(loop);
  std::string log;
  timer->set(loop.now(), [&log] { log += "a"; });
  timer->set(loop.now(), [&log] { log += "b"; });
  run_until(loop, [] { return false; }, milliseconds(20));
  EXPECT_EQ(log, "b");
  timer->set(loop.now(), [&log] { log += "c"; });
  timer->cancel();
  run_until(loop, [] { return false; }, milliseconds(20));
  timer->set(loop.now(), [&log] { log += "d"; });
  timer.reset();
  run_until(loop, [] { return false; }, milliseconds(20));
  EXPECT_EQ(log, "b");
}

class SocketWatchTest : public ::testing::Test {
 protected:
  void touch(const std::string& path) { std::ofstream(path) << "x"; }
  bool sees() {
    const int before = seen;
    return run_until(loop, [this, before] { return seen > before; }, milliseconds(200));
  }
  SocketPath socket;
  net::Loop loop;
  int seen = 0;
};

TEST_F(SocketWatchTest, SeesTheFileCreatedAndRenamedIntoPlaceAndNoOther) {
  SocketWatch watch(loop, socket.path(), [this] { ++seen; });
  touch(socket.directory() + "/other");
  touch(socket.path() + "x");
  EXPECT_FALSE(sees());
  touch(socket.path());
  EXPECT_TRUE(sees());
  run_until(loop, [] { return false; }, milliseconds(10));
  std::filesystem::remove(socket.path());
  EXPECT_FALSE(sees()) << "its end is no sign of life";
  std::filesystem::rename(socket.directory() + "/other", socket.path());
  EXPECT_TRUE(sees());
}

TEST_F(SocketWatchTest, ADirectoryThatComesLaterIsWatchedWhenAskedFor) {
  const std::string directory = socket.directory() + "/run";
  SocketWatch watch(loop, directory + "/xapi", [this] { ++seen; });
  EXPECT_FALSE(watch.ensure());
  std::filesystem::create_directory(directory);
  EXPECT_TRUE(watch.ensure());
  EXPECT_TRUE(watch.ensure());
  touch(directory + "/xapi");
  EXPECT_TRUE(sees());
}

TEST_F(SocketWatchTest, ADirectoryThatIsReplacedIsWatchedAnew) {
  const std::string directory = socket.directory() + "/run";
  std::filesystem::create_directory(directory);
  SocketWatch watch(loop, directory + "/xapi", [this] { ++seen; });
  EXPECT_TRUE(watch.ensure());
  std::filesystem::remove_all(directory);
  std::filesystem::create_directory(directory);
  run_until(loop, [] { return false; }, milliseconds(10));
  EXPECT_TRUE(watch.ensure());
  touch(directory + "/xapi");
  EXPECT_TRUE(sees());
  std::filesystem::rename(directory, directory + ".old");
  std::filesystem::create_directory(directory);
  run_until(loop, [] { return false; }, milliseconds(10));
  EXPECT_TRUE(watch.ensure());
  touch(directory + ".old/other");
  touch(directory + "/xapi");
  EXPECT_TRUE(sees());
}

class PoolTest : public ::testing::Test {
 protected:
  void make(std::size_t counted, std::size_t ceiling, milliseconds overdue, milliseconds idle = seconds(60)) {
    pool = std::make_unique<ConnectionPool>(
        loop, PoolOptions{{.socket_path = socket.path()}, counted, ceiling, overdue, idle});
  }
  void submit(std::string body, milliseconds send_within = seconds(10), bool urgent = false) {
    pool->submit({body, loop.now() + send_within, std::nullopt, false}, urgent,
                 [this, body](net::HttpResult result) {
                   ended.push_back(body);
                   if (!result.answer) {
                     failures.push_back(result.answer.error().code);
                     sent.push_back(result.sent);
                   }
                 });
  }
  /// Requests are noted when they come and answered when their number is let go.
  void start_peer() {
    peer.emplace(socket.path(), [this](PeerConnection& connection) {
      while (const auto request = connection.read_request()) {
        {
          const std::lock_guard lock(mutex);
          came.push_back(request->body);
        }
        while (request->body.starts_with("hold") && !release) std::this_thread::sleep_for(milliseconds(1));
        connection.send(xapi_http_answer("x"));
      }
    });
  }
  std::vector<std::string> arrived() {
    const std::lock_guard lock(mutex);
    return came;
  }
  bool until(std::function<bool()> done) { return run_until(loop, done); }

  SocketPath socket;
  net::Loop loop;
  std::mutex mutex;
  std::vector<std::string> came;
  std::atomic<bool> release = false;
  std::optional<ScriptedPeer> peer;
  std::unique_ptr<ConnectionPool> pool;
  std::vector<std::string> ended;
  std::vector<Errc> failures;
  std::vector<net::Sent> sent;
};

TEST_F(PoolTest, CallsWaitInTheOrderInWhichTheyCame) {
  start_peer();
  make(1, 10, seconds(60));
  for (int i = 0; i < 20; ++i) submit(std::to_string(i));
  EXPECT_EQ(pool->waiting(), 19u);
  EXPECT_EQ(pool->busy(), 1u);
  ASSERT_TRUE(until([this] { return ended.size() == 20; }));
  for (std::size_t i = 0; i < 20; ++i) EXPECT_EQ(ended[i], std::to_string(i));
  EXPECT_EQ(arrived(), ended);
  EXPECT_EQ(peer->accepted(), 1u);
  EXPECT_EQ(pool->idle(), 1u);
}

TEST_F(PoolTest, NoMoreYoungCallsThanCountedAndOverdueOnesCountNoMore) {
  start_peer();
  make(2, 10, milliseconds(60));
  for (int i = 0; i < 5; ++i) submit("hold" + std::to_string(i));
  run_until(loop, [] { return false; }, milliseconds(30));
  EXPECT_EQ(arrived().size(), 2u);
  EXPECT_TRUE(until([this] { return arrived().size() == 5; }));
  EXPECT_EQ(pool->busy(), 5u);
  EXPECT_TRUE(ended.empty());
  release = true;
  EXPECT_TRUE(until([this] { return ended.size() == 5; }));
  EXPECT_LE(pool->idle(), 2u) << "what was needed only because calls hung is closed";
}

TEST_F(PoolTest, TheCeilingBoundsAllConnectionsButUrgentCallsPass) {
  start_peer();
  make(2, 3, milliseconds(5));
  for (int i = 0; i < 6; ++i) submit("hold" + std::to_string(i));
  run_until(loop, [] { return false; }, milliseconds(60));
  EXPECT_EQ(arrived().size(), 3u);
  EXPECT_EQ(pool->waiting(), 3u);
  submit("urgent", seconds(10), true);
  EXPECT_TRUE(until([this] { return ended.size() == 1; }));
  EXPECT_EQ(ended[0], "urgent");
  release = true;
  EXPECT_TRUE(until([this] { return ended.size() == 7; }));
}

TEST_F(PoolTest, ACallThatGetsNoConnectionInTimeEndsUnsent) {
  start_peer();
  make(1, 1, seconds(60));
  submit("hold");
  submit("patient");
  submit("late1", milliseconds(40));
  submit("late2", milliseconds(20));
  ASSERT_TRUE(until([this] { return ended.size() == 2; }));
  EXPECT_EQ(ended, (std::vector<std::string>{"late2", "late1"}));
  EXPECT_EQ(failures, (std::vector<Errc>{Errc::timeout, Errc::timeout}));
  EXPECT_EQ(sent, (std::vector<net::Sent>{net::Sent::nothing, net::Sent::nothing}));
  release = true;
  ASSERT_TRUE(until([this] { return ended.size() == 4; }));
  EXPECT_EQ(arrived(), (std::vector<std::string>{"hold", "patient"}));
}

TEST_F(PoolTest, WithNobodyListeningEveryCallFailsAndNoneIsForgotten) {
  make(2, 4, seconds(60));
  for (int i = 0; i < 200; ++i) submit(std::to_string(i));
  ASSERT_TRUE(until([this] { return ended.size() == 200; }));
  EXPECT_EQ(failures.size(), 200u);
  EXPECT_EQ(pool->busy() + pool->idle() + pool->waiting(), 0u);
}

TEST_F(PoolTest, IdleConnectionsAreClosedAfterAWhile) {
  start_peer();
  make(3, 10, seconds(60), milliseconds(50));
  for (int i = 0; i < 3; ++i) submit("hold" + std::to_string(i));
  run_until(loop, [] { return false; }, milliseconds(10));
  release = true;
  ASSERT_TRUE(until([this] { return ended.size() == 3; }));
  EXPECT_EQ(pool->idle(), 3u);
  EXPECT_TRUE(until([this] { return pool->idle() == 0; }));
}

TEST_F(PoolTest, ACallbackMaySubmitTheNextCall) {
  start_peer();
  make(1, 1, seconds(60));
  int left = 10;
  std::function<void(net::HttpResult)> next = [&](net::HttpResult result) {
    ASSERT_TRUE(result.answer);
    if (--left > 0) pool->submit({"x", loop.now() + seconds(5), std::nullopt, false}, false, next);
  };
  pool->submit({"x", loop.now() + seconds(5), std::nullopt, false}, false, next);
  EXPECT_TRUE(until([&left] { return left == 0; }));
}

TEST_F(PoolTest, DestroyingItForgetsTheCallsThatWaitAndThatAreUnderWay) {
  start_peer();
  make(1, 1, seconds(60));
  submit("hold");
  submit("waiting", milliseconds(20));
  run_until(loop, [] { return false; }, milliseconds(5));
  pool.reset();
  release = true;
  run_until(loop, [] { return false; }, milliseconds(50));
  EXPECT_TRUE(ended.empty());
}

}  // namespace
}  // namespace guard::upstream
