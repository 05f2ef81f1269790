#include "wire/json.h"

#include <gtest/gtest.h>

#include <limits>

namespace guard::wire {
namespace {

TEST(Json, ReadsEveryKindOfValue) {
  const auto json = parse_json(R"( {"a":[null,true,false,-7,1.5,"x"],"b":{"c":{}}} )");
  ASSERT_TRUE(json);
  const JsonArray* array = json->find("a")->array();
  ASSERT_TRUE(array);
  EXPECT_EQ(*array, (JsonArray{nullptr, true, false, -7, 1.5, "x"}));
  EXPECT_EQ(*json->find("b"), Json(JsonObject{{"c", JsonObject{}}}));
  EXPECT_EQ(json->find("d"), nullptr);
  EXPECT_EQ((*array)[0].find("a"), nullptr);
}

TEST(Json, ReadsADocumentThatIsAPlainScalar) {
  EXPECT_EQ(parse_json("12").value(), Json(12));
  EXPECT_EQ(parse_json(" \"\" ").value(), Json(""));
  EXPECT_TRUE(parse_json("null").value().is_null());
}

TEST(Json, KeepsIntegersExactAndTurnsWhatIsLargerIntoDoubles) {
  EXPECT_EQ(parse_json("9223372036854775807").value(), Json(std::numeric_limits<std::int64_t>::max()));
  EXPECT_EQ(parse_json("-9223372036854775808").value(), Json(std::numeric_limits<std::int64_t>::min()));
  EXPECT_EQ(parse_json("9223372036854775808").value(), Json(9223372036854775808.0));
  EXPECT_EQ(parse_json("1e2").value(), Json(100.0));
  EXPECT_FALSE(parse_json("1e999"));
  EXPECT_FALSE(parse_json("01"));
}

TEST(Json, KeepsTheOrderOfMembersAndTheLastOfDuplicates) {
  EXPECT_EQ(to_string(parse_json(R"({"z":1,"a":2,"z":3,"b":4,"a":5})").value()), R"({"z":3,"b":4,"a":5})");
}

TEST(Json, DuplicatesInAHugeObjectDoNotTakeQuadraticTime) {
  std::string text = "{";
  for (int i = 0; i < 100'000; ++i) text += "\"k" + std::to_string(i % 50'000) + "\":0,";
  text += "\"end\":0}";
  EXPECT_EQ(parse_json(text)->object()->size(), 50'001u);
}

TEST(Json, DecodesEscapesAndSurrogatePairs) {
  EXPECT_EQ(*parse_json(R"("\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00")")->string(),
            "\"\\/\b\f\n\r\tA\xc3\xa9\xf0\x9f\x98\x80");
  EXPECT_FALSE(parse_json(R"("\ud83d")"));
  EXPECT_FALSE(parse_json(R"("\x41")"));
}

TEST(Json, RefusesWhatIsNotOneDocument) {
  for (const std::string_view bad : {"",        " ",    "{",   "[1,]", "{\"a\":1,}", "{\"a\" 1}",     "{a:1}",
                                     "1 2",     "[1]]", "tru", "nul",  "\"abc",      "\"a\nb\"",      "'a'",
                                     "// c\n1", "NaN",  "[1",  "+1",   ".5",         "\xef\xbb\xbf[]"}) {
    const auto json = parse_json(bad);
    ASSERT_FALSE(json) << bad;
    EXPECT_EQ(json.error().code, Errc::invalid);
  }
}

TEST(Json, RefusesTextThatIsNotUtf8) {
  for (const std::string_view bad :
       {"\"\xff\"", "\"\xc3\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "{\"\x80\":1}"}) {
    EXPECT_FALSE(parse_json(bad)) << bad;
  }
}

TEST(Json, AnErrorNamesThePositionAndNotTheContent) {
  const auto json = parse_json(R"({"secret":tru3})");
  ASSERT_FALSE(json);
  EXPECT_NE(json.error().message.find("byte 10"), std::string::npos) << json.error().message;
  EXPECT_EQ(json.error().message.find("secret"), std::string::npos);
}

TEST(Json, KeepsToItsLimits) {
  EXPECT_TRUE(parse_json("[[[1]]]", {.max_depth = 3}));
  EXPECT_FALSE(parse_json("[[[[1]]]]", {.max_depth = 3}));
  EXPECT_TRUE(parse_json("[1,2,3]", {.max_bytes = 7}));
  EXPECT_FALSE(parse_json("[1,2,3]", {.max_bytes = 6}));
  EXPECT_FALSE(parse_json(std::string(100'000, '[')));
}

TEST(Json, WritesStringsAsXenApiDoes) {
  std::string out;
  append_string(out, std::string_view("\"\\/\b\f\n\r\t\x01\x1f\x7f\0\xc3\xa9 <", 16));
  EXPECT_EQ(out, "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\\u007f\\u0000\xc3\xa9 <\"");
}

TEST(Json, WritesWithoutWhiteSpace) {
  const Json json =
      JsonObject{{"method", "m"}, {"params", JsonArray{"", 5, true, nullptr, JsonObject{}}}, {"id", 1u}};
  EXPECT_EQ(to_string(json), R"({"method":"m","params":["",5,true,null,{}],"id":1})");
}

TEST(Json, ADoubleIsReadBackAsTheSameDouble) {
  for (const double number : {0.0, -0.0, 1.0, 0.1, 1e22, 1e300, -2.5e-300, 9223372036854775808.0}) {
    EXPECT_EQ(parse_json(to_string(Json(number))).value(), Json(number)) << number;
  }
  EXPECT_EQ(to_string(Json(std::numeric_limits<double>::infinity())), "null");
}

TEST(Json, LongStringsSurviveTheRoundTrip) {
  std::string text;
  for (int i = 0; i < 300'000; ++i) text += static_cast<char>('a' + i % 26);
  text += "\n\xc3\xa9";
  EXPECT_EQ(parse_json(to_string(Json(text))).value(), Json(text));
}

}  // namespace
}  // namespace guard::wire
