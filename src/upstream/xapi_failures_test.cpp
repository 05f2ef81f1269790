// What the upstream makes of every kind of trouble with xapi: refusals, lost connections, time-outs,
// sessions.
#include <atomic>

#include "upstream/upstream_test_support.h"

namespace guard::upstream::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr const char* login = "session.login_with_password";
constexpr const char* set_contents = "VTPM.set_contents";
constexpr const char* get_contents = "VTPM.get_contents";

class XapiFailuresTest : public XapiUpstreamTest {
 protected:
  Delivery new_permall() { return delivery_of({write_of(Slot::permall, "newP")}); }
  /// A delivery over the base that `warm_up` tells.
  Delivery direct() {
    const Fetched known = warm_up();
    return based({write_of(Slot::permall, "newP")}, known.contents, known.epoch);
  }
  void make_impatient() {
    options.read_patience = milliseconds(150);
    options.probe_timeout = milliseconds(70);
    options.upstream_timeout = milliseconds(120);
    options.login_timeout = milliseconds(250);
    options.direct_timeout = milliseconds(50);
    make();
  }
};

// --- Refusals ---------------------------------------------------------------------------------------------

struct RefusalRow {
  std::vector<std::string> error;
  Kind kind;
  bool suspect = false;
};

TEST_F(XapiFailuresTest, ARefusedUpdateEndsAsItsClassSays) {
  const std::vector<RefusalRow> rows{
      {{"INTERNAL_ERROR", "x"}, Kind::transient},
      {{"TASK_CANCELLED", "x"}, Kind::transient},
      {{"VM_BAD_POWER_STATE", "x"}, Kind::transient},
      {{"SOMETHING_NEW"}, Kind::transient},
      {{"RBAC_PERMISSION_DENIED", "x"}, Kind::transient},
      {{"SESSION_AUTHENTICATION_FAILED", "x"}, Kind::transient},
      {{"HOST_IS_SLAVE", "192.0.2.10"}, Kind::transient, true},
      {{"HOST_STILL_BOOTING"}, Kind::transient, true},
      {{"UUID_INVALID", "host", "x"}, Kind::transient, true},
      {{"INVALID_VALUE", "contents", "newP"}, Kind::payload},
      {{"MESSAGE_METHOD_UNKNOWN", "x"}, Kind::lane},
      {{"MESSAGE_PARAMETER_COUNT_MISMATCH", "x", "3", "2"}, Kind::lane},
      {{"UUID_INVALID", "VM", "x"}, Kind::lane},
      {{"HANDLE_INVALID", "secret", "OpaqueRef:1"}, Kind::unknown},
  };
  for (const RefusalRow& row : rows) {
    const Delivery delivery = direct();
    xapi.react(set_contents, {Reaction::error(row.error)});
    const Outcome outcome = deliver(delivery);
    EXPECT_EQ(outcome.kind, row.kind) << row.error[0] << ": " << name_of(outcome.kind);
    EXPECT_EQ(outcome.upstream_suspect, row.suspect) << row.error[0];
    EXPECT_EQ(outcome.epoch, delivery.base_epoch);
    EXPECT_TRUE(outcome.reason.starts_with("VTPM.set_contents: " + row.error[0])) << outcome.reason;
    EXPECT_EQ(outcome.reason.find("newP"), std::string::npos) << "guest bytes in a reason";
    EXPECT_EQ(xapi.methods(), Names{set_contents}) << "an update is not repeated here";
    EXPECT_EQ(xapi.contents(vtpm_a), "permA  volA");
  }
}

TEST_F(XapiFailuresTest, AHostInEmergencyIsTransientInBothShapesAndForEveryCall) {
  for (const bool bare : {false, true}) {
    const Reaction booting =
        bare ? Reaction::emergency("HOST_STILL_BOOTING") : Reaction::error({"HOST_STILL_BOOTING"});
    for (const char* method :
         {"VM.get_by_uuid", "VM.get_VTPMs", "VTPM.get_uuid", get_contents, set_contents}) {
      make();
      xapi.react(method, {booting});
      const Outcome outcome = deliver(new_permall());
      EXPECT_EQ(outcome.kind, Kind::transient) << method;
      EXPECT_TRUE(outcome.upstream_suspect) << method;
      EXPECT_NE(outcome.reason.find("HOST_STILL_BOOTING"), std::string::npos) << outcome.reason;
    }
    make();
    xapi.react(login, {booting});
    EXPECT_TRUE(deliver(new_permall()).upstream_suspect);
    EXPECT_EQ(fetch().kind, Kind::delivered) << "and it recovers";
  }
}

TEST_F(XapiFailuresTest, AMissingVmIsATroubleOfItsLane) {
  const Uuid nobody = *Uuid::parse("00000000-8f5b-4c0e-9d2b-6a1e5b7c9d10");
  const Outcome outcome = deliver(delivery_of({write_of(Slot::permall, "x")}, nobody));
  EXPECT_EQ(outcome.kind, Kind::lane);
  EXPECT_FALSE(outcome.upstream_suspect);
  EXPECT_EQ(outcome.reason, "VM.get_by_uuid: UUID_INVALID VM " + nobody.str());
  const Fetched fetched = fetch(nobody);
  EXPECT_EQ(fetched.kind, Kind::lane);
  EXPECT_FALSE(fetched.upstream_suspect);
}

TEST_F(XapiFailuresTest, AVmWithoutAVtpmIsATroubleOfItsLane) {
  xapi.set_vtpms(vm_a, {});
  EXPECT_EQ(fetch().kind, Kind::lane);
  xapi.set_vtpms(vm_a, {"OpaqueRef:NULL"});
  const Outcome outcome = deliver(new_permall());
  EXPECT_EQ(outcome.kind, Kind::lane);
  EXPECT_EQ(outcome.reason, "the VM has no vTPM");
}

TEST_F(XapiFailuresTest, MalformedContentsAreATroubleOfTheLaneAndStayAsTheyAre) {
  for (const std::string bad : {"A B", "A B C D", " "}) {
    xapi.set_contents(vtpm_a, bad);
    EXPECT_EQ(fetch().kind, Kind::lane);
    EXPECT_EQ(deliver(new_permall()).kind, Kind::lane);
    EXPECT_EQ(xapi.contents(vtpm_a), bad);
  }
}

TEST_F(XapiFailuresTest, ResultsOfAnotherTypeAreTransient) {
  xapi.react("VM.get_by_uuid", {Reaction::result("[]")});
  EXPECT_EQ(fetch().kind, Kind::transient);
  for (const char* wrong : {R"("x")", "[1]", "null"}) {
    xapi.react("VM.get_VTPMs", {Reaction::result(wrong)});
    EXPECT_EQ(fetch().kind, Kind::transient) << wrong;
  }
  for (const char* wrong : {R"("no uuid")", "7"}) {
    xapi.react("VTPM.get_uuid", {Reaction::result(wrong)});
    EXPECT_EQ(fetch().kind, Kind::transient) << wrong;
  }
  xapi.react(get_contents, {Reaction::result("null")});
  const Fetched fetched = fetch();
  EXPECT_EQ(fetched.kind, Kind::transient) << "absence is never invented";
  EXPECT_FALSE(fetched.upstream_suspect);
  xapi.end_session();
  xapi.react(login, {Reaction::result("\"\"")});
  EXPECT_TRUE(fetch().upstream_suspect);
}

TEST_F(XapiFailuresTest, OneVmsRefusedReadDoesNotSpeakAgainstXapi) {
  warm_up();
  xapi.react(get_contents, {Reaction::error({"INTERNAL_ERROR", "x"})});
  const Fetched fetched = fetch();
  EXPECT_EQ(fetched.kind, Kind::transient);
  EXPECT_FALSE(fetched.upstream_suspect);
  EXPECT_EQ(xapi.methods(), (Names{get_contents, "VM.get_by_uuid"})) << "judged by a call about no VM";
}

TEST_F(XapiFailuresTest, ARefusedReadSpeaksAgainstXapiWhenACallAboutNoVmFailsToo) {
  warm_up();
  xapi.react(get_contents, {Reaction::error({"INTERNAL_ERROR", "x"})});
  xapi.react("VM.get_by_uuid", {Reaction::error({"INTERNAL_ERROR", "x"})});
  const Fetched fetched = fetch();
  EXPECT_EQ(fetched.kind, Kind::transient);
  EXPECT_TRUE(fetched.upstream_suspect);
}

TEST_F(XapiFailuresTest, ManyFailuresAtOnceAreJudgedByOneCall) {
  warm_up();
  xapi.set_rule([](const SeenCall& call) -> std::optional<Reaction> {
    if (call.method == "VTPM.get_contents") return Reaction::error({"INTERNAL_ERROR", "x"});
    if (call.method == "VM.get_by_uuid") return Reaction::after(milliseconds(50));
    return std::nullopt;
  });
  int ended = 0;
  for (int i = 0; i < 10; ++i) {
    upstream->fetch({vm_a, Device::vtpm}, [&ended](Fetched fetched) {
      EXPECT_FALSE(fetched.upstream_suspect);
      ++ended;
    });
  }
  ASSERT_TRUE(run_until(loop, [&ended] { return ended == 10; }));
  EXPECT_EQ(xapi.count("VM.get_by_uuid"), 1u);
}

// --- References -------------------------------------------------------------------------------------------

TEST_F(XapiFailuresTest, RefusedReferencesAreLookedUpAgainForARead) {
  warm_up();
  xapi.change_references();
  EXPECT_EQ(fetch().contents[Slot::permall].view(), "permA");
  EXPECT_EQ(xapi.methods(),
            (Names{get_contents, "VM.get_by_uuid", "VM.get_VTPMs", "VTPM.get_uuid", get_contents}));
}

TEST_F(XapiFailuresTest, RefusedReferencesMakeABaseStale) {
  const Delivery delivery = direct();
  xapi.replace_vtpm(vm_a, vtpm_b, "other");
  EXPECT_EQ(deliver(delivery).kind, Kind::stale);
  EXPECT_EQ(fetch().contents.vtpm, vtpm_b) << "and they are forgotten";
}

TEST_F(XapiFailuresTest, ReferencesRefusedByTheUpdateAreLookedUpOnceMore) {
  warm_up();
  xapi.set_rule([this, done = false](const SeenCall& call) mutable -> std::optional<Reaction> {
    if (call.method != "VTPM.set_contents" || std::exchange(done, true)) return std::nullopt;
    return Reaction::error({"HANDLE_INVALID", "VTPM", call.params[1]});
  });
  EXPECT_EQ(deliver(new_permall()).kind, Kind::delivered);
  EXPECT_EQ(xapi.methods(), (Names{get_contents, set_contents, "VM.get_by_uuid", "VM.get_VTPMs",
                                   "VTPM.get_uuid", get_contents, set_contents}));
}

TEST_F(XapiFailuresTest, ReferencesThatAreRefusedAgainAndAgainAreATroubleOfTheLane) {
  xapi.set_rule([](const SeenCall& call) -> std::optional<Reaction> {
    if (call.method == "VTPM.get_contents")
      return Reaction::error({"HANDLE_INVALID", "VTPM", call.params[1]});
    return std::nullopt;
  });
  EXPECT_EQ(fetch().kind, Kind::lane);
  EXPECT_EQ(xapi.count(get_contents), 2u);
  xapi.forget();
  xapi.set_rule([](const SeenCall& call) -> std::optional<Reaction> {
    if (call.method == "VTPM.set_contents")
      return Reaction::error({"HANDLE_INVALID", "VTPM", call.params[1]});
    return std::nullopt;
  });
  EXPECT_EQ(deliver(new_permall()).kind, Kind::lane);
  EXPECT_EQ(xapi.count(set_contents), 2u);
}

TEST_F(XapiFailuresTest, AVmDeletedBetweenTwoWritesIsATroubleOfItsLane) {
  const Delivery delivery = direct();
  xapi.remove_vm(vm_a);
  EXPECT_EQ(deliver(delivery).kind, Kind::stale);
  EXPECT_EQ(deliver(new_permall()).kind, Kind::lane);
}

TEST_F(XapiFailuresTest, ASecretThatChangesHandsDuringAReadMeansReadingAgainAtOnce) {
  warm_up();
  const Reaction race = Reaction::error({"HANDLE_INVALID", "secret", "OpaqueRef:1"});
  xapi.react(get_contents, {race, race, race});
  EXPECT_EQ(fetch().kind, Kind::delivered);
  EXPECT_EQ(xapi.count(get_contents), 4u);
  xapi.react(get_contents, {race, race, race, race});
  const Fetched fetched = fetch();
  EXPECT_EQ(fetched.kind, Kind::transient);
  EXPECT_FALSE(fetched.upstream_suspect);
}

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
