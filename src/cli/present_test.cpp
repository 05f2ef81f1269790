#include "cli/present.h"

#include <gtest/gtest.h>

namespace guard::cli {
namespace {

wire::Json json(std::string_view text) {
  auto parsed = wire::parse_json(text);
  EXPECT_TRUE(parsed) << text;
  return parsed ? *parsed : wire::Json();
}

/// As the daemon answers; `mode`, `pending`, `held`, `parked` and `journal` as given.
std::string status_text(std::string_view mode, std::string_view entries, std::string_view held = "[]",
                        std::string_view parked = "[]", std::string_view journal = "ok") {
  return R"({"version":"0.1.0","mode":")" + std::string(mode) +
         R"(","upstream":{"uri":"unix:/var/lib/xcp/xapi","state":"down","since":"2026-11-22T22:13:00.000Z",)"
         R"("last_error":"connect: Connection refused"},"pending":{"entries":)" +
         std::string(entries) + R"(,"vms":1,"bytes":98304,"oldest_seconds":42.4},"held":)" +
         std::string(held) + R"(,"parked":)" + std::string(parked) +
         R"(,"doubt":0,"buffering":"enabled","quarantine_bytes":0,"journal":{"state":")" +
         std::string(journal) +
         R"(","reserved":true,"live_bytes":98560,"capacity_bytes":33554432,"generation":3,"corrupt_records":0},)"
         R"("switch":{"state":"connected"},)"
         R"("sockets":[{"service":"vtpm","vm":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10","path":"/run/s","gid":131076}],)"
         R"("counters":{"writes_direct":12,"writes_journal":3}})";
}

TEST(Present, WritesSizesWithUnits) {
  EXPECT_EQ(human_size(0), "0 B");
  EXPECT_EQ(human_size(1023), "1023 B");
  EXPECT_EQ(human_size(1024), "1.0 KiB");
  EXPECT_EQ(human_size(98304), "96.0 KiB");
  EXPECT_EQ(human_size(1024 * 1024 - 1), "1.0 MiB");
  EXPECT_EQ(human_size(std::int64_t{5} << 40), "5.0 TiB");
  EXPECT_EQ(human_size(std::int64_t{5} << 50), "5120.0 TiB");
}

TEST(Present, WritesDurationsWithUnits) {
  EXPECT_EQ(human_duration(-1), "0.0 s");
  EXPECT_EQ(human_duration(0.44), "0.4 s");
  EXPECT_EQ(human_duration(9.96), "10 s");
  EXPECT_EQ(human_duration(59.4), "59 s");
  EXPECT_EQ(human_duration(59.6), "1 min 0 s");
  EXPECT_EQ(human_duration(303), "5 min 3 s");
  EXPECT_EQ(human_duration(7500), "2 h 5 min");
  EXPECT_EQ(human_duration(3 * 86400 + 4 * 3600 + 59), "3 d 4 h");
  EXPECT_EQ(human_duration(1e300), human_duration(1e15));
}

TEST(Present, SaysWhenTheResumeFileIsNotAsItShouldBe) {
  std::string text = status_text("direct", "0");
  EXPECT_EQ(present_status(json(text)).find("resume file"), std::string::npos);
  text.insert(text.size() - 1, R"(,"resume_file":{"unsaved":true,"not_served":2})");
  const std::string shown = present_status(json(text));
  EXPECT_NE(shown.find("resume file NOT SAVED"), std::string::npos) << shown;
  EXPECT_NE(shown.find("resume file 2 listed but not served"), std::string::npos) << shown;
}

TEST(Present, ShowsTheLastErrorOnlyWhileItMatters) {
  std::string text = status_text("direct", "0");
  text.replace(text.find("\"down\""), 6, "\"up\"");
  EXPECT_EQ(present_status(json(text)).find("last error"), std::string::npos);
}

TEST(Present, ShowsAStatusAlignedAndWithUnits) {
  const std::string held =
      R"([{"vm":"321e3a5e-b32b-4b26-be1c-c20c902c3cff","slot":"permall","reason":"UUID_INVALID",)"
      R"("since":"2026-11-22T22:12:00.000Z"}])";
  EXPECT_EQ(present_status(json(status_text("engaged", "12", held))),
            "xapi-guard 0.1.0\n"
            "\n"
            "mode        engaged\n"
            "upstream    down since 2026-11-22T22:13:00.000Z (unix:/var/lib/xcp/xapi)\n"
            "            last error: connect: Connection refused\n"
            "pending     12 entries of 1 VM, 96.0 KiB, the oldest for 42 s\n"
            "held        1\n"
            "parked      0\n"
            "in doubt    0\n"
            "retained    0 values\n"
            "buffering   enabled\n"
            "journal     ok, 96.2 KiB live of 32.0 MiB, generation 3\n"
            "quarantine  0 B\n"
            "sockets     1\n"
            "switch      connected\n"
            "\n"
            "Held\n"
            "  VM                                    SLOT     SINCE                     REASON\n"
            "  321e3a5e-b32b-4b26-be1c-c20c902c3cff  permall  2026-11-22T22:12:00.000Z  UUID_INVALID\n"
            "\n"
            "Sockets\n"
            "  SERVICE  VM                                    GID     PATH\n"
            "  vtpm     3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10  131076  /run/s\n"
            "\n"
            "Counters since the daemon started\n"
            "  writes_direct   12\n"
            "  writes_journal  3\n");
}

TEST(Present, ShowsWhatItDoesNotKnowAsADashAndKeepsControlCharactersFromTheTerminal) {
  const std::string text = present_status(json(R"({"mode":"a\u001b[2Jb\nc"})"));
  EXPECT_TRUE(text.starts_with(
      "xapi-guard -\n\nmode        a?[2Jb?c\nupstream    - since - (-)\npending     nothing\n"))
      << text;
  for (const char* odd : {"null", "[]", "7", R"({"pending":[],"journal":7,"held":{},"counters":[]})"}) {
    EXPECT_FALSE(present_status(json(odd)).empty()) << odd;
    EXPECT_EQ(check_status(json(odd)).exit_status, 3) << odd;
  }
}

TEST(Present, MarksSpaceThatIsNotReservedAndDamage) {
  const auto text = present_status(json(
      R"({"journal":{"state":"failed","reserved":false,"live_bytes":1,"capacity_bytes":2,"generation":3,"corrupt_records":1}})"));
  EXPECT_NE(
      text.find("journal     failed, 1 B live of 2 B, generation 3, space NOT reserved, 1 corrupt record\n"),
      text.npos)
      << text;
}

TEST(Present, SaysWhyTheJournalCannotBeRead) {
  const auto status = json(
      R"({"mode":"direct","held":[],"parked":[],"journal":{"state":"unread","error":"open a: Input/output error"}})");
  EXPECT_NE(present_status(status).find("journal     CANNOT BE READ: open a: Input/output error\n"),
            std::string::npos);
  EXPECT_EQ(check_status(status).exit_status, 2);
}

TEST(Present, ListsTheQuarantineAndWhatIsSetAside) {
  EXPECT_EQ(present_quarantine(json(R"({"files":[],"omitted":0,"bytes":0,"set_aside":[]})")),
            "the quarantine is empty\n");
  EXPECT_EQ(
      present_quarantine(json(R"({"files":[{"name":"a-1-2-0-4096","bytes":4096}],"omitted":2,"bytes":8192,)"
                              R"("set_aside":["journal.set-aside-20231114T221320Z"]})")),
      "  FILE          SIZE\n"
      "  a-1-2-0-4096  4.0 KiB\n"
      "  and 2 more\n"
      "3 files, 8.0 KiB\n"
      "\n"
      "Journals set aside\n"
      "  journal.set-aside-20231114T221320Z\n");
  EXPECT_EQ(present_purge(json(R"({"files":1,"bytes":4096,"left":0,"error":null})")),
            "1 file removed, 4.0 KiB freed\n");
  EXPECT_EQ(present_purge(json(R"({"files":0,"bytes":0,"left":1,"error":"unlink x: Is a directory"})")),
            "0 files removed, 0 B freed\n1 could not be removed: unlink x: Is a directory\n");
}

TEST(Present, ListsPendingEntries) {
  EXPECT_EQ(present_pending(json("[]")), "nothing is pending\n");
  EXPECT_EQ(
      present_pending(json(
          R"([{"vm":"321e3a5e-b32b-4b26-be1c-c20c902c3cff","slot":"permall","sequence":7,"bytes":8004,)"
          R"("age_seconds":61,"state":"held","reason":"UUID_INVALID"},)"
          R"({"vm":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10","slot":"volatilestate","sequence":12,"bytes":0,)"
          R"("age_seconds":0.5,"state":"pending"}])")),
      "  VM                                    SLOT           SEQUENCE  SIZE     AGE        STATE    REASON\n"
      "  321e3a5e-b32b-4b26-be1c-c20c902c3cff  permall        7         7.8 KiB  1 min 1 s  held     "
      "UUID_INVALID\n"
      "  3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10  volatilestate  12        0 B      0.5 s      pending  -\n");
}

TEST(Present, JudgesAStatusForMonitoring) {
  const auto check = [](const std::string& text) { return check_status(json(text)); };
  const Check direct = check(status_text("direct", "0"));
  EXPECT_EQ(direct.exit_status, 0);
  EXPECT_EQ(direct.line, "OK: direct");
  const Check pending = check(status_text("engaged", "12"));
  EXPECT_EQ(pending.exit_status, 1);
  EXPECT_EQ(pending.line,
            "WARNING: engaged, pending: 12 entries of 1 VM, 96.0 KiB, the oldest for 42 s, upstream down");
  EXPECT_EQ(check(status_text("direct", "1")).exit_status, 1);
  EXPECT_EQ(check(status_text("disengaged", "0")).exit_status, 1);
  const Check held = check(status_text("engaged", "1", "[{}]"));
  EXPECT_EQ(held.exit_status, 2);
  EXPECT_EQ(held.line, "CRITICAL: 1 held, 0 parked, journal ok");
  EXPECT_EQ(check(status_text("direct", "0", "[]", "[{}]")).exit_status, 2);
  EXPECT_EQ(check(status_text("direct", "0", "[]", "[]", "failed")).exit_status, 2);
  EXPECT_EQ(check(status_text("direct", "0", "[]", "[]", "stalled")).exit_status, 2);
}

}  // namespace
}  // namespace guard::cli
