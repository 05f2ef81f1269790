// What the upstream makes of sessions that end, connections that are lost, and calls that take their time.
#include <atomic>

#include "upstream/upstream_test_support.h"

namespace guard::upstream::testing {
namespace {

// --- Sessions ---------------------------------------------------------------------------------------------

TEST_F(XapiFailuresTest, ASessionRefusedAtAnyCallIsRenewedOnceAndTheReadGoesOn) {
  for (const char* method : {"VM.get_by_uuid", "VM.get_VTPMs", "VTPM.get_uuid", get_contents}) {
    make();
    events.ended.clear();
    xapi.forget();
    xapi.react(method, {Reaction::error({"SESSION_INVALID", "OpaqueRef:1"})});
    const Fetched fetched = fetch();
    EXPECT_EQ(fetched.kind, Kind::delivered) << method << ": " << fetched.reason;
    EXPECT_EQ(fetched.epoch, 2u);
    EXPECT_EQ(events.ended, std::vector<Epoch>{1});
    EXPECT_EQ(xapi.count(login), 2u);
    EXPECT_EQ(xapi.count(method), 2u);
  }
}

TEST_F(XapiFailuresTest, AnUpdateRefusedForItsSessionIsStaleAndReportsTheEndFirst) {
  const Delivery delivery = direct();
  xapi.end_session();
  const Outcome outcome = deliver(delivery);
  EXPECT_EQ(outcome.kind, Kind::stale);
  EXPECT_FALSE(outcome.upstream_suspect);
  EXPECT_EQ(events.ended, std::vector<Epoch>{delivery.base_epoch});
  EXPECT_EQ(xapi.methods(), Names{set_contents});
  EXPECT_EQ(deliver(delivery).kind, Kind::stale) << "its base is of a session that is over";
  EXPECT_EQ(deliver(new_permall()).kind, Kind::delivered);
  EXPECT_EQ(xapi.contents(vtpm_a), "newP  volA");
}

TEST_F(XapiFailuresTest, HoweverManyCallsLoseTheSessionItEndsOnceAndIsRenewedOnce) {
  warm_up();
  warm_up(vm_b);
  xapi.end_session();
  int ended = 0;
  for (int i = 0; i < 40; ++i) {
    upstream->fetch({i % 2 == 0 ? vm_a : vm_b, Device::vtpm}, [&ended](Fetched fetched) {
      EXPECT_EQ(fetched.kind, Kind::delivered);
      EXPECT_EQ(fetched.epoch, 2u);
      ++ended;
    });
  }
  ASSERT_TRUE(run_until(loop, [&ended] { return ended == 40; }));
  EXPECT_EQ(xapi.count(login), 1u);
  EXPECT_EQ(events.ended, std::vector<Epoch>{1});
  EXPECT_EQ(upstream->counters().sessions_ended, 1u);
}

TEST_F(XapiFailuresTest, OneLoginServesAllWhoWaitForIt) {
  int ended = 0;
  for (int i = 0; i < 40; ++i) {
    upstream->fetch({vm_a, Device::vtpm}, [&ended](Fetched fetched) {
      EXPECT_EQ(fetched.kind, Kind::delivered);
      ++ended;
    });
  }
  ASSERT_TRUE(run_until(loop, [&ended] { return ended == 40; }));
  EXPECT_EQ(xapi.count(login), 1u);
}

TEST_F(XapiFailuresTest, AFailedLoginEndsAllWhoWaitForItAndTheNextCallTriesAgain) {
  const std::vector<Reaction> reactions{
      Reaction::error({"UUID_INVALID", "host", "x"}),
      Reaction::error({"INTERNAL_ERROR", "x"}),
      Reaction::error({"SESSION_AUTHENTICATION_FAILED", "root", "x"}),
      Reaction::error({"HOST_IS_SLAVE", "192.0.2.10"}),
      Reaction::error({"SESSION_INVALID", "x"}),
      Reaction::error({"HANDLE_INVALID", "VM", "x"}),
      Reaction::close(),
      Reaction::raw("HTTP/1.1 500 Internal Error\r\ncontent-length: 0\r\n\r\n"),
      Reaction::raw("garbage\r\n\r\n"),
      Reaction::result("null")};
  for (std::size_t i = 0; i < reactions.size(); ++i) {
    make();
    xapi.react(login, {reactions[i]});
    xapi.forget();
    int ended = 0;
    for (int n = 0; n < 5; ++n) {
      upstream->deliver(new_permall(), [&ended](Outcome outcome) {
        EXPECT_EQ(outcome.kind, Kind::transient);
        EXPECT_TRUE(outcome.upstream_suspect);
        EXPECT_FALSE(outcome.reason.empty());
        ++ended;
      });
    }
    ASSERT_TRUE(run_until(loop, [&ended] { return ended == 5; })) << i;
    EXPECT_EQ(xapi.methods(), Names{login}) << i;
    EXPECT_EQ(upstream->epoch(), 0u);
    EXPECT_EQ(upstream->counters().login_failures, 1u);
    xapi.set_contents(vtpm_a, "permA  volA");
    EXPECT_EQ(deliver(new_permall()).kind, Kind::delivered);
  }
  EXPECT_TRUE(events.ended.empty());
}

TEST_F(XapiFailuresTest, ASessionThatIsRefusedForEverDoesNotLoopForEver) {
  xapi.set_rule([](const SeenCall& call) -> std::optional<Reaction> {
    if (call.method == login) return std::nullopt;
    return Reaction::error({"SESSION_INVALID", call.params[0]});
  });
  const Fetched fetched = fetch();
  EXPECT_EQ(fetched.kind, Kind::transient);
  EXPECT_TRUE(fetched.upstream_suspect);
  EXPECT_EQ(xapi.count("VM.get_by_uuid"), 1 + limits::session_renewals);
  EXPECT_EQ(probe().kind, Kind::transient);
}

TEST_F(XapiFailuresTest, ASessionThatChangesBetweenReadingAndWritingMakesTheDeliveryStale) {
  warm_up();
  // The contents come late; meanwhile another call finds out that the session is over.
  xapi.react(get_contents, {Reaction::after(milliseconds(60))});
  std::optional<Outcome> outcome;
  upstream->deliver(new_permall(), [&outcome](Outcome got) { outcome = std::move(got); });
  run_until(loop, [this] { return xapi.count(get_contents) == 1; });
  xapi.react("VM.get_by_uuid", {Reaction::error({"SESSION_INVALID", "x"})});
  EXPECT_EQ(probe().kind, Kind::delivered);
  ASSERT_TRUE(run_until(loop, [&outcome] { return outcome.has_value(); }));
  EXPECT_EQ(outcome->kind, Kind::stale);
  EXPECT_EQ(xapi.count(set_contents), 0u);
}

TEST_F(XapiFailuresTest, ARestartOfXapiIsNoticedAndSurvived) {
  const Delivery delivery = direct();
  xapi.stop();
  Outcome outcome = deliver(delivery);
  EXPECT_EQ(outcome.kind, Kind::transient);
  EXPECT_TRUE(outcome.upstream_suspect);
  EXPECT_EQ(probe().kind, Kind::transient);
  xapi.start();
  EXPECT_EQ(probe().kind, Kind::delivered);
  EXPECT_EQ(events.ended, std::vector<Epoch>{1}) << "the probe finds out";
  EXPECT_EQ(upstream->epoch(), 2u);
  EXPECT_EQ(deliver(delivery).kind, Kind::stale);
  EXPECT_EQ(deliver(new_permall()).kind, Kind::delivered);
}

// --- Lost connections -------------------------------------------------------------------------------------

TEST_F(XapiFailuresTest, NobodyListeningIsTransientAndSuspect) {
  xapi.stop();
  const Outcome outcome = deliver(new_permall());
  EXPECT_EQ(outcome.kind, Kind::transient);
  EXPECT_TRUE(outcome.upstream_suspect);
  EXPECT_EQ(outcome.epoch, 0u);
  EXPECT_TRUE(fetch().upstream_suspect);
  const Outcome probed = probe();
  EXPECT_EQ(probed.kind, Kind::transient);
  EXPECT_NE(probed.reason.find("cannot connect"), std::string::npos) << probed.reason;
}

TEST_F(XapiFailuresTest, AnUpdateWhoseConnectionClosesIsInDoubtWhetherItWasCarriedOutOrNot) {
  for (const Reaction& reaction : {Reaction::close(), Reaction::act_close()}) {
    const Delivery delivery = direct();
    xapi.react(set_contents, {reaction});
    const Outcome outcome = deliver(delivery);
    EXPECT_EQ(outcome.kind, Kind::unknown);
    EXPECT_FALSE(outcome.upstream_suspect);
    EXPECT_EQ(outcome.epoch, delivery.base_epoch);
    EXPECT_EQ(xapi.count(set_contents), 1u) << "never sent twice";
  }
}

TEST_F(XapiFailuresTest, AnUpdateAnsweredWithHalfAnAnswerIsInDoubt) {
  for (const char* half : {"H", "HTTP/1.1 200 OK\r\ncontent-length: 35\r\n\r\n{\"result\":\"\","}) {
    const Delivery delivery = direct();
    xapi.react(set_contents, {Reaction::raw(half)});
    xapi.set_rule([](const SeenCall&) { return std::nullopt; });
    std::optional<Outcome> outcome;
    upstream->deliver(delivery, [&outcome](Outcome got) { outcome = std::move(got); });
    run_until(loop, [this] { return xapi.count(set_contents) == 1; });
    settle();
    EXPECT_FALSE(outcome) << "the rest may come yet";
    xapi.stop();
    ASSERT_TRUE(run_until(loop, [&outcome] { return outcome.has_value(); }));
    EXPECT_EQ(outcome->kind, Kind::unknown);
    xapi.start();
  }
}

TEST_F(XapiFailuresTest, AnAnswerToAnUpdateThatSaysNothingLeavesItInDoubt) {
  for (const char* text : {"{}", "[]", R"({"result":"","error":null,"id":1})", "<html>", ""}) {
    const Delivery delivery = direct();
    xapi.react(set_contents, {{Reaction::Kind::answer, text}});
    EXPECT_EQ(deliver(delivery).kind, Kind::unknown) << text;
  }
}

TEST_F(XapiFailuresTest, AnUpdateAnsweredWithAnHttpErrorIsTransientAndNobodysFault) {
  for (const char* status : {"500 Internal Error", "403 Forbidden", "503 Service Unavailable"}) {
    const Delivery delivery = direct();
    xapi.react(set_contents,
               {Reaction::raw("HTTP/1.1 " + std::string(status) +
                              "\r\nconnection: close\r\ncontent-length: 13\r\n\r\n<html></html>")});
    const Outcome outcome = deliver(delivery);
    EXPECT_EQ(outcome.kind, Kind::transient) << status;
    EXPECT_FALSE(outcome.upstream_suspect) << status;
  }
}

TEST_F(XapiFailuresTest, ALargeUpdateCutOffBeforeItWasSentIsTransientAndNobodysFault) {
  warm_up();
  const Fetched known = fetch();
  xapi.stop();
  // Reads the head, then closes: more than the socket holds is still to be sent.
  net::testing::ScriptedPeer rude(socket.path(), [](net::testing::PeerConnection& connection) {
    connection.read_bytes(100);
    std::this_thread::sleep_for(milliseconds(30));
  });
  const Outcome outcome =
      deliver(based({write_of(Slot::permall, std::string(300'000, 'A'))}, known.contents, known.epoch));
  EXPECT_EQ(outcome.kind, Kind::transient);
  EXPECT_FALSE(outcome.upstream_suspect);
}

TEST_F(XapiFailuresTest, ALookUpOnAConnectionThatClosesIsRepeatedOnAFreshOne) {
  for (const char* method : {"VM.get_by_uuid", "VM.get_VTPMs", "VTPM.get_uuid", get_contents}) {
    make();
    xapi.react(method, {Reaction::close()});
    EXPECT_EQ(fetch().kind, Kind::delivered) << method;
  }
}

TEST_F(XapiFailuresTest, GarbageInsteadOfAnAnswerToALookUpIsTransient) {
  warm_up();
  xapi.react(get_contents, {Reaction::raw("garbage\r\n\r\n")});
  EXPECT_EQ(fetch().kind, Kind::transient);
  xapi.react(get_contents, {{Reaction::Kind::answer, "{"}});
  EXPECT_EQ(fetch().kind, Kind::transient);
  EXPECT_EQ(fetch().kind, Kind::delivered);
}

TEST_F(XapiFailuresTest, AnswersMayComeInPieces) {
  xapi.set_rule([](const SeenCall&) { return std::optional(Reaction::in_pieces(3)); });
  EXPECT_EQ(deliver(new_permall()).kind, Kind::delivered);
}

// --- Time -------------------------------------------------------------------------------------------------

TEST_F(XapiFailuresTest, AReadThatIsNotAnsweredEndsInTimeAndDoesNotSpeakAgainstAXapiThatAnswersOthers) {
  make_impatient();
  warm_up();
  xapi.react(get_contents, {Reaction::hang()});
  const Time start = loop.now();
  const Fetched fetched = fetch();
  EXPECT_EQ(fetched.kind, Kind::transient);
  EXPECT_FALSE(fetched.upstream_suspect);
  EXPECT_LT(loop.now() - start, seconds(2));
}

TEST_F(XapiFailuresTest, AXapiThatAnswersNothingIsSuspect) {
  make_impatient();
  warm_up();
  xapi.set_rule([](const SeenCall&) { return std::optional(Reaction::hang()); });
  const Fetched fetched = fetch();
  EXPECT_EQ(fetched.kind, Kind::transient);
  EXPECT_TRUE(fetched.upstream_suspect);
  const Outcome outcome = deliver(new_permall());
  EXPECT_EQ(outcome.kind, Kind::transient) << "it never came to the update";
  EXPECT_TRUE(outcome.upstream_suspect);
  const Time start = loop.now();
  EXPECT_EQ(probe().kind, Kind::transient);
  EXPECT_LT(loop.now() - start, seconds(1));
}

TEST_F(XapiFailuresTest, ALoginThatIsNotAnsweredStrandsNobodyAndIsGivenUpAtLast) {
  make_impatient();
  xapi.react(login, {Reaction::hang()});
  EXPECT_EQ(fetch().kind, Kind::transient);
  EXPECT_EQ(probe().kind, Kind::transient);
  EXPECT_EQ(xapi.count(login), 1u) << "those who come later wait for the same login";
  settle(milliseconds(250));
  EXPECT_EQ(fetch().kind, Kind::delivered);
  EXPECT_EQ(xapi.count(login), 2u);
}

TEST_F(XapiFailuresTest, ASlowLoginSucceedsAlthoughTheProbeThatStartedItGaveUp) {
  make_impatient();
  xapi.react(login, {Reaction::after(milliseconds(150))});
  EXPECT_EQ(probe().kind, Kind::transient);
  EXPECT_TRUE(run_until(loop, [this] { return upstream->epoch() == 1; }));
  EXPECT_EQ(probe().kind, Kind::delivered);
  EXPECT_EQ(xapi.count(login), 1u);
}

TEST_F(XapiFailuresTest, AnUpdateThatWasSentIsOutlivedNotGivenUp) {
  make_impatient();
  const Delivery delivery = direct();
  xapi.react(set_contents, {Reaction::after(milliseconds(400))});
  const Outcome outcome = deliver(delivery);
  EXPECT_EQ(outcome.kind, Kind::delivered) << "long after every time limit";
}

TEST_F(XapiFailuresTest, HungUpdatesOfManyVmsDelayNobodyElse) {
  options.direct_timeout = milliseconds(50);
  options.connections = 4;
  make();
  std::vector<Uuid> vms;
  for (int i = 0; i < 30; ++i) {
    Uuid vm = vm_a;
    vm.bytes[15] = static_cast<std::uint8_t>(i);
    vm.bytes[14] = 0xee;
    Uuid vtpm = vm;
    vtpm.bytes[0] = 1;
    xapi.add_vm(vm, vtpm, "x  ");
    vms.push_back(vm);
  }
  const Fetched known = warm_up();
  xapi.set_rule([](const SeenCall& call) -> std::optional<Reaction> {
    if (call.method == "VTPM.set_contents" && call.params[2].starts_with("hang")) return Reaction::hang();
    return std::nullopt;
  });
  int ended = 0;
  for (const Uuid& vm : vms) {
    upstream->deliver(delivery_of({write_of(Slot::permall, "hang")}, vm), [&ended](Outcome) { ++ended; });
  }
  ASSERT_TRUE(run_until(loop, [this] { return xapi.count(set_contents) == 30; }))
      << "calls that are overdue do not keep others from being sent";
  for (int i = 0; i < 20; ++i) {
    const Time start = loop.now();
    const Outcome outcome = deliver(delivery_of({write_of(Slot::permall, std::to_string(i))}));
    ASSERT_EQ(outcome.kind, Kind::delivered);
    EXPECT_LT(loop.now() - start, seconds(1));
  }
  EXPECT_EQ(ended, 0);
  xapi.stop();
  EXPECT_TRUE(run_until(loop, [&ended] { return ended == 30; })) << "the loss of the connections ends them";
}

TEST_F(XapiFailuresTest, AtTheCeilingCallsWaitAndEndInTime) {
  make_impatient();
  options.connections = 1;
  options.connection_ceiling = 2;
  make();
  warm_up();
  warm_up(vm_b);
  xapi.set_rule([](const SeenCall& call) -> std::optional<Reaction> {
    if (call.method == "VTPM.set_contents") return Reaction::hang();
    return std::nullopt;
  });
  int hung = 0;
  upstream->deliver(new_permall(), [&hung](Outcome) { ++hung; });
  upstream->deliver(delivery_of({write_of(Slot::permall, "x")}, vm_b), [&hung](Outcome) { ++hung; });
  ASSERT_TRUE(run_until(loop, [this] { return xapi.count(set_contents) == 2; }));
  const Fetched fetched = fetch();
  EXPECT_EQ(fetched.kind, Kind::transient);
  EXPECT_EQ(fetched.reason, "VTPM.get_contents: no connection became free in time");
  EXPECT_EQ(upstream->connections(), 2u);
  EXPECT_EQ(hung, 0);
}

// --- The end ----------------------------------------------------------------------------------------------

TEST_F(XapiFailuresTest, AfterItsDestructionNothingIsCalledBack) {
  std::atomic<int> calls = 0;
  xapi.set_rule([](const SeenCall& call) -> std::optional<Reaction> {
    if (call.method == "VTPM.get_contents") return Reaction::after(milliseconds(30));
    return std::nullopt;
  });
  const auto start_all = [this, &calls] {
    upstream->deliver(new_permall(), [&calls](Outcome) { ++calls; });
    upstream->fetch({vm_b, Device::vtpm}, [&calls](Fetched) { ++calls; });
  };
  start_all();
  upstream.reset();  // before anything was sent
  settle();
  make();
  start_all();
  run_until(loop, [this] { return xapi.count(get_contents) > 0; });
  upstream.reset();  // in the middle of calls
  settle(milliseconds(60));
  make();
  xapi.stop();
  start_all();
  upstream.reset();  // after connecting failed
  settle();
  EXPECT_EQ(calls, 0);
  events.signs = 0;
  xapi.start();
  settle();
  EXPECT_EQ(events.signs, 0);
}

}  // namespace
}  // namespace guard::upstream::testing
