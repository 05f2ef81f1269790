#include "daemon/service.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <future>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "daemon/service_environment.h"

namespace guard::daemon {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

/// The socket of a systemd: in the abstract name space, where nothing has to be removed.
class Systemd {
 public:
  Systemd() : fd_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    // Linux chooses the name.
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    EXPECT_EQ(::bind(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(sa_family_t)), 0);
    socklen_t size = sizeof address;
    EXPECT_EQ(::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    name = "@" + std::string(address.sun_path + 1, size - sizeof(sa_family_t) - 1);
  }
  ~Systemd() { ::close(fd_); }
  Systemd(const Systemd&) = delete;

  /// The next message; empty when there is none within `patience`.
  std::string next(milliseconds patience = seconds(20)) {
    pollfd wait{fd_, POLLIN, 0};
    if (::poll(&wait, 1, static_cast<int>(patience.count())) <= 0) return {};
    char buffer[4096];
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    iovec text{buffer, sizeof buffer};
    msghdr message{};
    message.msg_iov = &text;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t size = ::recvmsg(fd_, &message, MSG_CMSG_CLOEXEC);
    descriptor = -1;
    if (const cmsghdr* head = CMSG_FIRSTHDR(&message); head != nullptr) {
      std::memcpy(&descriptor, CMSG_DATA(head), sizeof descriptor);
    }
    return size < 0 ? std::string() : std::string(buffer, static_cast<std::size_t>(size));
  }
  void drop_all() {
    while (!next(milliseconds(0)).empty()) continue;
  }
  /// The next message that is no sign of life.
  std::string next_word() {
    for (;;) {
      std::string message = next();
      if (message != "WATCHDOG=1") return message;
    }
  }

  std::string name;
  int descriptor = -1;  ///< what came with the last message

 private:
  int fd_;
};

/// A service on a loop of its own thread.
class Running {
 public:
  explicit Running(const std::string& socket, std::optional<microseconds> watchdog = {})
      : notifier(socket), service(loop, notifier, watchdog), thread([this] { loop.run(); }) {}
  ~Running() {
    loop.stop();
    thread.join();
  }
  void on_loop(std::function<void()> work) {
    std::promise<void> done;
    loop.post([&] {
      work();
      done.set_value();
    });
    done.get_future().wait();
  }
  void changed(ServiceView view) {
    on_loop([&] { service.changed(view); });
  }

  net::Loop loop;
  Notifier notifier;
  Service service;
  std::thread thread;
};

ServiceView engaged(std::size_t pending) { return {true, "engaged", "down", pending}; }

TEST(Service, IsReadyOnceAndSaysWhatItDoes) {
  Systemd systemd;
  Running daemon(systemd.name);
  daemon.on_loop([&] {
    daemon.service.begin();
    daemon.service.changed({true, "direct", "unknown", 0});
    daemon.service.ready();
    daemon.service.ready();
    daemon.service.stopping();
  });
  EXPECT_EQ(systemd.next(), "READY=1\nSTATUS=direct, upstream unknown, nothing pending");
  EXPECT_EQ(systemd.next(), "STOPPING=1\nSTATUS=stopping: direct, upstream unknown, nothing pending");
  daemon.changed(engaged(3));
  EXPECT_EQ(systemd.next(milliseconds(50)), "") << "nothing is news after a stop has begun";
}

TEST(Service, SaysThatTheJournalHasNotBeenReadWhenItIsReadyBefore) {
  Systemd systemd;
  Running daemon(systemd.name);
  daemon.on_loop([&] { daemon.service.ready(); });
  EXPECT_EQ(systemd.next(), "READY=1\nSTATUS=the journal has not been read yet");
  daemon.changed(engaged(1));
  EXPECT_EQ(systemd.next(), "STATUS=engaged, upstream down, 1 entry pending");
}

TEST(Service, SendsTheLastOfManyChangesAndNotEachOfThem) {
  Systemd systemd;
  Running daemon(systemd.name);
  daemon.on_loop([&] {
    daemon.service.changed(engaged(1));
    daemon.service.ready();
    for (std::size_t pending = 2; pending <= 1000; ++pending) daemon.service.changed(engaged(pending));
  });
  EXPECT_EQ(systemd.next(), "READY=1\nSTATUS=engaged, upstream down, 1 entry pending");
  std::string message;
  int messages = 0;
  while (message != "STATUS=engaged, upstream down, 1000 entries pending") {
    message = systemd.next();
    ASSERT_FALSE(message.empty());
    ++messages;
  }
  EXPECT_LT(messages, 100) << "usually one; one more for each interval that the loop was kept waiting";
  daemon.changed({true, "direct", "up", 0});
  EXPECT_EQ(systemd.next(), "STATUS=direct, upstream up, nothing pending");
}

TEST(Service, FeedsTheWatchdogWhileTheLoopRunsAlsoDuringAStop) {
  Systemd systemd;
  Running daemon(systemd.name, milliseconds(40));
  daemon.on_loop([&] { daemon.service.begin(); });
  for (int i = 0; i < 5; ++i) EXPECT_EQ(systemd.next(), "WATCHDOG=1");
  daemon.on_loop([&] { daemon.service.stopping(); });
  EXPECT_NE(systemd.next_word().find("STOPPING=1"), std::string::npos);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(systemd.next(), "WATCHDOG=1");
}

TEST(Service, DoesNotFeedTheWatchdogWhileTheLoopIsStuck) {
  Systemd systemd;
  Running daemon(systemd.name, milliseconds(40));
  daemon.on_loop([&] { daemon.service.begin(); });
  EXPECT_EQ(systemd.next(), "WATCHDOG=1");
  std::promise<void> stuck, end;
  daemon.loop.post([&] {
    stuck.set_value();
    end.get_future().wait();
  });
  stuck.get_future().wait();
  systemd.drop_all();
  EXPECT_EQ(systemd.next(milliseconds(500)), "") << "a stuck loop must be noticed";
  end.set_value();
  EXPECT_EQ(systemd.next(), "WATCHDOG=1");
}

TEST(Service, SendsNoSignsOfLifeWithoutAWatchdog) {
  Systemd systemd;
  Running daemon(systemd.name);
  daemon.on_loop([&] { daemon.service.begin(); });
  EXPECT_EQ(systemd.next(milliseconds(300)), "");
}

TEST(Notifier, IsSilentWhenNobodyListensOrTheNameIsNone) {
  const std::string long_name = "/" + std::string(200, 'x');
  for (const std::string& name : {std::string(), long_name, std::string("relative")}) {
    const Notifier notifier(name);
    EXPECT_FALSE(notifier.connected());
    EXPECT_TRUE(notifier.send("READY=1"));
  }
  const Notifier nobody("/nonexistent/notify");
  EXPECT_TRUE(nobody.connected());
  EXPECT_FALSE(nobody.send("READY=1"));
  EXPECT_FALSE(nobody.send_now("WATCHDOG=1"));
}

TEST(Notifier, SendsADescriptorWithItsMessage) {
  Systemd systemd;
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  EXPECT_TRUE(Notifier(systemd.name).send("FDSTORE=1\nFDNAME=x", ends[1]));
  EXPECT_EQ(systemd.next(), "FDSTORE=1\nFDNAME=x");
  ASSERT_GE(systemd.descriptor, 0);
  EXPECT_EQ(::write(systemd.descriptor, "y", 1), 1);
  char letter = 0;
  EXPECT_EQ(::read(ends[0], &letter, 1), 1);
  EXPECT_EQ(letter, 'y');
  for (const int fd : {ends[0], ends[1], systemd.descriptor}) ::close(fd);
}

TEST(Notifier, WaitsForAReceiverThatHangsOnceAndNotEachTime) {
  Systemd systemd;
  const Notifier notifier(systemd.name);
  while (notifier.send_now("STATUS=x")) continue;
  EXPECT_FALSE(notifier.send("READY=1")) << "its queue stays full";
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(notifier.send("FDSTORE=1"));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(500)) << "a thousand times the patience";
  systemd.drop_all();
  EXPECT_TRUE(notifier.send("READY=1"));
  EXPECT_EQ(systemd.next(), "READY=1");
}

/// Where the tests pass descriptors: above everything that is open here.
constexpr int first_fd = 200;

ServiceEnvironment read(const std::map<std::string, std::string>& variables) {
  return read_service_environment(
      [&](const char* name) -> std::optional<std::string> {
        const auto found = variables.find(name);
        return found == variables.end() ? std::nullopt : std::optional(found->second);
      },
      42, first_fd);
}

/// Passes so many descriptors, as systemd does: they survive an exec.
void pass(int count) {
  for (int i = 0; i < count; ++i) ASSERT_EQ(::dup2(0, first_fd + i), first_fd + i);
}
bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

std::vector<std::string> names_of(const ServiceEnvironment& found) {
  std::vector<std::string> names;
  for (const auto& one : found.inherited) names.push_back(one.name);
  return names;
}

TEST(ServiceEnvironment, IsEmptyWithoutSystemd) {
  const auto found = read({});
  EXPECT_EQ(found.notify_socket, "");
  EXPECT_FALSE(found.watchdog);
  EXPECT_TRUE(found.problems.empty());
}

TEST(ServiceEnvironment, TellsTheWatchdogOfThisProcess) {
  EXPECT_EQ(read({{"WATCHDOG_USEC", "30000000"}}).watchdog, seconds(30));
  EXPECT_EQ(read({{"WATCHDOG_USEC", "30000000"}, {"WATCHDOG_PID", "42"}}).watchdog, seconds(30));
  EXPECT_FALSE(read({{"WATCHDOG_USEC", "30000000"}, {"WATCHDOG_PID", "43"}}).watchdog);
  EXPECT_FALSE(read({{"WATCHDOG_PID", "42"}}).watchdog);
}

TEST(ServiceEnvironment, ReportsNonsenseAndGoesOn) {
  for (const char* usec : {"", "0", "-1", "1s", " 5", "99999999999999999999", "9223372036854775808"}) {
    const auto found = read({{"WATCHDOG_USEC", usec}, {"NOTIFY_SOCKET", "/x"}});
    EXPECT_FALSE(found.watchdog) << usec;
    EXPECT_EQ(found.problems.size(), 1u) << usec;
    EXPECT_EQ(found.notify_socket, "/x");
  }
  EXPECT_EQ(read({{"WATCHDOG_USEC", "5"}, {"WATCHDOG_PID", "me"}}).problems.size(), 1u);
}

TEST(ServiceEnvironment, TakesTheDescriptorsThatWerePassedWithTheirNames) {
  pass(3);
  {
    const auto found = read({{"LISTEN_PID", "42"}, {"LISTEN_FDS", "3"}, {"LISTEN_FDNAMES", "a::stored"}});
    EXPECT_EQ(names_of(found), (std::vector<std::string>{"a", "", "stored"}));
    EXPECT_TRUE(found.problems.empty());
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(found.inherited.at(static_cast<std::size_t>(i)).fd.get(), first_fd + i);
      EXPECT_EQ(::fcntl(first_fd + i, F_GETFD), FD_CLOEXEC);
    }
  }
  EXPECT_FALSE(is_open(first_fd)) << "whoever holds them owns them";
}

TEST(ServiceEnvironment, TakesDescriptorsWithoutNames) {
  pass(2);
  const auto found = read({{"LISTEN_PID", "42"}, {"LISTEN_FDS", "2"}});
  EXPECT_EQ(names_of(found), (std::vector<std::string>{"", ""}));
  EXPECT_TRUE(found.problems.empty());
}

TEST(ServiceEnvironment, LeavesDescriptorsOfAnotherProcessAlone) {
  pass(1);
  EXPECT_TRUE(read({{"LISTEN_PID", "43"}, {"LISTEN_FDS", "1"}}).inherited.empty());
  EXPECT_TRUE(read({{"LISTEN_FDS", "1"}}).inherited.empty());
  EXPECT_TRUE(read({{"LISTEN_PID", "42"}}).inherited.empty());
  EXPECT_TRUE(is_open(first_fd));
  ::close(first_fd);
}

TEST(ServiceEnvironment, SurvivesNonsenseAboutDescriptors) {
  for (const char* count : {"", "-1", "x", "3 ", "0x3", "99999999999999999999999"}) {
    pass(1);
    const auto found = read({{"LISTEN_PID", "42"}, {"LISTEN_FDS", count}});
    EXPECT_TRUE(found.inherited.empty()) << count;
    EXPECT_EQ(found.problems.size(), 1u) << count;
  }
  EXPECT_EQ(read({{"LISTEN_PID", "x"}, {"LISTEN_FDS", "1"}}).problems.size(), 1u);
  // More is promised than there is: what is there is taken.
  for (const char* count : {"5", "8193", "4294967297"}) {
    pass(2);
    const auto found = read({{"LISTEN_PID", "42"}, {"LISTEN_FDS", count}});
    ASSERT_GE(found.inherited.size(), 2u) << count;
    EXPECT_EQ(found.inherited[1].fd.get(), first_fd + 1);
    EXPECT_EQ(found.problems.size(), std::string(count) == "5" ? 1u : 2u) << count;
  }
  // Names that do not fit name nothing.
  for (const char* names : {"", "a", "a:b:c", "a:b:c:d:e:f"}) {
    pass(2);
    const auto found = read({{"LISTEN_PID", "42"}, {"LISTEN_FDS", "2"}, {"LISTEN_FDNAMES", names}});
    EXPECT_EQ(names_of(found), (std::vector<std::string>{"", ""})) << names;
    EXPECT_EQ(found.problems.size(), 1u) << names;
  }
  EXPECT_TRUE(read({{"LISTEN_PID", "42"}, {"LISTEN_FDS", "0"}}).problems.empty());
}

TEST(ServiceEnvironment, IsTakenOutOfTheEnvironment) {
  ::setenv("NOTIFY_SOCKET", "/run/x", 1);
  ::setenv("WATCHDOG_USEC", "1000000", 1);
  ::setenv("LISTEN_PID", "1", 1);
  ::setenv("LISTEN_FDS", "5", 1);
  ::setenv("LISTEN_FDNAMES", "a:b", 1);
  ::setenv("WATCHDOG_PID", std::to_string(::getpid()).c_str(), 1);
  const auto found = take_service_environment();
  EXPECT_EQ(found.notify_socket, "/run/x");
  EXPECT_EQ(found.watchdog, seconds(1));
  for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
    EXPECT_EQ(::getenv(name), nullptr);
}

}  // namespace
}  // namespace guard::daemon
