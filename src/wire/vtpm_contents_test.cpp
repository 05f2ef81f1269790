#include "wire/vtpm_contents.h"

#include <gtest/gtest.h>

#include <random>

namespace guard::wire {
namespace {

using namespace std::string_view_literals;

Contents contents_of(std::string_view permall, std::string_view savestate, std::string_view volatilestate) {
  Contents contents;
  contents[Slot::permall] = Value(std::string(permall));
  contents[Slot::savestate] = Value(std::string(savestate));
  contents[Slot::volatilestate] = Value(std::string(volatilestate));
  return contents;
}

TEST(VtpmContents, SplitsOnEverySpaceAndTrimsNothing) {
  const auto all = split_vtpm_contents("A B C");
  ASSERT_TRUE(all);
  EXPECT_EQ(*all, (VtpmFields{"A", "B", "C"}));
  EXPECT_EQ(*split_vtpm_contents("A  C"), (VtpmFields{"A", "", "C"}));
  EXPECT_EQ(*split_vtpm_contents("  C"), (VtpmFields{"", "", "C"}));
  EXPECT_EQ(*split_vtpm_contents("  "), (VtpmFields{"", "", ""}));
  EXPECT_EQ(*split_vtpm_contents("A  "), (VtpmFields{"A", "", ""}));
  EXPECT_EQ(*split_vtpm_contents("A\t\nB\0  "sv), (VtpmFields{"A\t\nB\0"sv, "", ""}));
}

TEST(VtpmContents, ReadsTheOlderFormOfOneField) {
  EXPECT_EQ(*split_vtpm_contents("aGVsbG8gdHBtCg=="), (VtpmFields{"aGVsbG8gdHBtCg==", "", ""}));
  EXPECT_EQ(*split_vtpm_contents(""), (VtpmFields{"", "", ""}));
}

TEST(VtpmContents, RefusesAnyOtherNumberOfFields) {
  for (const std::string_view bad : {" ", "A ", " A", "A B", "   ", "A B C ", "A B C D", " A B C", "A    "}) {
    const auto fields = split_vtpm_contents(bad);
    ASSERT_FALSE(fields) << '"' << bad << '"';
    EXPECT_EQ(fields.error().code, Errc::corrupt);
    EXPECT_FALSE(unpack_vtpm_contents(bad)) << '"' << bad << '"';
  }
}

TEST(VtpmContents, AnErrorCountsTheFieldsAndShowsNoContent) {
  const auto fields = split_vtpm_contents("SECRET SECRET SECRET SECRET");
  ASSERT_FALSE(fields);
  EXPECT_NE(fields.error().message.find("4 fields"), std::string::npos) << fields.error().message;
  EXPECT_EQ(fields.error().message.find("SECRET"), std::string::npos);
}

TEST(VtpmContents, WritesThreeFieldsAlways) {
  EXPECT_EQ(pack_vtpm_contents(contents_of("", "", "")), "  ");
  EXPECT_EQ(pack_vtpm_contents(contents_of("aGVsbG8gdHBtCg==", "", "")), "aGVsbG8gdHBtCg==  ");
  EXPECT_EQ(pack_vtpm_contents(contents_of("aGVsbG8gdHBtCg==", "", "dm9sYXRpbGU=")),
            "aGVsbG8gdHBtCg==  dm9sYXRpbGU=");
  EXPECT_EQ(pack_vtpm_contents(contents_of("A", "B", "C")), "A B C");
}

TEST(VtpmContents, LeavesUefiVariablesOut) {
  Contents contents = contents_of("A", "B", "C");
  contents[Slot::nvram] = Value("N");
  EXPECT_EQ(pack_vtpm_contents(contents), "A B C");
  EXPECT_EQ(packed_vtpm_size(contents), 5u);
}

TEST(VtpmContents, AppendsBehindWhatIsThere) {
  std::string out = "x";
  append_vtpm_contents(out, contents_of("A", "", "C"));
  EXPECT_EQ(out, "xA  C");
}

TEST(VtpmContents, KnowsWhatCannotBeAField) {
  EXPECT_TRUE(is_packable_field(""));
  EXPECT_TRUE(is_packable_field("aGVsbG8gdHBtCg=="));
  EXPECT_FALSE(is_packable_field(" "));
  EXPECT_FALSE(is_packable_field("aGVs bG8="));
}

TEST(VtpmContents, UnpackReversesPackForAnyFieldsWithoutSpaces) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 500; ++round) {
    Contents contents;
    for (std::size_t i = 0; i < 3; ++i) {
      std::string field(random() % 4 == 0 ? 0 : random() % 20'000, '\0');
      for (char& c : field) {
        do c = static_cast<char>(random());
        while (c == ' ');
      }
      contents.slots[i] = Value(std::move(field));
    }
    const std::string packed = pack_vtpm_contents(contents);
    EXPECT_EQ(packed.size(), packed_vtpm_size(contents));
    const auto back = unpack_vtpm_contents(packed);
    ASSERT_TRUE(back);
    EXPECT_EQ(back->slots, contents.slots);
  }
}

}  // namespace
}  // namespace guard::wire
