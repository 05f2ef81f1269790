#include "upstream/conflict.h"

#include <gtest/gtest.h>

namespace guard::upstream {
namespace {

const Uuid vtpm_a = *Uuid::parse("aaaaaaaa-8f5b-4c0e-9d2b-6a1e5b7c9d10");
const Uuid vtpm_b = *Uuid::parse("bbbbbbbb-8f5b-4c0e-9d2b-6a1e5b7c9d10");

Contents standing(std::string permall, std::string savestate = {}, std::string volatilestate = {}) {
  Contents contents;
  contents[Slot::permall] = Value(std::move(permall));
  contents[Slot::savestate] = Value(std::move(savestate));
  contents[Slot::volatilestate] = Value(std::move(volatilestate));
  contents.vtpm = vtpm_a;
  return contents;
}

SlotWrite write_of(Slot slot, std::string value, std::vector<std::string_view> known) {
  SlotWrite write;
  write.slot = slot;
  write.value = Value(std::move(value));
  for (const std::string_view text : known) write.known.push_back(digest_of(text));
  return write;
}

std::optional<Slot> check(const Contents& current, SlotWrite write) {
  return find_conflict(current, {&write, 1});
}

TEST(Conflict, NoneWhenTheStandingValueWasKnown) {
  EXPECT_FALSE(check(standing("old"), write_of(Slot::permall, "new", {"older", "old"})));
}

TEST(Conflict, WhenTheStandingValueWasNotKnown) {
  EXPECT_EQ(check(standing("foreign"), write_of(Slot::permall, "new", {"older", "old"})), Slot::permall);
  EXPECT_EQ(check(standing("x", "foreign"), write_of(Slot::savestate, "new", {"old"})), Slot::savestate);
}

TEST(Conflict, NoneWhenNothingIsKnown) {
  EXPECT_FALSE(check(standing("foreign"), write_of(Slot::permall, "new", {})));
}

TEST(Conflict, NoneWhenTheValueStandsThereAlready) {
  EXPECT_FALSE(check(standing("new"), write_of(Slot::permall, "new", {"old"})));
}

TEST(Conflict, NoneWhenThereIsNoStateAtAll) {
  EXPECT_FALSE(check(standing(""), write_of(Slot::permall, "new", {"old"})));
}

TEST(Conflict, AnEmptySlotBesideAFullOneIsAValueLikeAnyOther) {
  EXPECT_EQ(check(standing("p", "s"), write_of(Slot::volatilestate, "new", {"old"})), Slot::volatilestate);
  EXPECT_FALSE(check(standing("p", "s"), write_of(Slot::volatilestate, "new", {"old", ""})));
}

TEST(Conflict, ADeletedValueIsKnownAsTheEmptyOne) {
  EXPECT_FALSE(check(standing("p"), write_of(Slot::savestate, "", {"old"})));
  EXPECT_EQ(check(standing("p", "foreign"), write_of(Slot::savestate, "", {"old"})), Slot::savestate);
}

TEST(Conflict, UnderAnotherVtpmWhateverTheValuesSay) {
  for (const std::string current : {"old", "new", ""}) {
    SlotWrite write = write_of(Slot::permall, "new", {"old"});
    write.vtpm = vtpm_b;
    EXPECT_EQ(check(standing(current), write), Slot::permall) << current;
    write.known.clear();
    EXPECT_EQ(check(standing(current), write), Slot::permall) << current;
    write.vtpm = vtpm_a;
    EXPECT_FALSE(check(standing(current), write)) << current;
  }
}

TEST(Conflict, AnUnknownVtpmIsNoOther) {
  SlotWrite write = write_of(Slot::permall, "new", {"old"});
  EXPECT_FALSE(check(standing("old"), write)) << "the write does not know its vTPM";
  write.vtpm = vtpm_b;
  Contents current = standing("old");
  current.vtpm = Uuid();
  EXPECT_FALSE(check(current, write)) << "the upstream does not tell";
}

TEST(Conflict, NoneWhenForced) {
  SlotWrite write = write_of(Slot::permall, "new", {"old"});
  write.force = true;
  EXPECT_FALSE(check(standing("foreign"), write));
  write.vtpm = vtpm_b;
  EXPECT_FALSE(check(standing("foreign"), write));
}

TEST(Conflict, OneSlotInConflictIsEnough) {
  const std::vector<SlotWrite> writes{write_of(Slot::permall, "new", {"old"}),
                                      write_of(Slot::volatilestate, "new", {"old"})};
  EXPECT_EQ(find_conflict(standing("old", "", "foreign"), writes), Slot::volatilestate);
  EXPECT_FALSE(find_conflict(standing("old", "", "old"), writes));
  EXPECT_FALSE(find_conflict(standing("old"), {}));
}

TEST(AllStandIn, ComparesEveryValueToBeWritten) {
  const std::vector<SlotWrite> writes{write_of(Slot::permall, "p", {}), write_of(Slot::savestate, "", {})};
  EXPECT_TRUE(all_stand_in(standing("p"), writes));
  EXPECT_TRUE(all_stand_in(standing("p", "", "other"), writes));
  EXPECT_FALSE(all_stand_in(standing("p", "s"), writes));
  EXPECT_FALSE(all_stand_in(standing("q"), writes));
}

}  // namespace
}  // namespace guard::upstream
