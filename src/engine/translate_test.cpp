#include "engine/translate.h"

#include <gtest/gtest.h>

#include <utility>

namespace guard::engine {
namespace {

using std::chrono::minutes;

core::Commit commit_of(bool over_anything) {
  core::Commit commit;
  commit.owner.vm.bytes[15] = 1;
  commit.sequence = 5;
  commit.value = Value("v");
  commit.over_anything = over_anything;
  return commit;
}

journal::LiveEntry found_after(const journal::Entry& entry) {
  journal::LiveEntry live;
  live.type = entry.type;
  live.owner = entry.owner;
  live.slot = entry.slot;
  live.sequence = entry.sequence;
  live.wall_ms = entry.wall_ms;
  live.flags = entry.flags;
  return live;
}

TEST(Translate, WhetherAnEntryGoesOverAnythingTravelsWithItsRecord) {
  for (const bool over_anything : {false, true}) {
    const auto entry = std::get<journal::Entry>(to_request(commit_of(over_anything), 1000));
    const auto back = to_recovered(found_after(entry), Time{minutes(1)}, 1000);
    ASSERT_TRUE(back);
    EXPECT_EQ(back->over_anything, over_anything);
  }
}

TEST(Translate, AnEntryIsAsOldAsTheWallClockSaysAndNeverFromTheFuture) {
  const auto entry = std::get<journal::Entry>(to_request(commit_of(false), 10'000));
  const Time now{minutes(1)};
  EXPECT_EQ(to_recovered(found_after(entry), now, 13'000)->since, now - std::chrono::seconds(3));
  EXPECT_EQ(to_recovered(found_after(entry), now, 9'000)->since, now);
}

TEST(Translate, AFullJournalIsCertainAndEveryOtherFailureIsNot) {
  using Result = core::CommitDone::Result;
  const auto result_of = [](Errc code) {
    journal::Completion done;
    done.result = std::unexpected(Error{code, 0, "because"});
    return std::get<core::CommitDone>(to_event(std::move(done))).result;
  };
  EXPECT_EQ(result_of(Errc::no_space), Result::full);
  EXPECT_EQ(result_of(Errc::io), Result::failed);
  EXPECT_EQ(result_of(Errc::corrupt), Result::failed);
}

TEST(Translate, WhatThisVersionCannotDeliverIsLeftAlone) {
  journal::LiveEntry live;
  live.type = journal::RecordType::contents;
  live.owner.device = Device::uefi;
  live.slot = Slot::nvram;
  EXPECT_FALSE(to_recovered(live, Time{}, 0));
  live.type = journal::RecordType::write;
  live.flags = 3;
  EXPECT_FALSE(to_recovered(live, Time{}, 0)) << "a flag nobody knows";
  live.flags = 2;
  EXPECT_EQ(to_recovered(live, Time{}, 0)->update, UpdateFlag::no);
}

TEST(Translate, AnAlertIsRecoveredAsAnAlert) {
  core::Commit commit;
  commit.owner.device = Device::uefi;
  commit.slot = Slot::nvram;
  commit.sequence = 5;
  commit.alert = true;
  const auto entry = std::get<journal::Entry>(to_request(commit, 1000));
  EXPECT_FALSE(to_recovered(found_after(entry), Time{minutes(1)}, 1000));
  const auto alert = to_recovered_alert(found_after(entry), Time{minutes(1)}, 1000);
  ASSERT_TRUE(alert);
  EXPECT_EQ(alert->sequence, 5u);
}

}  // namespace
}  // namespace guard::engine
