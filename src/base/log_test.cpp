// The log's sinks, played by the test: journald and syslogd are sockets of ours.
#include "base/log.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <regex>
#include <thread>

#include "base/limits.h"
#include "base/log_limit.h"

namespace guard {
namespace {

using std::chrono::milliseconds;

/// A log daemon: a datagram socket in a directory of its own.
class LogDaemon {
 public:
  LogDaemon() {
    std::string pattern = "/tmp/logtest.XXXXXX";
    dir_ = ::mkdtemp(pattern.data());
    listen();
  }
  ~LogDaemon() {
    stop();
    std::filesystem::remove_all(dir_);
  }
  std::string path() const { return dir_ + "/log"; }
  void listen() {
    fd_ = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path().copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  void stop() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
    ::unlink(path().c_str());
  }
  /// The next datagram, empty when there is none.
  std::string next() {
    std::string text(65'536, '\0');
    const ssize_t size = ::recv(fd_, text.data(), text.size(), 0);
    text.resize(size < 0 ? 0 : static_cast<std::size_t>(size));
    return text;
  }
  std::vector<std::string> all() {
    std::vector<std::string> found;
    for (std::string text = next(); !text.empty(); text = next()) found.push_back(text);
    return found;
  }

 private:
  std::string dir_;
  int fd_ = -1;
};

Uuid uuid_number(unsigned n) {
  Uuid uuid;
  uuid.bytes[14] = static_cast<std::uint8_t>(n >> 8);
  uuid.bytes[15] = static_cast<std::uint8_t>(n);
  return uuid;
}

const std::string hostile = "a\nPRIORITY=0\n\r\x1b[2J\x9b\"=\\ \xff" + std::string(1, '\0') + "end";

TEST(JournalSink, SendsTheFieldsThatJournaldIndexes) {
  LogDaemon journald;
  const auto log = make_logger({LogTarget::Kind::journal, journald.path()}, LogLevel::info);
  log->log(LogLevel::warning, "lane_held",
           {{"vm", uuid_number(7)}, {"slot", Slot::permall}, {"task", "VM.start R:1 x"}, {"n", 5}});
  EXPECT_EQ(
      journald.next(),
      "MESSAGE=lane_held vm=00000000-0000-0000-0000-000000000007 slot=permall task=\"VM.start R:1 x\" n=5\n"
      "PRIORITY=4\nSYSLOG_FACILITY=21\nSYSLOG_IDENTIFIER=xapi-guard\n"
      "VM_UUID=00000000-0000-0000-0000-000000000007\nSLOT=permall\nTASK=VM.start R:1 x\n");
  log->log(LogLevel::debug, "not_wanted", {});
  EXPECT_EQ(journald.next(), "");
}

TEST(JournalSink, GivesEachLevelItsPriority) {
  LogDaemon journald;
  const auto log = make_logger({LogTarget::Kind::journal, journald.path()}, LogLevel::debug);
  const std::array levels{LogLevel::debug, LogLevel::info, LogLevel::notice, LogLevel::warning,
                          LogLevel::error};
  for (const LogLevel level : levels) log->log(level, "event", {});
  for (const char* priority : {"7", "6", "5", "4", "3"}) {
    EXPECT_NE(journald.next().find(std::string("\nPRIORITY=") + priority + "\n"), std::string::npos)
        << priority;
  }
}

TEST(SyslogSink, SpeaksTheFormOfLocalPrograms) {
  LogDaemon syslogd;
  const auto log = make_logger({LogTarget::Kind::syslog, syslogd.path()}, LogLevel::info);
  log->log(LogLevel::error, "entries_parked", {{"reason", "two words"}});
  const std::regex form("<171>[A-Z][a-z]{2} [ 0-9]\\d \\d\\d:\\d\\d:\\d\\d xapi-guard\\[" +
                        std::to_string(::getpid()) + "\\]: entries_parked reason=\"two words\"");
  const std::string line = syslogd.next();
  EXPECT_TRUE(std::regex_match(line, form)) << line;
}

TEST(LogSinks, NobodyElsesTextCanEndALineOrForgeAField) {
  LogDaemon daemon;
  for (const auto kind : {LogTarget::Kind::journal, LogTarget::Kind::syslog}) {
    const auto log = make_logger({kind, daemon.path()}, LogLevel::info);
    log->log(LogLevel::info, "event", {{"path", hostile}, {"slot", hostile}, {"task", hostile}});
    const std::string sent = daemon.next();
    ASSERT_FALSE(sent.empty());
    for (const char c : sent) EXPECT_TRUE(c == '\n' || (c >= ' ' && c < 0x7f)) << static_cast<int>(c);
    EXPECT_EQ(sent.find("\nPRIORITY=0"), std::string::npos);
    EXPECT_EQ(std::ranges::count(sent, '\n'), kind == LogTarget::Kind::journal ? 6 : 0) << sent;
  }
}

TEST(LogSinks, LinesAreBoundedWhateverIsInThem) {
  LogDaemon daemon;
  const auto log = make_logger({LogTarget::Kind::journal, daemon.path()}, LogLevel::info);
  const std::string huge(1 << 20, '\n');
  log->log(LogLevel::info, "event", {{"a", huge}, {"b", huge}, {"task", huge}, {"c", huge}, {"d", huge}});
  const std::string sent = daemon.next();
  EXPECT_GT(sent.size(), limits::log_line);
  EXPECT_LT(sent.size(), limits::log_line + 4 * limits::log_field + 200);
  EXPECT_EQ(log_line("e", {{"a", huge}}).size(), std::string("e a=\"...\"").size() + 4 * limits::log_field);
  EXPECT_EQ(log_line("e", {{"a", huge}, {"b", huge}, {"c", huge}}).size(), limits::log_line);
  EXPECT_EQ(log->lost(), 0u);
}

TEST(LogSinks, AFloodOfHostileTextsIsTakenWholeAndEscaped) {
  LogDaemon daemon;
  const auto log = make_logger({LogTarget::Kind::syslog, daemon.path()}, LogLevel::info);
  unsigned state = 1;
  for (int i = 0; i < 2000; ++i) {
    std::string text(static_cast<std::size_t>(i % 600), '\0');
    for (char& c : text) c = static_cast<char>((state = state * 1'664'525 + 1'013'904'223) >> 24);
    log->log(LogLevel::info, "event", {{"vm", text}, {"path", text}});
    const std::string sent = daemon.next();
    ASSERT_FALSE(sent.empty());
    ASSERT_TRUE(std::ranges::all_of(sent, [](char c) { return c >= ' ' && c < 0x7f; })) << i;
    ASSERT_LE(sent.size(), limits::log_line + 64);
  }
}

TEST(LogSinks, NeitherWaitForADaemonThatReadsNothingNorForOneThatIsGone) {
  LogDaemon daemon;
  const auto log = make_logger({LogTarget::Kind::syslog, daemon.path()}, LogLevel::info);
  constexpr unsigned sent = 5000;  // far more than a socket holds
  for (unsigned i = 0; i < sent; ++i) log->log(LogLevel::info, "event", {{"n", i}});
  const auto first = daemon.all();
  ASSERT_GT(log->lost(), 0u);
  EXPECT_EQ(first.size() + log->lost(), sent);

  log->log(LogLevel::info, "again", {});
  auto after = daemon.all();
  ASSERT_EQ(after.size(), 2u);
  EXPECT_NE(after[0].find("log_lines_lost count=" + std::to_string(log->lost())), std::string::npos)
      << after[0];
  EXPECT_NE(after[1].find("again"), std::string::npos);

  const auto before = log->lost();
  daemon.stop();
  for (int i = 0; i < 3; ++i) log->log(LogLevel::info, "nobody_there", {});
  EXPECT_EQ(log->lost(), before + 3);
  daemon.listen();
  log->log(LogLevel::info, "back", {});
  after = daemon.all();
  ASSERT_EQ(after.size(), 2u) << "the socket was found again";
  EXPECT_NE(after[0].find("log_lines_lost count=3"), std::string::npos) << after[0];
}

TEST(StderrSink, DoesNotWaitForAPipeThatNobodyReads) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const int saved = ::dup(STDERR_FILENO);
  ::dup2(ends[1], STDERR_FILENO);
  {
    const auto log = make_stderr_logger(LogLevel::info);
    for (int i = 0; i < 3000; ++i) log->log(LogLevel::info, "event", {{"text", std::string(100, 'x')}});
    EXPECT_GT(log->lost(), 0u);
  }
  ::dup2(saved, STDERR_FILENO);
  for (const int fd : {saved, ends[0], ends[1]}) ::close(fd);
}

TEST(StderrSink, WritesOneLineWithTimeAndLevel) {
  testing::internal::CaptureStderr();
  make_stderr_logger(LogLevel::info)
      ->log(LogLevel::notice, "event", {{"plain", "a"}, {"n", 7}, {"none", ""}});
  const std::string line = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(std::regex_match(
      line,
      std::regex("\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z notice event plain=a n=7 none=\"\"\n")))
      << line;
}

// --- How many lines ---------------------------------------------------------------------------------------

class Collector final : public Logger {
 public:
  void log(LogLevel, std::string_view event, std::initializer_list<Field> fields) override {
    lines.push_back(log_line(event, fields));
  }
  bool enabled(LogLevel) const override { return true; }
  std::size_t count(const std::string& text) const {
    return static_cast<std::size_t>(
        std::ranges::count_if(lines, [&](const auto& line) { return line.find(text) != std::string::npos; }));
  }
  std::vector<std::string> lines;
};

struct Limited {
  Collector out;
  Time now = std::chrono::hours(1);
  std::vector<Time> wakes;
  LogLimit log{out, [this] { return now; }, [this](Time when) { wakes.push_back(when); }};
};

TEST(LogLimit, LetsTenLinesOfAVmThroughInASecondAndSaysHowManyItLeftOut) {
  Limited limited;
  for (int i = 0; i < 35; ++i)
    limited.log.log(LogLevel::error, "trouble", {{"vm", uuid_number(1)}, {"n", i}});
  EXPECT_EQ(limited.out.lines.size(), 10u);
  ASSERT_EQ(limited.wakes.size(), 1u) << "one alarm, not one for each line";
  EXPECT_EQ(limited.wakes[0], limited.now + milliseconds(1000));
  limited.log.flush();
  EXPECT_EQ(limited.out.lines.size(), 10u) << "the second is not over";
  limited.now = limited.wakes[0];
  limited.log.flush();
  ASSERT_EQ(limited.out.lines.size(), 11u);
  EXPECT_EQ(limited.out.lines.back(), "log_lines_suppressed vm=" + uuid_number(1).str() + " suppressed=25");
  EXPECT_EQ(limited.log.suppressed(), 25u);
  limited.log.flush();
  EXPECT_EQ(limited.out.lines.size(), 11u);
  limited.log.log(LogLevel::error, "trouble", {{"vm", uuid_number(1)}});
  EXPECT_EQ(limited.out.lines.size(), 12u);
}

TEST(LogLimit, OneVmTakesNoLinesFromAnotherNorFromTheHost) {
  Limited limited;
  for (int i = 0; i < 1000; ++i) limited.log.log(LogLevel::info, "flood", {{"vm", uuid_number(1)}});
  for (int i = 0; i < 10; ++i) limited.log.log(LogLevel::info, "other", {{"vm", uuid_number(2)}});
  for (int i = 0; i < 200; ++i) limited.log.log(LogLevel::info, "host", {});
  EXPECT_EQ(limited.out.count("other"), 10u);
  EXPECT_EQ(limited.out.count("host"), 200u);
  limited.log.log(LogLevel::info, "host", {});
  EXPECT_EQ(limited.out.count("host"), 200u) << "the host's are bounded, too";
  limited.log.flush(true);
  EXPECT_EQ(limited.out.lines.size(), 220u + 2) << "each says what is missing";
}

TEST(LogLimit, SaysWhatIsMissingBeforeTheNextLineOfTheVmWhenNobodyWokeIt) {
  Limited limited;
  for (int i = 0; i < 11; ++i) limited.log.log(LogLevel::info, "flood", {{"vm", uuid_number(1)}});
  limited.now += milliseconds(1500);
  limited.log.log(LogLevel::info, "later", {{"vm", uuid_number(1)}});
  ASSERT_EQ(limited.out.lines.size(), 12u);
  EXPECT_NE(limited.out.lines[10].find("suppressed=1"), std::string::npos);
  EXPECT_NE(limited.out.lines[11].find("later"), std::string::npos);
}

TEST(LogLimit, DoesNotCountDebugLinesAndAsksForNothingWhileNothingIsLeftOut) {
  Limited limited;
  for (int i = 0; i < 500; ++i) limited.log.log(LogLevel::debug, "detail", {{"vm", uuid_number(1)}});
  for (int i = 0; i < 10; ++i) limited.log.log(LogLevel::info, "event", {{"vm", uuid_number(1)}});
  EXPECT_EQ(limited.out.lines.size(), 510u);
  EXPECT_TRUE(limited.wakes.empty());
}

TEST(LogLimit, ItsMemoryIsBoundedAndWhatIsNoUuidCountsForTheHost) {
  Limited limited;
  for (unsigned i = 0; i < limits::log_vms + 500; ++i) {
    limited.log.log(LogLevel::info, "event", {{"vm", uuid_number(i)}});
  }
  // Those beyond share what the host may have.
  EXPECT_EQ(limited.out.lines.size(), limits::log_vms + limits::log_lines_of_host);
  limited.now += std::chrono::seconds(2);
  limited.out.lines.clear();
  for (int i = 0; i < 300; ++i)
    limited.log.log(LogLevel::info, "event", {{"vm", "no uuid " + std::to_string(i)}});
  EXPECT_EQ(limited.out.count("event"), limits::log_lines_of_host);
}

TEST(LogLimit, CanBeUsedByManyThreads) {
  Limited limited;
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&limited, t] {
      for (int i = 0; i < 1000; ++i) limited.log.log(LogLevel::info, "event", {{"vm", uuid_number(t)}});
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(limited.out.lines.size(), 40u);
  EXPECT_EQ(limited.log.suppressed(), 4u * 990);
}

}  // namespace
}  // namespace guard
