#include "wire/xmlrpc.h"

#include <gtest/gtest.h>

#include "base/limits.h"

namespace guard::wire {
namespace {

using Kind = XmlRpcParam::Kind;

constexpr std::size_t bound = limits::max_body_xmlrpc;

XmlRpcParam text(std::string value) { return {Kind::string, std::move(value)}; }
XmlRpcParam number(std::string value) { return {Kind::integer, std::move(value)}; }

/// A call of "m" with one parameter whose value element holds `inner`.
std::string with_value(const std::string& inner) {
  return "<methodCall><methodName>m</methodName><params><param><value>" + inner +
         "</value></param></params></methodCall>";
}
std::string with_params(const std::string& params) {
  return "<methodCall><methodName>m</methodName><params>" + params + "</params></methodCall>";
}
std::string error_of(const std::string& body) {
  const auto call = parse_xmlrpc_call(body, bound);
  if (call) return "accepted";
  EXPECT_EQ(call.error().code, Errc::invalid);
  return call.error().message;
}
#define EXPECT_REFUSED(body, why) \
  EXPECT_NE(error_of(body).find(why), std::string::npos) << (body) << "\n" << error_of(body)

XmlRpcParam value_of(const std::string& inner) {
  const auto call = parse_xmlrpc_call(with_value(inner), bound);
  if (!call) return {Kind::structure, call.error().message};
  EXPECT_EQ(call->params.size(), 1u);
  return call->params.at(0);
}

TEST(XmlRpc, ReadsTheLoginThatVarstoredSends) {
  const auto call = parse_xmlrpc_call(
      "<?xml version='1.0'?><methodCall><methodName>session.login_with_password</methodName><params>"
      "<param><value><string>root</string></value></param><param><value><string></string></value></param>"
      "<param><value><string></string></value></param><param><value><string></string></value></param>"
      "</params></methodCall>",
      bound);
  ASSERT_TRUE(call) << call.error().message;
  EXPECT_EQ(*call, (XmlRpcCall{"session.login_with_password", {text("root"), text(""), text(""), text("")}}));
}

TEST(XmlRpc, ReadsTheAlertThatVarstoredSends) {
  const auto call = parse_xmlrpc_call(
      "<?xml version='1.0'?><methodCall><methodName>message.create</methodName><params><param><value><string>"
      "DUMMYSESSION</string></value></param><param><value><string>VM_SECURE_BOOT_FAILED</string></value></"
      "param>"
      "<param><value><int>5</int></value></param><param><value><string>VM</string></value></param><param>"
      "<value><string>11111111-2222-3333-4444-555555555555</string></value></param><param><value><string>The "
      "VM failed to pass Secure Boot verification.</string></value></param></params></methodCall>",
      bound);
  ASSERT_TRUE(call) << call.error().message;
  EXPECT_EQ(*call, (XmlRpcCall{"message.create",
                               {text("DUMMYSESSION"), text("VM_SECURE_BOOT_FAILED"), number("5"), text("VM"),
                                text("11111111-2222-3333-4444-555555555555"),
                                text("The VM failed to pass Secure Boot verification.")}}));
}

TEST(XmlRpc, ReadsUntypedValuesAsStrings) {
  const auto call = parse_xmlrpc_call(
      "<?xml version=\"1.0\"?><methodCall><methodName>message.create</methodName><params><param><value>string"
      "</value></param><param><value>string</value></param><param><value>0</value></"
      "param><param><value>string"
      "</value></param><param><value>string</value></param><param><value>string</value></param></params>"
      "</methodCall>",
      bound);
  ASSERT_TRUE(call) << call.error().message;
  EXPECT_EQ(call->params.size(), 6u);
  EXPECT_EQ(call->params[2], text("0"));
  EXPECT_EQ(call->params[2].integer(), 0);
}

TEST(XmlRpc, EmptyStringsHaveManyForms) {
  EXPECT_EQ(value_of(""), text(""));
  EXPECT_EQ(value_of("<string></string>"), text(""));
  EXPECT_EQ(value_of("<string/>"), text(""));
  const auto call = parse_xmlrpc_call(with_params("<param><value/></param>"), bound);
  ASSERT_TRUE(call);
  EXPECT_EQ(call->params.at(0), text(""));
}

TEST(XmlRpc, ReadsEveryType) {
  EXPECT_EQ(value_of("<int>-5</int>"), number("-5"));
  EXPECT_EQ(value_of("<i4>5</i4>"), number("5"));
  EXPECT_EQ(value_of("<i8>9223372036854775807</i8>"), number("9223372036854775807"));
  EXPECT_EQ(value_of("<boolean>1</boolean>"), (XmlRpcParam{Kind::boolean, "1"}));
  EXPECT_EQ(value_of("<double>1.5</double>"), (XmlRpcParam{Kind::real, "1.5"}));
  EXPECT_EQ(value_of("<dateTime.iso8601>19980717T14:08:55</dateTime.iso8601>"),
            (XmlRpcParam{Kind::time, "19980717T14:08:55"}));
  EXPECT_EQ(value_of("<base64>eA==</base64>"), (XmlRpcParam{Kind::base64, "eA=="}));
  EXPECT_EQ(value_of("<nil/>"), (XmlRpcParam{Kind::nil, ""}));
  EXPECT_EQ(value_of("<array><data><value>a</value><value><int>1</int></value></data></array>"),
            (XmlRpcParam{Kind::array, ""}));
  EXPECT_EQ(value_of("<array><data/></array>"), (XmlRpcParam{Kind::array, ""}));
  EXPECT_EQ(value_of("<struct/>"), (XmlRpcParam{Kind::structure, ""}));
  EXPECT_EQ(value_of("<struct><member><name>a</name><value><struct><member><name>b</name><value>c</value>"
                     "</member></struct></value></member></struct>"),
            (XmlRpcParam{Kind::structure, ""}));
  EXPECT_EQ(name_of(Kind::integer), "int");
}

TEST(XmlRpc, WhatACompositeHoldsIsNotTheParameterItself) {
  const auto call = parse_xmlrpc_call(
      with_params("<param><value><array><data><value><array><data><value><string>in</string></value></data>"
                  "</array></value></data></array></value></param><param><value>next</value></param>"),
      bound);
  ASSERT_TRUE(call) << call.error().message;
  EXPECT_EQ(call->params, (std::vector<XmlRpcParam>{{Kind::array, ""}, text("next")}));
}

TEST(XmlRpc, NumbersMayComeAsText) {
  EXPECT_EQ(value_of("5").integer(), 5);
  EXPECT_EQ(value_of("<string>-5</string>").integer(), -5);
  EXPECT_EQ(value_of("<int>+5</int>").integer(), 5);
  EXPECT_EQ(value_of("-9223372036854775808").integer(), INT64_MIN);
  for (const std::string bad : {"", "5 ", "x", "0x5", "1.0", "+-5", "9223372036854775808"}) {
    EXPECT_EQ(value_of(bad).integer(), std::nullopt) << bad;
    EXPECT_REFUSED(with_value("<int>" + bad + "</int>"), "not an integer");
  }
  EXPECT_EQ(value_of("<boolean>1</boolean>").integer(), std::nullopt);
}

TEST(XmlRpc, WhiteSpaceBetweenElementsIsIgnoredAndInsideOfStringsKept) {
  const auto call = parse_xmlrpc_call(
      "<?xml version='1.0' encoding=\"UTF-8\"?>\n<methodCall>\r\n <methodName>m</methodName>\n\t<params> "
      "<param>\n<value>\n  <string> a b </string>\n</value>\n</param> <param><value> c </value></param>"
      "</params>\n</methodCall>\n",
      bound);
  ASSERT_TRUE(call) << call.error().message;
  EXPECT_EQ(call->params, (std::vector<XmlRpcParam>{text(" a b "), text(" c ")}));
}

TEST(XmlRpc, ResolvesTheEntitiesOfXmlAndCharacterReferences) {
  EXPECT_EQ(value_of("&lt;&amp;&quot;&gt;&apos;"), text("<&\">'"));
  EXPECT_EQ(value_of("<string>&#65;&#x42;&#233;</string>"), text("AB\xc3\xa9"));
  EXPECT_EQ(value_of("<![CDATA[<&>]]>"), text("<&>"));
  EXPECT_EQ(value_of("a<!-- b -->c"), text("ac"));
}

TEST(XmlRpc, RefusesDocumentTypesEntitiesAndInstructions) {
  const std::string rest = with_value("x");
  EXPECT_REFUSED("<!DOCTYPE methodCall>" + rest, "document types");
  EXPECT_REFUSED("<!DOCTYPE m [<!ENTITY e \"x\">]>" + with_value("&e;"), "document types");
  EXPECT_REFUSED("<!DOCTYPE m SYSTEM \"file:///etc/passwd\">" + rest, "document types");
  EXPECT_REFUSED(with_value("&e;"), "undefined entity");
  EXPECT_REFUSED("<?php x?>" + rest, "processing instructions");
  EXPECT_REFUSED(with_value("a<?x y?>"), "processing instructions");
  EXPECT_REFUSED(rest + "<?x y?>", "processing instructions");
}

TEST(XmlRpc, RefusesTextThatIsNotUtf8WhateverIsDeclared) {
  EXPECT_REFUSED(with_value("\xff"), "invalid token");
  EXPECT_REFUSED("<?xml version='1.0' encoding='ISO-8859-1'?>" + with_value("\xe9"), "invalid token");
  EXPECT_REFUSED(with_value("\xed\xa0\x80"), "invalid token");  // half a surrogate pair
  EXPECT_REFUSED(with_value(std::string("a\0b", 3)), "invalid token");
  EXPECT_REFUSED(with_value("\x01"), "invalid token");
  EXPECT_REFUSED(with_value("&#1;"), "invalid character");
  EXPECT_EQ(value_of("\xc3\xa9\xf0\x9f\x98\x80"), text("\xc3\xa9\xf0\x9f\x98\x80"));
}

TEST(XmlRpc, RefusesWhatIsNoCall) {
  EXPECT_REFUSED("", "empty");
  EXPECT_REFUSED("x", "syntax error");
  EXPECT_REFUSED("<methodResponse/>", "unknown element");
  EXPECT_REFUSED("<params/>", "out of place");
  EXPECT_REFUSED("<methodCall/>", "no parameters");
  EXPECT_REFUSED("<methodCall><methodName>m</methodName></methodCall>", "no parameters");
  EXPECT_REFUSED("<methodCall><params/></methodCall>", "out of place");
  EXPECT_REFUSED("<methodCall><methodName></methodName><params/></methodCall>", "no method");
  EXPECT_REFUSED("<methodCall><methodName>m</methodName><params/><params/></methodCall>", "out of place");
  EXPECT_REFUSED("<methodCall><methodName>m</methodName><params/>", "no element found");
  EXPECT_REFUSED(with_params("") + with_params(""), "junk after document element");
  EXPECT_REFUSED(with_params("<param/>"), "without a value");
  EXPECT_REFUSED(with_params("<value/>"), "out of place");
  EXPECT_REFUSED(with_params("<param><value/><value/></param>"), "out of place");
  EXPECT_REFUSED(with_params("text"), "text beside elements");
  EXPECT_REFUSED(with_params("text<param><value/></param>"), "text beside elements");
  EXPECT_REFUSED("<methodCall a=\"b\"><methodName>m</methodName><params/></methodCall>", "attributes");
}

TEST(XmlRpc, RefusesMalformedValues) {
  EXPECT_REFUSED(with_value("<string>a</string>b"), "text beside elements");
  EXPECT_REFUSED(with_value("a<string>b</string>"), "text beside elements");
  EXPECT_REFUSED(with_value("<string>a</string><string>b</string>"), "out of place");
  EXPECT_REFUSED(with_value("<string><string/></string>"), "out of place");
  EXPECT_REFUSED(with_value("<value/>"), "out of place");
  EXPECT_REFUSED(with_value("<float>1</float>"), "unknown element");
  EXPECT_REFUSED(with_value("<boolean>2</boolean>"), "not a boolean");
  EXPECT_REFUSED(with_value("<nil>x</nil>"), "text in nil");
  EXPECT_REFUSED(with_value("<array/>"), "without data");
  EXPECT_REFUSED(with_value("<array><data/><data/></array>"), "out of place");
  EXPECT_REFUSED(with_value("<array><data><int>1</int></data></array>"), "out of place");
  EXPECT_REFUSED(with_value("<array><data>x</data></array>"), "text beside elements");
  EXPECT_REFUSED(with_value("<struct><member/></struct>"), "without a value");
  EXPECT_REFUSED(with_value("<struct><member><name>a</name></member></struct>"), "without a value");
  EXPECT_REFUSED(with_value("<struct><member><value/><name>a</name></member></struct>"), "out of place");
  EXPECT_REFUSED(with_value("<struct><member><name><value/></name></member></struct>"), "out of place");
}

TEST(XmlRpc, EveryBoundHolds) {
  const auto params = [](std::size_t count) {
    std::string all;
    for (std::size_t i = 0; i < count; ++i) all += "<param><value>x</value></param>";
    return with_params(all);
  };
  EXPECT_EQ(error_of(params(limits::xmlrpc_params)), "accepted");
  EXPECT_REFUSED(params(limits::xmlrpc_params + 1), "too many parameters");

  const auto nested = [](std::size_t arrays) {
    std::string inner = "x";
    for (std::size_t i = 0; i < arrays; ++i)
      inner = "<array><data><value>" + inner + "</value></data></array>";
    return with_value(inner);
  };
  // Four elements around it, three for each array.
  EXPECT_EQ(error_of(nested((limits::xmlrpc_depth - 4) / 3)), "accepted");
  EXPECT_REFUSED(nested((limits::xmlrpc_depth - 4) / 3 + 1), "too deep");

  const auto named = [](std::size_t size) {
    return "<methodCall><methodName>" + std::string(size, 'm') + "</methodName><params/></methodCall>";
  };
  EXPECT_EQ(error_of(named(limits::xmlrpc_method)), "accepted");
  EXPECT_REFUSED(named(limits::xmlrpc_method + 1), "name is too long");

  const auto sized = [](std::size_t size) {
    return with_value(std::string(size - with_value("").size(), 'A'));
  };
  EXPECT_EQ(error_of(sized(bound)), "accepted");
  EXPECT_REFUSED(sized(bound + 1), "too long");
  EXPECT_TRUE(parse_xmlrpc_call(sized(200), 200));
  EXPECT_FALSE(parse_xmlrpc_call(sized(200), 199));
}

TEST(XmlRpc, ErrorsNameThePositionAndNoContent) {
  const std::string message = error_of(with_value("s3cret<b>"));
  EXPECT_EQ(message, "no XML-RPC call: unknown element at byte 66");
  EXPECT_EQ(error_of(with_value("s3cret&")).find("s3cret"), std::string::npos);
}

const std::string success =
    "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct><member><name>Status</name><value>"
    "Success</value></member><member><name>Value</name>";
const std::string end = "</member></struct></value></param></params></methodResponse>";

TEST(XmlRpc, WritesResultsAsTheOriginalDoes) {
  EXPECT_EQ(xmlrpc_success(), success + "<value><nil/></value>" + end);
  EXPECT_EQ(xmlrpc_success().size(), 232u);
  EXPECT_EQ(xmlrpc_success("DUMMYSESSION"), success + "<value>DUMMYSESSION</value>" + end);
  EXPECT_EQ(xmlrpc_success("DUMMYSESSION").size(), 238u);
  EXPECT_EQ(xmlrpc_success("DUMMYVM").size(), 233u);
}

TEST(XmlRpc, WritesMapsInTheOrderGiven) {
  using Members = std::vector<std::pair<std::string, Value>>;
  EXPECT_EQ(xmlrpc_success(Members{}), success + "<value><struct></struct></value>" + end);
  EXPECT_EQ(xmlrpc_success(Members{}).size(), 243u);
  const Members one{{"EFI-variables", Value("VkFSUw==")}};
  EXPECT_EQ(xmlrpc_success(one),
            success +
                "<value><struct><member><name>EFI-variables</name><value>VkFSUw==</value>"
                "</member></struct></value>" +
                end);
  EXPECT_EQ(xmlrpc_success(one).size(), 309u);
  const Members three{{"z", Value("<&\">")}, {"a<", Value()}, {"m", Value("x")}};
  EXPECT_EQ(
      xmlrpc_success(three),
      success +
          "<value><struct><member><name>z</name><value>&lt;&amp;&quot;&gt;</value></member><member><name>"
          "a&lt;</name><value></value></member><member><name>m</name><value>x</value></member></struct>"
          "</value>" +
          end);
}

TEST(XmlRpc, WritesFailuresAsTheOriginalDoes) {
  EXPECT_EQ(
      xmlrpc_failure("error"),
      "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct><member><name>Status</name>"
      "<value>Failure</value></member><member><name>ErrorDescription</name><value><array><data><value>"
      "Internal_error</value><value>error</value></data></array></value></member></struct></value></param>"
      "</params></methodResponse>");
  EXPECT_EQ(
      xmlrpc_failure("Server_error(HANDLE_INVALID, [ VM; OpaqueRef:1d2e3f40-5162-4738-9405-a6b7c8d9e0f1 ])")
          .size(),
      393u);
  EXPECT_EQ(xmlrpc_not_allowed(),
            "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct><member><name>Status</name>"
            "<value>Failure</value></member><member><name>ErrorDescription</name><value>Not allowed</value>"
            "</member></struct></value></param></params></methodResponse>");
  EXPECT_EQ(xmlrpc_not_allowed().size(), 248u);
}

TEST(XmlRpc, EscapesAsTheOriginalDoes) {
  std::string out;
  append_xml(out, std::string("a\0\x01\x1f\t\n\r\x7f\xc3\xa9\xff'", 12));
  EXPECT_EQ(out, "a\t\n\r\x7f\xc3\xa9\xff'");
}

}  // namespace
}  // namespace guard::wire
