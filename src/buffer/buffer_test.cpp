// The public face with everything real behind it: threads, journal, a directory of the file system. Only the
// upstream is the test's own, because that is what an embedder brings.
#include "guard/buffer.h"

#include <gtest/gtest.h>

#include <random>

#include "base/limits.h"
#include "buffer/test_upstream.h"

namespace guard::buffer {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using State = BufferStatus::UpstreamState;
using Mode = TestUpstream::Mode;

class BufferTest : public ::testing::Test {
 protected:
  Buffer open() {
    auto opened = Buffer::open(dir.path(), options, upstream);
    if (!opened) throw std::runtime_error(opened.error().message);
    return std::move(*opened);
  }

  TestDir dir;
  TestUpstream upstream;
  BufferOptions options = test_options();
};

TEST_F(BufferTest, WritesStraightToAnUpstreamThatAnswers) {
  Buffer buffer = open();
  ASSERT_FALSE(failure(buffer.write(key_of(1), Value("a"))));
  EXPECT_EQ(upstream.value(key_of(1)), Value("a"));
  const auto read = buffer.read(key_of(1));
  ASSERT_FALSE(failure(read));
  EXPECT_EQ(*read, Value("a"));
  EXPECT_TRUE(buffer.pending().empty());
  const BufferStatus status = buffer.status();
  EXPECT_EQ(status.upstream, State::up);
  EXPECT_EQ(status.pending_entries, 0u);
  EXPECT_TRUE(status.journal_usable);
  EXPECT_EQ(status.journal_live_bytes, 0u);
}

TEST_F(BufferTest, KeepsServesAndDeliversWhatTheUpstreamCannotTake) {
  upstream.mode = Mode::down;
  Buffer buffer = open();
  ASSERT_FALSE(failure(buffer.write(key_of(1), Value("a"))));
  ASSERT_FALSE(failure(buffer.write(key_of(1, 1), Value("bb"))));
  EXPECT_EQ(*buffer.read(key_of(1)), Value("a"));
  EXPECT_EQ(*buffer.read(key_of(1, 1)), Value("bb"));
  EXPECT_EQ(failure(buffer.read(key_of(1, 2))), Errc::unavailable) << "absence is never invented (P4)";
  const auto pending = buffer.pending();
  ASSERT_EQ(pending.size(), 2u);
  EXPECT_EQ(std::min(pending[0].key, pending[1].key), key_of(1));
  EXPECT_EQ(pending[0].bytes + pending[1].bytes, 3u);
  EXPECT_EQ(buffer.status().upstream, State::down);
  EXPECT_EQ(buffer.status().upstream_error, "away");
  EXPECT_EQ(buffer.status().pending_bytes, 3u);
  EXPECT_GT(buffer.status().journal_live_bytes, 0u);
  EXPECT_EQ(failure(buffer.drain(milliseconds(50))), Errc::timeout);

  upstream.mode = Mode::up;
  ASSERT_FALSE(failure(buffer.drain(minutes(1))));
  EXPECT_EQ(upstream.value(key_of(1)), Value("a"));
  EXPECT_EQ(upstream.value(key_of(1, 1)), Value("bb"));
  EXPECT_TRUE(buffer.pending().empty());
  EXPECT_FALSE(failure(buffer.drain(milliseconds(0))))
      << "nothing is pending, so there is nothing to wait for";
}

TEST_F(BufferTest, FindsAtTheNextOpenWhatWasAcknowledged) {
  upstream.mode = Mode::down;
  {
    Buffer buffer = open();
    ASSERT_FALSE(failure(buffer.write(key_of(1), Value("old"))));
    ASSERT_FALSE(failure(buffer.write(key_of(1), Value("new"))));
    ASSERT_FALSE(failure(buffer.write(key_of(2), Value())));
    EXPECT_FALSE(failure(buffer.close()));
  }
  Buffer buffer = open();
  EXPECT_EQ(buffer.pending().size(), 2u);
  EXPECT_EQ(*buffer.read(key_of(1)), Value("new"));
  EXPECT_EQ(*buffer.read(key_of(2)), Value()) << "a removal is a value, too";
  upstream.mode = Mode::up;
  ASSERT_FALSE(failure(buffer.drain(minutes(1))));
  EXPECT_EQ(upstream.value(key_of(1)), Value("new"));
}

TEST_F(BufferTest, ReadsWhatIsKnownWhileTheUpstreamIsAway) {
  Buffer buffer = open();
  ASSERT_FALSE(failure(buffer.write(key_of(1), Value("a"))));
  upstream.mode = Mode::down;
  ASSERT_FALSE(failure(buffer.write(key_of(2), Value("b"))));
  EXPECT_EQ(*buffer.read(key_of(1)), Value("a"));
  EXPECT_EQ(*buffer.read(key_of(1, 1)), Value()) << "known to be empty";
  EXPECT_EQ(failure(buffer.read(key_of(3))), Errc::unavailable);
}

TEST_F(BufferTest, ForgetsWhatIsKnownOfOwnersThatWereNotUsedForLong) {
  upstream.in_place = true;
  upstream.durable = true;  // else what was delivered is retained, and so known
  Buffer buffer = open();
  for (unsigned owner = 0; owner <= limits::buffer_lanes; ++owner) {
    ASSERT_FALSE(failure(buffer.write(key_of(owner), Value("a"))));
    ASSERT_FALSE(failure(buffer.write(key_of(1), Value("b")))) << "stays in use";
  }
  upstream.mode = Mode::down;
  ASSERT_FALSE(failure(buffer.write(key_of(2), Value("b"))));
  EXPECT_EQ(failure(buffer.read(key_of(0))), Errc::unavailable);
  EXPECT_EQ(*buffer.read(key_of(1)), Value("b"));
  EXPECT_EQ(*buffer.read(key_of(limits::buffer_lanes)), Value("a"));
}

TEST_F(BufferTest, KeepsTheOrderOfOneThreadsWrites) {
  for (const Mode mode : {Mode::up, Mode::down}) {
    upstream.mode = mode;
    Buffer buffer = open();
    std::atomic<unsigned> answered = 0;
    for (unsigned i = 1; i <= 200; ++i) {
      ASSERT_FALSE(failure(buffer.write(key_of(1), Value(std::to_string(i)), [&answered](Result<> result) {
        EXPECT_TRUE(result);
        ++answered;
      })));
    }
    ASSERT_TRUE(eventually([&] { return answered == 200; }));
    EXPECT_EQ(*buffer.read(key_of(1)), Value("200"));
  }
}

/// One owner per thread, so that each knows what it must read; the upstream comes and goes meanwhile.
TEST_F(BufferTest, ServesManyThreadsWhileTheUpstreamComesAndGoes) {
  constexpr unsigned threads = 8, rounds = 150;
  options.direct_timeout = minutes(1);
  Buffer buffer = open();
  std::atomic<bool> over = false;
  std::thread weather([&] {
    for (unsigned i = 0; !over; ++i) {
      upstream.mode = i % 2 == 0 ? Mode::down : Mode::up;
      upstream.report(0);
      std::this_thread::sleep_for(milliseconds(5));
    }
  });
  std::vector<std::thread> users;
  for (unsigned t = 0; t < threads; ++t) {
    users.emplace_back([&, t] {
      std::mt19937 random(t);
      for (unsigned i = 0; i < rounds; ++i) {
        const auto slot = static_cast<unsigned>(random() % 3);
        const Value value(std::to_string(i) + std::string(random() % 5000, 'x'));
        ASSERT_FALSE(failure(buffer.write(key_of(t, slot), value)));
        const auto read = buffer.read(key_of(t, slot));
        if (read)
          ASSERT_EQ(*read, value) << "a read returns what was acknowledged (P3)";
        else
          ASSERT_EQ(read.error().code, Errc::unavailable);
        if (i % 16 == 0) (void)buffer.status();
      }
      for (unsigned slot = 0; slot < 3; ++slot) {
        ASSERT_FALSE(failure(buffer.write(key_of(t, slot), Value("last"))));
      }
    });
  }
  for (auto& user : users) user.join();
  over = true;
  weather.join();
  upstream.mode = Mode::up;
  ASSERT_FALSE(failure(buffer.drain(minutes(1))));
  for (unsigned t = 0; t < threads; ++t) {
    for (unsigned slot = 0; slot < 3; ++slot) EXPECT_EQ(upstream.value(key_of(t, slot)), Value("last"));
  }
  EXPECT_FALSE(failure(buffer.close()));
}

TEST_F(BufferTest, RefusesOrWaitsWhileTooManyRequestsAreUnderWay) {
  options.max_requests = 2;
  options.direct_timeout = minutes(5);
  upstream.mode = Mode::silent;
  Buffer buffer = open();
  std::atomic<unsigned> answered = 0;
  const auto count = [&answered](Result<> result) {
    EXPECT_TRUE(result);
    ++answered;
  };
  ASSERT_FALSE(failure(buffer.write(key_of(1), Value("a"), count)));
  ASSERT_FALSE(failure(buffer.write(key_of(2), Value("b"), count)));
  EXPECT_EQ(failure(buffer.write(key_of(3), Value("c"), count)), Errc::busy);
  EXPECT_EQ(failure(buffer.read(key_of(3), [](Result<Value>) { FAIL() << "it was refused"; })), Errc::busy);
  std::thread waits([&] { EXPECT_FALSE(failure(buffer.write(key_of(3), Value("d")))); });
  ASSERT_TRUE(eventually([this] { return upstream.deliveries == 2; }));
  upstream.answer_all();
  waits.join();
  EXPECT_EQ(answered, 2u);
  EXPECT_EQ(upstream.value(key_of(3)), Value("d"));
}

TEST_F(BufferTest, BoundsTheBytesUnderWay) {
  options.max_request_bytes = 1000;
  options.direct_timeout = minutes(5);
  upstream.mode = Mode::silent;
  Buffer buffer = open();
  EXPECT_EQ(failure(buffer.write(key_of(1), Value(std::string(1001, 'x')))), Errc::invalid);
  ASSERT_FALSE(failure(buffer.write(key_of(1), Value(std::string(600, 'x')), nullptr)));
  EXPECT_EQ(failure(buffer.write(key_of(2), Value(std::string(401, 'x')), nullptr)), Errc::busy);
  EXPECT_FALSE(failure(buffer.write(key_of(2), Value(std::string(400, 'x')), nullptr)));
  upstream.answer_all();
}

TEST_F(BufferTest, RefusesWhatCanNeverBeKept) {
  upstream.limit = 100;
  Buffer buffer = open();
  EXPECT_EQ(failure(buffer.write(key_of(1, 3), Value("a"))), Errc::invalid) << "no such slot";
  EXPECT_EQ(failure(buffer.read(key_of(1, 200))), Errc::invalid);
  EXPECT_EQ(failure(buffer.write(key_of(1), Value(std::string(99, 'x')))), Errc::invalid);
  EXPECT_FALSE(failure(buffer.write(key_of(1), Value(std::string(98, 'x')))));
  upstream.mode = Mode::bad_payload;
  EXPECT_EQ(failure(buffer.write(key_of(1), Value("a"))), Errc::invalid);
}

TEST_F(BufferTest, TakesNoMoreThanARecordHolds) {
  upstream.limit = std::size_t{1} << 30;
  upstream.mode = Mode::down;
  Buffer buffer = open();
  const std::string largest(limits::journal_payload - 2, 'x');
  EXPECT_EQ(failure(buffer.write(key_of(1), Value(largest + "x"))), Errc::invalid);
  EXPECT_FALSE(failure(buffer.write(key_of(1), Value(largest))));
  EXPECT_EQ(buffer.read(key_of(1))->size(), largest.size());
}

TEST_F(BufferTest, SaysWhichOwnersTheUpstreamRefuses) {
  upstream.mode = Mode::down;
  Buffer buffer = open();
  ASSERT_FALSE(failure(buffer.write(key_of(1), Value("a"))));
  upstream.mode = Mode::bad_owner;
  upstream.report(0);
  ASSERT_TRUE(eventually([&] { return !buffer.status().held.empty(); }));
  const BufferStatus status = buffer.status();
  EXPECT_EQ(status.held[0].owner, key_of(1).owner);
  EXPECT_EQ(status.held[0].reason, "lane: away");
  EXPECT_EQ(status.pending_entries, 1u) << "held, not dropped (P7)";
  EXPECT_EQ(*buffer.read(key_of(1)), Value("a"));
  upstream.mode = Mode::up;
  EXPECT_FALSE(failure(buffer.write(key_of(2), Value("b")))) << "owners do not wait for each other (P5)";
  EXPECT_FALSE(failure(buffer.drain(minutes(1))));
}

TEST_F(BufferTest, HasTheDefaultsOfTheDaemon) {
  const BufferOptions defaults;
  EXPECT_EQ(defaults.journal_size, limits::journal_size);
  EXPECT_EQ(defaults.journal_max, limits::journal_max);
  EXPECT_EQ(defaults.direct_timeout, limits::direct_timeout);
  EXPECT_EQ(defaults.doubt_window, limits::doubt_window);
  EXPECT_EQ(defaults.read_timeout, limits::read_patience);
  EXPECT_EQ(defaults.delivery_concurrency, limits::delivery_concurrency);
  EXPECT_EQ(defaults.queue_entries, limits::queue_entries);
}

}  // namespace
}  // namespace guard::buffer
