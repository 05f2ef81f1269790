#include "device/swtpm_rest.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "net/socket_test_support.h"

namespace guard::device {
namespace {

using net::test::Client;
using net::test::eventually;
using net::test::ListeningSocket;
using net::test::LoopThread;
using net::test::RecordingLogger;
using Source = ReadResult::Source;

/// A lane that is only a map in memory; the edge of what is tested here.
class MapLane final : public LaneAccess {
 public:
  enum class Mood { works, unavailable, too_large, forgets, holds };

  void write(Slot slot, Value value, std::function<void(WriteStatus)> done) override {
    order += "w" + std::to_string(static_cast<int>(slot));
    if (mood == Mood::forgets) return;
    if (mood == Mood::holds) {
      held.emplace_back([this, slot, value, done] { accept(slot, value, done); });
      return;
    }
    if (mood != Mood::works) {
      return done(mood == Mood::too_large ? WriteStatus::too_large : WriteStatus::unavailable);
    }
    accept(slot, std::move(value), done);
  }
  void read(Slot slot, std::function<void(ReadResult)> done) override {
    order += "r" + std::to_string(static_cast<int>(slot));
    if (mood == Mood::forgets) return;
    // A lane that cannot answer must not be believed, whatever it says the value is.
    if (mood != Mood::works) return done({Source::none, values[slot]});
    done({source, values[slot]});
  }

  void accept(Slot slot, Value value, const std::function<void(WriteStatus)>& done) {
    values[slot] = std::move(value);
    done(WriteStatus::accepted);
  }

  Mood mood = Mood::works;
  Source source = Source::upstream;
  std::map<Slot, Value> values;
  std::string order;  ///< what was asked for
  std::list<std::function<void()>> held;
};

const std::string host = "Host: xapi-depriv-socket\r\nAccept: */*\r\n";
const std::string no_content = "HTTP/1.1 204 No Content\r\n\r\n";
const std::string not_allowed = "HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 11\r\n\r\nNot allowed";
const std::string not_found = "HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nNot found";
const std::string not_base64 = "HTTP/1.1 400 Bad Request\r\ncontent-length: 21\r\n\r\nNot a state in base64";
const std::string no_length = "HTTP/1.1 411 Length Required\r\ncontent-length: 15\r\n\r\nLength required";
const std::string too_large = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 9\r\n\r\nToo large";
const std::string unavailable =
    "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 19\r\n\r\nService unavailable";

std::string request(const std::string& method, const std::string& path) {
  return method + " " + path + " HTTP/1.1\r\n" + host + "\r\n";
}
std::string put(const std::string& path, const std::string& body) {
  return "PUT " + path + " HTTP/1.1\r\n" + host +
         "Content-Type: application/octet-stream\r\nContent-Length: " + std::to_string(body.size()) +
         "\r\n\r\n" + body;
}
std::string state(const std::string& body) {
  return "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\ncontent-length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}

const std::string permall = "/tpm2-00.permall";
const std::string savestate = "/tpm2-00.savestate";
const std::string volatilestate = "/tpm2-00.volatilestate";
const std::string hello = "aGVsbG8gdHBtCg==";

class SwtpmRest : public testing::Test {
 protected:
  SwtpmRest() {
    thread_.run([this] {
      server_.emplace(thread_.loop(), socket_.release(), net::ServerLimits(), swtpm_too_large(),
                      make_swtpm_handler(lane_, stats_, log_), log_, "vm");
    });
  }
  ~SwtpmRest() override {
    thread_.run([this] { server_.reset(); });
  }

  /// Exactly this answer to this request, and nothing behind it.
  void expect(const std::string& text, const std::string& answer) {
    Client client(socket_.path());
    ASSERT_TRUE(client.send(text));
    client.finish_sending();
    EXPECT_EQ(client.read_all(), answer) << text.substr(0, 200);
  }
  void mood(MapLane::Mood mood) {
    thread_.run([&] { lane_.mood = mood; });
  }
  std::string order() {
    return thread_.run([this] { return std::exchange(lane_.order, {}); });
  }
  std::string value(Slot slot) {
    return thread_.run([&] { return std::string(lane_.values[slot].view()); });
  }
  void set(Slot slot, const std::string& value) {
    thread_.run([&] { lane_.values[slot] = Value(value); });
  }
  std::uint64_t count(SwtpmStats::Method method, SwtpmStats::Result result) {
    return thread_.run([&] { return stats_(method, result); });
  }

  ListeningSocket socket_;
  MapLane lane_;
  SwtpmStats stats_;
  RecordingLogger log_;
  LoopThread thread_;
  std::optional<net::Server> server_;
};

TEST_F(SwtpmRest, AnswersAGetWithTheStateOfThatNameAndNoOther) {
  set(Slot::permall, "AAAA");
  set(Slot::volatilestate, "CCCC");
  expect(request("GET", permall), state("AAAA"));
  expect(request("GET", savestate), state(""));
  expect(request("GET", volatilestate), state("CCCC"));
}

TEST_F(SwtpmRest, AnswersTheSameWhereverTheStateWasFound) {
  set(Slot::permall, "AAAA");
  for (const Source source : {Source::pending, Source::upstream, Source::known}) {
    thread_.run([&] { lane_.source = source; });
    expect(request("GET", permall), state("AAAA"));
    expect(request("GET", savestate), state(""));
  }
}

TEST_F(SwtpmRest, APutIsAnsweredWithoutAnyHeaderAndReadBackUnchanged) {
  expect(put(permall, hello), no_content);
  EXPECT_EQ(value(Slot::permall), hello);
  expect(request("GET", permall), state(hello));
  EXPECT_EQ(value(Slot::savestate), "");
  EXPECT_EQ(value(Slot::volatilestate), "");
}

TEST_F(SwtpmRest, APutInTwoWritesAsSwtpmSendsIt) {
  Client client(socket_.path());
  const std::string text = put(permall, hello);
  client.send(text.substr(0, text.size() - hello.size()));
  ASSERT_TRUE(client.wait_received());
  EXPECT_EQ(order(), "") << "nothing is written before the body is complete";
  client.send(hello);
  EXPECT_EQ(client.read(no_content.size()), no_content);
  EXPECT_EQ(value(Slot::permall), hello);
}

TEST_F(SwtpmRest, AChunkedPutIsAPut) {
  expect("PUT /tpm2-00.permall HTTP/1.1\r\n" + host +
             "Transfer-Encoding: chunked\r\n\r\n4\r\naGVs\r\nc\r\nbG8gdHBtCg==\r\n0\r\n\r\n",
         no_content);
  EXPECT_EQ(value(Slot::permall), hello);
}

TEST_F(SwtpmRest, ADeleteWritesTheEmptyValueAlsoWhereNothingIs) {
  set(Slot::volatilestate, hello);
  expect(request("DELETE", volatilestate), no_content);
  EXPECT_EQ(value(Slot::volatilestate), "");
  expect(request("DELETE", volatilestate), no_content);
  expect(request("GET", volatilestate), state(""));
  EXPECT_EQ(order(), "w2w2r2");
}

TEST_F(SwtpmRest, TheBodyOfADeleteIsIgnored) {
  set(Slot::permall, hello);
  expect("DELETE /tpm2-00.permall HTTP/1.1\r\nContent-Length: 4\r\n\r\nAAAA" + request("GET", permall),
         no_content + state(""));
}

TEST_F(SwtpmRest, HeadTellsPresenceWithoutABody) {
  expect(request("HEAD", permall), "HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\n");
  set(Slot::permall, hello);
  expect(request("HEAD", permall) + request("DELETE", permall),
         state(hello).substr(0, state(hello).size() - hello.size()) + no_content);
}

TEST_F(SwtpmRest, OtherMethodsAndTheRootAreNotAllowed) {
  for (const std::string method : {"POST", "PATCH", "OPTIONS", "TRACE", "get", "put", "M-SEARCH"}) {
    expect(request(method, permall), not_allowed);
  }
  for (const std::string method : {"GET", "DELETE", "POST"}) expect(request(method, "/"), not_allowed);
  expect(put("/", hello), not_allowed);
  expect(request("HEAD", "/"), not_allowed.substr(0, not_allowed.size() - 11));
  expect(request("POST", "/nothing"), not_allowed);
  EXPECT_EQ(order(), "");
}

TEST_F(SwtpmRest, UnknownPathsAreNotFound) {
  for (const std::string path :
       {"/tpm2-00.foo", "/tpm2-01.permall", "/tpm2-00.PERMALL", "/tpm2-00.permall/", "//tpm2-00.permall",
        "/tpm2-00.", "/tpm2-00.nvram", "/x/tpm2-00.permall", "/tpm2-00.permall%00", "*"}) {
    expect(request("GET", path), not_found);
    expect(request("DELETE", path), not_found);
    expect(put(path, hello), not_found);
  }
  EXPECT_EQ(order(), "");
}

TEST_F(SwtpmRest, QueriesAreIgnoredAndPathsDecoded) {
  set(Slot::permall, hello);
  expect(request("GET", "/tpm2-00.permall?volatilestate"), state(hello));
  expect(request("GET", "/tpm2%2D00%2Epermall"), state(hello));
}

TEST_F(SwtpmRest, BodiesThatAreNoStateAreRefusedForGood) {
  set(Slot::permall, hello);
  for (const std::string body :
       {"", "A", "AAA", "AAAA AAA", "AAAA\n", "AA AA AA", "====", "A===", "AA\tA", "%%%%"}) {
    expect(put(permall, body), not_base64);
  }
  expect("PUT /tpm2-00.permall HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", not_base64);
  EXPECT_EQ(order(), "");
  EXPECT_EQ(value(Slot::permall), hello);
}

TEST_F(SwtpmRest, APutWithoutLengthErasesNothing) {
  set(Slot::permall, hello);
  expect("PUT /tpm2-00.permall HTTP/1.1\r\n\r\n", no_length);
  // What could be its body is not taken as the next request.
  expect("PUT /tpm2-00.permall HTTP/1.1\r\n\r\n" + request("DELETE", permall), no_length);
  EXPECT_EQ(order(), "");
  EXPECT_EQ(value(Slot::permall), hello);
}

TEST_F(SwtpmRest, StatesUpToTheLimitComeBackIntactAndLargerOnesAreRefused) {
  for (const std::size_t size : {std::size_t{100'000}, limits::max_body_vtpm}) {
    const std::string body(size, 'A');
    expect(put(permall, body) + request("GET", permall), no_content + state(body));
  }
  expect(put(permall, std::string(limits::max_body_vtpm + 4, 'A')), too_large);
  expect(put(permall, std::string(2 * limits::MiB, 'A')), too_large);
}

TEST_F(SwtpmRest, TroubleOfOursIsAlwaysToBeTriedAgain) {
  mood(MapLane::Mood::unavailable);
  expect(request("GET", permall), unavailable);
  expect(put(permall, hello), unavailable);
  expect(request("DELETE", permall), unavailable);
  expect(request("HEAD", permall), unavailable.substr(0, unavailable.size() - 19));
}

TEST_F(SwtpmRest, WhatTheLaneCallsTooLargeIsRefusedForGood) {
  mood(MapLane::Mood::too_large);
  expect(put(permall, hello), too_large);
}

TEST_F(SwtpmRest, ARequestThatTheLaneForgetsEndsTheConnectionWithoutAnAnswer) {
  mood(MapLane::Mood::forgets);
  expect(put(permall, hello), "");
  expect(request("GET", permall), "");
}

TEST_F(SwtpmRest, PipelinedRequestsGetWellFramedAnswersInOrder) {
  const std::string next = "Ymx1ZQ==";
  expect(put(permall, hello) + request("GET", permall) + put(permall, next) + request("DELETE", savestate) +
             request("GET", permall) + request("GET", "/x"),
         no_content + state(hello) + no_content + no_content + state(next) + not_found);
  EXPECT_EQ(order(), "w0r0w0w1r0");
}

TEST_F(SwtpmRest, OldClientsAndThoseThatAskAreAnsweredAndClosed) {
  set(Slot::permall, hello);
  for (const std::string text : {"GET /tpm2-00.permall HTTP/1.0\r\n\r\n",
                                 "GET /tpm2-00.permall HTTP/1.1\r\nConnection: close\r\n\r\n"}) {
    Client client(socket_.path());
    client.send(text);
    EXPECT_EQ(client.read_all(), state(hello)) << text;
  }
}

TEST_F(SwtpmRest, RequestsReachTheLaneInTheOrderOfTheirLastBytes) {
  Client first(socket_.path());
  Client second(socket_.path());
  const std::string text = put(permall, hello);
  first.send(text.substr(0, text.size() - 1));
  ASSERT_TRUE(first.wait_received());
  second.send(put(savestate, hello));
  EXPECT_EQ(second.read(no_content.size()), no_content);
  first.send(text.substr(text.size() - 1));
  EXPECT_EQ(first.read(no_content.size()), no_content);
  EXPECT_EQ(order(), "w1w0");
}

TEST_F(SwtpmRest, AWriteThatWaitsDoesNotHoldBackOtherConnections) {
  mood(MapLane::Mood::holds);
  Client waiting(socket_.path());
  waiting.send(put(permall, hello));
  ASSERT_TRUE(eventually([&] { return thread_.run([&] { return lane_.held.size(); }) == 1; }));
  mood(MapLane::Mood::works);
  expect(request("GET", savestate), state(""));
  EXPECT_TRUE(waiting.silent());
  thread_.run([&] { lane_.held.front()(); });
  EXPECT_EQ(waiting.read(no_content.size()), no_content);
}

TEST_F(SwtpmRest, AnAnswerAfterTheSocketIsGoneHarmsNobody) {
  mood(MapLane::Mood::holds);
  Client waiting(socket_.path());
  waiting.send(put(permall, hello));
  ASSERT_TRUE(eventually([&] { return thread_.run([&] { return lane_.held.size(); }) == 1; }));
  thread_.run([&] { server_.reset(); });
  EXPECT_EQ(waiting.read_all(), "");
  thread_.run([&] {
    lane_.held.front()();
    lane_.held.clear();
  });
  EXPECT_EQ(value(Slot::permall), hello);
}

TEST_F(SwtpmRest, CountsByMethodAndResult) {
  using S = SwtpmStats;
  expect(put(permall, hello) + put(permall, "?") + request("GET", permall) + request("HEAD", permall) +
             request("HEAD", savestate) + request("DELETE", permall) + request("POST", permall) +
             request("GET", "/"),
         no_content + not_base64 + state(hello) + state(hello).substr(0, state(hello).size() - hello.size()) +
             not_found.substr(0, not_found.size() - 9) + no_content + not_allowed + not_allowed);
  mood(MapLane::Mood::unavailable);
  expect(request("GET", permall), unavailable);
  EXPECT_EQ(count(S::put, S::success), 1u);
  EXPECT_EQ(count(S::put, S::refused), 1u);
  EXPECT_EQ(count(S::get, S::success), 1u);
  EXPECT_EQ(count(S::get, S::refused), 1u);
  EXPECT_EQ(count(S::get, S::unavailable), 1u);
  EXPECT_EQ(count(S::head, S::success), 1u);
  EXPECT_EQ(count(S::head, S::refused), 1u);
  EXPECT_EQ(count(S::del, S::success), 1u);
  EXPECT_EQ(count(S::other, S::refused), 1u);
}

TEST_F(SwtpmRest, LogsRequestsAtDebugLevelWithoutAByteOfTheGuests) {
  expect(put(permall, hello) + request("GET", permall) + request("GET", "/secretpath"),
         no_content + state(hello) + not_found);
  EXPECT_EQ(log_.count("0 swtpm_request method=PUT slot=permall status=204"), 1u);
  EXPECT_EQ(log_.count("0 swtpm_request method=GET slot=permall status=200 reply_bytes=16"), 1u);
  EXPECT_EQ(log_.count("0 swtpm_request method=GET slot=none status=404"), 1u);
  EXPECT_EQ(log_.count(hello), 0u);
  EXPECT_EQ(log_.count("secretpath"), 0u);
}

}  // namespace
}  // namespace guard::device
