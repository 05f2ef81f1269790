#include "upstream/xapi_message.h"

#include <gtest/gtest.h>

#include <array>

namespace guard::upstream {
namespace {

using Kind = Failure::Kind;

constexpr std::string_view session = "OpaqueRef:0b5c2d0e-5f0a-4f57-8d0c-3b1a2c4d5e6f";
constexpr std::string_view vtpm = "OpaqueRef:2a3b4c5d-6e7f-4081-92a3-b4c5d6e7f809";

std::string encode(Method method, std::vector<Param> params, std::uint64_t id) {
  return encode_call(method, params, id);
}

TEST(XapiMessage, EncodesCallsAsXapiExpectsThem) {
  EXPECT_EQ(
      encode(Method::login, {"root", "", "v26.22.0", "xapi-guard"}, 1),
      R"({"method":"session.login_with_password","params":["root","","v26.22.0","xapi-guard"],"id":1})");
  EXPECT_EQ(
      encode(Method::vm_get_by_uuid, {session, "3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"}, 2),
      R"({"method":"VM.get_by_uuid","params":["OpaqueRef:0b5c2d0e-5f0a-4f57-8d0c-3b1a2c4d5e6f","3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"],"id":2})");
  EXPECT_EQ(
      encode(Method::vtpm_set_contents, {session, vtpm, "aGVsbG8gdHBtCg==  dm9sYXRpbGU="}, 5),
      R"({"method":"VTPM.set_contents","params":["OpaqueRef:0b5c2d0e-5f0a-4f57-8d0c-3b1a2c4d5e6f","OpaqueRef:2a3b4c5d-6e7f-4081-92a3-b4c5d6e7f809","aGVsbG8gdHBtCg==  dm9sYXRpbGU="],"id":5})");
  EXPECT_EQ(
      encode(Method::logout, {session}, 6),
      R"({"method":"session.logout","params":["OpaqueRef:0b5c2d0e-5f0a-4f57-8d0c-3b1a2c4d5e6f"],"id":6})");
}

TEST(XapiMessage, TheEnvelopeOfAnUpdateHasTheSizeThatTheLimitAllowsFor) {
  const std::string contents(1000, 'A');
  const std::string body = encode(Method::vtpm_set_contents, {session, vtpm, contents}, 12345);
  EXPECT_EQ(body.size(), 148 + 5 + contents.size());
}

TEST(XapiMessage, KnowsTheNameOfEveryMethod) {
  for (std::size_t i = 0; i < method_count; ++i) EXPECT_FALSE(name_of(static_cast<Method>(i)).empty());
  EXPECT_EQ(name_of(Method::vm_get_vtpms), "VM.get_VTPMs");
  EXPECT_EQ(name_of(Method::vtpm_get_uuid), "VTPM.get_uuid");
  EXPECT_EQ(name_of(Method::vtpm_get_contents), "VTPM.get_contents");
}

TEST(XapiMessage, ReadsASuccessWhateverTheOrderOfItsMembers) {
  for (const std::string_view text :
       {R"({"result":"aGVsbG8gdHBtCg==  ","error":null,"id":4})", R"({"id":4,"result":"aGVsbG8gdHBtCg==  "})",
        R"({ "more":[1,{}], "error":null, "id":4, "result":"aGVsbG8gdHBtCg==  " })",
        R"({"jsonrpc":"2.0","result":"aGVsbG8gdHBtCg==  ","id":4})"}) {
    const auto answer = parse_answer(text, 4);
    ASSERT_TRUE(answer) << text;
    const auto* result = std::get_if<wire::Json>(&*answer);
    ASSERT_TRUE(result) << text;
    EXPECT_EQ(*result->string(), "aGVsbG8gdHBtCg==  ");
  }
}

TEST(XapiMessage, ReadsARefusalInEveryShape) {
  for (
      const std::string_view text :
      {R"({"result":null,"error":["HANDLE_INVALID","VTPM","OpaqueRef:1"],"id":7})",
       R"({"id":7,"error":["HANDLE_INVALID","VTPM","OpaqueRef:1"],"result":null})",
       R"({"jsonrpc":"2.0","error":{"code":1,"message":"HANDLE_INVALID","data":["VTPM","OpaqueRef:1"]},"id":7})"}) {
    const auto answer = parse_answer(text, 7);
    ASSERT_TRUE(answer) << text;
    const auto* error = std::get_if<XapiError>(&*answer);
    ASSERT_TRUE(error) << text;
    EXPECT_EQ(error->code, "HANDLE_INVALID");
    EXPECT_EQ(error->params, (std::vector<std::string>{"VTPM", "OpaqueRef:1"}));
    EXPECT_FALSE(error->emergency);
  }
}

TEST(XapiMessage, ReadsTheRefusalOfAHostInEmergencyWhichHasAnotherShapeAndTheIdZero) {
  const auto answer = parse_answer(R"({"jsonrpc":"2.0","error":["HOST_STILL_BOOTING"],"id":0})", 9);
  ASSERT_TRUE(answer);
  const auto* error = std::get_if<XapiError>(&*answer);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code, "HOST_STILL_BOOTING");
  EXPECT_TRUE(error->emergency);
}

TEST(XapiMessage, RefusesWhatIsNoAnswerToThisCall) {
  for (const std::string_view text : {"",
                                      "{",
                                      "null",
                                      "[]",
                                      "7",
                                      R"("x")",
                                      R"({})",
                                      R"({"result":""})",
                                      R"({"result":"","id":8})",
                                      R"({"result":"","id":"7"})",
                                      R"({"result":"","id":7.5})",
                                      R"({"result":"","id":-7})",
                                      R"({"error":null,"id":7})",
                                      R"({"result":null,"error":["SESSION_INVALID","x"],"id":8})",
                                      R"({"result":null,"error":[],"id":7})",
                                      R"({"result":null,"error":[""],"id":7})",
                                      R"({"result":null,"error":["A",1],"id":7})",
                                      R"({"result":null,"error":"A","id":7})",
                                      R"({"error":{"code":1},"id":7})",
                                      R"({"error":{"message":7},"id":7})",
                                      R"({"result":"","error":null,"id":7}x)",
                                      "{\"result\":\"\xff\",\"error\":null,\"id\":7}"}) {
    const auto answer = parse_answer(text, 7);
    ASSERT_FALSE(answer) << text;
    EXPECT_EQ(answer.error().code, Errc::invalid);
  }
}

struct Row {
  XapiError error;
  Kind look_up;
  Kind update;
  bool host_wide = false;
  bool alarm = false;
};

TEST(XapiMessage, SortsEveryRefusalIntoItsClass) {
  const std::array rows{
      Row{{"SESSION_INVALID", {"OpaqueRef:1"}}, Kind::session, Kind::session},
      Row{{"HANDLE_INVALID", {"session", "OpaqueRef:1"}}, Kind::session, Kind::session},
      Row{{"HANDLE_INVALID", {"VM", "OpaqueRef:1"}}, Kind::reference, Kind::reference},
      Row{{"HANDLE_INVALID", {"VTPM", "OpaqueRef:1"}}, Kind::reference, Kind::reference},
      Row{{"HANDLE_INVALID", {"secret", "OpaqueRef:1"}}, Kind::race, Kind::race},
      Row{{"HANDLE_INVALID", {"pool", "OpaqueRef:1"}}, Kind::transient, Kind::transient},
      Row{{"HANDLE_INVALID", {}}, Kind::transient, Kind::transient},
      Row{{"UUID_INVALID", {"VM", "u"}}, Kind::vm, Kind::vm},
      Row{{"UUID_INVALID", {"VTPM", "u"}}, Kind::vm, Kind::vm},
      Row{{"UUID_INVALID", {"host", "u"}}, Kind::transient, Kind::transient, true},
      Row{{"UUID_INVALID", {}}, Kind::transient, Kind::transient, true},
      Row{{"HOST_STILL_BOOTING", {}}, Kind::transient, Kind::transient, true},
      Row{{"HOST_STILL_BOOTING", {}, true}, Kind::transient, Kind::transient, true},
      Row{{"HOST_HAS_NO_MANAGEMENT_IP", {}, true}, Kind::transient, Kind::transient, true},
      // Whatever the code says: in this shape it was refused before anybody looked at the call.
      Row{{"UUID_INVALID", {"VM", "u"}, true}, Kind::transient, Kind::transient, true},
      Row{{"SESSION_INVALID", {"OpaqueRef:1"}, true}, Kind::transient, Kind::transient, true},
      Row{{"HOST_IS_SLAVE", {"192.0.2.10"}}, Kind::transient, Kind::transient, true},
      Row{{"INVALID_VALUE", {"contents", "x"}}, Kind::transient, Kind::payload},
      Row{{"MESSAGE_METHOD_UNKNOWN", {"VTPM.get_uuid"}}, Kind::unsupported, Kind::unsupported},
      Row{{"MESSAGE_PARAMETER_COUNT_MISMATCH", {"x", "3", "4"}}, Kind::unsupported, Kind::unsupported},
      Row{{"SESSION_AUTHENTICATION_FAILED", {"root", "x"}}, Kind::transient, Kind::transient, false, true},
      Row{{"RBAC_PERMISSION_DENIED", {"x"}}, Kind::transient, Kind::transient, false, true},
      Row{{"INTERNAL_ERROR", {"x"}}, Kind::transient, Kind::transient},
      Row{{"VM_BAD_POWER_STATE", {"x"}}, Kind::transient, Kind::transient},
      Row{{"OTHER_OPERATION_IN_PROGRESS", {"x"}}, Kind::transient, Kind::transient},
      Row{{"OPERATION_NOT_ALLOWED", {"x"}}, Kind::transient, Kind::transient},
      Row{{"TASK_CANCELLED", {"x"}}, Kind::transient, Kind::transient},
      Row{{"SOMETHING_NEW", {}}, Kind::transient, Kind::transient},
  };
  for (const Row& row : rows) {
    const Failure read = classify(Method::vtpm_get_contents, row.error);
    const Failure update = classify(Method::vtpm_set_contents, row.error);
    const std::string where = row.error.code + (row.error.params.empty() ? "" : " " + row.error.params[0]);
    EXPECT_EQ(read.kind, row.look_up) << where;
    EXPECT_EQ(update.kind, row.update) << where;
    EXPECT_EQ(read.host_wide, row.host_wide) << where;
    EXPECT_EQ(update.host_wide, row.host_wide) << where;
    EXPECT_EQ(read.alarm, row.alarm) << where;
    EXPECT_TRUE(read.reason.starts_with(row.error.code)) << read.reason;
  }
}

TEST(XapiMessage, AReasonNamesReferencesButNeverParametersThatMayBeGuestBytes) {
  EXPECT_EQ(classify(Method::vm_get_by_uuid, {"UUID_INVALID", {"VM", "3f1c"}}).reason,
            "UUID_INVALID VM 3f1c");
  EXPECT_EQ(classify(Method::vtpm_set_contents, {"INVALID_VALUE", {"contents", "SECRET"}}).reason,
            "INVALID_VALUE");
  EXPECT_EQ(classify(Method::vtpm_set_contents, {"INTERNAL_ERROR", {"SECRET"}}).reason, "INTERNAL_ERROR");
}

TEST(XapiMessage, AReasonIsBoundedAndPrintable) {
  const Failure failure = classify(Method::login, {std::string(5000, 'A') + "\n", {}});
  EXPECT_EQ(failure.reason.size(), 200u);
  EXPECT_EQ(bounded_reason("a\nb\x7f\xc3\xa4"), "a?b???");
}

}  // namespace
}  // namespace guard::upstream
