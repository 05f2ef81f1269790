// What the upstream makes of every refusal by xapi, and of references that have become stale.
#include "upstream/upstream_test_support.h"

namespace guard::upstream::testing {
namespace {

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

TEST_F(XapiFailuresTest, ARefusalThatOnlyAnOperatorCanMendIsLoggedOnceUntilALoginSucceeds) {
  const Reaction refusal = Reaction::error({"SESSION_AUTHENTICATION_FAILED", "root", "SECRET"});
  xapi.react(login, {refusal, refusal, refusal});
  for (int i = 0; i < 3; ++i) EXPECT_EQ(fetch().kind, Kind::transient);
  ASSERT_EQ(log.count("xapi_refuses_the_guard"), 1u);
  EXPECT_EQ(log.lines[0].level, LogLevel::error);
  EXPECT_EQ(log.lines[0].fields,
            "call=session.login_with_password reason=session.login_with_password: "
            "SESSION_AUTHENTICATION_FAILED ");
  EXPECT_EQ(fetch().kind, Kind::delivered);
  xapi.end_session();
  xapi.react(login, {refusal});
  fetch();
  EXPECT_EQ(log.count("xapi_refuses_the_guard"), 2u);
}

TEST_F(XapiFailuresTest, SessionsAreLoggedWhenTheyBeginAndEndAndNothingElseIsInAnOutage) {
  warm_up();
  xapi.stop();
  for (int i = 0; i < 5; ++i) deliver(new_permall());
  for (int i = 0; i < 5; ++i) probe();
  xapi.start();
  probe();
  std::vector<std::string> logged;
  for (const auto& line : log.lines) logged.push_back(line.event + " " + line.fields);
  EXPECT_EQ(logged, (std::vector<std::string>{"xapi_session_begins epoch=1 ", "xapi_session_ended epoch=1 ",
                                              "xapi_session_begins epoch=2 "}));
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

}  // namespace
}  // namespace guard::upstream::testing
