// The calls of varstored and their answers, byte for byte.
#include "device/varstored_rpc.h"

#include <gtest/gtest.h>

#include "device/varstored_test_support.h"

namespace guard::device {
namespace {

using namespace test;
using net::test::Client;
using Kind = UefiOutcome::Kind;

using VarstoredRpc = VarstoredTest;

TEST_F(VarstoredRpc, ALoginIsAnsweredAndTheConnectionClosed) {
  const std::string login =
      post(call("session.login_with_password", {str("root"), str(""), str(""), str("")}));
  ASSERT_NE(login.find("Content-Length: 307\r\n"), std::string::npos) << "as recorded";
  expect(
      login,
      "HTTP/1.1 200 OK\r\ncontent-length: 238\r\n\r\n"
      "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct><member><name>Status</name>"
      "<value>Success</value></member><member><name>Value</name><value>DUMMYSESSION</value></member></struct>"
      "</value></param></params></methodResponse>");
}

TEST_F(VarstoredRpc, TheCallsOfAStartAsRecorded) {
  const std::string by_uuid =
      post(call("VM.get_by_uuid", {str("DUMMYSESSION"), str("11111111-2222-3333-4444-555555555555")}));
  ASSERT_NE(by_uuid.find("Content-Length: 244\r\n"), std::string::npos);
  expect(by_uuid, success("<value>DUMMYVM</value>"));
  ASSERT_NE(post(get_call()).find("Content-Length: 213\r\n"), std::string::npos);
  with_lane([](MapUefi& lane) { lane.entries = {{"EFI-variables", Value("VkFSUw==")}}; });
  expect(post(get_call()),
         "HTTP/1.1 200 OK\r\ncontent-length: 309\r\n\r\n"
         "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct><member><name>Status</name>"
         "<value>Success</value></member><member><name>Value</name><value><struct><member><name>EFI-variables"
         "</name><value>VkFSUw==</value></member></struct></value></member></struct></value></param></params>"
         "</methodResponse>");
  const std::string logout = post(call("session.logout", {str("DUMMYSESSION")}));
  ASSERT_NE(logout.find("Content-Length: 161\r\n"), std::string::npos);
  expect(logout, done);
  EXPECT_EQ(calls(), "get ");
}

TEST_F(VarstoredRpc, AFirstBootHasAnEmptyMap) {
  expect(post(get_call()), success("<value><struct></struct></value>"));
}

TEST_F(VarstoredRpc, AMapComesWholeInItsOrderAndEscaped) {
  with_lane([](MapUefi& lane) {
    lane.entries = {{"z", Value("<&\">")}, {"EFI-variables", Value("A\x01\nB")}, {"a", Value()}};
  });
  expect(
      post(get_call()),
      success("<value><struct><member><name>z</name><value>&lt;&amp;&quot;&gt;</value></member><member><name>"
              "EFI-variables</name><value>A\nB</value></member><member><name>a</name><value></value></member>"
              "</struct></value>"));
}

TEST_F(VarstoredRpc, ASetBringsTheValueWithoutAFlag) {
  expect(post(set_call("VkFSUw==")), done);
  expect(post(call("VM.set_NVRAM_EFI_variables",
                   {str("S"), str("V"), str("a&lt;b&amp;&quot;&gt;"), str("yes")})),
         done);
  EXPECT_EQ(calls(), "set(VkFSUw==,-) set(a<b&\">,-) ") << "a fourth parameter of this call is ignored";
}

TEST_F(VarstoredRpc, ASetOfTheSecondKindBringsItsFlag) {
  for (const std::string flag : {"yes", "no", "unspecified", "maybe", "", "YES", "string"}) {
    expect(post(call("VM.set_NVRAM_EFI_variables_v2", {"string", "string", "string", flag})), done);
  }
  EXPECT_EQ(calls(),
            "set(string,yes) set(string,no) set(string,-) set(string,-) set(string,-) set(string,-) "
            "set(string,-) ");
}

TEST_F(VarstoredRpc, TheSecureBootStateIsPassedOn) {
  expect(post(call("VM.get_secureboot_certificates_state", {"string", "string"})),
         success("<value>update_available</value>"));
  EXPECT_EQ(calls(), "state ");
}

TEST_F(VarstoredRpc, AnAlertKeepsItsPriorityAndBodyOnly) {
  const std::string recorded =
      post(call("message.create", {str("DUMMYSESSION"), str("VM_SECURE_BOOT_FAILED"), "<int>5</int>",
                                   str("VM"), str("3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"),
                                   str("The VM failed to pass Secure Boot verification.")}));
  ASSERT_NE(recorded.find("Content-Length: 497\r\n"), std::string::npos);
  expect(recorded, done);
  expect(post(call("message.create", {"string", "string", "0", "string", "string", "string"})), done);
  expect(post(call("message.create", {"s", "OTHER", "<i8>-9223372036854775808</i8>", "Host", "someone", ""})),
         done);
  EXPECT_EQ(calls(),
            "alert(5,The VM failed to pass Secure Boot verification.) alert(0,string) "
            "alert(-9223372036854775808,) ");
}

TEST_F(VarstoredRpc, ConstantsNeverAskAndNeverFail) {
  outcome({Kind::unavailable, "xapi is away"});
  expect(post(call("session.login_with_password", {"a", "b", "c", "d", "surplus"})),
         success("<value>DUMMYSESSION</value>"));
  expect(post(call("VM.get_by_uuid", {"a", "no uuid"})), success("<value>DUMMYVM</value>"));
  expect(post(call("session.logout", {""})), done);
  EXPECT_EQ(calls(), "");
}

TEST_F(VarstoredRpc, WhatIsNoCallOfThisInterfaceFailsWithStatus200) {
  const auto unknown = [](const std::string& name) {
    return failure("Idl.UnknownMethod(&quot;" + name + "&quot;)");
  };
  expect(post(call("VM.start", {"a"})), unknown("VM.start"));
  expect(post(call("VM_get_NVRAM", {"a", "b"})), unknown("VM_get_NVRAM"));
  expect(post(call("vm.get_nvram", {"a", "b"})), unknown("vm.get_nvram"));
  expect(post(call("a\xc3\xa9\"\nb", {})), unknown("a????b"));
  const std::string missing = failure("Idl.MarshalError(&quot;Incorrect number of arguments&quot;)");
  expect(post(call("session.login_with_password", {"a", "b", "c"})), missing);
  expect(post(call("session.logout", {})), missing);
  expect(post(call("VM.get_by_uuid", {"a"})), missing);
  expect(post(call("VM.get_NVRAM", {"a"})), missing);
  expect(post(call("VM.set_NVRAM_EFI_variables", {"a", "b"})), missing);
  expect(post(call("VM.set_NVRAM_EFI_variables_v2", {"a", "b", "c"})), missing);
  expect(post(call("VM.get_secureboot_certificates_state", {"a"})), missing);
  expect(post(call("message.create", {"a", "b", "1", "d", "e"})), missing);
  const auto wrong = [](const std::string& expected, const std::string& got) {
    return failure("Idl.MarshalError(&quot;Expected " + expected + ", got '" + got + "'&quot;)");
  };
  expect(post(call("VM.get_NVRAM", {"<int>5</int>", "b"})), wrong("string", "int"));
  expect(post(call("VM.set_NVRAM_EFI_variables", {"a", "b", "<base64>AA==</base64>"})),
         wrong("string", "base64"));
  expect(post(call("message.create", {"a", "b", "high", "d", "e", "f"})), wrong("int", "string"));
  expect(post(call("message.create", {"a", "b", "<nil/>", "d", "e", "f"})), wrong("int", "nil"));
  expect(post(""), failure("no XML-RPC call: the body is empty"));
  expect(post("hello"), failure("no XML-RPC call: syntax error at byte 0"));
  expect(post("<!DOCTYPE m>" + get_call().substr(21)),
         failure("no XML-RPC call: document types are refused at byte 11"));
  EXPECT_EQ(calls(), "");
}

TEST_F(VarstoredRpc, WhatIsRefusedForGoodFailsAtOnce) {
  outcome({Kind::refused,
           "Server_error(HANDLE_INVALID, [ VM; OpaqueRef:1d2e3f40-5162-4738-9405-a6b7c8d9e0f1 ])"});
  const std::string text =
      failure("Server_error(HANDLE_INVALID, [ VM; OpaqueRef:1d2e3f40-5162-4738-9405-a6b7c8d9e0f1 ])");
  ASSERT_NE(text.find("content-length: 393\r\n"), std::string::npos) << "as the original";
  expect(post(get_call()), text);
  expect(post(set_call("AAAA")), text);
  expect(post(call("VM.get_secureboot_certificates_state", {"", ""})), text);
  expect(post(call("message.create", {"", "", "1", "", "", ""})), text);
  EXPECT_EQ(calls(), "get set(AAAA,-) state alert(1,) ");
}

TEST_F(VarstoredRpc, AllOtherMethodsAreNotAllowed) {
  for (const std::string method : {"GET", "PUT", "DELETE", "OPTIONS", "post"}) {
    expect(method + " / HTTP/1.1\r\nConnection: close\r\n\r\n", not_allowed);
  }
  expect("HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n", not_allowed.substr(0, not_allowed.size() - 248));
  EXPECT_EQ(calls(), "");
}

TEST_F(VarstoredRpc, AnyPathWillDo) {
  std::string request = post(get_call());
  request.replace(0, 6, "POST /RPC2?x=y");
  expect(request, success("<value><struct></struct></value>"));
}

TEST_F(VarstoredRpc, AConnectionThatIsNotToBeClosedGoesOn) {
  const std::string body = get_call();
  const std::string request =
      "POST / HTTP/1.1\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  Client client(socket_.path());
  client.send(request + request);
  const std::string answer = success("<value><struct></struct></value>");
  EXPECT_EQ(client.read(2 * answer.size()), answer + answer);
  EXPECT_TRUE(client.silent());
}

TEST_F(VarstoredRpc, APostWithoutALengthHasAnEmptyBodyAndIsTheLast) {
  expect("POST / HTTP/1.1\r\n\r\n" + post(set_call("AAAA")), failure("no XML-RPC call: the body is empty"));
  EXPECT_EQ(calls(), "");
}

TEST_F(VarstoredRpc, AChunkedRequestIsARequest) {
  const std::string body = get_call();
  expect("POST / HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nd5\r\n" + body +
             "\r\n0\r\n\r\n",
         success("<value><struct></struct></value>"));
}

TEST_F(VarstoredRpc, TheLargestVariableStoreComesBackIntact) {
  const std::string value(175'000, 'A');
  expect(post(set_call(value)), done);
  expect(post(get_call()), success("<value><struct><member><name>EFI-variables</name><value>" + value +
                                   "</value></member></struct>"
                                   "</value>"));
}

TEST_F(VarstoredRpc, AnAnswerThatVarstoredWouldCutOffIsAFailure) {
  const std::size_t frame = success(
                                "<value><struct><member><name>EFI-variables</name><value></value></member>"
                                "</struct></value>")
                                .size() +
                            3;  // digits of the length
  const std::size_t most = limits::varstored_response - frame;
  with_lane([&](MapUefi& lane) { lane.entries = {{"EFI-variables", Value(std::string(most, 'A'))}}; });
  Client client(socket_.path());
  client.send(post(get_call()));
  const std::string whole = client.read_all();
  EXPECT_EQ(whole.size(), limits::varstored_response);
  EXPECT_TRUE(whole.ends_with("</methodResponse>"));
  with_lane([&](MapUefi& lane) { lane.entries = {{"EFI-variables", Value(std::string(most + 1, 'A'))}}; });
  expect(post(get_call()), failure("the map of variables is too large for varstored"));
}

TEST_F(VarstoredRpc, ValuesThatCouldNotBeDeliveredOrReadBackAreRefusedBeforeAnybodyIsAsked) {
  const std::string refused = failure("Invalid_argument(&quot;the variables are too large&quot;)");
  const std::size_t most = limits::varstored_response - limits::varstored_response_rest;
  expect(post(set_call(std::string(most, 'A'))), done);
  with_lane([](MapUefi& lane) { lane.calls.clear(); });
  expect(post(set_call(std::string(most + 1, 'A'))), refused);
  expect(post(set_call(std::string(most, 'A') + "&lt;")), refused);
  std::string quotes;
  for (int i = 0; i < 45'000; ++i) quotes += "&quot;";  // one byte each, six in an answer
  expect(post(set_call(quotes)), refused);
  // Controls are dropped from answers, and six bytes each in a request to xapi.
  std::string deletes(60'000, '\x7f');
  expect(post(set_call(deletes)), refused);
  expect(post(set_call("")), failure("Invalid_argument(&quot;the variables are empty&quot;)"));
  expect(post(set_call("\xff")), failure("no XML-RPC call: not well-formed (invalid token) at byte 227"));
  expect(post(call("message.create", {"", "", "1", "", "", std::string(limits::xapi_request - 511, 'x')})),
         failure("Invalid_argument(&quot;the body is too large&quot;)"));
  EXPECT_EQ(calls(), "");
}

TEST_F(VarstoredRpc, ABodyOverTheLimitEndsTheConnection) {
  expect(post(std::string(limits::max_body_xmlrpc + 1, 'A')), failure("the request is too large"));
  expect(post(std::string(2 * limits::MiB, 'A')), failure("the request is too large"));
  EXPECT_EQ(calls(), "");
}

TEST_F(VarstoredRpc, SlowAndHalfRequestsEndWithAClose) {
  net::ServerLimits limits = varstored_limits();
  limits.header_deadline = limits.body_deadline = limits.idle_deadline = std::chrono::milliseconds(50);
  serve({}, limits);
  const std::string whole = post(set_call("AAAA"));
  expect("", "");
  expect(whole.substr(0, 30), "");
  expect(whole.substr(0, whole.size() - 1), "");
  Client half(socket_.path());
  half.send(whole.substr(0, whole.size() - 1));
  half.finish_sending();
  EXPECT_EQ(half.read_all(), "");
  EXPECT_EQ(calls(), "");
}

TEST_F(VarstoredRpc, NoMoreThanFourConnectionsAreServedAtATime) {
  with_lane([](MapUefi& lane) { lane.mood = MapUefi::Mood::holds; });
  std::vector<Client> clients;
  for (int i = 0; i < 6; ++i) {
    clients.emplace_back(socket_.path());
    clients.back().send(post(get_call()));
  }
  ASSERT_TRUE(net::test::eventually([&] { return held() == 4; }));
  EXPECT_TRUE(clients[4].silent());
  EXPECT_EQ(thread_.run([&] { return server_->connections(); }), 4u);
  let_go();
  EXPECT_EQ(clients[0].read_all(), success("<value><struct></struct></value>"));
  ASSERT_TRUE(net::test::eventually([&] { return held() == 4; }));
  for (int i = 1; i < 6; ++i) {
    ASSERT_TRUE(net::test::eventually([&] { return held() > 0; }));
    let_go();
  }
  for (std::size_t i = 1; i < 6; ++i)
    EXPECT_EQ(clients[i].read_all(), success("<value><struct></struct></value>"));
}

TEST_F(VarstoredRpc, CountsByMethodAndResult) {
  using S = VarstoredStats;
  expect(post(call("session.login_with_password", {"", "", "", ""})), success("<value>DUMMYSESSION</value>"));
  expect(post(set_call("AAAA")), done);
  expect(post(set_call("")), failure("Invalid_argument(&quot;the variables are empty&quot;)"));
  expect("GET / HTTP/1.0\r\n\r\n", not_allowed);
  expect(post(""), failure("no XML-RPC call: the body is empty"));
  const S stats = this->stats();
  EXPECT_EQ(stats(S::login, S::success), 1u);
  EXPECT_EQ(stats(S::set_nvram, S::success), 1u);
  EXPECT_EQ(stats(S::set_nvram, S::failure), 1u);
  EXPECT_EQ(stats(S::other, S::failure), 2u);
  EXPECT_EQ(stats(S::logout, S::success), 0u);
}

TEST_F(VarstoredRpc, LogsRequestsAtDebugLevelAndAFewFailuresWithoutAByteOfTheGuests) {
  expect(post(set_call("s3cret")), done);
  for (int i = 0; i < 5; ++i) {
    expect(post(call("s3cret.method", {})), failure("Idl.UnknownMethod(&quot;s3cret.method&quot;)"));
  }
  EXPECT_EQ(log_.count("0 varstored_request vm=3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10 "
                       "method=VM.set_NVRAM_EFI_variables result=success reply_bytes=232"),
            1u);
  EXPECT_EQ(log_.count("varstored_request"), 6u);
  EXPECT_EQ(log_.count("3 varstored_failure"), 1u);
  EXPECT_EQ(log_.count("s3cret"), 0u);
}

}  // namespace
}  // namespace guard::device
