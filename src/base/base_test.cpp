#include <gtest/gtest.h>

#include "base/limits.h"
#include "base/log.h"
#include "base/text.h"
#include "guard/env.h"
#include "guard/types.h"

namespace guard {
namespace {

TEST(Uuid, ReadsTheCanonicalFormInEitherCaseAndPrintsLowerCase) {
  const auto uuid = Uuid::parse("3F1C0E5A-8f5b-4c0e-9d2b-6a1e5b7c9d10");
  ASSERT_TRUE(uuid);
  EXPECT_EQ(uuid->str(), "3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10");
}

TEST(Uuid, RefusesEverythingElse) {
  EXPECT_FALSE(Uuid::parse(""));
  EXPECT_FALSE(Uuid::parse("3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d1"));
  EXPECT_FALSE(Uuid::parse("3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10x"));
  EXPECT_FALSE(Uuid::parse("3f1c0e5ag8f5b-4c0e-9d2b-6a1e5b7c9d10"));
  EXPECT_FALSE(Uuid::parse("3g1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"));
  EXPECT_FALSE(Uuid::parse("{3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d1}"));
}

TEST(Base64, TakesWhatSwtpmStoresAndNothingElse) {
  EXPECT_TRUE(is_base64("aGVsbG8gdHBtCg=="));
  EXPECT_TRUE(is_base64("AAAA"));
  EXPECT_TRUE(is_base64("AAA="));
  EXPECT_TRUE(is_base64("+/+/"));
  for (const std::string_view bad :
       {"", "A", "AA", "AAA", "AA A", "A===", "====", "=AAA", "AA=A", "AAAA\n", "AAA AAA "}) {
    EXPECT_FALSE(is_base64(bad)) << bad;
  }
}

TEST(Durations, NeedAUnit) {
  EXPECT_EQ(parse_duration("500ms"), std::chrono::milliseconds(500));
  EXPECT_EQ(parse_duration("2s"), std::chrono::seconds(2));
  EXPECT_EQ(parse_duration("15min"), std::chrono::minutes(15));
  EXPECT_EQ(parse_duration("2h"), std::chrono::hours(2));
  for (const std::string_view bad :
       {"", "5", "s", "-1s", "1.5s", "1 s", "01s", "5m", "99999999999999999999s", "36525000h"}) {
    EXPECT_FALSE(parse_duration(bad)) << bad;
  }
}

TEST(Sizes, NeedAUnit) {
  EXPECT_EQ(parse_size("512KiB"), 512u * 1024);
  EXPECT_EQ(parse_size("32MiB"), 32u << 20);
  EXPECT_EQ(parse_size("1GiB"), 1u << 30);
  EXPECT_EQ(parse_size("100B"), 100u);
  for (const std::string_view bad : {"", "32", "MiB", "32MB", "32 MiB", "99999999999999GiB"}) {
    EXPECT_FALSE(parse_size(bad)) << bad;
  }
}

TEST(Value, ComparesAndDigestsItsBytes) {
  EXPECT_EQ(Value("abc"), Value("abc"));
  EXPECT_NE(Value("abc").digest(), Value("abd").digest());
  EXPECT_EQ(Value().digest(), Value("").digest());
  EXPECT_EQ(Value("abc").digest(), digest_of("abc"));
}

TEST(LogLevel, KnowsTheNamesOfSyslogAndWarn) {
  EXPECT_EQ(log_level_named("warn"), LogLevel::warning);
  EXPECT_EQ(log_level_named("warning"), LogLevel::warning);
  EXPECT_EQ(log_level_named("debug"), LogLevel::debug);
  EXPECT_FALSE(log_level_named("loud"));
}

TEST(Log, QuotesWhatWouldBreakALine) {
  EXPECT_EQ(log_line("event", {{"plain", "a"}, {"text", "two words\n\"x\""}, {"n", 7}}),
            "event plain=a text=\"two words\\x0a\\\"x\\\"\" n=7");
}

}  // namespace
}  // namespace guard
