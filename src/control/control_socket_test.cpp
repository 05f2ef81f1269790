#include "control/control_socket.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>
#include <thread>

#include "base/limits.h"
#include "control/test_daemon.h"
#include "control/test_dir.h"
#include "control/test_served.h"

namespace guard::control {
namespace {

namespace fs = std::filesystem;

/// One request on a connection of its own; the whole answer, empty when there is none.
std::string request_reply(const std::string& path, const std::string& request) {
  const OwnedFd fd = connect_to(path);
  if (!fd) return "cannot connect";
  if (::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return "cannot send";
  }
  std::string answer;
  char buffer[4096];
  for (ssize_t n = 0; (n = ::recv(fd.get(), buffer, sizeof(buffer), 0)) > 0;) {
    answer.append(buffer, static_cast<std::size_t>(n));
  }
  return answer;
}

std::string post(const std::string& body, const std::string& target = "/") {
  return "POST " + target + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}
std::string get(const std::string& target, const std::string& method = "GET") {
  return method + " " + target + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
}
std::string body_of(const std::string& answer) {
  const auto end = answer.find("\r\n\r\n");
  return end == answer.npos ? "no head" : answer.substr(end + 4);
}

TEST(ControlSocket, CanBeReachedByItsOwnerOnly) {
  const TestDir dir{memory};
  const Served served(dir);
  struct stat st{};
  ASSERT_EQ(::lstat(served.path.c_str(), &st), 0) << served.error.message;
  EXPECT_EQ(st.st_mode, static_cast<mode_t>(S_IFSOCK | 0600));
  EXPECT_EQ(st.st_uid, ::geteuid());
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become somebody else";
  ASSERT_EQ(::chmod(dir.path().c_str(), 0755), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setresgid(4711, 4711, 4711) != 0 || ::setresuid(4711, 4711, 4711) != 0) ::_exit(10);
    ::_exit(connect_to(served.path) ? 11 : errno == EACCES ? 0 : 12);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(ControlSocket, AnswersJsonRpcAtTheRootAndMetricsBesideIt) {
  const TestDir dir{memory};
  Served served(dir);
  served.daemon.operations.answer = wire::Json(wire::JsonObject{{"mode", "direct"}});
  EXPECT_EQ(request_reply(served.path, post(R"({"method":"status","params":[],"id":1})")),
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 48\r\n\r\n"
            R"({"result":{"mode":"direct"},"error":null,"id":0})");
  EXPECT_EQ(request_reply(served.path, get("/metrics")),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
            "Content-Length: 11\r\n\r\nguard_up 1\n");
  EXPECT_EQ(request_reply(served.path, get("/metrics", "HEAD")),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
            "Content-Length: 11\r\n\r\n");
  EXPECT_TRUE(request_reply(served.path, get("/")).starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
  EXPECT_TRUE(
      request_reply(served.path, post("x", "/metrics")).starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
  EXPECT_TRUE(request_reply(served.path, get("/other")).starts_with("HTTP/1.1 404 Not Found\r\n"));
  EXPECT_TRUE(request_reply(served.path, post(std::string(limits::max_body_control + 1, 'x')).substr(0, 200))
                  .starts_with("HTTP/1.1 413 Content Too Large\r\n"));
}

TEST(ControlSocket, CreatesASocketForARequestOnTheWire) {
  const TestDir dir{memory};
  Served served(dir);
  const std::string request =
      R"({"method":"vtpm_create","params":[{"dbg":"","gid":)" + std::to_string(test_gid()) +
      R"(,"vm_uuid":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10","path":")" + dir / "s" + R"("}],"id":1})";
  EXPECT_EQ(body_of(request_reply(served.path, post(request))), R"({"result":null,"error":null,"id":0})");
  EXPECT_TRUE(connect_to(dir / "s"));
  EXPECT_EQ(
      body_of(request_reply(served.path, post(request))),
      R"({"result":null,"error":["InternalError","Path )" + dir / "s" + R"( is already in use"],"id":0})");
}

TEST(ControlSocket, ServesManyClientsAtOnceAndOneThatWaitsDoesNotDelayTheOthers) {
  const TestDir dir{memory};
  Served served(dir);
  served.daemon.operations.answer = wire::Json(wire::JsonArray{});
  served.on_loop([&] { served.daemon.operations.silent = true; });
  auto waiting = std::async(std::launch::async, [&] {
    return body_of(request_reply(served.path, post(R"({"method":"drain","params":[],"id":1})")));
  });
  while (true) {
    std::size_t kept = 0;
    served.on_loop([&] { kept = served.daemon.operations.kept.size(); });
    if (kept == 1) break;
    std::this_thread::yield();
  }
  served.on_loop([&] { served.daemon.operations.silent = false; });
  std::atomic<int> good = 0;
  {
    std::vector<std::jthread> clients;
    for (int c = 0; c < 32; ++c) {
      clients.emplace_back([&, c] {
        for (int i = 0; i < 10; ++i) {
          const std::string name = std::to_string(c);
          const std::string rest =
              R"("gid":)" + std::to_string(test_gid()) + R"(,"path":")" + dir / name + R"("}],"id":1})";
          const std::string create = R"({"method":"vtpm_create","params":[{"dbg":"","vm_uuid":)"
                                     R"("3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10",)" +
                                     rest;
          const std::string destroy = R"({"method":"vtpm_destroy","params":[{"dbg":"",)" + rest;
          for (const auto& request : {create, destroy}) {
            good += body_of(request_reply(served.path, post(request))) ==
                    R"({"result":null,"error":null,"id":0})";
          }
        }
      });
    }
  }
  EXPECT_EQ(good, 32 * 10 * 2);
  served.on_loop([&] { served.daemon.operations.kept[0](wire::Json("done")); });
  EXPECT_EQ(waiting.get(), R"({"result":"done","error":null,"id":0})");
}

TEST(ControlSocket, AnAnswerThatComesAfterItsEndDoesNoHarm) {
  const TestDir dir{memory};
  Operations::Done late;
  {
    Served served(dir);
    served.on_loop([&] { served.daemon.operations.silent = true; });
    auto client = std::async(std::launch::async, [&] {
      return request_reply(served.path, post(R"({"method":"drain","params":[],"id":1})"));
    });
    while (!late) {
      served.on_loop([&] {
        if (!served.daemon.operations.kept.empty()) late = served.daemon.operations.kept[0];
      });
    }
    served.on_loop([&] { served.socket.reset(); });
    EXPECT_EQ(client.get(), "") << "closed without an answer";
    served.on_loop([&] { late(wire::Json("too late")); });
    served.on_loop([&] { served.daemon.operations.kept.clear(); });
    late = nullptr;
  }
  EXPECT_FALSE(fs::exists(dir / "control.sock"));
}

TEST(ControlSocket, ReplacesTheSocketOfADaemonThatEndedAndRefusesALiveOne) {
  const TestDir dir{memory};
  {
    ASSERT_TRUE(create_socket({.path = dir / "control.sock", .gid = {}}));
  }
  const Served first(dir);
  EXPECT_TRUE(first.socket) << first.error.message;
  const Served second(dir);
  EXPECT_FALSE(second.socket);
  EXPECT_EQ(second.error.code, Errc::busy);
  EXPECT_EQ(second.error.message, "another process listens on " + dir / "control.sock");
  EXPECT_EQ(body_of(request_reply(first.path, get("/metrics"))), "guard_up 1\n")
      << "the live one was not touched";
}

TEST(ControlSocket, RefusesAPlainFileALinkAndATooLongPathAndMakesItsDirectory) {
  const TestDir dir{memory};
  TestDaemon daemon(dir);
  net::Loop loop;
  const auto open = [&](const std::string& path) {
    return ControlSocket::open(loop, {path, [] { return ""; }}, daemon.commands, daemon.log);
  };
  std::ofstream(dir / "file") << "precious";
  fs::create_symlink(dir / "nowhere", dir / "link");
  EXPECT_EQ(open(dir / "file").error().message, dir / "file" + " is a file, not a socket");
  EXPECT_EQ(open(dir / "link").error().message, dir / "link" + " is in the way and is not a socket");
  EXPECT_EQ(open(dir / std::string(200, 'x')).error().code, Errc::invalid);
  EXPECT_EQ(fs::file_size(dir / "file"), 8u);
  const auto made = open(dir / "new/below/control.sock");
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(fs::status(dir / "new/below").permissions(), fs::perms::owner_all);
}

TEST(ControlSocket, LeavesTheSocketOfASuccessorAloneWhenItEnds) {
  const TestDir dir{memory};
  auto first = std::make_unique<Served>(dir);
  ASSERT_TRUE(first->socket);
  fs::remove(dir / "control.sock");
  const Served second(dir);
  ASSERT_TRUE(second.socket);
  first.reset();
  EXPECT_EQ(body_of(request_reply(second.path, get("/metrics"))), "guard_up 1\n");
}

TEST(ControlSocket, DrainsAnswersWhatWasReceivedAndTakesNothingNew) {
  const TestDir dir{memory};
  Served served(dir);
  served.on_loop([&] { served.daemon.operations.silent = true; });
  auto client = std::async(std::launch::async, [&] {
    return body_of(request_reply(served.path, post(R"({"method":"status","params":[],"id":1})")));
  });
  bool received = false;
  while (!received) served.on_loop([&] { received = !served.daemon.operations.kept.empty(); });
  std::promise<void> drained;
  served.on_loop([&] { served.socket->drain([&] { drained.set_value(); }); });
  auto future = drained.get_future();
  EXPECT_EQ(future.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  served.on_loop([&] { served.daemon.operations.kept[0](wire::Json("last")); });
  EXPECT_EQ(client.get(), R"({"result":"last","error":null,"id":0})");
  future.wait();
}

}  // namespace
}  // namespace guard::control
