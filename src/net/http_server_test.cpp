// What the HTTP server makes of bytes: framing, refusals, sizes.
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "net/http_server.h"
#include "net/http_server_test_fixture.h"

namespace guard::net {
namespace {

using std::chrono::milliseconds;
using test::Client;
using test::described;
using test::get;
using test::HttpServer;
using test::ok;
using test::ok_reply;
using test::put;
using test::too_large;
using test::too_large_text;

// --- Framing
// ------------------------------------------------------------------------------------------------

TEST_F(HttpServer, AnswersOneRequestAfterTheOtherOnOneConnection) {
  start();
  Client client(path());
  for (int i = 0; i < 3; ++i) {
    client.send(get("/one"));
    EXPECT_EQ(client.read(ok("GET /one no length []").size()), ok("GET /one no length []"));
    client.send(put("body"));
    EXPECT_EQ(client.read(ok("PUT /a [body]").size()), ok("PUT /a [body]"));
  }
  EXPECT_TRUE(client.silent());
}

TEST_F(HttpServer, TakesARequestInTwoWritesSplitAtEveryByte) {
  start();
  const std::string chunked =
      "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\nT: t\r\n\r\n";
  Client client(path());
  for (const auto& [request, answer] :
       {std::pair(put("aGVsbG8gdHBtCg=="), ok("PUT /a [aGVsbG8gdHBtCg==]")),
        std::pair(chunked, ok("PUT /a [abcde]")), std::pair(get("/b"), ok("GET /b no length []"))}) {
    for (std::size_t first = 1; first < request.size(); ++first) {
      client.send(std::string_view(request).substr(0, first));
      ASSERT_TRUE(client.wait_received());
      client.send(std::string_view(request).substr(first));
      ASSERT_EQ(client.read(answer.size()), answer) << "split at " << first;
    }
  }
  EXPECT_TRUE(client.silent());
}

TEST_F(HttpServer, TakesARequestByteByByte) {
  start();
  Client client(path());
  for (const char byte : put("0123456789", "Accept: */*\r\n")) {
    client.send(std::string_view(&byte, 1));
    ASSERT_TRUE(client.wait_received());
  }
  EXPECT_EQ(client.read(ok("PUT /a [0123456789]").size()), ok("PUT /a [0123456789]"));
}

TEST_F(HttpServer, AnswersPipelinedRequestsInOrder) {
  start();
  Client client(path());
  client.send(get("/1") + put("two") + get("/3"));
  const std::string expected = ok("GET /1 no length []") + ok("PUT /a [two]") + ok("GET /3 no length []");
  EXPECT_EQ(client.read(expected.size()), expected);
  EXPECT_TRUE(client.silent());
}

TEST_F(HttpServer, AnswersThousandsOfPipelinedRequestsCutAnywhere) {
  start();
  Client client(path());
  std::string requests;
  std::string expected;
  for (int i = 0; i < 5000; ++i) {
    requests += put("body " + std::to_string(i));
    expected += ok("PUT /a [body " + std::to_string(i) + "]");
  }
  std::thread sender([&] { client.send(requests); });
  EXPECT_EQ(client.read(expected.size()), expected);
  sender.join();
}

TEST_F(HttpServer, AHeldAnswerHoldsBackTheNextRequestOfItsConnectionOnly) {
  start();
  hold();
  Client one(path());
  Client two(path());
  one.send(put("1") + put("2"));
  ASSERT_TRUE(wait_held(1));
  two.send(put("3"));
  ASSERT_TRUE(wait_held(2));
  answer(1);
  EXPECT_EQ(two.read(ok("PUT /a [3]").size()), ok("PUT /a [3]"));
  EXPECT_TRUE(one.silent());
  EXPECT_EQ(handled_, 2);
  answer(0);
  EXPECT_EQ(one.read(ok("PUT /a [1]").size()), ok("PUT /a [1]"));
  ASSERT_TRUE(wait_held(1));
  answer(0);
  EXPECT_EQ(one.read(ok("PUT /a [2]").size()), ok("PUT /a [2]"));
}

TEST_F(HttpServer, ClosesAfterTheAnswerToOldVersionsAndWhenAsked) {
  start();
  for (const std::string request :
       {"GET /a HTTP/1.0\r\n\r\n", "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "GET /a HTTP/1.1\r\nConnection: close\r\n\r\n"}) {
    Client client(path());
    client.send(request);
    EXPECT_EQ(client.read_all(), ok("GET /a no length []")) << request;
  }
}

TEST_F(HttpServer, NothingBehindARequestThatClosesIsHandled) {
  start();
  Client client(path());
  client.send("GET /a HTTP/1.1\r\nConnection: close\r\n\r\n" + get("/b"));
  EXPECT_EQ(client.read_all(), ok("GET /a no length []"));
  EXPECT_EQ(handled_, 1);
}

TEST_F(HttpServer, RepliesToHeadCarryNoBody) {
  start();
  Client client(path());
  client.send("HEAD /a HTTP/1.1\r\n\r\n" + get("/b"));
  const std::string head = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n";
  const std::string next = ok("GET /b no length []");
  EXPECT_EQ(client.read(head.size() + next.size()), head + next);
}

TEST_F(HttpServer, GivesTheInterimResponseToWhoWaitsForIt) {
  start();
  Client client(path());
  const std::string interim = "HTTP/1.1 100 Continue\r\n\r\n";
  client.send("PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
  EXPECT_EQ(client.read(interim.size()), interim);
  client.send("body");
  EXPECT_EQ(client.read(ok("PUT /a [body]").size()), ok("PUT /a [body]"));
  client.send("PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n");
  EXPECT_EQ(client.read(interim.size()), interim);
  client.send("4\r\nmore\r\n0\r\n\r\n");
  EXPECT_EQ(client.read(ok("PUT /a [more]").size()), ok("PUT /a [more]"));
}

TEST_F(HttpServer, GivesNoInterimResponseToWhoDoesNotWait) {
  start();
  for (const auto& [request, answer] :
       {std::pair(put("body", "Expect: 100-continue\r\n"), ok("PUT /a [body]")),
        std::pair(put("", "Expect: 100-continue\r\n"), ok("PUT /a []")),
        std::pair(std::string("GET /a HTTP/1.1\r\nExpect: 100-continue\r\n\r\n"),
                  ok("GET /a no length []"))}) {
    Client client(path());
    client.send(request);
    client.finish_sending();
    EXPECT_EQ(client.read_all(), answer) << request;
  }
}

TEST_F(HttpServer, PassesOnPathAndBodyAsTheyAre) {
  start();
  Client client(path());
  std::string body;
  for (int i = 0; i < 256; ++i) body.push_back(static_cast<char>(i));
  client.send("POST /x%20y?query=1 HTTP/1.1\r\nContent-Length: 256\r\n\r\n" + body);
  const std::string expected = ok("POST /x y [" + body + "]");
  EXPECT_EQ(client.read(expected.size()), expected);
}

TEST_F(HttpServer, WorksOnLoopbackTcpToo) {
  const int listening = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(listening, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(listening, 8), 0);
  ASSERT_EQ(::getsockname(listening, reinterpret_cast<sockaddr*>(&address), &size), 0);
  std::optional<Server> server;
  thread_.run([&] {
    server.emplace(
        thread_.loop(), listening, ServerLimits(), too_large(),
        [](Request request, Responder respond) { respond(ok_reply(described(request))); }, log_);
  });
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  const std::string request = "GET /a HTTP/1.1\r\nConnection: close\r\n\r\n";
  ASSERT_EQ(::send(fd, request.data(), request.size(), MSG_NOSIGNAL), static_cast<ssize_t>(request.size()));
  std::string answer(1000, '\0');
  const auto got = ::recv(fd, answer.data(), answer.size(), MSG_WAITALL);
  EXPECT_EQ(answer.substr(0, static_cast<std::size_t>(got)), ok("GET /a no length []"));
  ::close(fd);
  thread_.run([&] { server.reset(); });
}

// --- What is not answered
// -------------------------------------------------------------------------------------

TEST_F(HttpServer, ClosesWithoutAnAnswerOnWhatIsMalformed) {
  start();
  const std::string long_line = "GET /" + std::string(9000, 'a') + " HTTP/1.1\r\n\r\n";
  const std::string long_field = "GET / HTTP/1.1\r\nA: " + std::string(9000, 'a') + "\r\n\r\n";
  for (const std::string& request : std::vector<std::string>{
           "hello\r\n\r\n", "GET / HTTP/2.0\r\n\r\n", "GET / HTTP/1.1\nHost: x\n\n", "\x16\x03\x01",
           long_line, long_field,
           "PUT /a HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
           "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
           "PUT /a HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody!",
           "PUT /a HTTP/1.1\r\nTransfer-Encoding: gzip\r\nContent-Length: 4\r\n\r\nbody",
           "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
           "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n"}) {
    Client client(path());
    client.send(request + get("/smuggled"));
    EXPECT_EQ(client.read_all(), "") << request.substr(0, 100);
  }
  EXPECT_EQ(handled_, 0);
}

TEST_F(HttpServer, WhatFollowsAShortLengthIsTheNextRequestAndNothingElse) {
  start();
  Client client(path());
  client.send("PUT /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nbody");
  // The second half of the body is no request: the first is answered, then the connection ends.
  client.finish_sending();
  EXPECT_EQ(client.read_all(), ok("PUT /a [bo]"));
  EXPECT_EQ(handled_, 1);
}

TEST_F(HttpServer, HalfARequestIsNeverHandled) {
  start();
  const std::string request = put("body", "Accept: */*\r\n");
  for (std::size_t half = 0; half < request.size(); ++half) {
    Client client(path());
    client.send(std::string_view(request).substr(0, half));
    client.finish_sending();
    ASSERT_EQ(client.read_all(), "") << half;
  }
  EXPECT_EQ(handled_, 0);
}

TEST_F(HttpServer, AClientThatOnlyStoppedSendingStillGetsItsAnswer) {
  start();
  hold();
  Client client(path());
  client.send(put("body"));
  client.finish_sending();
  ASSERT_TRUE(wait_held(1));
  answer();
  EXPECT_EQ(client.read_all(), ok("PUT /a [body]"));
}

TEST_F(HttpServer, ADroppedResponderClosesWithoutAnAnswer) {
  start();
  hold();
  Client client(path());
  client.send(put("body"));
  ASSERT_TRUE(wait_held(1));
  drop();
  EXPECT_EQ(client.read_all(), "");
  EXPECT_TRUE(wait_connections(0));
}

TEST_F(HttpServer, AReplyMayCloseTheConnection) {
  start();
  hold();
  Client client(path());
  client.send(put("body") + get("/next"));
  ASSERT_TRUE(wait_held(1));
  thread_.run([&] {
    Reply reply = ok_reply("bye");
    reply.close = true;
    auto respond = std::move(held_.front().second);
    respond(std::move(reply));
    held_.clear();
  });
  EXPECT_EQ(client.read_all(), ok("bye"));
  EXPECT_EQ(handled_, 1);
}

// --- Sizes
// ----------------------------------------------------------------------------------------------------

TEST_F(HttpServer, TakesBodiesUpToTheLimit) {
  start();
  Client client(path());
  for (const std::size_t size :
       {std::size_t{1}, std::size_t{16384}, std::size_t{100'000}, limits::max_body_vtpm}) {
    const std::string body(size, 'A');
    client.send(put(body));
    const std::string expected = ok("PUT /a [" + body + "]");
    ASSERT_EQ(client.read(expected.size()), expected) << size;
    client.send("PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n");
    for (std::size_t sent = 1; sent < size; sent += 10'000) {
      const auto piece = std::min<std::size_t>(10'000, size - sent);
      char line[32];
      std::snprintf(line, sizeof line, "%zx\r\n", piece);
      client.send(line + body.substr(0, piece) + "\r\n");
    }
    client.send("0\r\n\r\n");
    ASSERT_EQ(client.read(expected.size()), expected) << size;
  }
}

TEST_F(HttpServer, RefusesABodyOverTheLimitAsSoonAsItIsDeclared) {
  start();
  Client client(path());
  client.send("PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: " +
              std::to_string(limits::max_body_vtpm + 1) + "\r\n\r\n");
  EXPECT_EQ(client.read_all(), too_large_text);
  client.close();
  EXPECT_TRUE(wait_connections(0));
  EXPECT_EQ(handled_, 0);
}

TEST_F(HttpServer, RefusesABodyOverTheLimitWhileItIsCounted) {
  start({.max_body = 10});
  Client client(path());
  client.send("PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nabcdefgh\r\n3\r\n");
  EXPECT_EQ(client.read_all(), too_large_text);
  EXPECT_EQ(handled_, 0);
}

TEST_F(HttpServer, AClientThatSendsAllOfATooLargeBodyFirstSeesTheAnswer) {
  start();
  Client client(path());
  EXPECT_TRUE(client.send(put(std::string(2'000'000, 'A'))));
  EXPECT_EQ(client.read_all(), too_large_text);
}

TEST_F(HttpServer, AClientThatNeverStopsSendingIsCutOff) {
  start();
  Client client(path());
  client.send("PUT /a HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n");
  const std::string megabyte(1'000'000, 'A');
  int sent = 0;
  while (sent < 100 && client.send(megabyte)) ++sent;
  EXPECT_LT(sent, 10);
  EXPECT_TRUE(wait_connections(0));
}

TEST_F(HttpServer, SendsLargeAnswersToSlowReaders) {
  start();
  hold();
  Client client(path());
  client.send(get("/a"));
  ASSERT_TRUE(wait_held(1));
  const std::string body(5'000'000, 'B');
  thread_.run([&] {
    held_.front().second(ok_reply(body));
    held_.pop_front();
    hold_ = false;
  });
  client.send(get("/b"));
  std::string answer;
  const std::string expected = ok(body) + ok("GET /b no length []");
  while (answer.size() < 500'000) answer += client.read(50'000);
  std::this_thread::sleep_for(milliseconds(20));
  answer += client.read(expected.size() - answer.size());
  EXPECT_TRUE(answer == expected);
}

}  // namespace
}  // namespace guard::net
