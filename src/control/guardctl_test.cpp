// The real xapi-guardctl as a process, against a real control socket in this one.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "control/test_dir.h"
#include "control/test_served.h"

namespace guard::control {
namespace {

namespace fs = std::filesystem;

const std::string vm = "3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10";
const std::string gid = std::to_string(test_gid());

std::string read_all(int fd) {
  std::string text;
  char buffer[4096];
  for (ssize_t n = 0; (n = ::read(fd, buffer, sizeof(buffer))) > 0;)
    text.append(buffer, static_cast<std::size_t>(n));
  return text;
}

/// A started xapi-guardctl.
class Ctl {
 public:
  explicit Ctl(std::vector<std::string> arguments, const std::string& directory = "/") {
    arguments.insert(arguments.begin(), GUARDCTL);
    std::vector<char*> argv;
    for (auto& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    int output[2], errors[2];
    if (::pipe2(output, O_CLOEXEC) != 0 || ::pipe2(errors, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    out_ = OwnedFd(output[0]);
    err_ = OwnedFd(errors[0]);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(output[1], 1);
      ::dup2(errors[1], 2);
      if (::chdir(directory.c_str()) == 0) ::execv(GUARDCTL, argv.data());
      ::_exit(127);
    }
    ::close(output[1]);
    ::close(errors[1]);
  }
  ~Ctl() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      wait();
    }
  }
  Ctl(const Ctl&) = delete;

  /// Some of its output, as it comes.
  std::string read_some() const {
    char buffer[65536];
    const ssize_t n = ::read(out_.get(), buffer, sizeof(buffer));
    return std::string(buffer, n > 0 ? static_cast<std::size_t>(n) : 0);
  }
  void finish() {
    out = read_all(out_.get());
    err = read_all(err_.get());
    wait();
  }

  std::string out;
  std::string err;
  int exit_status = -1;

 private:
  void wait() {
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  pid_t pid_ = -1;
  OwnedFd out_;
  OwnedFd err_;
};

struct Ended {
  int exit_status;
  std::string out;
  std::string err;
};

class GuardCtl : public ::testing::Test {
 protected:
  Ended run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"--control-socket", served->path});
    Ctl ctl(std::move(arguments), dir.path());
    ctl.finish();
    return {ctl.exit_status, ctl.out, ctl.err};
  }
  void answer(std::string_view text) {
    auto json = wire::parse_json(text);
    ASSERT_TRUE(json);
    served->on_loop([&] { served->daemon.operations.answer = *json; });
  }

  TestDir dir{memory};
  std::unique_ptr<Served> served = std::make_unique<Served>(dir);
};

constexpr std::string_view direct =
    R"({"version":"1","mode":"direct","pending":{"entries":0},"held":[],"parked":[],"journal":{"state":"ok"}})";

TEST_F(GuardCtl, CreatesAndDestroysASocket) {
  const auto created = run({"vtpm-create", vm, gid, dir / "s"});
  EXPECT_EQ(created.exit_status, 0) << created.err;
  EXPECT_EQ(created.out, "serving " + dir / "s" + "\n");
  EXPECT_TRUE(connect_to(dir / "s"));
  const auto again = run({"vtpm-create", vm, gid, dir / "s"});
  EXPECT_EQ(again.exit_status, 1);
  EXPECT_EQ(again.out, "");
  EXPECT_EQ(again.err, "xapi-guardctl: Path " + dir / "s" + " is already in use\n");
  const auto again_json = run({"--json", "vtpm-create", vm, gid, dir / "s"});
  EXPECT_EQ(again_json.exit_status, 1);
  EXPECT_EQ(again_json.out, R"(["InternalError","Path )" + dir / "s" + " is already in use\"]\n");
  const auto destroyed = run({"vtpm-destroy", gid, dir / "s"});
  EXPECT_EQ(destroyed.exit_status, 0);
  EXPECT_EQ(destroyed.out, "no longer serving " + dir / "s" + "\n");
  EXPECT_FALSE(fs::exists(dir / "s"));
}

TEST_F(GuardCtl, CreatesAndDestroysTheSocketOfUefiVariables) {
  const auto created = run({"varstore-create", vm, gid, dir / "s"});
  EXPECT_EQ(created.exit_status, 0) << created.err;
  EXPECT_EQ(created.out, "serving " + dir / "s" + "\n");
  EXPECT_TRUE(connect_to(dir / "s"));
  served->on_loop([&] { EXPECT_EQ(served->daemon.registry.sockets().at(0).device, Device::uefi); });
  EXPECT_EQ(run({"varstore-create", vm, gid, dir / "s"}).exit_status, 1);
  const auto destroyed = run({"varstore-destroy", gid, dir / "s"});
  EXPECT_EQ(destroyed.exit_status, 0) << destroyed.err;
  EXPECT_EQ(destroyed.out, "no longer serving " + dir / "s" + "\n");
  EXPECT_FALSE(fs::exists(dir / "s"));
}

TEST_F(GuardCtl, TakesRelativePathsUpperCaseUuidsAndOptionsAfterTheCommand) {
  std::string upper = vm;
  for (char& c : upper) c = static_cast<char>(std::toupper(c));
  const auto created = run({"vtpm-create", upper, gid, "./sub/../s", "--json"});
  EXPECT_EQ(created.exit_status, 0) << created.err;
  EXPECT_EQ(created.out, "null\n");
  EXPECT_TRUE(connect_to(dir / "s"));
  served->on_loop([&] { EXPECT_EQ(served->daemon.registry.sockets().at(0).vm.str(), vm); });
}

TEST_F(GuardCtl, ShowsTheStatusForPeopleAndAsReceived) {
  answer(direct);
  const auto people = run({"status"});
  EXPECT_EQ(people.exit_status, 0);
  EXPECT_TRUE(people.out.starts_with("xapi-guard 1\n\nmode        direct\n")) << people.out;
  const auto json = run({"--json", "status"});
  EXPECT_EQ(json.exit_status, 0);
  EXPECT_EQ(json.out, std::string(direct) + "\n");
}

TEST_F(GuardCtl, ChecksTheStatusForMonitoring) {
  answer(direct);
  EXPECT_EQ(run({"status", "--check"}).exit_status, 0);
  EXPECT_EQ(run({"status", "--check"}).out, "OK: direct\n");
  EXPECT_EQ(run({"status", "--check", "--json"}).out, std::string(direct) + "\n");
  answer(R"({"mode":"engaged","pending":{"entries":1},"held":[],"parked":[],"journal":{"state":"ok"}})");
  EXPECT_EQ(run({"status", "--check"}).exit_status, 1);
  EXPECT_EQ(run({"status", "--check", "--json"}).exit_status, 1);
  answer(R"({"mode":"engaged","pending":{"entries":1},"held":[{}],"parked":[],"journal":{"state":"ok"}})");
  EXPECT_EQ(run({"status", "--check"}).exit_status, 2);
  answer("{}");
  EXPECT_EQ(run({"status", "--check"}).exit_status, 3);
  served->on_loop(
      [&] { served->daemon.operations.answer = std::unexpected(Error{Errc::closed, 0, "ending"}); });
  EXPECT_EQ(run({"status", "--check"}).exit_status, 3);
  EXPECT_EQ(run({"status"}).exit_status, 1);
}

TEST_F(GuardCtl, ListsWhatIsPending) {
  answer("[]");
  EXPECT_EQ(run({"pending"}).out, "nothing is pending\n");
  EXPECT_EQ(run({"pending", "--json"}).out, "[]\n");
}

TEST_F(GuardCtl, DrainsAndSaysWhenSomethingIsLeft) {
  answer(R"({"drained":true,"entries":0})");
  const auto drained = run({"drain", "--timeout", "7"});
  EXPECT_EQ(drained.exit_status, 0) << drained.err;
  EXPECT_EQ(drained.out, "everything is delivered\n");
  served->on_loop([&] { EXPECT_EQ(served->daemon.operations.asked.back(), "drain 7000"); });
  answer(R"({"drained":false,"entries":3})");
  const auto left = run({"drain", "--timeout", "0"});
  EXPECT_EQ(left.exit_status, 1);
  EXPECT_EQ(left.err, "xapi-guardctl: not drained within 0 s, entries left: 3\n");
  EXPECT_EQ(run({"drain", "--json"}).out, "{\"drained\":false,\"entries\":3}\n");
  served->on_loop([&] { EXPECT_EQ(served->daemon.operations.asked.back(), "drain 60000"); });
}

TEST_F(GuardCtl, WatchesAgainAndAgainAlsoThroughARestartOfTheDaemon) {
  answer(direct);
  Ctl ctl({"--control-socket", served->path, "--json", "status", "--watch"});
  const std::string line = std::string(direct) + "\n";
  EXPECT_EQ(ctl.read_some(), line);
  EXPECT_EQ(ctl.read_some(), line);
  served.reset();
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));
  served = std::make_unique<Served>(dir);
  answer(R"({"mode":"engaged"})");
  std::string seen;
  while (seen.find("engaged") == seen.npos) {
    const std::string more = ctl.read_some();
    ASSERT_FALSE(more.empty()) << "it ended; it said: " << seen;
    seen += more;
  }
}

TEST_F(GuardCtl, EndsWithThreeWhenItCannotReachTheDaemon) {
  const auto absent = dir / "absent";
  Ctl no_file({"--control-socket", absent, "status"});
  no_file.finish();
  EXPECT_EQ(no_file.exit_status, 3);
  EXPECT_EQ(no_file.err, "xapi-guardctl: cannot connect to " + absent + ": No such file or directory\n");
  {
    ASSERT_TRUE(create_socket({.path = dir / "dead", .gid = {}}));
  }
  Ctl dead({"--control-socket", dir / "dead", "vtpm-destroy", gid, "/x"});
  dead.finish();
  EXPECT_EQ(dead.exit_status, 3);
  EXPECT_EQ(dead.err, "xapi-guardctl: cannot connect to " + dir / "dead" + ": Connection refused\n");
  Ctl too_long({"--control-socket", "/" + std::string(200, 'x'), "status", "--watch"});
  too_long.finish();
  EXPECT_EQ(too_long.exit_status, 3);
}

TEST_F(GuardCtl, EndsWithThreeWhenTheAnswerBreaksOffOrIsNotOurs) {
  const auto peer = create_socket({.path = dir / "peer", .gid = {}});
  ASSERT_TRUE(peer);
  for (const char* says :
       {"", "HTTP/1.1 200 OK\r\nContent-Len", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 200 OK\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nno json", "SSH-2.0\r\n\r\n"}) {
    SCOPED_TRACE(says);
    Ctl ctl({"--control-socket", dir / "peer", "status"});
    OwnedFd connection;
    while (!connection) connection = OwnedFd(::accept(peer->listener.get(), nullptr, nullptr));
    char request[4096];
    EXPECT_GT(::recv(connection.get(), request, sizeof(request), 0), 0);
    EXPECT_EQ(::send(connection.get(), says, std::strlen(says), MSG_NOSIGNAL),
              static_cast<ssize_t>(std::strlen(says)));
    connection = OwnedFd();
    ctl.finish();
    EXPECT_EQ(ctl.exit_status, 3);
    EXPECT_FALSE(ctl.err.empty());
  }
}

TEST_F(GuardCtl, DiscardsAndDeliversByForce) {
  answer(R"({"entries":2})");
  const auto discarded = run({"discard", vm, "savestate"});
  EXPECT_EQ(discarded.exit_status, 0) << discarded.err;
  EXPECT_EQ(discarded.out, "entries given up: 2\n");
  served->on_loop([&] { EXPECT_EQ(served->daemon.operations.asked.back(), "discard " + vm + " savestate"); });
  EXPECT_EQ(run({"deliver", "--force", vm}).out, "entries being delivered: 2\n");
  served->on_loop([&] { EXPECT_EQ(served->daemon.operations.asked.back(), "deliver_force " + vm); });
  EXPECT_EQ(run({"discard", vm, "--json"}).out, "{\"entries\":2}\n");
}

TEST_F(GuardCtl, EndsWithTwoOnWrongUsageAndTellsOnStandardError) {
  const std::vector<std::vector<std::string>> wrong = {
      {},
      {"unknown"},
      {"vtpm-create", vm, gid},
      {"vtpm-create", "not-a-uuid", gid, "/x"},
      {"vtpm-create", vm, "-1", "/x"},
      {"vtpm-create", vm, "4294967295", "/x"},
      {"vtpm-create", vm, "root", "/x"},
      {"vtpm-destroy", "/x"},
      {"varstore-create", "not-a-uuid", gid, "/x"},
      {"varstore-destroy", "/x"},
      {"status", "--watch", "--check"},
      {"status", "extra"},
      {"drain", "--timeout", "soon"},
      {"discard"},
      {"discard", "nobody"},
      {"discard", vm, "nvram"},
      {"deliver", vm},
      {"drain", "--timeout", "3601"},
      {"--nonsense", "status"},
  };
  for (const auto& arguments : wrong) {
    const auto ended = run(arguments);
    EXPECT_EQ(ended.exit_status, 2) << ::testing::PrintToString(arguments);
    EXPECT_FALSE(ended.err.empty()) << ::testing::PrintToString(arguments);
    EXPECT_EQ(ended.out, "") << ::testing::PrintToString(arguments);
  }
  for (const char* help : {"--help", "--version"}) {
    const auto ended = run({help});
    EXPECT_EQ(ended.exit_status, 0);
    EXPECT_FALSE(ended.out.empty());
  }
}

}  // namespace
}  // namespace guard::control
