// What a Store does when the disk does what it is told.
#include "journal/format.h"
#include "testing/journal_model.h"

namespace guard::journal {
namespace {

using testing::SimDisk;

class StoreTest : public ::testing::Test {
 protected:
  SimDisk disk{1};
  Options options = small_options();
  std::unique_ptr<Store> store;

  Store& open() {
    auto opened = open_store(disk, options, salt_seed++);
    if (!opened) throw std::runtime_error(opened.error().message);
    store = std::move(*opened);
    return *store;
  }
  Store& power_cut_and_open() {
    store.reset();
    disk.crash([](const SimDisk::Effect&) { return SimDisk::Fate::dropped; });
    return open();
  }
  void commit(Request request) { ASSERT_TRUE(run_one(*store, std::move(request)).result); }
  std::vector<std::pair<Slot, Sequence>> live() const {
    std::vector<std::pair<Slot, Sequence>> entries;
    for (const auto& entry : store->recovery().live) entries.emplace_back(entry.slot, entry.sequence);
    return entries;
  }
  /// Commits replacements of one slot until the store has switched.
  void force_switch(Sequence from) {
    const auto before = store->stats().switches;
    for (Sequence s = from; store->stats().switches == before; ++s)
      commit(write_of(vm(99), Slot::nvram, s, 3000));
  }

  std::uint64_t salt_seed = 1;
};

using Entries = std::vector<std::pair<Slot, Sequence>>;

TEST_F(StoreTest, ANewJournalIsEmptyAndWholePreallocated) {
  open();
  EXPECT_TRUE(store->recovery().created);
  EXPECT_TRUE(store->recovery().live.empty());
  EXPECT_EQ(store->recovery().highest_sequence, 0u);
  EXPECT_EQ(disk.contents("a").size(), options.size);
  EXPECT_EQ(disk.contents("b").size(), options.size);
  EXPECT_EQ(disk.unsynced(), 0u);
  EXPECT_EQ(store->stats().generation, 1u);
}

TEST_F(StoreTest, AnAcknowledgedWriteSurvivesAPowerCut) {
  open();
  Entry entry = write_of(vm(1), Slot::savestate, 17, 5000);
  entry.vtpm = vm(9).vm;
  entry.known = {Digest{1, 2}, Digest{3, 4}};
  entry.wall_ms = 1234567890123;
  entry.flags = 0xA5;
  commit(entry);
  power_cut_and_open();
  EXPECT_FALSE(store->recovery().created);
  ASSERT_EQ(store->recovery().live.size(), 1u);
  const LiveEntry& found = store->recovery().live[0];
  EXPECT_EQ(found.type, RecordType::write);
  EXPECT_EQ(found.owner, entry.owner);
  EXPECT_EQ(found.slot, entry.slot);
  EXPECT_EQ(found.sequence, 17u);
  EXPECT_EQ(found.vtpm, entry.vtpm);
  EXPECT_EQ(found.known, entry.known);
  EXPECT_EQ(found.digest, entry.value.digest());
  EXPECT_EQ(found.size, 5000u);
  EXPECT_EQ(found.wall_ms, entry.wall_ms);
  EXPECT_EQ(found.flags, 0xA5);
  EXPECT_FALSE(found.retained);
  EXPECT_FALSE(found.suspect);
  EXPECT_EQ(store->recovery().highest_sequence, 17u);
  EXPECT_EQ(store->recovery().corrupt_records, 0u);
  EXPECT_EQ(read_value(*store, vm(1), Slot::savestate, 17), text_of(17, 5000));
}

TEST_F(StoreTest, ABatchCostsOneWriteAndOneSync) {
  options = small_options(64);
  open();
  const auto before = disk.operations();
  std::vector<Request> batch;
  for (unsigned i = 1; i <= 20; ++i) batch.push_back(write_of(vm(i), Slot::permall, i, 200));
  for (const auto& done : store->run(batch)) EXPECT_TRUE(done.result);
  EXPECT_EQ(disk.operations() - before, 2u);
  EXPECT_EQ(store->stats().batches, 1u);
}

TEST_F(StoreTest, TheNewestWriteOfASlotReplacesTheOlderOnes) {
  open();
  for (Sequence s = 1; s <= 5; ++s) commit(write_of(vm(1), Slot::permall, s));
  commit(write_of(vm(2), Slot::permall, 6));
  EXPECT_EQ(read_value(*store, vm(1), Slot::permall, 4), std::nullopt);
  EXPECT_EQ(read_value(*store, vm(1), Slot::permall, 5), text_of(5, 100));
  EXPECT_EQ(run_one(*store, ReadBack{vm(1), Slot::permall, 4}).result.error().code, Errc::not_found);
  power_cut_and_open();
  EXPECT_EQ(live(), (Entries{{Slot::permall, 5}, {Slot::permall, 6}}));
}

TEST_F(StoreTest, NothingOlderWinsWithinABatchEither) {
  open();
  for (const auto& done :
       store->run({write_of(vm(1), Slot::permall, 2), write_of(vm(1), Slot::permall, 1)})) {
    EXPECT_TRUE(done.result);
  }
  EXPECT_EQ(read_value(*store, vm(1), Slot::permall, 2), text_of(2, 100));
  power_cut_and_open();
  EXPECT_EQ(live(), (Entries{{Slot::permall, 2}}));
}

TEST_F(StoreTest, TheEmptyValueIsAValue) {
  open();
  commit(write_of(vm(1), Slot::permall, 1));
  commit(write_of(vm(1), Slot::permall, 2, 0));
  power_cut_and_open();
  ASSERT_EQ(store->recovery().live.size(), 1u);
  EXPECT_EQ(store->recovery().live[0].size, 0u);
  EXPECT_EQ(read_value(*store, vm(1), Slot::permall, 2), "");
}

TEST_F(StoreTest, ARemovalEndsWhatIsNotNewer) {
  open();
  commit(write_of(vm(1), Slot::permall, 1));
  commit(write_of(vm(1), Slot::savestate, 2));
  commit(removal_of(vm(1), Slot::permall, 1));
  EXPECT_EQ(read_value(*store, vm(1), Slot::permall, 1), std::nullopt);
  power_cut_and_open();
  EXPECT_EQ(live(), (Entries{{Slot::savestate, 2}}));
  EXPECT_EQ(store->recovery().highest_sequence, 2u);
}

TEST_F(StoreTest, TheValueDeliveredIsTheBaseOfANewerEntry) {
  open();
  commit(write_of(vm(1), Slot::permall, 1));
  commit(write_of(vm(1), Slot::permall, 2));
  Removal removal = removal_of(vm(1), Slot::permall, 1);
  removal.delivered = digest_of("delivered");
  commit(removal);
  power_cut_and_open();
  ASSERT_EQ(live(), (Entries{{Slot::permall, 2}}));
  EXPECT_EQ(store->recovery().live[0].known, std::vector{digest_of("delivered")});
  force_switch(100);
  power_cut_and_open();
  EXPECT_EQ(store->recovery().live[0].known, std::vector{digest_of("delivered")}) << "lost by the switch";
}

TEST_F(StoreTest, ARetainedEntryStaysUntilItIsReleased) {
  open();
  commit(write_of(vm(1), Slot::permall, 1));
  Removal retain = removal_of(vm(1), Slot::permall, 1);
  retain.retained = true;
  commit(retain);
  EXPECT_EQ(read_value(*store, vm(1), Slot::permall, 1), text_of(1, 100));
  force_switch(100);
  power_cut_and_open();
  ASSERT_EQ(store->recovery().live.size(), 2u);
  EXPECT_TRUE(store->recovery().live[0].retained);
  commit(removal_of(vm(1), Slot::permall, 1));
  power_cut_and_open();
  EXPECT_EQ(live().size(), 1u) << "only the filler of the switch";
}

TEST_F(StoreTest, ANewWriteReplacesARetainedEntry) {
  open();
  commit(write_of(vm(1), Slot::permall, 1));
  Removal retain = removal_of(vm(1), Slot::permall, 1);
  retain.retained = true;
  commit(retain);
  commit(write_of(vm(1), Slot::permall, 2));
  power_cut_and_open();
  ASSERT_EQ(live(), (Entries{{Slot::permall, 2}}));
  EXPECT_FALSE(store->recovery().live[0].retained);
}

TEST_F(StoreTest, AlertsAreEndedOneByOne) {
  open();
  for (Sequence s = 1; s <= 3; ++s) {
    Entry alert = write_of(vm(1), Slot::nvram, s);
    alert.type = RecordType::alert;
    commit(alert);
  }
  commit(write_of(vm(1), Slot::nvram, 4));
  Removal second = removal_of(vm(1), Slot::nvram, 2);
  second.alert = true;
  commit(second);
  commit(removal_of(vm(1), Slot::nvram, 3));  // of the slot: neither its entry nor the alert with this number
  force_switch(100);
  power_cut_and_open();
  Entries found = live();
  found.pop_back();  // the filler of the switch
  EXPECT_EQ(found, (Entries{{Slot::nvram, 1}, {Slot::nvram, 3}, {Slot::nvram, 4}}));
  EXPECT_EQ(store->recovery().live[0].type, RecordType::alert);
  EXPECT_EQ(read_value(*store, vm(1), Slot::nvram, 3), text_of(3, 100));
}

TEST_F(StoreTest, ContentsSetThreeSlotsAtOnce) {
  open();
  commit(write_of(vm(1), Slot::savestate, 1));
  Entry contents = write_of(vm(1), Slot::permall, 2);
  contents.type = RecordType::contents;
  contents.value = pack_contents({Value("new perm"), Value(), Value("new volatile")});
  commit(contents);
  power_cut_and_open();
  ASSERT_EQ(live(), (Entries{{Slot::permall, 2}, {Slot::savestate, 2}, {Slot::volatilestate, 2}}));
  EXPECT_EQ(store->recovery().live[2].digest, digest_of("new volatile"));
  EXPECT_EQ(store->recovery().live[2].type, RecordType::contents);
  EXPECT_EQ(read_value(*store, vm(1), Slot::permall, 2), "new perm");
  EXPECT_EQ(read_value(*store, vm(1), Slot::savestate, 2), "");
  EXPECT_EQ(read_value(*store, vm(1), Slot::volatilestate, 2), "new volatile");
}

TEST_F(StoreTest, WhatIsLeftOfSupersededContentsSurvivesASwitchAsWrites) {
  open();
  Entry contents = write_of(vm(1), Slot::permall, 1);
  contents.type = RecordType::contents;
  contents.value = pack_contents({Value("perm"), Value("save"), Value("volatile")});
  contents.known = {Digest{5, 6}};
  commit(contents);
  commit(write_of(vm(1), Slot::savestate, 2));
  commit(removal_of(vm(1), Slot::volatilestate, 1));
  force_switch(100);
  EXPECT_EQ(read_value(*store, vm(1), Slot::permall, 1), "perm");
  power_cut_and_open();
  Entries found = live();
  found.pop_back();
  EXPECT_EQ(found, (Entries{{Slot::permall, 1}, {Slot::savestate, 2}}));
  EXPECT_EQ(store->recovery().live[0].type, RecordType::write);
  EXPECT_EQ(store->recovery().live[0].known, (std::vector{Digest{5, 6}}));
  EXPECT_EQ(read_value(*store, vm(1), Slot::permall, 1), "perm");
}

TEST_F(StoreTest, ContentsStayOneRecordThroughASwitchWhileAllOfThemIsLive) {
  open();
  Entry contents = write_of(vm(1), Slot::permall, 1);
  contents.type = RecordType::contents;
  contents.value = pack_contents({Value("perm"), Value("save"), Value("volatile")});
  commit(contents);
  force_switch(100);
  power_cut_and_open();
  ASSERT_EQ(live().size(), 4u);
  EXPECT_EQ(store->recovery().live[1].type, RecordType::contents);
  EXPECT_EQ(read_value(*store, vm(1), Slot::savestate, 1), "save");
}

TEST_F(StoreTest, RefusesWhatNoCallerMayAskFor) {
  open();
  commit(write_of(vm(1), Slot::permall, 5));
  std::vector<Entry> wrong(5, write_of(vm(1), Slot::permall, 6));
  wrong[0].sequence = 5;
  wrong[1].type = RecordType::removed;
  wrong[2].type = RecordType::contents;  // not packed
  wrong[3].known.resize(limits::known_digests + 1);
  wrong[4].value = Value(std::string(limits::journal_payload + 1, 'x'));
  const auto written = disk.operations();
  for (const Entry& entry : wrong) EXPECT_EQ(run_one(*store, entry).result.error().code, Errc::invalid);
  EXPECT_EQ(disk.operations(), written);
  EXPECT_EQ(read_value(*store, vm(1), Slot::permall, 5), text_of(5, 100));
}

TEST_F(StoreTest, CompletionsComeInTheOrderOfTheRequests) {
  open();
  commit(write_of(vm(1), Slot::permall, 1));
  const auto done = store->run({ReadBack{vm(1), Slot::permall, 2}, write_of(vm(1), Slot::permall, 2),
                                removal_of(vm(2), Slot::permall, 1), ReadBack{vm(1), Slot::permall, 1}});
  ASSERT_EQ(done.size(), 4u);
  EXPECT_EQ(done[0].kind, Completion::Kind::read);
  EXPECT_TRUE(done[0].result) << "reads see what the same batch committed";
  EXPECT_EQ(done[0].value.view(), text_of(2, 100));
  EXPECT_EQ(done[1].kind, Completion::Kind::entry);
  EXPECT_EQ(done[1].sequence, 2u);
  EXPECT_EQ(done[2].kind, Completion::Kind::removal);
  EXPECT_EQ(done[2].owner, vm(2));
  EXPECT_EQ(done[3].result.error().code, Errc::not_found);
}

TEST_F(StoreTest, ASwitchKeepsWhatIsLiveAndDropsTheRest) {
  open();
  commit(write_of(vm(1), Slot::permall, 1, 3000));
  commit(write_of(vm(2), Slot::permall, 2, 3000));
  commit(removal_of(vm(2), Slot::permall, 2));
  for (Sequence s = 3; s < 200; ++s) commit(write_of(vm(3), Slot::permall, s, 2000));
  EXPECT_GT(store->stats().switches, 3u);
  EXPECT_EQ(read_value(*store, vm(1), Slot::permall, 1), text_of(1, 3000));
  power_cut_and_open();
  EXPECT_EQ(live(), (Entries{{Slot::permall, 1}, {Slot::permall, 199}}));
  EXPECT_EQ(read_value(*store, vm(1), Slot::permall, 1), text_of(1, 3000));
}

TEST_F(StoreTest, SequencesRiseAlsoWhenNothingIsLeftOfThem) {
  open();
  commit(write_of(vm(1), Slot::permall, 1000));
  commit(removal_of(vm(1), Slot::permall, 1000));
  for (Sequence s = 10; store->stats().switches < 3; ++s) commit(write_of(vm(2), Slot::permall, s, 3000));
  power_cut_and_open();
  EXPECT_EQ(store->recovery().highest_sequence, 1000u);
}

TEST_F(StoreTest, AFullJournalRefusesOnlyWhatEnlargesIt) {
  options = small_options(128);
  open();
  unsigned accepted = 0;
  Sequence s = 1;
  for (;; ++accepted, ++s) {
    const auto done = run_one(*store, write_of(vm(accepted), Slot::permall, s, 12'000));
    if (!done.result) {
      EXPECT_EQ(done.result.error().code, Errc::no_space);
      break;
    }
    ASSERT_LT(accepted, 100u);
  }
  EXPECT_GT(accepted * 12'000, options.size / 2) << "most of a file should be usable";
  for (unsigned round = 0; round < 3; ++round) {
    for (unsigned i = 0; i < accepted; ++i) commit(write_of(vm(i), Slot::permall, ++s, 12'000));
  }
  EXPECT_EQ(run_one(*store, write_of(vm(200), Slot::permall, ++s, 12'000)).result.error().code,
            Errc::no_space);
  power_cut_and_open();
  EXPECT_EQ(live().size(), accepted);
  for (unsigned i = 0; i < accepted; ++i) commit(removal_of(vm(i), Slot::permall, s));
  commit(write_of(vm(200), Slot::permall, ++s, 12'000));
  power_cut_and_open();
  EXPECT_EQ(live(), (Entries{{Slot::permall, s}}));
}

TEST_F(StoreTest, AReplacementAsLargeAsTheLargestFindsRoomInAFullJournal) {
  open();
  Sequence s = 1;
  commit(write_of(vm(0), Slot::permall, s, 20'000));
  for (unsigned i = 1; run_one(*store, write_of(vm(i), Slot::permall, ++s, 300)).result; ++i)
    ASSERT_LT(i, 255u);
  for (int round = 0; round < 20; ++round) commit(write_of(vm(0), Slot::permall, ++s, 20'000));
  power_cut_and_open();
  EXPECT_EQ(read_value(*store, vm(0), Slot::permall, s), text_of(s, 20'000));
}

TEST_F(StoreTest, ABatchLargerThanTheRestOfTheFileIsCommittedInParts) {
  open();
  std::vector<Request> batch;
  for (Sequence s = 1; s <= 100; ++s)
    batch.push_back(write_of(vm(static_cast<unsigned>(s % 5)), Slot::permall, s, 3000));
  for (const auto& done : store->run(batch)) EXPECT_TRUE(done.result);
  EXPECT_GT(store->stats().switches, 1u);
  power_cut_and_open();
  EXPECT_EQ(live().size(), 5u);
}

TEST_F(StoreTest, TheOldFileIsZeroedWhenNothingElseIsToDo) {
  open();
  commit(write_of(vm(1), Slot::permall, 1, 3000));
  force_switch(100);
  const auto dirty = disk.contents("a");
  EXPECT_FALSE(all_zero(std::span(dirty).subspan(data_start)));
  while (store->idle_work()) {
  }
  const auto clean = disk.contents("a");
  EXPECT_TRUE(all_zero(std::span(clean).subspan(data_start)));
  EXPECT_EQ(disk.unsynced(), 0u);
  const auto before = disk.operations();
  EXPECT_FALSE(store->idle_work());
  EXPECT_EQ(disk.operations(), before) << "idle work comes to an end";
  power_cut_and_open();
  EXPECT_EQ(read_value(*store, vm(1), Slot::permall, 1), text_of(1, 3000));
}

TEST_F(StoreTest, RecoveryOfASealedJournalWritesNothing) {
  open();
  commit(write_of(vm(1), Slot::permall, 1));
  store->seal();
  const auto a = disk.contents("a");
  power_cut_and_open();
  EXPECT_EQ(live(), (Entries{{Slot::permall, 1}}));
  EXPECT_EQ(disk.contents("a"), a);
  EXPECT_EQ(store->stats().batches, 0u);
}

TEST_F(StoreTest, ASyncThatFindsNoSpaceIsAFailureAndNotAFullJournal) {
  open();
  commit(write_of(vm(1), Slot::permall, 1));
  disk.fail_all(SimDisk::Kind::sync, ENOSPC);
  const auto failed = run_one(*store, write_of(vm(1), Slot::permall, 2));
  ASSERT_FALSE(failed.result);
  EXPECT_EQ(failed.result.error().code, Errc::io) << "no_space promises that nothing was written";
  EXPECT_EQ(failed.result.error().os_errno, ENOSPC);
  EXPECT_EQ(store->stats().state, State::failed);
  disk.heal();
  disk.kill();
  open();
  EXPECT_EQ(live(), (Entries{{Slot::permall, 2}})) << "it was written all the same";
}

TEST_F(StoreTest, RecoveryWritesAnUnprovenBatchOnceMore) {
  open();
  commit(write_of(vm(1), Slot::permall, 1));
  commit(write_of(vm(1), Slot::savestate, 2));
  // The sync fails after the process has died: the cache shows a batch that is not on the disk.
  disk.fail_all(SimDisk::Kind::sync, EIO);
  EXPECT_FALSE(run_one(*store, write_of(vm(1), Slot::permall, 3)).result);
  disk.heal();
  disk.kill();
  open();
  Sequence shown = 0;
  for (const auto& entry : store->recovery().live)
    shown = entry.slot == Slot::permall ? entry.sequence : shown;
  power_cut_and_open();
  for (const auto& entry : store->recovery().live) {
    if (entry.slot != Slot::permall) continue;
    EXPECT_EQ(entry.sequence, shown) << "a power cut took back what was shown";
  }
}

TEST_F(StoreTest, AJournalOfAnotherSizeIsUsedAsItIs) {
  open();
  commit(write_of(vm(1), Slot::permall, 1, 3000));
  options = small_options(64);
  power_cut_and_open();
  EXPECT_EQ(disk.contents("b").size(), options.size) << "files grow to the size asked for";
  EXPECT_EQ(read_value(*store, vm(1), Slot::permall, 1), text_of(1, 3000));
  options = small_options(16);
  power_cut_and_open();
  EXPECT_EQ(read_value(*store, vm(1), Slot::permall, 1), text_of(1, 3000));
  force_switch(100);
  power_cut_and_open();
  EXPECT_EQ(live().size(), 2u);
}

TEST_F(StoreTest, RefusesASizeThatMakesNoSense) {
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{15 * 4096}, std::uint64_t{100'000}}) {
    options.size = size;
    EXPECT_EQ(open_store(disk, options).error().code, Errc::invalid);
  }
}

TEST_F(StoreTest, SaysWhenTheDiskReservesNothing) {
  disk.set_overwrites_in_place(false);
  open();
  EXPECT_FALSE(store->stats().reserved);
}

}  // namespace
}  // namespace guard::journal
