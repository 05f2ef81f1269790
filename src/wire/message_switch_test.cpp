#include "wire/message_switch.h"

#include <gtest/gtest.h>

#include <string>

namespace guard::wire::message_switch {
namespace {

constexpr JsonLimits limits{.max_depth = 16, .max_bytes = 1 << 20};

Transfer read(std::string_view text) {
  auto transfer = parse_transfer(text, limits);
  EXPECT_TRUE(transfer) << text;
  return transfer ? std::move(*transfer) : Transfer{};
}

TEST(MessageSwitchTest, ReadsARequestAsTheSwitchListsIt) {
  const Transfer transfer = read(
      R"({"messages":[[["org.xen.xapi.xapi_depriv",0],{"payload":"{\"method\":\"vtpm_create\",\"id\":17}","kind":["Request","xenopsd-xc:2345"]}]],"next":"0"})");
  ASSERT_EQ(transfer.messages.size(), 1u);
  const Message& message = transfer.messages[0];
  EXPECT_EQ(message.id, (MessageId{"org.xen.xapi.xapi_depriv", 0}));
  EXPECT_EQ(message.kind, Message::Kind::request);
  EXPECT_EQ(message.payload, R"({"method":"vtpm_create","id":17})");
  EXPECT_EQ(message.reply_queue, "xenopsd-xc:2345");
  EXPECT_EQ(transfer.next, "0");
}

TEST(MessageSwitchTest, ReadsAResponseAndTagsInAnyCase) {
  const Transfer transfer = read(
      R"({"messages":[[["xenopsd-xc:2345",12],{"payload":"{\"result\":null,\"error\":null,\"id\":0}","kind":["Response",["org.xen.xapi.xapi_depriv",7]]}],)"
      R"([["q",13],{"kind":["rEQUEST","r"],"payload":""}]],"next":"13"})");
  ASSERT_EQ(transfer.messages.size(), 2u);
  EXPECT_EQ(transfer.messages[0].kind, Message::Kind::response);
  EXPECT_EQ(transfer.messages[0].request, (MessageId{"org.xen.xapi.xapi_depriv", 7}));
  EXPECT_EQ(transfer.messages[1].kind, Message::Kind::request);
}

TEST(MessageSwitchTest, ReadsTheAnswersToPollsThatFoundNothing) {
  EXPECT_EQ(read(R"({"messages":[],"next":"-1"})").next, "-1");
  EXPECT_EQ(read(R"({"messages":[],"next":"0"})").next, "0");
}

TEST(MessageSwitchTest, PutsMessagesIntoTheOrderOfTheirArrival) {
  const auto item = [](int number) {
    return R"([["q",)" + std::to_string(number) + R"(],{"payload":"p","kind":["Request","r"]}])";
  };
  const Transfer transfer =
      read(R"({"messages":[)" + item(12) + "," + item(9) + "," + item(3) + R"(],"next":"12"})");
  ASSERT_EQ(transfer.messages.size(), 3u);
  EXPECT_EQ(transfer.messages[0].id.number, 3);
  EXPECT_EQ(transfer.messages[1].id.number, 9);
  EXPECT_EQ(transfer.messages[2].id.number, 12);
}

TEST(MessageSwitchTest, KeepsTheIdsOfMessagesItCannotRead) {
  const Transfer transfer = read(
      R"({"messages":[[["q",1],{"payload":7,"kind":["Request","r"]}],[["q",2]],[["q",3],{"payload":"","kind":["Other","r"]}],)"
      R"([["q",4],{"payload":"","kind":["Response","r"]}],[["q","5"],{}],7,[["q",6],{"payload":"good","kind":["Request","r"]}]],"next":"6"})");
  ASSERT_EQ(transfer.messages.size(), 1u);
  EXPECT_EQ(transfer.messages[0].payload, "good");
  ASSERT_EQ(transfer.unreadable.size(), 4u);
  EXPECT_EQ(transfer.unreadable[3], (MessageId{"q", 4}));
  EXPECT_EQ(transfer.nameless, 2u);
}

TEST(MessageSwitchTest, ReadsBytesThatAreNotUtf8AsQuestionMarks) {
  const std::string good = "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80";
  const std::string bad = "\xff \xc3 \xe0\x80\x80 \xed\xa0\x80 \xf4\x90\x80\x80 \xc0\xaf";
  const Transfer transfer = read(R"({"messages":[[["q",1],{"payload":")" + good + "|" + bad +
                                 R"(","kind":["Request","r"]}]],"next":"1"})");
  ASSERT_EQ(transfer.messages.size(), 1u);
  EXPECT_EQ(transfer.messages[0].payload, good + "|? ? ??? ??? ???? ??");
}

TEST(MessageSwitchTest, RefusesWhatIsNoAnswerToAPoll) {
  for (const char* text :
       {"", "null", "[]", "{}", R"({"messages":[]})", R"({"next":"0"})", R"({"messages":{},"next":"0"})",
        R"({"messages":[],"next":0})", R"({"messages":[],"next":"x"})", R"({"messages":[],"next":"--1"})",
        R"({"messages":[],"next":""})", R"({"messages":[],"next":"0"}x)"}) {
    EXPECT_FALSE(parse_transfer(text, limits)) << text;
  }
  EXPECT_FALSE(parse_transfer(R"({"messages":[],"next":"0"})", {.max_depth = 16, .max_bytes = 10}));
}

TEST(MessageSwitchTest, TellsAQueuedMessageFromADroppedOne) {
  EXPECT_EQ(*parse_posted(R"([["xenopsd-xc:2345",12]])"), (MessageId{"xenopsd-xc:2345", 12}));
  EXPECT_EQ(*parse_posted("[]"), std::nullopt);
  for (const char* text : {"", "{}", "[[]]", R"([["q"]])", R"([["q","1"]])", R"([["q",1],["q",2]])", "[1]"}) {
    EXPECT_FALSE(parse_posted(text)) << text;
  }
}

TEST(MessageSwitchTest, WritesPollsExactlyAsTheOriginal) {
  const std::string first = transfer_body(std::nullopt, 30, "org.xen.xapi.xapi_depriv");
  EXPECT_EQ(first, R"({"timeout":30.0,"queues":["org.xen.xapi.xapi_depriv"]})");
  EXPECT_EQ(first.size(), 54u);
  const std::string later = transfer_body("0", 30, "org.xen.xapi.xapi_depriv");
  EXPECT_EQ(later, R"({"from":"0","timeout":30.0,"queues":["org.xen.xapi.xapi_depriv"]})");
  EXPECT_EQ(later.size(), 65u);
}

TEST(MessageSwitchTest, WritesPathsAndEncodesWhatHasAMeaningInThem) {
  EXPECT_EQ(login_path("1234"), "/login/1234");
  EXPECT_EQ(login_path("xapiguard_cli:999"), "/login/xapiguard_cli:999");
  EXPECT_EQ(persistent_path("org.xen.xapi.xapi_depriv"), "/persistent/org.xen.xapi.xapi_depriv");
  EXPECT_EQ(transient_path("a/b %c?"), "/transient/a%2Fb%20%25c%3F");
  EXPECT_EQ(destroy_path("q"), "/destroy/q");
  EXPECT_EQ(request_path("q", "xenopsd-xc:2345"), "/request/q/xenopsd-xc:2345");
  EXPECT_EQ(response_path("xenopsd-xc:2345", {"org.xen.xapi.xapi_depriv", 0}),
            "/response/xenopsd-xc:2345/org.xen.xapi.xapi_depriv/0");
  EXPECT_EQ(ack_path({"org.xen.xapi.xapi_depriv", 7}), "/ack/org.xen.xapi.xapi_depriv/7");
}

TEST(MessageSwitchTest, ReadsFromTheDiagnosticsHowLongMessagesHaveWaited) {
  const std::string contents =
      R"({"next_transfer_expected":[7],"queue_contents":[[["q",8],{"origin":["Name","x"],"time":4000,"message":{}}],)"
      R"([["q",9],{"time":6000}],[["q",10],{"time":"5"}],[10],[["q",11],{"time":-9223372036854775808}]]})";
  const std::string head = R"({"start_time":100,"current_time":5000,"permanent_queues":)";
  const std::string text = head + R"({"other":{"next_transfer_expected":[],"queue_contents":[]},"q":)" +
                           contents + R"(},"transient_queues":{"t":{"queue_contents":[]}}})";
  const std::string pairs = head + R"([["q",)" + contents + R"(]],"transient_queues":[]})";
  for (const std::string& form : {text, pairs}) {
    const auto ages = parse_ages(form, "q", limits);
    ASSERT_TRUE(ages) << form;
    ASSERT_EQ(ages->entries.size(), 2u);
    EXPECT_EQ(ages->entries[0].number, 8);
    EXPECT_EQ(ages->entries[0].age_ns, 1000);
    EXPECT_EQ(ages->entries[0].after_start_ns, 3900);
    EXPECT_EQ(ages->entries[1].age_ns, -1000);
  }
  EXPECT_TRUE(parse_ages(text, "t", limits)->entries.empty());
  EXPECT_FALSE(parse_ages(text, "absent", limits));
  EXPECT_FALSE(parse_ages("{}", "q", limits));
  EXPECT_FALSE(parse_ages("Please log in.", "q", limits));
}

}  // namespace
}  // namespace guard::wire::message_switch
