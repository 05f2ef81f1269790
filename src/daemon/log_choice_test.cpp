#include "daemon/log_choice.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace guard::daemon {
namespace {

using Kind = LogTarget::Kind;

/// A system whose log daemons are sockets of ours.
class System {
 public:
  System() {
    std::string pattern = "/tmp/logchoice.XXXXXX";
    dir_ = ::mkdtemp(pattern.data());
    places = {dir_ + "/native", dir_ + "/stdout", dir_ + "/syslog"};
  }
  ~System() {
    for (const int fd : fds_) ::close(fd);
    std::filesystem::remove_all(dir_);
  }
  int keep(int fd) {
    fds_.push_back(fd);
    return fd;
  }
  void bind_journal() { bind(places.journal, SOCK_DGRAM); }
  /// Standard error of a service: a stream to journald.
  int stream() {
    if (!std::filesystem::exists(places.journal_stream)) {
      ::listen(bind(places.journal_stream, SOCK_STREAM), 5);
    }
    const int fd = keep(::socket(AF_UNIX, SOCK_STREAM, 0));
    const sockaddr_un address = at(places.journal_stream);
    EXPECT_EQ(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    return fd;
  }
  LogPlaces places;

 private:
  static sockaddr_un at(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    return address;
  }
  int bind(const std::string& path, int type) {
    const int fd = keep(::socket(AF_UNIX, type, 0));
    const sockaddr_un address = at(path);
    EXPECT_EQ(::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    return fd;
  }
  std::string dir_;
  std::vector<int> fds_;
};

std::string identity(int fd) {
  struct stat st{};
  ::fstat(fd, &st);
  return std::to_string(st.st_dev) + ":" + std::to_string(st.st_ino);
}

TEST(LogChoice, IsTheJournalWhenStandardErrorLeadsThere) {
  System system;
  system.bind_journal();
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  system.keep(ends[0]);
  const int error = system.keep(ends[1]);
  EXPECT_EQ(find_log(error, identity(error), system.places).kind, Kind::journal);
  EXPECT_EQ(find_log(error, identity(error), system.places).path, system.places.journal);
  EXPECT_EQ(find_log(error, "1:2", system.places).kind, Kind::stderr_lines) << "somebody else's stream";
  EXPECT_EQ(find_log(error, std::nullopt, system.places).kind, Kind::stderr_lines);
}

TEST(LogChoice, RecognisesJournaldWithoutBeingToldAsOnOldSystems) {
  System system;
  const int error = system.stream();
  EXPECT_EQ(find_log(error, std::nullopt, system.places).kind, Kind::stderr_lines)
      << "it has no native socket";
  system.bind_journal();
  EXPECT_EQ(find_log(error, std::nullopt, system.places).kind, Kind::journal);
}

TEST(LogChoice, IsSyslogWhenStandardErrorLeadsNowhereAndElseStandardError) {
  System system;
  const int nowhere = system.keep(::open("/dev/null", O_WRONLY));
  EXPECT_EQ(find_log(nowhere, std::nullopt, system.places).kind, Kind::syslog);
  EXPECT_EQ(find_log(-1, std::nullopt, system.places).kind, Kind::syslog);
  const int zero = system.keep(::open("/dev/zero", O_WRONLY));
  EXPECT_EQ(find_log(zero, std::nullopt, system.places).kind, Kind::stderr_lines);
}

TEST(LogChoice, CanBeMadeByAnOption) {
  EXPECT_FALSE(parse_log_to("auto")->target);
  EXPECT_EQ(parse_log_to("stderr")->target->kind, Kind::stderr_lines);
  EXPECT_EQ(parse_log_to("journal")->target->path, "/run/systemd/journal/socket");
  EXPECT_EQ(parse_log_to("syslog")->target->path, "/dev/log");
  EXPECT_EQ(parse_log_to("syslog:/tmp/log")->target->path, "/tmp/log");
  EXPECT_EQ(parse_log_to("syslog:/tmp/log")->target->kind, Kind::syslog);
  for (const std::string wrong :
       {"", "file", "stderr:/x", "auto:", "journal:", "journal:relative", "syslog:", "Syslog"}) {
    EXPECT_FALSE(parse_log_to(wrong)) << wrong;
  }
  EXPECT_FALSE(parse_log_to("journal:/" + std::string(107, 'x')));
  EXPECT_TRUE(parse_log_to("journal:/" + std::string(106, 'x')));
}

}  // namespace
}  // namespace guard::daemon
