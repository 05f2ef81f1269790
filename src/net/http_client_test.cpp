#include "net/http_client.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "net/scripted_peer.h"

namespace guard::net {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::PeerConnection;
using testing::run_until;
using testing::ScriptedPeer;
using testing::SocketPath;
using testing::xapi_http_answer;

class HttpClientTest : public ::testing::Test {
 protected:
  HttpCall read_call(std::string body, milliseconds limit = seconds(10)) {
    return {std::move(body), loop.now() + limit, loop.now() + limit, true};
  }
  HttpCall update_call(std::string body, milliseconds limit = seconds(10)) {
    return {std::move(body), loop.now() + limit, std::nullopt, false};
  }
  HttpResult run(HttpCall call) {
    std::optional<HttpResult> result;
    client->post(std::move(call), [&result](HttpResult got) { result = std::move(got); });
    EXPECT_FALSE(result) << "never before post() has returned";
    EXPECT_TRUE(run_until(loop, [&result] { return result.has_value(); }));
    EXPECT_FALSE(client->busy());
    return std::move(*result);
  }
  /// Lets the loop run for a moment, so that it notices what happened to the connection.
  void settle() {
    run_until(loop, [] { return false; }, milliseconds(20));
  }

  SocketPath socket;
  Loop loop;
  std::unique_ptr<HttpClient> client =
      std::make_unique<HttpClient>(loop, HttpClient::Options{.socket_path = socket.path()});
};

/// Answers every request with its own body.
void echo(PeerConnection& connection) {
  while (const auto request = connection.read_request()) connection.send(xapi_http_answer(request->body));
}

TEST_F(HttpClientTest, SendsAPostWithAnExactLengthAndReadsTheAnswer) {
  std::string head;
  ScriptedPeer peer(socket.path(), [&head](PeerConnection& connection) {
    const auto request = connection.read_request();
    ASSERT_TRUE(request);
    head = request->head;
    connection.send(xapi_http_answer("answer"));
    connection.wait_for_close();
  });
  const HttpResult result = run(read_call("{\"a\":1}"));
  ASSERT_TRUE(result.answer) << result.answer.error().message;
  EXPECT_EQ(result.answer->status, 200u);
  EXPECT_EQ(result.answer->body, "answer");
  EXPECT_EQ(result.sent, Sent::everything);
  EXPECT_EQ(result.connects, 1u);
  EXPECT_EQ(
      head,
      "POST /jsonrpc HTTP/1.1\r\nhost: localhost\r\nuser-agent: xapi-guard\r\nconnection: keep-alive\r\n"
      "content-type: application/json\r\ncontent-length: 7\r\n\r\n");
}

TEST_F(HttpClientTest, SendsTheLineAndTheHeadersItIsGiven) {
  std::string heads;
  ScriptedPeer peer(socket.path(), [&heads](PeerConnection& connection) {
    while (const auto request = connection.read_request()) {
      heads += request->head + request->body + "|";
      connection.send(xapi_http_answer(""));
    }
  });
  client =
      std::make_unique<HttpClient>(loop, HttpClient::Options{.socket_path = socket.path(),
                                                             .headers_before_length = "content-length: ",
                                                             .headers_after_length = "\r\na: b\r\n\r\n"});
  HttpCall call = read_call("");
  call.line = "GET /login/7";
  EXPECT_TRUE(run(std::move(call)).answer);
  call = read_call("x");
  call.line = "POST /transfer";
  call.same_connection = true;
  EXPECT_TRUE(run(std::move(call)).answer);
  EXPECT_EQ(heads,
            "GET /login/7 HTTP/1.1\r\ncontent-length: 0\r\na: b\r\n\r\n|"
            "POST /transfer HTTP/1.1\r\ncontent-length: 1\r\na: b\r\n\r\nx|");
}

TEST_F(HttpClientTest, SendsNothingOverAnotherConnectionWhenItMustBeTheSame) {
  std::atomic<unsigned> requests = 0;
  ScriptedPeer peer(socket.path(), [&requests](PeerConnection& connection) {
    while (const auto request = connection.read_request()) {
      ++requests;
      if (request->body == "no answer") return;
      connection.send(xapi_http_answer("answer"));
      if (request->body == "last") return;
    }
  });
  const auto same = [&](std::string body) {
    HttpCall call = read_call(std::move(body));
    call.same_connection = true;
    return run(std::move(call));
  };
  EXPECT_EQ(same("a").answer.error().code, Errc::unavailable) << "there is none yet";
  EXPECT_EQ(peer.accepted(), 0u);
  EXPECT_TRUE(run(read_call("b")).answer);
  EXPECT_EQ(same("no answer").answer.error().code, Errc::unavailable) << "repeatable, and still not repeated";
  EXPECT_TRUE(run(read_call("last")).answer);
  settle();
  EXPECT_EQ(same("c").answer.error().code, Errc::unavailable) << "it was closed meanwhile";
  EXPECT_EQ(peer.accepted(), 2u);
  EXPECT_EQ(requests, 3u);
}

TEST_F(HttpClientTest, KeepsOneConnectionForManyCalls) {
  ScriptedPeer peer(socket.path(), echo);
  for (int i = 0; i < 20; ++i) {
    const std::string body = std::string(static_cast<std::size_t>(i) * 1000, 'x') + std::to_string(i);
    const HttpResult result = run(update_call(body));
    ASSERT_TRUE(result.answer);
    EXPECT_EQ(result.answer->body, body);
    EXPECT_EQ(result.connects, i == 0 ? 1u : 0u);
    EXPECT_TRUE(client->connected());
  }
  EXPECT_EQ(peer.accepted(), 1u);
}

TEST_F(HttpClientTest, SendsAndReadsWhatIsLargerThanAnySocketBuffer) {
  ScriptedPeer peer(socket.path(), echo);
  const std::string body(1'900'000, 'y');
  const HttpResult result = run(update_call(body));
  ASSERT_TRUE(result.answer) << result.answer.error().message;
  EXPECT_EQ(result.answer->body, body);
}

TEST_F(HttpClientTest, AnAnswerMayComeInAnyPieces) {
  std::string answer =
      "HTTP/1.1 200 OK\r\nCONTENT-LENGTH: 26\r\nX-Other:   a\r\nConnection: Keep-Alive\r\n\r\n"
      "abcdefghijklmnopqrstuvwxyz";
  for (std::size_t piece = 1; piece <= answer.size(); piece = piece * 3 / 2 + 1) {
    ScriptedPeer peer(socket.path(), [&answer, piece](PeerConnection& connection) {
      while (connection.read_request()) connection.send_in_pieces(answer, piece);
    });
    const HttpResult first = run(read_call("x"));
    ASSERT_TRUE(first.answer) << piece << " " << first.answer.error().message;
    EXPECT_EQ(first.answer->body, "abcdefghijklmnopqrstuvwxyz");
    const HttpResult second = run(read_call("x"));
    ASSERT_TRUE(second.answer) << piece;
    EXPECT_EQ(second.connects, 0u);
  }
}

TEST_F(HttpClientTest, AnAnswerMayBeSplitAtAnyByte) {
  const std::string answer = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
  ScriptedPeer peer(socket.path(), [&answer](PeerConnection& connection) {
    for (std::size_t split = 1; split < answer.size() && connection.read_request(); ++split) {
      connection.send(answer.substr(0, split));
      std::this_thread::sleep_for(milliseconds(1));
      connection.send(answer.substr(split));
    }
  });
  for (std::size_t split = 1; split < answer.size(); ++split) {
    const HttpResult result = run(read_call("x"));
    ASSERT_TRUE(result.answer) << split;
    EXPECT_EQ(result.answer->body, "abc");
  }
  EXPECT_EQ(peer.accepted(), 1u);
}

TEST_F(HttpClientTest, AnAnswerWithoutALengthEndsWithTheConnection) {
  ScriptedPeer peer(socket.path(), [](PeerConnection& connection) {
    connection.read_request();
    connection.send_in_pieces("HTTP/1.0 500 Internal Error\r\n\r\n<html>sorry</html>", 7);
  });
  const HttpResult result = run(update_call("x"));
  ASSERT_TRUE(result.answer);
  EXPECT_EQ(result.answer->status, 500u);
  EXPECT_EQ(result.answer->body, "<html>sorry</html>");
  EXPECT_FALSE(client->connected());
}

TEST_F(HttpClientTest, AConnectionThatTheAnswerEndsIsNotUsedAgain) {
  ScriptedPeer peer(socket.path(), [](PeerConnection& connection) {
    connection.read_request();
    connection.send("HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\n1");
    connection.wait_for_close();
  });
  EXPECT_EQ(run(update_call("x")).connects, 1u);
  EXPECT_FALSE(client->connected());
  EXPECT_EQ(run(update_call("x")).connects, 1u);
  EXPECT_EQ(peer.accepted(), 2u);
}

TEST_F(HttpClientTest, BytesBehindTheAnswerEndTheConnection) {
  ScriptedPeer peer(socket.path(), [](PeerConnection& connection) {
    connection.read_request();
    connection.send(xapi_http_answer("1") + "junk");
    connection.wait_for_close();
  });
  const HttpResult result = run(read_call("x"));
  ASSERT_TRUE(result.answer);
  EXPECT_FALSE(client->connected());
}

TEST_F(HttpClientTest, BytesThatNobodyAskedForEndAnIdleConnection) {
  ScriptedPeer peer(socket.path(), [](PeerConnection& connection) {
    connection.read_request();
    connection.send(xapi_http_answer("1"));
    std::this_thread::sleep_for(milliseconds(5));
    connection.send(xapi_http_answer("2"));
    connection.wait_for_close();
  });
  EXPECT_TRUE(run(read_call("x")).answer);
  EXPECT_TRUE(run_until(loop, [this] { return !client->connected(); }));
  EXPECT_EQ(run(read_call("x")).answer->body, "1");
}

TEST_F(HttpClientTest, NobodyListeningMeansNothingWasSent) {
  const HttpResult result = run(update_call("x"));
  ASSERT_FALSE(result.answer);
  EXPECT_EQ(result.answer.error().code, Errc::unavailable);
  EXPECT_EQ(result.answer.error().os_errno, ENOENT);
  EXPECT_EQ(result.sent, Sent::nothing);
  EXPECT_FALSE(result.connected);
  {
    ScriptedPeer peer(socket.path(), echo);
    EXPECT_TRUE(run(update_call("x")).answer) << "it is tried anew for each call";
  }
}

TEST_F(HttpClientTest, APathThatNoAddressHoldsIsAnErrorOfTheCall) {
  client = std::make_unique<HttpClient>(loop, HttpClient::Options{.socket_path = std::string(200, 'a')});
  const HttpResult result = run(update_call("x"));
  ASSERT_FALSE(result.answer);
  EXPECT_EQ(result.answer.error().os_errno, ENAMETOOLONG);
}

TEST_F(HttpClientTest, ACloseBeforeTheAnswerLeavesASentUpdateInDoubtAndIsNotRepeated) {
  std::atomic<int> requests = 0;
  ScriptedPeer peer(socket.path(), [&requests](PeerConnection& connection) {
    if (connection.read_request()) ++requests;
  });
  const HttpResult result = run(update_call("x"));
  ASSERT_FALSE(result.answer);
  EXPECT_EQ(result.answer.error().code, Errc::unavailable);
  EXPECT_EQ(result.sent, Sent::everything);
  EXPECT_TRUE(result.connected);
  EXPECT_EQ(requests, 1);
}

TEST_F(HttpClientTest, ACloseInTheMiddleOfTheAnswerIsNoAnswer) {
  const std::string answer = xapi_http_answer("0123456789");
  for (const std::size_t cut :
       {std::size_t{1}, std::size_t{16}, std::size_t{40}, answer.size() - 10, answer.size() - 1}) {
    ScriptedPeer peer(socket.path(), [&answer, cut](PeerConnection& connection) {
      connection.read_request();
      connection.send(answer.substr(0, cut));
    });
    const HttpResult result = run(read_call("x"));
    ASSERT_FALSE(result.answer) << cut;
    EXPECT_EQ(result.answer.error().code, Errc::unavailable);
    EXPECT_EQ(result.sent, Sent::everything);
    EXPECT_EQ(peer.accepted(), 1u) << "a fresh connection is not tried twice";
  }
}

TEST_F(HttpClientTest, ACloseBeforeAllWasReadMeansThatTheRequestWasNotSentCompletely) {
  ScriptedPeer peer(socket.path(), [](PeerConnection& connection) { connection.read_bytes(100); });
  const HttpResult result = run(update_call(std::string(4'000'000, 'x')));
  ASSERT_FALSE(result.answer);
  EXPECT_EQ(result.answer.error().code, Errc::unavailable);
  EXPECT_EQ(result.sent, Sent::part);
}

TEST_F(HttpClientTest, ARefusalThatComesBeforeAllWasSentIsSeen) {
  ScriptedPeer peer(socket.path(), [](PeerConnection& connection) {
    connection.read_bytes(100);
    connection.send("HTTP/1.1 500 Internal Error\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbig!");
  });
  const HttpResult result = run(update_call(std::string(4'000'000, 'x')));
  ASSERT_TRUE(result.answer) << result.answer.error().message;
  EXPECT_EQ(result.answer->status, 500u);
  EXPECT_EQ(result.sent, Sent::part);
  EXPECT_FALSE(client->connected()) << "half a request stands on it";
}

TEST_F(HttpClientTest, AConnectionClosedWhileIdleIsNoticedAndReplaced) {
  ScriptedPeer peer(socket.path(), [](PeerConnection& connection) {
    connection.read_request();
    connection.send(xapi_http_answer(std::to_string(connection.number())));
  });
  EXPECT_EQ(run(update_call("x")).answer->body, "1");
  EXPECT_TRUE(run_until(loop, [this] { return !client->connected(); }));
  const HttpResult second = run(update_call("x"));
  ASSERT_TRUE(second.answer) << "also an update may go over the new connection: nothing was sent on the old";
  EXPECT_EQ(second.answer->body, "2");
}

TEST_F(HttpClientTest, AConnectionClosedUnnoticedIsFoundOutBeforeSending) {
  std::atomic<bool> close_first = false;
  std::atomic<bool> closed = false;
  ScriptedPeer peer(socket.path(), [&](PeerConnection& connection) {
    connection.read_request();
    connection.send(xapi_http_answer(std::to_string(connection.number())));
    if (connection.number() == 1) {
      while (!close_first) std::this_thread::sleep_for(milliseconds(1));
      connection.stop_sending();
      closed = true;
      return;
    }
    connection.wait_for_close();
  });
  EXPECT_EQ(run(update_call("x")).answer->body, "1");
  close_first = true;  // the loop does not run now
  while (!closed) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_TRUE(client->connected());
  const HttpResult second = run(update_call("x"));
  ASSERT_TRUE(second.answer);
  EXPECT_EQ(second.answer->body, "2");
}

/// Closes the first connection on getting its second request, without an answer.
void close_on_second_request(PeerConnection& connection) {
  connection.read_request();
  connection.send(xapi_http_answer(std::to_string(connection.number())));
  connection.read_request();
  if (connection.number() == 1) return;
  connection.send(xapi_http_answer("again"));
  connection.wait_for_close();
}

TEST_F(HttpClientTest, AReadOnAReusedConnectionThatClosesIsRepeatedOnce) {
  ScriptedPeer peer(socket.path(), close_on_second_request);
  EXPECT_EQ(run(read_call("x")).answer->body, "1");
  const HttpResult second = run(read_call("x"));
  ASSERT_TRUE(second.answer);
  EXPECT_EQ(second.answer->body, "2");
  EXPECT_EQ(second.connects, 1u);
}

TEST_F(HttpClientTest, AnUpdateOnAReusedConnectionThatClosesIsNotRepeated) {
  ScriptedPeer peer(socket.path(), close_on_second_request);
  EXPECT_EQ(run(update_call("x")).answer->body, "1");
  const HttpResult second = run(update_call("x"));
  ASSERT_FALSE(second.answer);
  EXPECT_EQ(second.sent, Sent::everything);
  EXPECT_EQ(peer.accepted(), 1u);
}

TEST_F(HttpClientTest, AnUpdateThatAReusedConnectionDidNotTakeCompletelyIsSentAgain) {
  ScriptedPeer peer(socket.path(), [](PeerConnection& connection) {
    connection.read_request();
    connection.send(xapi_http_answer(std::to_string(connection.number())));
    if (connection.number() == 1) {
      connection.read_bytes(100);
      return;
    }
    connection.wait_for_close();
  });
  EXPECT_EQ(run(update_call("x")).answer->body, "1");
  const std::string large(4'000'000, 'x');
  const HttpResult second = run(update_call(large));
  ASSERT_TRUE(second.answer) << second.answer.error().message;
  EXPECT_EQ(second.answer->body, "2");
  EXPECT_EQ(second.sent, Sent::everything);
}

TEST_F(HttpClientTest, ACallThatIsNotAnsweredEndsAtItsDeadline) {
  ScriptedPeer peer(socket.path(), [](PeerConnection& connection) { connection.wait_for_close(); });
  const Time start = loop.now();
  const HttpResult result = run(read_call("x", milliseconds(80)));
  ASSERT_FALSE(result.answer);
  EXPECT_EQ(result.answer.error().code, Errc::timeout);
  EXPECT_EQ(result.sent, Sent::everything);
  EXPECT_GE(loop.now() - start, milliseconds(79));
  EXPECT_LT(loop.now() - start, seconds(5));
  EXPECT_FALSE(client->connected()) << "a late answer must not meet the next call";
}

TEST_F(HttpClientTest, ATrickleDoesNotStretchTheDeadline) {
  ScriptedPeer peer(socket.path(), [](PeerConnection& connection) {
    connection.read_request();
    while (connection.send_in_pieces("HTTP/1.1 200 OK\r\nx: y\r\n", 1)) {
    }
  });
  const HttpResult result = run(read_call("x", milliseconds(80)));
  ASSERT_FALSE(result.answer);
}

TEST_F(HttpClientTest, AnUpdateThatWasSentWaitsBeyondTheTimeForSending) {
  ScriptedPeer peer(socket.path(), [](PeerConnection& connection) {
    connection.read_request();
    std::this_thread::sleep_for(milliseconds(150));
    connection.send(xapi_http_answer("late"));
    connection.wait_for_close();
  });
  const HttpResult result = run(update_call("x", milliseconds(30)));
  ASSERT_TRUE(result.answer) << result.answer.error().message;
  EXPECT_EQ(result.answer->body, "late");
}

TEST_F(HttpClientTest, AnUpdateThatCannotBeSentInTimeIsGivenUp) {
  ScriptedPeer peer(socket.path(), [](PeerConnection& connection) {
    connection.read_bytes(100);
    std::this_thread::sleep_for(milliseconds(300));
  });
  const HttpResult result = run(update_call(std::string(4'000'000, 'x'), milliseconds(50)));
  ASSERT_FALSE(result.answer);
  EXPECT_EQ(result.answer.error().code, Errc::timeout);
  EXPECT_EQ(result.sent, Sent::part);
}

TEST_F(HttpClientTest, AFullBacklogIsWaitedForUntilTheDeadline) {
  ScriptedPeer peer(socket.path(), echo, 0);
  peer.pause(true);
  std::this_thread::sleep_for(milliseconds(20));
  // A backlog of 0 takes one connection.
  HttpClient first(loop, {.socket_path = socket.path()});
  bool first_done = false;
  first.post(update_call("first"),
             [&first_done](HttpResult result) { first_done = result.answer.has_value(); });
  const HttpResult late = run(update_call("late", milliseconds(60)));
  ASSERT_FALSE(late.answer);
  EXPECT_EQ(late.answer.error().code, Errc::timeout);
  EXPECT_EQ(late.sent, Sent::nothing);
  EXPECT_FALSE(late.connected);
  std::optional<HttpResult> patient;
  client->post(update_call("patient"), [&patient](HttpResult result) { patient = std::move(result); });
  settle();
  EXPECT_FALSE(patient);
  peer.pause(false);
  ASSERT_TRUE(run_until(loop, [&] { return patient.has_value() && first_done; }));
  EXPECT_EQ(patient->answer->body, "patient");
}

TEST_F(HttpClientTest, WhatIsNoHttpAnswerIsRefused) {
  for (const std::string_view garbage :
       {"SSH-2.0-OpenSSH\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n"}) {
    ScriptedPeer peer(socket.path(), [garbage](PeerConnection& connection) {
      connection.read_request();
      connection.send(garbage);
      connection.wait_for_close();
    });
    const HttpResult result = run(read_call("x"));
    ASSERT_FALSE(result.answer) << garbage;
    EXPECT_EQ(result.answer.error().code, Errc::invalid) << garbage;
    EXPECT_FALSE(client->connected());
  }
}

TEST_F(HttpClientTest, AnswersAreBounded) {
  client = std::make_unique<HttpClient>(
      loop, HttpClient::Options{.socket_path = socket.path(), .max_header = 512, .max_body = 1000});
  const std::vector<std::string> answers{
      xapi_http_answer(std::string(1000, 'a')), xapi_http_answer(std::string(1001, 'a')),
      "HTTP/1.1 200 OK\r\nx: " + std::string(600, 'a') + "\r\ncontent-length: 1\r\n\r\n1",
      "HTTP/1.1 200 OK\r\n\r\n" + std::string(1001, 'a'),  // its length is not announced
  };
  ScriptedPeer peer(socket.path(), [&answers](PeerConnection& connection) {
    connection.read_request();
    connection.send(answers[connection.number() - 1]);
    connection.wait_for_close();
  });
  EXPECT_TRUE(run(read_call("x")).answer);
  client->disconnect();
  for (std::size_t i = 1; i < answers.size(); ++i) EXPECT_FALSE(run(read_call("x")).answer) << i;
}

TEST_F(HttpClientTest, DestroyingTheClientEndsACallWithoutItsCallback) {
  ScriptedPeer peer(socket.path(), [](PeerConnection& connection) { connection.wait_for_close(); });
  bool called = false;
  client->post(update_call("x"), [&called](HttpResult) { called = true; });
  settle();
  client.reset();
  settle();
  client = std::make_unique<HttpClient>(loop, HttpClient::Options{.socket_path = "/nonexistent/xapi"});
  client->post(update_call("x"), [&called](HttpResult) { called = true; });
  client.reset();
  settle();
  EXPECT_FALSE(called);
}

TEST_F(HttpClientTest, TheCallbackMayPostTheNextCallOrDestroyTheClient) {
  ScriptedPeer peer(socket.path(), echo);
  int answers = 0;
  std::function<void(HttpResult)> next = [&](HttpResult result) {
    ASSERT_TRUE(result.answer);
    if (++answers < 5) {
      client->post(update_call("x"), next);
    } else {
      client.reset();
    }
  };
  client->post(update_call("x"), next);
  EXPECT_TRUE(run_until(loop, [this] { return client == nullptr; }));
  EXPECT_EQ(answers, 5);
}

}  // namespace
}  // namespace guard::net
