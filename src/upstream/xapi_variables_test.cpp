// UEFI variables and alerts through xapi: which calls are made, byte for byte, and what refusals come to.
#include "upstream/upstream_test_support.h"

namespace guard::upstream::testing {
namespace {

constexpr const char* set_nvram = "VM.set_NVRAM_EFI_variables";

class XapiVariablesTest : public XapiFailuresTest {
 protected:
  Delivery variables(std::string value, UpdateFlag flag) {
    Delivery delivery;
    delivery.owner = {vm_a, Device::uefi};
    delivery.writes = {write_of(Slot::nvram, std::move(value))};
    delivery.writes[0].update = flag;
    return delivery;
  }
  Fetched fetch_variables() {
    std::optional<Fetched> fetched;
    upstream->fetch({vm_a, Device::uefi}, [&fetched](Fetched got) { fetched = std::move(got); });
    EXPECT_TRUE(run_until(loop, [&fetched] { return fetched.has_value(); }));
    return fetched ? std::move(*fetched) : Fetched{};
  }
  /// Over a base, so that the update is the only call.
  Delivery direct_variables(std::string value, UpdateFlag flag) {
    const Fetched known = fetch_variables();
    xapi.forget();
    Delivery delivery = variables(std::move(value), flag);
    delivery.base = known.contents;
    delivery.base_epoch = known.epoch;
    return delivery;
  }
  Outcome raise(std::string body, std::int64_t priority = 5) {
    return raise(Alert{vm_a, priority, Value(std::move(body))});
  }
  Outcome raise(Alert alert) {
    std::optional<Outcome> outcome;
    upstream->uefi()->raise(std::move(alert), [&outcome](Outcome got) { outcome = std::move(got); });
    EXPECT_TRUE(run_until(loop, [&outcome] { return outcome.has_value(); }));
    return outcome ? std::move(*outcome) : Outcome{};
  }
  CertificatesState certificates() {
    std::optional<CertificatesState> state;
    upstream->uefi()->certificates_state(vm_a, [&state](CertificatesState got) { state = std::move(got); });
    EXPECT_TRUE(run_until(loop, [&state] { return state.has_value(); }));
    return state ? std::move(*state) : CertificatesState{};
  }
};

TEST_F(XapiVariablesTest, AReadLooksUpTheVmAndGivesTheWholeMap) {
  xapi.set_nvram(vm_a, "EFI-variables", "VkFSUw==");
  xapi.set_nvram(vm_a, "another", "x");
  const Fetched fetched = fetch_variables();
  ASSERT_EQ(fetched.kind, Kind::delivered) << fetched.reason;
  EXPECT_EQ(fetched.contents[Slot::nvram].view(), "VkFSUw==");
  ASSERT_EQ(fetched.contents.nvram_map.size(), 2u);
  EXPECT_EQ(fetched.contents.nvram_map[0].first, "EFI-variables");
  EXPECT_TRUE(fetched.contents.nvram_map[0].second.empty()) << "its value stands in the slot";
  EXPECT_EQ(fetched.contents.nvram_map[1].second.view(), "x");
  EXPECT_EQ(xapi.methods(), (Names{login, "VM.get_by_uuid", "VM.get_NVRAM"}));
  const SeenCall call = xapi.seen()[2];
  EXPECT_EQ(call.body, R"({"method":"VM.get_NVRAM","params":[")" + call.params[0] + R"(",")" +
                           xapi.vm(vm_a).reference + R"("],"id":3})");
}

TEST_F(XapiVariablesTest, TheUpdateFlagIsAFourthParameterUnlessItIsUnspecified) {
  for (const auto& [flag, text] :
       {std::pair{UpdateFlag::unspecified, R"("VALUE"])"}, std::pair{UpdateFlag::yes, R"("VALUE","yes"])"},
        std::pair{UpdateFlag::no, R"("VALUE","no"])"}}) {
    const Outcome outcome = deliver(direct_variables("VALUE", flag));
    ASSERT_EQ(outcome.kind, Kind::delivered) << outcome.reason;
    const auto seen = xapi.seen();
    ASSERT_EQ(seen.size(), 1u) << "one call";
    EXPECT_TRUE(seen[0].body.starts_with(R"({"method":"VM.set_NVRAM_EFI_variables","params":[")" +
                                         seen[0].params[0] + R"(",")" + xapi.vm(vm_a).reference + R"(",)" +
                                         text))
        << seen[0].body;
  }
}

TEST_F(XapiVariablesTest, AnXapiWithoutTheFlagGetsTheValueAlone) {
  xapi.set_rule([](const SeenCall& call) -> std::optional<Reaction> {
    if (call.method != set_nvram || call.params.size() < 4) return std::nullopt;
    return Reaction::error({"MESSAGE_PARAMETER_COUNT_MISMATCH", set_nvram, "2", "3"});
  });
  EXPECT_EQ(deliver(direct_variables("1", UpdateFlag::yes)).kind, Kind::delivered);
  EXPECT_EQ(xapi.methods(), (Names{set_nvram, set_nvram}));
  EXPECT_EQ(xapi.vm(vm_a).nvram["EFI-variables"], "1");
  EXPECT_EQ(deliver(direct_variables("2", UpdateFlag::no)).kind, Kind::delivered);
  EXPECT_EQ(xapi.methods(), Names{set_nvram}) << "remembered";
  EXPECT_EQ(log.count("xapi_takes_no_update_flag"), 1u);
  xapi.end_session();
  xapi.set_rule({});
  (void)fetch_variables();
  EXPECT_EQ(deliver(direct_variables("3", UpdateFlag::yes)).kind, Kind::delivered);
  EXPECT_EQ(xapi.seen()[0].params.size(), 4u) << "a new session may be a newer xapi";
}

TEST_F(XapiVariablesTest, AValueThatStandsThereIsWrittenForItsFlagOnly) {
  xapi.set_nvram(vm_a, "EFI-variables", "V");
  (void)fetch_variables();
  for (const auto& [flag, before, calls] :
       {std::tuple{UpdateFlag::no, false, 0u}, std::tuple{UpdateFlag::yes, false, 1u},
        std::tuple{UpdateFlag::unspecified, false, 1u}, std::tuple{UpdateFlag::yes, true, 0u}}) {
    xapi.forget();
    Delivery delivery = variables("V", flag);
    delivery.writes[0].accepted_before = before;
    EXPECT_EQ(deliver(delivery).kind, Kind::delivered);
    EXPECT_EQ(xapi.count(set_nvram), calls) << name_of(flag);
  }
}

TEST_F(XapiVariablesTest, RefusalsEndAsTheirClassSays) {
  const std::vector<std::tuple<std::vector<std::string>, Kind, bool>> rows{
      {{"INTERNAL_ERROR", "x"}, Kind::transient, false},
      {{"HOST_STILL_BOOTING"}, Kind::transient, true},
      {{"INVALID_VALUE", "value", "VALUE"}, Kind::payload, false},
      {{"MESSAGE_METHOD_UNKNOWN", "x"}, Kind::lane, false},
      {{"SESSION_INVALID", "x"}, Kind::stale, false},
  };
  for (const auto& [error, kind, suspect] : rows) {
    const Delivery delivery = direct_variables("VALUE", UpdateFlag::unspecified);
    xapi.react(set_nvram, {Reaction::error(error)});
    const Outcome outcome = deliver(delivery);
    EXPECT_EQ(outcome.kind, kind) << error[0] << ": " << outcome.reason;
    EXPECT_EQ(outcome.upstream_suspect, suspect) << error[0];
    EXPECT_EQ(outcome.reason.find("VALUE\""), std::string::npos) << "guest bytes in a reason";
    EXPECT_EQ(xapi.count(set_nvram), 1u);
  }
  const Delivery delivery = direct_variables("VALUE", UpdateFlag::yes);
  xapi.react(set_nvram, {Reaction::act_close()});
  EXPECT_EQ(deliver(delivery).kind, Kind::unknown) << "it was sent, and no answer came";
}

TEST_F(XapiVariablesTest, AStaleReferenceIsLookedUpAgainAndAMissingVmIsItsLanesTrouble) {
  (void)fetch_variables();
  xapi.change_references();
  EXPECT_EQ(deliver(variables("1", UpdateFlag::yes)).kind, Kind::delivered);
  xapi.change_references();
  const Fetched fetched = fetch_variables();
  EXPECT_EQ(fetched.contents[Slot::nvram].view(), "1");
  xapi.remove_vm(vm_a);
  EXPECT_EQ(fetch_variables().kind, Kind::lane);
  EXPECT_EQ(deliver(variables("2", UpdateFlag::yes)).kind, Kind::lane);
  EXPECT_EQ(certificates().kind, Kind::lane);
}

TEST_F(XapiVariablesTest, WhatIsNoMapOfTextsIsUnknownAndNotEmpty) {
  for (const char* answer : {R"("")", "[]", R"({"EFI-variables":1})", "null"}) {
    xapi.react("VM.get_NVRAM", {Reaction::result(answer)});
    const Fetched fetched = fetch_variables();
    EXPECT_EQ(fetched.kind, Kind::transient) << answer;
    EXPECT_FALSE(fetched.upstream_suspect);
  }
}

TEST_F(XapiVariablesTest, TheStateOfCertificatesIsPassedOn) {
  const CertificatesState state = certificates();
  EXPECT_EQ(state.kind, Kind::delivered);
  EXPECT_EQ(state.state, "update_available");
  xapi.react("VM.get_secureboot_certificates_state",
             {Reaction::error({"MESSAGE_METHOD_UNKNOWN", "x"}), Reaction::result("5")});
  EXPECT_EQ(certificates().kind, Kind::lane) << "this xapi does not know of any";
  EXPECT_EQ(certificates().kind, Kind::transient);
  xapi.stop();
  const CertificatesState away = certificates();
  EXPECT_EQ(away.kind, Kind::transient);
  EXPECT_TRUE(away.upstream_suspect);
}

TEST_F(XapiVariablesTest, AnAlertIsAMessageWithANumberForItsPriority) {
  EXPECT_EQ(raise("The text \"quoted\"", 5).kind, Kind::delivered);
  EXPECT_EQ(xapi.methods(), (Names{login, "message.create"}));
  const SeenCall call = xapi.seen()[1];
  EXPECT_EQ(call.body, R"({"method":"message.create","params":[")" + call.params[0] +
                           R"(","VM_SECURE_BOOT_FAILED",5,"VM","3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10",)"
                           R"("The text \"quoted\""],"id":2})");
}

TEST_F(XapiVariablesTest, AMessageOfTheGuardsOwnHasItsNameAndMayBeAboutTheHost) {
  EXPECT_EQ(raise(Alert{vm_a, 2, Value("text"), "XAPI_GUARD_DAMAGE", true}).kind, Kind::delivered);
  const SeenCall call = xapi.seen()[1];
  EXPECT_EQ(call.body,
            R"({"method":"message.create","params":[")" + call.params[0] +
                R"(","XAPI_GUARD_DAMAGE",2,"Host","3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10","text"],"id":2})");
}

TEST_F(XapiVariablesTest, AnAlertEndsAsItsRefusalSays) {
  (void)fetch_variables();
  const std::vector<std::tuple<Reaction, Kind, bool>> rows{
      {Reaction::error({"INTERNAL_ERROR", "x"}), Kind::transient, false},
      {Reaction::error({"UUID_INVALID", "VM", vm_a.str()}), Kind::lane, false},
      {Reaction::error({"INVALID_VALUE", "body", "x"}), Kind::payload, false},
      {Reaction::error({"MESSAGE_METHOD_UNKNOWN", "x"}), Kind::lane, false},
      {Reaction::error({"HOST_STILL_BOOTING"}), Kind::transient, true},
      {Reaction::act_close(), Kind::unknown, false},
  };
  for (const auto& [reaction, kind, suspect] : rows) {
    xapi.react("message.create", {reaction});
    const Outcome outcome = raise("text");
    EXPECT_EQ(outcome.kind, kind) << outcome.reason;
    EXPECT_EQ(outcome.upstream_suspect, suspect) << outcome.reason;
  }
  EXPECT_EQ(raise(std::string(limits::xapi_request, 'x')).kind, Kind::payload);
  xapi.end_session();
  xapi.forget();
  EXPECT_EQ(raise("text").kind, Kind::delivered);
  EXPECT_EQ(xapi.methods(), (Names{"message.create", login, "message.create"}))
      << "a session is renewed once";
  ASSERT_EQ(events.ended.size(), 1u);
  xapi.react("message.create",
             {Reaction::error({"SESSION_INVALID", "x"}), Reaction::error({"SESSION_INVALID", "x"})});
  EXPECT_EQ(raise("text").kind, Kind::transient);
}

TEST_F(XapiVariablesTest, AnAlertThatIsNeverAnsweredIsGivenUp) {
  make_impatient();
  (void)fetch_variables();
  xapi.react("message.create", {Reaction::hang()});
  EXPECT_EQ(raise("text").kind, Kind::unknown);
}

}  // namespace
}  // namespace guard::upstream::testing
