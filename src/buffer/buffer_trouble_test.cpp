// What an embedder, his upstream or the disk may do wrong, and the beginning and end of a buffer.
#include <gtest/gtest.h>
#include <pthread.h>

#include <random>

#include "buffer/test_upstream.h"
#include "guard/buffer.h"

namespace guard::buffer {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using Mode = TestUpstream::Mode;

class BufferTroubleTest : public ::testing::Test {
 protected:
  BufferTroubleTest() {
    options.log = [this](LogLevel, std::string_view line) {
      const std::lock_guard lock(log_mutex);
      log += std::string(line) + "\n";
    };
  }
  Buffer open() {
    auto opened = Buffer::open(dir.path(), options, upstream);
    if (!opened) throw std::runtime_error(opened.error().message);
    return std::move(*opened);
  }
  bool logged(std::string_view text) {
    const std::lock_guard lock(log_mutex);
    return log.find(text) != std::string::npos;
  }

  std::mutex log_mutex;
  std::string log;
  TestDir dir;
  TestUpstream upstream;
  BufferOptions options = test_options();
};

// --- The beginning ----------------------------------------------------------------------------------------

TEST_F(BufferTroubleTest, RefusesASecondBufferInADirectory) {
  {
    Buffer first = open();
    const auto second = Buffer::open(dir.path(), options, upstream);
    ASSERT_EQ(failure(second), Errc::busy);
    EXPECT_EQ(second.error().message, dir.path() + ": in use by another buffer or a guard");
    EXPECT_FALSE(failure(first.write(key_of(1), Value("a")))) << "the first one is none the worse";
  }
  EXPECT_FALSE(failure(Buffer::open(dir.path(), options, upstream)));
}

TEST_F(BufferTroubleTest, RefusesOptionsOutOfRange) {
  const auto refused = [this](auto change) {
    BufferOptions changed = options;
    change(changed);
    return failure(Buffer::open(dir.path(), changed, upstream)) == Errc::invalid;
  };
  EXPECT_TRUE(refused([](BufferOptions& o) { o.journal_size = 4096 * 16 + 1; }));
  EXPECT_TRUE(refused([](BufferOptions& o) { o.journal_size = 4096; }));
  EXPECT_TRUE(refused([](BufferOptions& o) { o.journal_max = o.journal_size - 4096; }));
  EXPECT_TRUE(refused([](BufferOptions& o) { o.direct_timeout = milliseconds(0); }));
  EXPECT_TRUE(refused([](BufferOptions& o) { o.doubt_window = milliseconds(-1); }));
  EXPECT_TRUE(refused([](BufferOptions& o) { o.read_timeout = milliseconds(0); }));
  EXPECT_TRUE(refused([](BufferOptions& o) { o.close_timeout = milliseconds(-1); }));
  EXPECT_TRUE(refused([](BufferOptions& o) { o.delivery_concurrency = 0; }));
  EXPECT_TRUE(refused([](BufferOptions& o) { o.max_requests = 0; }));
  EXPECT_TRUE(refused([](BufferOptions& o) { o.max_request_bytes = 0; }));
  upstream.limit = 0;
  EXPECT_TRUE(refused([](BufferOptions&) {}));
  upstream.limits_throw = true;
  EXPECT_TRUE(refused([](BufferOptions&) {}));
}

TEST_F(BufferTroubleTest, SaysThatAJournalCannotBeReadAndLeavesItAlone) {
  std::filesystem::create_directories(dir.path() + "/journal/a");
  const auto opened = Buffer::open(dir.path(), options, upstream);
  ASSERT_TRUE(failure(opened));
  EXPECT_EQ(opened.error().message.rfind(dir.path() + ": ", 0), 0u) << opened.error().message;
  EXPECT_TRUE(std::filesystem::is_directory(dir.path() + "/journal/a"));
  std::filesystem::remove(dir.path() + "/journal/a");
  EXPECT_FALSE(failure(Buffer::open(dir.path(), options, upstream))) << "the lock was given back";
}

TEST_F(BufferTroubleTest, SaysThatTheDirectoryCannotBeMade) {
  EXPECT_TRUE(failure(Buffer::open("/proc/no/such/place", options, upstream)));
}

/// While this lives, no thread can be started: its stack would not fit into the address space.
class NoThreads {
 public:
  NoThreads() {
    pthread_getattr_default_np(&before_);
    pthread_attr_t huge;
    pthread_attr_init(&huge);
    pthread_attr_setstacksize(&huge, std::size_t{1} << 47);
    EXPECT_EQ(pthread_setattr_default_np(&huge), 0);
    pthread_attr_destroy(&huge);
  }
  ~NoThreads() {
    pthread_setattr_default_np(&before_);
    pthread_attr_destroy(&before_);
  }

 private:
  pthread_attr_t before_;
};

TEST_F(BufferTroubleTest, SaysThatAThreadCannotBeStarted) {
  {
    const NoThreads none;
    const auto opened = Buffer::open(dir.path(), options, upstream);
    EXPECT_EQ(failure(opened), Errc::io) << "the buffer's own";
  }
  std::optional<NoThreads> none;
  upstream.on_set_events = [&none](bool set) {
    if (set) none.emplace();
  };
  const auto opened = Buffer::open(dir.path(), options, upstream);
  EXPECT_EQ(failure(opened), Errc::io) << "the journal's";
  none.reset();
  upstream.on_set_events = nullptr;
  EXPECT_FALSE(failure(Buffer::open(dir.path(), options, upstream)));
}

// --- The upstream -----------------------------------------------------------------------------------------

/// The write below took effect although its answer was lost in one way or another: kept, then delivered.
TEST_F(BufferTroubleTest, KeepsWhatAnUpstreamDidNotAnswerFor) {
  options.doubt_window = milliseconds(1);
  Buffer buffer = open();
  unsigned owner = 0;
  for (const Mode mode : {Mode::throwing, Mode::forgetful}) {
    SCOPED_TRACE(owner);
    upstream.mode = mode;
    ASSERT_FALSE(failure(buffer.write(key_of(++owner), Value("a"))));
    EXPECT_EQ(*buffer.read(key_of(owner)), Value("a"));
    EXPECT_EQ(buffer.pending().size(), 1u);
    EXPECT_EQ(failure(buffer.read(key_of(100 + owner))), Errc::unavailable);
    upstream.mode = Mode::up;
    ASSERT_FALSE(failure(buffer.drain(minutes(1))));
    EXPECT_EQ(upstream.value(key_of(owner)), Value("a"));
  }
}

TEST_F(BufferTroubleTest, CountsTheFirstOfTwoAnswers) {
  upstream.mode = Mode::repeating;
  Buffer buffer = open();
  for (unsigned i = 0; i < 50; ++i) {
    std::atomic<unsigned> answers = 0;
    ASSERT_FALSE(failure(buffer.write(key_of(1), Value(std::to_string(i)))));
    ASSERT_FALSE(failure(buffer.read(key_of(1), [&answers](Result<Value>) { ++answers; })));
    ASSERT_FALSE(failure(buffer.read(key_of(1))));
    ASSERT_TRUE(eventually([&] { return answers == 1; }));
  }
  EXPECT_FALSE(failure(buffer.close()));
}

TEST_F(BufferTroubleTest, SurvivesAnUpstreamThatThrowsWhenItIsToldWhoListens) {
  upstream.on_set_events = [](bool) { throw std::runtime_error("not me"); };
  Buffer buffer = open();
  EXPECT_TRUE(logged("upstream_threw call=set_events"));
  EXPECT_FALSE(failure(buffer.write(key_of(1), Value("a"))));
  EXPECT_FALSE(failure(buffer.close()));
}

TEST_F(BufferTroubleTest, CutsLongReasons) {
  upstream.reason = std::string(100'000, 'x');
  upstream.mode = Mode::bad_owner;
  Buffer buffer = open();
  EXPECT_EQ(failure(buffer.write(key_of(1), Value("a"), nullptr)), std::nullopt);
  ASSERT_TRUE(eventually([&] { return !buffer.status().held.empty(); }));
  EXPECT_EQ(buffer.status().held[0].reason, "lane: " + std::string(200, 'x'));
}

TEST_F(BufferTroubleTest, AnswersAReadThatTheUpstreamDoesNot) {
  options.read_timeout = milliseconds(30);
  upstream.mode = Mode::silent;
  Buffer buffer = open();
  EXPECT_EQ(failure(buffer.read(key_of(1))), Errc::timeout);
  EXPECT_EQ(failure(buffer.read(key_of(2))), Errc::timeout);
  upstream.answer_all();  // too late, and harmless
  EXPECT_FALSE(failure(buffer.read(key_of(1))));
}

TEST_F(BufferTroubleTest, HearsOfSessionsAndSignsOfLifeFromAnyThread) {
  upstream.mode = Mode::down;
  Buffer buffer = open();
  ASSERT_FALSE(failure(buffer.write(key_of(1), Value("a"))));
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      for (unsigned i = 0; i < 500; ++i) upstream.report(t);
    });
  }
  upstream.mode = Mode::up;
  for (auto& thread : threads) thread.join();
  upstream.report(0);
  // Nothing but the sign of life makes the buffer deliver at once; that it does so at all is what counts
  // here.
  EXPECT_TRUE(eventually([&] { return buffer.pending().empty(); }));
  EXPECT_FALSE(failure(buffer.close()));
  upstream.report(9);
}

// --- The disk ---------------------------------------------------------------------------------------------

TEST_F(BufferTroubleTest, RefusesHonestlyWhenTheJournalIsFullAndGoesOnAfterwards) {
  options.journal_size = options.journal_max = 256 << 10;
  upstream.mode = Mode::down;
  Buffer buffer = open();
  const std::string body(8000, 'x');
  unsigned kept = 0;
  while (!failure(buffer.write(key_of(kept), Value(body + std::to_string(kept))))) ASSERT_LT(++kept, 100u);
  ASSERT_GT(kept, 5u);
  EXPECT_EQ(failure(buffer.write(key_of(kept), Value(body))), Errc::unavailable);
  EXPECT_EQ(buffer.status().pending_entries, kept);
  for (unsigned i = 0; i < kept; ++i) EXPECT_EQ(*buffer.read(key_of(i)), Value(body + std::to_string(i)));
  upstream.mode = Mode::up;
  ASSERT_FALSE(failure(buffer.drain(minutes(1))));
  for (unsigned i = 0; i < kept; ++i) EXPECT_EQ(upstream.value(key_of(i)), Value(body + std::to_string(i)));
  upstream.mode = Mode::down;
  EXPECT_FALSE(failure(buffer.write(key_of(kept), Value(body))));
}

// --- Callbacks --------------------------------------------------------------------------------------------

TEST_F(BufferTroubleTest, SurvivesCallbacksThatThrow) {
  Buffer buffer = open();
  ASSERT_FALSE(
      failure(buffer.write(key_of(1), Value("a"), [](Result<>) { throw std::runtime_error("ow"); })));
  ASSERT_FALSE(failure(buffer.read(key_of(1), [](Result<Value>) { throw 5; })));
  ASSERT_FALSE(failure(buffer.drain(minutes(1), [](Result<>) { throw std::runtime_error("drained"); })));
  for (const char* what : {"ow", "something", "drained"}) {
    EXPECT_TRUE(eventually([&] { return logged(std::string("callback_threw what=") + what); })) << what;
  }
  EXPECT_FALSE(failure(buffer.write(key_of(1), Value("b"))));
  EXPECT_EQ(*buffer.read(key_of(1)), Value("b"));
}

TEST_F(BufferTroubleTest, RefusesToWaitForItself) {
  Buffer buffer = open();
  std::atomic<bool> over = false;
  ASSERT_FALSE(failure(buffer.write(key_of(1), Value("a"), [&](Result<>) {
    EXPECT_EQ(failure(buffer.write(key_of(1), Value("b"))), Errc::invalid);
    EXPECT_EQ(failure(buffer.read(key_of(1))), Errc::invalid);
    EXPECT_EQ(failure(buffer.drain(minutes(1))), Errc::invalid);
    EXPECT_EQ(failure(buffer.close()), Errc::invalid);
    EXPECT_TRUE(buffer.pending().empty());
    EXPECT_TRUE(buffer.status().journal_usable);
    // What does not wait may be called.
    EXPECT_FALSE(failure(buffer.write(key_of(1), Value("c"), [&](Result<>) { over = true; })));
  })));
  ASSERT_TRUE(eventually([&] { return over.load(); }));
  EXPECT_EQ(upstream.value(key_of(1)), Value("c"));
}

TEST_F(BufferTroubleTest, EndsTheProcessWhenItIsDestroyedOnItsOwnThread) {
  GTEST_FLAG_SET(death_test_style, "fast");  // the child uses this directory, which is removed below
  EXPECT_DEATH(
      {
        auto buffer = std::make_unique<Buffer>(open());
        (void)buffer->write(key_of(1), Value("a"), [&](Result<>) { buffer.reset(); });
        std::this_thread::sleep_for(minutes(1));
      },
      "destroyed on its own thread");
}

// --- The end ----------------------------------------------------------------------------------------------

/// Threads call on while somebody closes. What was taken is answered once; what was acknowledged is there.
TEST_F(BufferTroubleTest, AnswersEveryCallOnceWhenItIsClosedUnderWay) {
  constexpr unsigned threads = 4;
  for (unsigned round = 0; round < 10; ++round) {
    SCOPED_TRACE(round);
    upstream.mode = round % 2 == 0 ? Mode::up : Mode::down;
    std::atomic<unsigned> taken = 0, answers = 0, closed = 0;
    std::array<std::atomic<unsigned>, threads> acknowledged{};
    {
      Buffer buffer = open();
      std::vector<std::thread> users;
      for (unsigned t = 0; t < threads; ++t) {
        users.emplace_back([&, t] {
          for (unsigned i = 1;; ++i) {
            const auto result =
                buffer.write(key_of(t), Value(std::to_string(i)), [&, t, i](Result<> outcome) {
                  ++answers;
                  if (outcome) acknowledged[t] = i;
                });
            if (failure(result) == Errc::closed) break;
            if (result) ++taken;
            const auto read = buffer.read(key_of(t), [&](Result<Value>) { ++answers; });
            if (read) ++taken;
            if (buffer.drain(milliseconds(1), [&](Result<>) { ++answers; })) ++taken;
          }
          ++closed;
        });
      }
      ASSERT_TRUE(eventually([&] { return answers > 100; }));
      std::thread other([&] { EXPECT_FALSE(failure(buffer.close())) << "a second close() waits"; });
      EXPECT_FALSE(failure(buffer.close()));
      EXPECT_EQ(answers, taken.load()) << "all callbacks before close() returned";
      other.join();
      for (auto& user : users) user.join();
      EXPECT_EQ(closed, threads);
      EXPECT_EQ(failure(buffer.read(key_of(1))), Errc::closed);
      EXPECT_TRUE(buffer.pending().empty());
      EXPECT_FALSE(buffer.status().journal_usable);
    }
    Buffer again = open();
    upstream.mode = Mode::up;
    ASSERT_FALSE(failure(again.drain(minutes(1))));
    for (unsigned t = 0; t < threads; ++t) {
      const Value value = upstream.value(key_of(t));
      const unsigned standing =
          value.empty() ? 0 : static_cast<unsigned>(std::stoul(std::string(value.view())));
      EXPECT_GE(standing, acknowledged[t]);
    }
  }
}

TEST_F(BufferTroubleTest, ClosesAlthoughTheUpstreamHangs) {
  options.direct_timeout = milliseconds(10);
  options.close_timeout = milliseconds(100);
  options.doubt_window = milliseconds(100);  // the call outlives the buffer, and the next one knows
  upstream.mode = Mode::silent;
  std::atomic<unsigned> answers = 0;
  {
    Buffer buffer = open();
    ASSERT_FALSE(failure(buffer.write(key_of(1), Value("a")))) << "acknowledged from the journal";
    ASSERT_FALSE(failure(buffer.read(key_of(2), [&](Result<Value> result) {
      EXPECT_EQ(failure(result), Errc::closed);
      ++answers;
    })));
    ASSERT_FALSE(failure(buffer.drain(hours(1), [&](Result<> result) {
      EXPECT_EQ(failure(result), Errc::closed);
      ++answers;
    })));
    EXPECT_EQ(failure(buffer.close()), Errc::timeout);
    EXPECT_EQ(answers, 2u);
    EXPECT_FALSE(failure(buffer.close()));
  }
  EXPECT_GT(upstream.kept(), 0u);
  upstream.answer_all();  // nobody is there any more
  EXPECT_EQ(upstream.value(key_of(1)), Value("a"));
  Buffer again = open();
  EXPECT_FALSE(failure(again.drain(minutes(1))));
  EXPECT_EQ(upstream.value(key_of(1)), Value("a"));
}

TEST_F(BufferTroubleTest, StartsNoDeliveryWhileItCloses) {
  options.direct_timeout = minutes(5);
  upstream.mode = Mode::silent;
  Buffer buffer = open();
  ASSERT_FALSE(failure(buffer.write(key_of(1), Value("a"), nullptr)));
  std::atomic<bool> acknowledged = false;
  ASSERT_FALSE(failure(buffer.write(key_of(1), Value("b"), [&](Result<> result) {
    EXPECT_TRUE(result);
    acknowledged = true;
  })));
  ASSERT_TRUE(eventually([this] { return upstream.deliveries == 1; }));
  std::thread closer([&] { EXPECT_FALSE(failure(buffer.close())); });
  ASSERT_TRUE(
      eventually([&] { return failure(buffer.read(key_of(1), [](Result<Value>) {})) == Errc::closed; }));
  upstream.answer_all();
  closer.join();
  EXPECT_TRUE(acknowledged) << "the second write is in the journal";
  EXPECT_EQ(upstream.deliveries, 1u);
  Buffer again = open();
  ASSERT_FALSE(failure(again.drain(minutes(1))));
  EXPECT_EQ(upstream.value(key_of(1)), Value("b"));
}

TEST_F(BufferTroubleTest, IsMovedAndLeavesNothingBehind) {
  Buffer first = open();
  Buffer second = std::move(first);
  EXPECT_EQ(failure(first.write(key_of(1), Value("a"))), Errc::closed);
  EXPECT_EQ(failure(first.read(key_of(1))), Errc::closed);
  EXPECT_EQ(failure(first.drain(minutes(1))), Errc::closed);
  EXPECT_EQ(failure(first.write(key_of(1), Value("a"), nullptr)), Errc::closed);
  EXPECT_EQ(failure(first.read(key_of(1), nullptr)), Errc::closed);
  EXPECT_EQ(failure(first.drain(minutes(1), nullptr)), Errc::closed);
  EXPECT_TRUE(first.pending().empty());
  EXPECT_FALSE(first.status().journal_usable);
  EXPECT_FALSE(failure(first.close()));
  ASSERT_FALSE(failure(second.write(key_of(1), Value("a"))));
  TestDir other;
  second = std::move(*Buffer::open(other.path(), options, upstream));
  EXPECT_FALSE(failure(Buffer::open(dir.path(), options, upstream))) << "the first directory is free again";
  EXPECT_FALSE(failure(second.write(key_of(2), Value("b"))));
}

}  // namespace
}  // namespace guard::buffer
