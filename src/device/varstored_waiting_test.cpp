// Requests that cannot be answered yet: how long they wait, in which order, and what they are told.
#include <gtest/gtest.h>

#include <atomic>

#include "device/varstored_rpc.h"
#include "device/varstored_test_support.h"

namespace guard::device {
namespace {

using namespace test;
using namespace std::chrono_literals;
using net::test::Client;
using net::test::eventually;
using Kind = UefiOutcome::Kind;

const std::string empty_map = success("<value><struct></struct></value>");
const UefiOutcome away{Kind::unavailable, "Unix.Unix_error(Unix.ECONNREFUSED)"};
const std::string gave_up = failure("Unix.Unix_error(Unix.ECONNREFUSED)");

class VarstoredWaiting : public VarstoredTest {
 protected:
  /// Patience without end, and no time between attempts.
  void patient() { serve({.patience = 1h, .renewed = 2h, .grace = 10ms, .retry = 1ms}); }
  /// Hardly any patience, and never again.
  void impatient() { serve({.patience = 20ms, .renewed = 2h, .grace = 10ms, .retry = 1ms}); }

  std::uint64_t waited() { return stats().waited; }
  bool asked(std::size_t times) {
    return eventually([&] {
      return thread_.run([&] {
        std::size_t spaces = 0;
        for (const char c : access_.calls) spaces += c == ' ' ? 1 : 0;
        return spaces >= times;
      });
    });
  }
};

TEST_F(VarstoredWaiting, ARequestThatCannotBeAnsweredYetIsTriedAgainUntilItCan) {
  patient();
  outcome(away);
  with_lane([](MapUefi& lane) { lane.entries = {{"EFI-variables", Value("AAAA")}}; });
  Client client(socket_.path());
  client.send(post(get_call()));
  ASSERT_TRUE(asked(5));
  EXPECT_TRUE(client.silent());
  outcome({Kind::done, {}});
  EXPECT_EQ(client.read_all(), success("<value><struct><member><name>EFI-variables</name><value>AAAA</value>"
                                       "</member></struct></value>"));
  EXPECT_EQ(waited(), 1u);
  EXPECT_EQ(stats().gave_up, 0u);
}

TEST_F(VarstoredWaiting, SetsAlertsAndStatesWaitJustTheSame) {
  patient();
  for (const std::string& body : {set_call("AAAA"), call("message.create", {"", "", "1", "", "", "x"}),
                                  call("VM.get_secureboot_certificates_state", {"", ""})}) {
    outcome(away);
    Client client(socket_.path());
    client.send(post(body));
    ASSERT_TRUE(asked(3));
    outcome({Kind::done, {}});
    EXPECT_TRUE(client.read_all().starts_with("HTTP/1.1 200 OK")) << body;
    calls();
  }
  EXPECT_EQ(waited(), 3u);
  EXPECT_EQ(stats()(VarstoredStats::alert, VarstoredStats::success), 1u);
}

TEST_F(VarstoredWaiting, WhatWaitsTooLongFailsAndIsNeverAnEmptyMap) {
  impatient();
  outcome(away);
  expect(post(get_call()), gave_up);
  EXPECT_EQ(stats().gave_up, 1u);
  EXPECT_EQ(log_.count("varstored_waits"), 1u);
}

TEST_F(VarstoredWaiting, AnAnswerThatNeverComesIsAFailureInTheEnd) {
  impatient();
  with_lane([](MapUefi& lane) { lane.mood = MapUefi::Mood::holds; });
  expect(post(get_call()), failure("no answer in time"));
  let_go();  // too late: nobody is told
  with_lane([](MapUefi& lane) { lane.mood = MapUefi::Mood::answers; });
  expect(post(get_call()), empty_map);
}

TEST_F(VarstoredWaiting, OnceTheTimeIsUsedUpNobodyWaitsAnyMore) {
  impatient();
  outcome(away);
  expect(post(get_call()), gave_up);
  calls();
  expect(post(get_call()), gave_up);
  expect(post(set_call("AAAA")), gave_up);
  EXPECT_EQ(calls(), "get set(AAAA,-) ") << "asked once each";
  EXPECT_EQ(waited(), 1u);
  outcome({Kind::done, {}});
  expect(post(get_call()), empty_map);
}

TEST_F(VarstoredWaiting, AfterThatAnswersMayStillTakeTheirTime) {
  serve({.patience = 50ms, .renewed = 2h, .grace = 10ms, .retry = 1ms});
  outcome(away);
  expect(post(get_call()), gave_up);
  outcome({Kind::done, {}});
  with_lane([](MapUefi& lane) { lane.mood = MapUefi::Mood::holds; });
  expect(post(get_call()), failure("no answer in time"));
  ASSERT_EQ(held(), 1u);
  let_go();
}

TEST_F(VarstoredWaiting, LaterRequestsMayWaitAnew) {
  serve({.patience = 20ms, .renewed = 20ms, .grace = 10ms, .retry = 1ms});
  outcome(away);
  expect(post(get_call()), gave_up);
  expect(post(get_call()), gave_up);
  EXPECT_EQ(waited(), 2u);
  EXPECT_EQ(log_.count("varstored_waits"), 2u);
}

TEST_F(VarstoredWaiting, RequestsThatWaitTogetherEndTogether) {
  serve({.patience = 300ms, .renewed = 2h, .grace = 10ms, .retry = 1ms});
  outcome(away);
  std::vector<Client> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back(socket_.path());
    clients.back().send(post(i % 2 == 0 ? get_call() : set_call("AAAA")));
  }
  for (Client& client : clients) EXPECT_EQ(client.read_all().find("200 OK"), 9u);
  EXPECT_EQ(stats().gave_up, 4u);
  EXPECT_EQ(log_.count("varstored_waits"), 1u);
}

TEST_F(VarstoredWaiting, SetsKeepTheirOrderAlsoWhenTheFirstHasToWait) {
  patient();
  outcome(away);
  Client first(socket_.path());
  first.send(post(set_call("MQ==")));
  ASSERT_TRUE(asked(1));
  Client second(socket_.path());
  second.send(post(set_call("Mg==")));
  ASSERT_TRUE(eventually([&] { return waited() == 2; }));
  outcome({Kind::done, {}});
  EXPECT_EQ(first.read_all(), done);
  EXPECT_EQ(second.read_all(), done);
  const std::string all = calls();
  EXPECT_EQ(all.find("Mg=="), all.rfind("Mg==")) << "asked once: " << all;
  EXPECT_GT(all.find("Mg=="), all.rfind("MQ==")) << all;
  EXPECT_EQ(thread_.run([&] { return access_.entries.at(0).second; }), Value("Mg=="));
}

TEST_F(VarstoredWaiting, ASetBehindOneThatDoesNotEndIsNeverTakenAfterItsFailure) {
  serve({.patience = 50ms, .renewed = 2h, .grace = 1ms, .retry = 1ms});
  with_lane([](MapUefi& lane) { lane.mood = MapUefi::Mood::holds; });
  Client first(socket_.path());
  first.send(post(set_call("MQ==")));
  ASSERT_TRUE(asked(1));
  Client second(socket_.path());
  second.send(post(set_call("Mg==")));
  EXPECT_EQ(first.read_all(), failure("no answer in time"));
  EXPECT_EQ(second.read_all(), failure("no answer in time"));
  EXPECT_EQ(calls(), "set(MQ==,-) ");
  with_lane([](MapUefi& lane) { lane.mood = MapUefi::Mood::answers; });
  let_go();
  expect(post(set_call("Mw==")), done);
  EXPECT_EQ(calls(), "set(Mw==,-) ");
}

TEST_F(VarstoredWaiting, ReadsAndConstantsDoNotWaitForSets) {
  patient();
  with_lane([](MapUefi& lane) { lane.mood = MapUefi::Mood::holds; });
  Client set(socket_.path());
  set.send(post(set_call("AAAA")));
  ASSERT_TRUE(asked(1));
  with_lane([](MapUefi& lane) { lane.mood = MapUefi::Mood::answers; });
  expect(post(get_call()), empty_map);
  expect(post(call("session.logout", {""})), done);
  EXPECT_TRUE(set.silent());
  let_go();
  EXPECT_EQ(set.read_all(), done);
}

TEST_F(VarstoredWaiting, AClientThatHasGoneDoesNotEndItsRequest) {
  patient();
  outcome(away);
  {
    Client client(socket_.path());
    client.send(post(set_call("AAAA")));
    ASSERT_TRUE(asked(2));
  }
  outcome({Kind::done, {}});
  ASSERT_TRUE(eventually([&] { return stats()(VarstoredStats::set_nvram, VarstoredStats::success) == 1; }));
}

TEST_F(VarstoredWaiting, TheEndOfASocketEndsWhatWaits) {
  patient();
  outcome(away);
  Client waiting(socket_.path());
  waiting.send(post(get_call()));
  ASSERT_TRUE(asked(2));
  with_lane([](MapUefi& lane) { lane.mood = MapUefi::Mood::holds; });
  Client hanging(socket_.path());
  hanging.send(post(set_call("AAAA")));
  ASSERT_TRUE(eventually([&] { return held() == 2; }));
  thread_.run([&] { server_.reset(); });
  EXPECT_EQ(waiting.read_all(), "");
  EXPECT_EQ(hanging.read_all(), "");
  let_go();
  let_go();
  calls();
  thread_.run([] {});
  EXPECT_EQ(calls(), "") << "nothing is tried again";
}

TEST_F(VarstoredWaiting, AnOrderlyStopWaitsForRequestsUnderWay) {
  patient();
  outcome(away);
  Client waiting(socket_.path());
  waiting.send(post(set_call("AAAA")));
  ASSERT_TRUE(asked(2));
  std::atomic<bool> drained = false;
  thread_.run([&] { server_->drain([&] { drained = true; }); });
  EXPECT_FALSE(drained);
  outcome({Kind::done, {}});
  EXPECT_EQ(waiting.read_all(), done);
  EXPECT_TRUE(eventually([&] { return drained.load(); }));
}

}  // namespace
}  // namespace guard::device
