// How connections of the HTTP server live and end: deadlines, bounds, abrupt closes, draining, destruction.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "net/http_server.h"
#include "net/http_server_test_fixture.h"

namespace guard::net {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;
using test::Client;
using test::described;
using test::eventually;
using test::get;
using test::HttpServer;
using test::ListeningSocket;
using test::LoopThread;
using test::ok;
using test::ok_reply;
using test::put;
using test::too_large;

// --- Deadlines
// ------------------------------------------------------------------------------------------------

/// Long enough that only the deadline under test can have ended a connection.
constexpr milliseconds never{60'000};
constexpr milliseconds brief{60};

milliseconds since(Clock::time_point start) {
  return std::chrono::duration_cast<milliseconds>(Clock::now() - start);
}

TEST_F(HttpServer, AnIdleConnectionEndsAfterTheIdleDeadline) {
  start({.header_deadline = never, .body_deadline = never, .idle_deadline = brief});
  const auto begin = Clock::now();
  Client client(path());
  EXPECT_EQ(client.read_all(), "");
  EXPECT_GE(since(begin), brief - milliseconds(5));
  EXPECT_LT(since(begin), never / 2);
  EXPECT_TRUE(wait_connections(0));
}

TEST_F(HttpServer, EachRequestStartsTheIdleDeadlineAnew) {
  start({.header_deadline = never, .body_deadline = never, .idle_deadline = milliseconds(900)});
  Client client(path());
  for (int i = 0; i < 6; ++i) {
    std::this_thread::sleep_for(milliseconds(250));
    client.send(get("/a"));
    ASSERT_EQ(client.read(ok("GET /a no length []").size()), ok("GET /a no length []"));
  }
  EXPECT_EQ(client.read_all(), "");
}

TEST_F(HttpServer, AHeadThatDripsEndsAtTheHeaderDeadline) {
  start({.header_deadline = brief, .body_deadline = never, .idle_deadline = never});
  Client client(path());
  const auto begin = Clock::now();
  client.send("GET / HTTP/1.1\r\n");
  while (client.silent() && since(begin) < never / 2) {
    client.send("A: b\r\n");
    std::this_thread::sleep_for(milliseconds(5));
  }
  EXPECT_EQ(client.read_all(), "");
  EXPECT_GE(since(begin), brief - milliseconds(5));
  EXPECT_LT(since(begin), never / 2);
  EXPECT_EQ(handled_, 0);
}

TEST_F(HttpServer, AHeadBehindAPipelinedRequestHasItsDeadlineToo) {
  start({.header_deadline = brief, .body_deadline = never, .idle_deadline = never});
  Client client(path());
  client.send(get("/a") + "GET");
  EXPECT_EQ(client.read_all(), ok("GET /a no length []"));
}

TEST_F(HttpServer, ABodyThatDripsEndsAtTheBodyDeadline) {
  start({.header_deadline = never, .body_deadline = brief, .idle_deadline = never});
  for (const std::string field : {"Content-Length: 300000", "Transfer-Encoding: chunked"}) {
    Client client(path());
    client.send("PUT /a HTTP/1.1\r\n" + field + "\r\n\r\n");
    const auto begin = Clock::now();
    while (client.silent() && since(begin) < never / 2) {
      client.send(field.front() == 'C' ? "x" : "1\r\nx\r\n");
      std::this_thread::sleep_for(milliseconds(5));
    }
    EXPECT_EQ(client.read_all(), "") << field;
    EXPECT_LT(since(begin), never / 2) << field;
  }
  EXPECT_EQ(handled_, 0);
}

TEST_F(HttpServer, NoDeadlineRunsWhileAHandlerWorks) {
  start({.header_deadline = brief, .body_deadline = brief, .idle_deadline = brief});
  hold();
  Client client(path());
  client.send(put("body"));
  ASSERT_TRUE(wait_held(1));
  std::this_thread::sleep_for(5 * brief);
  answer();
  EXPECT_EQ(client.read(ok("PUT /a [body]").size()), ok("PUT /a [body]"));
}

TEST_F(HttpServer, AClientThatDoesNotTakeItsAnswerIsCutOff) {
  start({.header_deadline = never, .body_deadline = brief, .idle_deadline = never});
  hold();
  Client client(path());
  client.send(get("/a"));
  ASSERT_TRUE(wait_held(1));
  thread_.run([&] {
    held_.front().second(ok_reply(std::string(5'000'000, 'B')));
    held_.pop_front();
  });
  EXPECT_TRUE(wait_connections(0));
  EXPECT_LT(client.read_all().size(), 5'000'000u);
}

// --- Bounds
// ---------------------------------------------------------------------------------------------------

TEST_F(HttpServer, TheFifthConnectionWaitsUntilOneOfFourEnds) {
  start();
  std::vector<Client> clients;
  for (int i = 0; i < 5; ++i) {
    clients.emplace_back(path());
    clients.back().send(get("/a"));
  }
  const std::string answer = ok("GET /a no length []");
  for (int i = 0; i < 4; ++i) ASSERT_EQ(clients[static_cast<std::size_t>(i)].read(answer.size()), answer);
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_TRUE(clients[4].silent());
  EXPECT_EQ(connections(), 4u);
  clients[1].close();
  EXPECT_EQ(clients[4].read(answer.size()), answer);
  EXPECT_EQ(connections(), 4u);
}

TEST_F(HttpServer, ServesAHundredClientsFourAtATime) {
  start();
  std::vector<Client> clients;
  for (int i = 0; i < 100; ++i) {
    clients.emplace_back(path());
    clients.back().send("GET /a HTTP/1.1\r\nConnection: close\r\n\r\n");
  }
  for (Client& client : clients) ASSERT_EQ(client.read_all(), ok("GET /a no length []"));
  EXPECT_TRUE(wait_connections(0));
}

/// Takes all but `spare` of the process's descriptors away, until destroyed.
class FewDescriptors {
 public:
  explicit FewDescriptors(int spare) {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const int next = ::dup(0);
    ::close(next);
    rlimit few = before_;
    few.rlim_cur = static_cast<rlim_t>(next + spare);
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  }
  ~FewDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

TEST_F(HttpServer, WithoutDescriptorsItPausesWithoutSpinningAndGoesOnLater) {
  start();
  Client served(path());
  Client waiting;
  served.send(get("/a"));
  const std::string answer = ok("GET /a no length []");
  ASSERT_EQ(served.read(answer.size()), answer);
  const auto cpu = [&] {
    return thread_.run([] {
      rusage usage{};
      ::getrusage(RUSAGE_THREAD, &usage);
      return usage.ru_utime.tv_sec * 1000 + usage.ru_utime.tv_usec / 1000 + usage.ru_stime.tv_sec * 1000 +
             usage.ru_stime.tv_usec / 1000;
    });
  };
  // The undefined-behaviour sanitizer needs a pipe whenever it meets a type for the first time.
  cpu();
  {
    const FewDescriptors none(0);
    ASSERT_TRUE(waiting.connect(path()));
    waiting.send(get("/a"));
    ASSERT_TRUE(eventually([&] { return log_.count("accept_paused") == 1; }));
    const auto before = cpu();
    std::this_thread::sleep_for(3 * limits::accept_retry);
    EXPECT_LT(cpu() - before, 200) << "milliseconds of processor time";
    EXPECT_TRUE(waiting.silent());
    EXPECT_EQ(log_.count("accept_paused"), 1u) << "said once, not at each try";
    served.send(get("/a"));
    EXPECT_EQ(served.read(answer.size()), answer) << "who is connected goes on";
  }
  EXPECT_EQ(waiting.read(answer.size()), answer);
  EXPECT_EQ(log_.count("accept_resumed"), 1u);
}

TEST_F(HttpServer, SaysAtDebugLevelWhoConnects) {
  start();
  Client client(path());
  ASSERT_TRUE(wait_connections(1));
  EXPECT_EQ(
      log_.count("0 connection_accepted socket=the socket connection=1 pid=" + std::to_string(::getpid()) +
                 " uid=" + std::to_string(::getuid()) + " gid=" + std::to_string(::getgid())),
      1u);
}

// --- Abrupt ends
// ------------------------------------------------------------------------------------------------

TEST_F(HttpServer, AClientThatVanishesInAnyPhaseHarmsNobody) {
  start();
  Client other(path());
  for (const std::string begun :
       {"", "GE", "GET / HTTP/1.1\r\nHost", "PUT /a HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
        "PUT /a HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf",
        "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        "PUT /a HTTP/1.1\r\nContent-Length: 999999\r\n\r\n"}) {
    {
      Client client(path());
      client.send(begun);
      ASSERT_TRUE(client.wait_received());
    }
    EXPECT_TRUE(wait_connections(1)) << begun;
  }
  EXPECT_EQ(handled_, 0);
  other.send(get("/a"));
  EXPECT_EQ(other.read(ok("GET /a no length []").size()), ok("GET /a no length []"));
}

TEST_F(HttpServer, AnAnswerToAClientThatVanishedIsForgotten) {
  start();
  hold();
  {
    Client client(path());
    client.send(put("body"));
    ASSERT_TRUE(wait_held(1));
  }
  answer();
  EXPECT_TRUE(wait_connections(0));
}

TEST_F(HttpServer, AClientThatVanishesWhileItsAnswerIsWrittenIsForgotten) {
  start();
  hold();
  Client client(path());
  client.send(get("/a"));
  ASSERT_TRUE(wait_held(1));
  thread_.run([&] {
    held_.front().second(ok_reply(std::string(5'000'000, 'B')));
    held_.pop_front();
  });
  EXPECT_EQ(client.read(1000).size(), 1000u);
  EXPECT_EQ(connections(), 1u);
  client.close();
  EXPECT_TRUE(wait_connections(0));
}

TEST_F(HttpServer, DestroyedWithRequestsPendingItClosesAndTheResponderIsHarmless) {
  start();
  hold();
  Client idle(path());
  Client half(path());
  Client pending(path());
  Client backlog[3];
  half.send("PUT /a HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf");
  pending.send(put("body"));
  ASSERT_TRUE(wait_held(1));
  ASSERT_TRUE(half.wait_received());
  ASSERT_TRUE(wait_connections(3));
  for (Client& client : backlog) ASSERT_TRUE(client.connect(path()));
  thread_.run([&] { server_.reset(); });
  EXPECT_EQ(idle.read_all(), "");
  EXPECT_EQ(half.read_all(), "");
  EXPECT_EQ(pending.read_all(), "");
  for (Client& client : backlog) EXPECT_EQ(client.read_all(), "");
  answer();
  Client late;
  EXPECT_FALSE(late.connect(path()));
}

TEST_F(HttpServer, AHandlerMayDestroyTheServerBeforeOrAfterItAnswers) {
  for (const bool answer_first : {true, false}) {
    ListeningSocket listening;
    std::optional<Server> server;
    const auto alive = std::make_shared<int>(1);
    thread_.run([&] {
      server.emplace(
          thread_.loop(), listening.release(), ServerLimits(), too_large(),
          [&server, answer_first, alive](Request, Responder respond) {
            if (answer_first) respond(ok_reply("bye"));
            server.reset();
            EXPECT_GT(alive.use_count(), 1) << "what the handler captured lives while it runs";
            if (!answer_first) respond(ok_reply("too late"));
          },
          log_);
    });
    Client client(listening.path());
    client.send(get("/a") + get("/b"));
    EXPECT_EQ(client.read_all(), answer_first ? ok("bye") : "");
    EXPECT_TRUE(eventually([&] { return thread_.run([&] { return alive.use_count(); }) == 1; }))
        << "nothing of the server is left";
  }
}

TEST(HttpServerResponder, MayOutliveTheLoop) {
  std::optional<Responder> kept;
  ListeningSocket listening;
  Client client;
  {
    LoopThread thread;
    std::optional<Server> server;
    std::atomic<bool> received = false;
    thread.run([&] {
      server.emplace(
          thread.loop(), listening.release(), ServerLimits(), too_large(),
          [&](Request, Responder respond) {
            kept.emplace(std::move(respond));
            received = true;
          },
          null_logger());
    });
    ASSERT_TRUE(client.connect(listening.path()));
    client.send(get("/a"));
    ASSERT_TRUE(eventually([&] { return received.load(); }));
    thread.run([&] { server.reset(); });
  }
  (*kept)(ok_reply("nobody is there"));
  EXPECT_EQ(client.read_all(), "");
}

// --- Stopping
// -------------------------------------------------------------------------------------------------

class Draining : public HttpServer {
 protected:
  void drain() {
    thread_.run([this] { server_->drain([this] { drained_ = true; }); });
  }
  bool wait_drained() {
    return eventually([this] { return drained_.load(); });
  }
  std::atomic<bool> drained_ = false;
};

TEST_F(Draining, WithNothingToDoIsDoneAtOnce) {
  start();
  drain();
  EXPECT_TRUE(wait_drained());
}

TEST_F(Draining, ClosesIdleConnectionsAndAnswersWhatWasReceived) {
  start();
  Client idle(path());
  idle.send(get("/a"));
  EXPECT_EQ(idle.read(ok("GET /a no length []").size()), ok("GET /a no length []"));
  hold();
  Client pending(path());
  Client half(path());
  pending.send(put("1"));
  ASSERT_TRUE(wait_held(1));
  half.send("PUT /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nbo");
  ASSERT_TRUE(half.wait_received());
  drain();
  EXPECT_EQ(idle.read_all(), "");
  EXPECT_FALSE(drained_);
  half.send("dy");
  ASSERT_TRUE(wait_held(2));
  answer(0);
  EXPECT_EQ(pending.read_all(), ok("PUT /a [1]"));
  EXPECT_FALSE(drained_);
  answer(0);
  EXPECT_EQ(half.read_all(), ok("PUT /a [body]"));
  EXPECT_TRUE(wait_drained());
}

TEST_F(Draining, AnswersPipelinedRequestsThatHaveArrived) {
  start();
  hold();
  Client client(path());
  client.send(put("1"));
  ASSERT_TRUE(wait_held(1));
  client.send(put("2") + put("3"));
  drain();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(wait_held(1));
    answer();
  }
  EXPECT_EQ(client.read_all(), ok("PUT /a [1]") + ok("PUT /a [2]") + ok("PUT /a [3]"));
  EXPECT_TRUE(wait_drained());
}

TEST_F(Draining, AConnectionThatHasNotSpokenYetGetsAMoment) {
  start({.drain_grace = milliseconds(1000)});
  Client quick(path());
  Client mute(path());
  ASSERT_TRUE(wait_connections(2));
  drain();
  quick.send(put("1"));
  EXPECT_EQ(quick.read_all(), ok("PUT /a [1]"));
  EXPECT_EQ(mute.read_all(), "");
  EXPECT_TRUE(wait_drained());
}

TEST_F(Draining, NewClientsWaitInTheBacklogForTheNextServerOnTheSameSocket) {
  start();
  const int stored = thread_.run([&] { return ::dup(server_->listening_fd()); });
  drain();
  ASSERT_TRUE(wait_drained());
  Client client;
  ASSERT_TRUE(client.connect(path()));
  client.send(put("1"));
  thread_.run([&] { server_.reset(); });
  EXPECT_TRUE(client.silent());
  std::optional<Server> next;
  thread_.run([&] {
    next.emplace(
        thread_.loop(), stored, ServerLimits(), too_large(),
        [](Request request, Responder respond) { respond(ok_reply(described(request))); }, log_);
  });
  EXPECT_EQ(client.read(ok("PUT /a [1]").size()), ok("PUT /a [1]"));
  thread_.run([&] { next.reset(); });
}

TEST_F(Draining, IsNeverReportedAfterTheServerIsGone) {
  start();
  thread_.run([this] {
    server_->drain([this] { drained_ = true; });
    server_.reset();
  });
  thread_.run([] {});
  thread_.run([] {});
  EXPECT_FALSE(drained_);
}

TEST_F(HttpServer, AfterShuttingItsListenerDownItRefusesNewClientsAndKeepsTheOthers) {
  start();
  Client client(path());
  ASSERT_TRUE(wait_connections(1));
  thread_.run([this] { server_->shutdown_listener(); });
  Client late;
  EXPECT_FALSE(late.connect(path()));
  client.send(get("/a"));
  EXPECT_EQ(client.read(ok("GET /a no length []").size()), ok("GET /a no length []"));
}

}  // namespace
}  // namespace guard::net
