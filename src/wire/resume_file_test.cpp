#include "wire/resume_file.h"

#include <gtest/gtest.h>

#include <chrono>

namespace guard::wire {
namespace {

constexpr std::string_view original =
    R"([{"typ":"Swtpm","gid":131076,"path":"/var/lib/xcp/run/swtpm-root-4/xapi-depriv-socket",)"
    R"("vm_uuid":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"},{"typ":"Varstored","gid":65539,)"
    R"("path":"/var/run/xen/varstored-root-4/xapi-depriv-socket","vm_uuid":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"}])";

const Uuid vm = *Uuid::parse("3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10");

std::vector<ResumeEntry> original_entries() {
  return {{Device::vtpm, 131076, "/var/lib/xcp/run/swtpm-root-4/xapi-depriv-socket", vm},
          {Device::uefi, 65539, "/var/run/xen/varstored-root-4/xapi-depriv-socket", vm}};
}

/// An entry of which one member is replaced by `member`, or left out when that is empty.
std::string entry_with(std::string_view name, std::string_view member) {
  std::string text = "{";
  for (const std::string_view whole : {R"("typ":"Swtpm")", R"("gid":7)", R"("path":"/a")",
                                       R"("vm_uuid":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10")"}) {
    const bool replaced = whole.substr(1, name.size()) == name && whole[name.size() + 1] == '"';
    const std::string_view part = replaced ? member : whole;
    if (part.empty()) continue;
    if (text.size() > 1) text += ',';
    text += part;
  }
  return text + "}";
}

TEST(ResumeFile, ReadsWhatTheOriginalWrites) {
  const ResumeFile file = read_resume_file(original);
  EXPECT_EQ(file.entries, original_entries());
  EXPECT_EQ(file.skipped, 0u);
  EXPECT_FALSE(file.damaged);
  EXPECT_EQ(file.problem, "");
}

TEST(ResumeFile, WritesWhatTheOriginalWrites) {
  EXPECT_EQ(write_resume_file(original_entries()), original);
  EXPECT_EQ(write_resume_file({}), "[]");
}

TEST(ResumeFile, AnEmptyArrayIsAnEmptyList) {
  const ResumeFile file = read_resume_file("[]");
  EXPECT_TRUE(file.entries.empty());
  EXPECT_FALSE(file.damaged);
}

TEST(ResumeFile, ReadsMembersInAnyOrderAndCaseAndIgnoresOthers) {
  const ResumeFile file = read_resume_file(
      R"( [ {"x":{"typ":"no"}, "PATH":"/a", "Vm_Uuid":"3F1C0E5A-8F5B-4C0E-9D2B-6A1E5B7C9D10", "GID":"7", "Typ":"sWTPM"} ] )");
  EXPECT_EQ(file.entries, (std::vector<ResumeEntry>{{Device::vtpm, 7, "/a", vm}}));
  EXPECT_EQ(file.skipped, 0u);
}

TEST(ResumeFile, TheHelperOfTheseTestsMakesAWholeEntry) {
  EXPECT_EQ(read_resume_file("[" + entry_with("", "") + "]").entries.size(), 1u);
}

TEST(ResumeFile, SkipsAndCountsEntriesItCannotUse) {
  const std::pair<std::string_view, std::string_view> broken[] = {{"typ", ""},
                                                                  {"typ", R"("typ":"Qemu")"},
                                                                  {"typ", R"("typ":1)"},
                                                                  {"gid", ""},
                                                                  {"gid", R"("gid":-1)"},
                                                                  {"gid", R"("gid":4294967295)"},
                                                                  {"gid", R"("gid":1.5)"},
                                                                  {"gid", R"("gid":"0x7")"},
                                                                  {"gid", R"("gid":"")"},
                                                                  {"path", ""},
                                                                  {"path", R"("path":"a/b")"},
                                                                  {"path", R"("path":"")"},
                                                                  {"path", R"("path":"/a\u0000b")"},
                                                                  {"path", R"("path":null)"},
                                                                  {"vm_uuid", ""},
                                                                  {"vm_uuid", R"("vm_uuid":"x")"},
                                                                  {"vm_uuid", R"("vm_uuid":[])"}};
  for (const auto& [name, member] : broken) {
    const ResumeFile file =
        read_resume_file("[" + entry_with(name, member) + "," + entry_with("", "") + ",5]");
    EXPECT_EQ(file.entries.size(), 1u) << name << ' ' << member;
    EXPECT_EQ(file.skipped, 2u) << name << ' ' << member;
    EXPECT_FALSE(file.damaged);
    EXPECT_NE(file.problem, "");
  }
}

TEST(ResumeFile, AFileCutAnywhereYieldsEveryWholeEntry) {
  const std::size_t first_end = original.find('}') + 1;
  for (std::size_t length = 0; length < original.size(); ++length) {
    const ResumeFile file = read_resume_file(original.substr(0, length));
    const std::size_t whole = length < first_end ? 0 : length < original.size() - 1 ? 1 : 2;
    EXPECT_TRUE(file.damaged) << length;
    EXPECT_EQ(file.entries.size(), whole) << length;
    EXPECT_NE(file.problem, "");
  }
}

TEST(ResumeFile, DamageInsideOneEntryCostsThatEntryOnly) {
  const std::string good = entry_with("", "");
  for (std::size_t cut = 1; cut < good.size(); ++cut) {
    const ResumeFile file = read_resume_file("[" + good + "," + good.substr(0, cut) + "," + good + "]");
    EXPECT_TRUE(file.damaged) << cut;
    EXPECT_EQ(file.entries.size(), 2u) << cut;
    EXPECT_GE(file.skipped, 1u) << cut;
  }
}

TEST(ResumeFile, ZeroesInTheMiddleCostOnlyWhatTheyCover) {
  std::string text = "[" + entry_with("", "") + "," + entry_with("", "") + "," + entry_with("", "") + "]";
  const std::size_t second = text.find('{', 2);
  std::fill_n(text.begin() + static_cast<std::ptrdiff_t>(second) + 5, 20, '\0');
  EXPECT_EQ(read_resume_file(text).entries.size(), 2u);
}

TEST(ResumeFile, AForeignFileIsDamagedAndEmpty) {
  for (const std::string_view text : {"", "null", "{}", "\"x\"", "<html></html>",
                                      "\x7f"
                                      "ELF\x02\x01",
                                      "[[[[[[[[[[[[[[[[[[[["}) {
    const ResumeFile file = read_resume_file(text);
    EXPECT_TRUE(file.damaged) << text;
    EXPECT_TRUE(file.entries.empty()) << text;
  }
}

TEST(ResumeFile, AnObjectThatIsNotAnArrayStillGivesItsEntries) {
  EXPECT_EQ(read_resume_file(entry_with("", "")).entries.size(), 1u);
}

TEST(ResumeFile, HostileTextIsReadInBoundedTime) {
  const auto begin = std::chrono::steady_clock::now();
  for (const std::string& unit : {std::string("{"), std::string("{\"a\":"), std::string("{\"")}) {
    std::string text = "[";
    while (text.size() < 4u << 20) text += unit;
    EXPECT_TRUE(read_resume_file(text).damaged);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

TEST(ResumeFile, PathsSurviveTheRoundTripWhateverTheyContain) {
  const std::vector<ResumeEntry> entries = {{Device::vtpm, 0, "/with \"quotes\"\\ {braces} \n\xc3\xa9", vm},
                                            {Device::uefi, 4294967294, "/", Uuid()}};
  const std::string text = write_resume_file(entries);
  EXPECT_EQ(read_resume_file(text).entries, entries);
  EXPECT_EQ(read_resume_file(text.substr(1)).entries, entries);
}

}  // namespace
}  // namespace guard::wire
