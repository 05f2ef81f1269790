#include <gtest/gtest.h>

#include "base/limits.h"
#include "cache_tree/tree_test_support.h"

namespace guard::cache_tree {
namespace {

TEST(CacheTreeNames, AreTakenInTheirCanonicalFormOnly) {
  const std::string uuid = "321e3a5e-b32b-4b26-be1c-c20c902c3cff";
  EXPECT_TRUE(parse_vm(uuid));
  for (const std::string name :
       {"321E3A5E-B32B-4B26-BE1C-C20C902C3CFF", "00000000-0000-0000-0000-000000000000", "foo", ""}) {
    EXPECT_FALSE(parse_vm(name)) << name;
  }
  EXPECT_FALSE(parse_vm(uuid + "x")) << "trailing characters";
  EXPECT_EQ(parse_key("0"), Slot::permall);
  EXPECT_EQ(parse_key("2"), Slot::volatilestate);
  for (const char* name : {"3", "7", "-1", "00", "0x0", "", "1 "}) EXPECT_FALSE(parse_key(name)) << name;
  EXPECT_EQ(parse_timestamp("4617725464136"), 4617725464136u);
  EXPECT_EQ(parse_timestamp("0"), 0u);
  EXPECT_EQ(parse_timestamp("18446744073709551615"), UINT64_MAX);
  for (const char* name :
       {"0x10", "0_1", "1_0", "-5", "+5", "007", "5.pre", "", "18446744073709551616", "1e3"}) {
    EXPECT_FALSE(parse_timestamp(name)) << name;
  }
  EXPECT_EQ((Place{vm(1), Slot::savestate, 12}.str()), "ab000000-0000-0000-0000-000000000001/1/12");
}

TEST(CacheTreeValues, AStateIsWholeOnlyAtTheLengthThatItsHeaderTells) {
  for (const std::size_t size : {10u, 11u, 12u, 60u, 6001u, 200'000u}) {
    const std::string whole = state(3, size);
    EXPECT_EQ(flaw_of(whole), "") << size;
    EXPECT_EQ(flaw_of(whole + "AAAA"),
              whole.ends_with('=') ? "not base64" : "not of the length in its header");
    // As a full disk leaves it: the rest of the last block is missing, or all of it.
    if (whole.size() > 4096) {
      EXPECT_EQ(flaw_of(whole.substr(0, 4096)), "not of the length in its header");
    }
    if (size >= 12) {
      EXPECT_NE(flaw_of(whole.substr(0, whole.size() - 4)), "") << size;
    }
  }
  EXPECT_EQ(flaw_of(""), "empty");
  EXPECT_EQ(flaw_of("AAAA"), "shorter than a header");
  EXPECT_EQ(flaw_of("AAAAAAAAAAA="), "shorter than a header");
  EXPECT_EQ(flaw_of("has a space."), "not base64");
  EXPECT_EQ(flaw_of(std::string(limits::max_body_vtpm + 4, 'A')), "larger than any state");
}

TEST(ExportManifest, IsReadAsItWasWritten) {
  Manifest manifest;
  manifest.files[{vm(1), Slot::volatilestate, UINT64_MAX}] = {0, digest_of("")};
  manifest.files[{vm(2), Slot::permall, 5}] = {7, digest_of("no TPM!")};
  const auto back = read_manifest(write_manifest(manifest)).value();
  EXPECT_EQ(back.files, manifest.files);
  EXPECT_TRUE(back.vouches({vm(1), Slot::volatilestate, UINT64_MAX}, ""));
  EXPECT_TRUE(back.vouches({vm(2), Slot::permall, 5}, "no TPM!"));
  EXPECT_FALSE(back.vouches({vm(2), Slot::permall, 5}, "no TPM?"));
  EXPECT_FALSE(back.vouches({vm(2), Slot::permall, 5}, ""));
  EXPECT_FALSE(back.vouches({vm(2), Slot::permall, 6}, "no TPM!"));
  EXPECT_FALSE(back.vouches({vm(2), Slot::savestate, 5}, "no TPM!"));
  EXPECT_TRUE(read_manifest(write_manifest({}))->files.empty());
}

TEST(ExportManifest, IsNotBelievedWhenItIsBroken) {
  Manifest manifest;
  manifest.files[{vm(1), Slot::permall, 5}] = {0, digest_of("")};
  const std::string good = write_manifest(manifest);
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const auto at = text.find(from);
    EXPECT_NE(at, text.npos) << from;
    return read_manifest(text.replace(at, from.size(), to));
  };
  EXPECT_TRUE(read_manifest(good));
  EXPECT_FALSE(read_manifest(""));
  EXPECT_FALSE(read_manifest("[]"));
  EXPECT_FALSE(read_manifest("{}"));
  EXPECT_FALSE(read_manifest(good.substr(0, good.size() / 2)));
  EXPECT_FALSE(with("\"version\":1", "\"version\":2"));
  EXPECT_FALSE(with("\"key\":0", "\"key\":3"));
  EXPECT_FALSE(with("\"key\":0", "\"key\":-1"));
  EXPECT_FALSE(with("\"5\"", "\"05\""));
  EXPECT_FALSE(with("\"5\"", "5"));
  EXPECT_FALSE(with("\"size\":0", "\"size\":-1"));
  EXPECT_FALSE(with("\"digest\":\"", "\"digest\":\"0"));
  EXPECT_FALSE(with("\"vm\":\"ab", "\"vm\":\"AB"));
}

}  // namespace
}  // namespace guard::cache_tree
