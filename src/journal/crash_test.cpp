// Power cuts, kills and failing operations at every step, compared with the reference model.
#include <iostream>
#include <map>
#include <random>

#include "testing/journal_model.h"

namespace guard::journal {
namespace {

using testing::SimDisk;

/// A fixed sequence of batches for a seed, made so that a small journal switches files several times.
class Workload {
 public:
  explicit Workload(std::uint64_t seed) : random_(seed) {}

  /// Runs up to `batches` batches; ends early when one fails and `until_failure`.
  void run(Store& store, Model& model, unsigned batches, bool until_failure) {
    for (unsigned i = 0; i < batches; ++i) {
      bool failed = false;
      for (const auto& done : run_modelled(store, model, next_batch(model))) {
        failed = failed || (!done.result && done.result.error().code != Errc::no_space);
      }
      if (below(8) == 0) store.idle_work();
      if (failed && until_failure) return;
    }
  }

  std::uint64_t below(std::uint64_t n) { return random_() % n; }
  void continue_above(Sequence highest) { sequence_ = std::max(sequence_, highest); }

 private:
  std::vector<Request> next_batch(const Model& model) {
    std::vector<Request> batch;
    const auto count = 1 + below(4);
    for (std::uint64_t i = 0; i < count; ++i) {
      const Owner owner = vm(static_cast<unsigned>(below(3)));
      const auto slot = static_cast<Slot>(below(slot_count));
      const auto dice = below(10);
      const Sequence live = model.acknowledged(owner, slot);
      if (dice < 3 && live != 0) {
        Removal removal = removal_of(owner, slot, live);
        removal.delivered = digest_of(text_of(live, 10));
        batch.push_back(removal);
      } else if (dice == 9) {
        Entry contents = write_of(owner, Slot::permall, ++sequence_);
        contents.type = RecordType::contents;
        contents.value =
            pack_contents({Value(text_of(sequence_, below(900))), Value(text_of(sequence_, below(2000))),
                           Value(text_of(sequence_, below(100)))});
        batch.push_back(contents);
      } else {
        batch.push_back(write_of(owner, slot, ++sequence_, below(4000)));
      }
    }
    return batch;
  }

  std::mt19937_64 random_;
  Sequence sequence_ = 0;
};

constexpr unsigned batches = 14;

/// Recovers, compares with the model, and returns the store for going on.
std::unique_ptr<Store> recover(SimDisk& disk, Model& model, const Options& options, std::uint64_t salt) {
  auto store = open_store(disk, options, salt);
  EXPECT_TRUE(store.has_value()) << (store ? "" : store.error().message);
  if (!store) return nullptr;
  EXPECT_EQ((*store)->recovery().corrupt_records, 0u) << "the trace of a crash was taken for damage";
  for (const auto& live : (*store)->recovery().live) EXPECT_FALSE(live.suspect);
  model.check(**store);
  return std::move(*store);
}

/// One history: a journal, a workload that is cut off at operation `stop` of the disk, what `end` leaves of
/// it, recovery, more work, a second end, recovery.
struct History {
  std::uint64_t seed;
  Options options = seed % 2 == 0 ? small_options(36) : growing_options(16, 64);
  SimDisk disk{seed};
  Model model;
  Workload work{seed};
  bool cut = false;

  explicit History(std::uint64_t s) : seed(s) {}

  /// Returns false when the workload ended before operation `stop`.
  bool run_until(std::uint64_t stop) {
    auto store = open_store(disk, options, seed).value();
    disk.stop_at(disk.operations() + stop);
    work.run(*store, model, batches, true);
    return cut = disk.fault_happened();
  }

  void go_on() {
    auto store = recover(disk, model, options, seed + 1000);
    if (!store) return;
    work.continue_above(store->recovery().highest_sequence);
    work.run(*store, model, 3, true);
  }
};

TEST(Crash, APowerCutAtAnyOperationLosesNothingAcknowledged) {
  unsigned histories = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    bool cut = true;
    for (std::uint64_t stop = 1; cut; ++stop) {
      SCOPED_TRACE("seed " + std::to_string(seed) + " stop " + std::to_string(stop));
      History history(seed);
      cut = history.run_until(stop);
      history.disk.crash();
      history.go_on();
      history.disk.crash();
      recover(history.disk, history.model, history.options, seed + 2000);
      ++histories;
      if (::testing::Test::HasFailure()) return;
    }
  }
  std::cout << histories << " histories\n";
  EXPECT_GT(histories, 1000u);
}

TEST(Crash, AKillAtAnyOperationAndAPowerCutAfterRecoveryTakeNothingBack) {
  for (std::uint64_t seed = 101; seed <= 130; ++seed) {
    bool cut = true;
    for (std::uint64_t stop = 1; cut; ++stop) {
      SCOPED_TRACE("seed " + std::to_string(seed) + " stop " + std::to_string(stop));
      History history(seed);
      cut = history.run_until(stop);
      history.disk.heal();
      history.disk.kill();
      // With the old file zeroed everything rests on the one that recovery chose.
      if (auto store = recover(history.disk, history.model, history.options, seed + 1000)) {
        while (store->idle_work()) {
        }
      }
      history.disk.crash();
      recover(history.disk, history.model, history.options, seed + 2000);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

TEST(Crash, WhatWasShownAfterFailedSyncsAndAKillIsNotTakenBackByAPowerCut) {
  for (std::uint64_t seed = 501; seed <= 530; ++seed) {
    bool happened = true;
    for (std::uint64_t n = 1; happened; ++n) {
      SCOPED_TRACE("seed " + std::to_string(seed) + " operation " + std::to_string(n));
      History history(seed);
      auto store = open_store(history.disk, history.options, seed).value();
      history.disk.fail_at(history.disk.operations() + n, EIO, true);
      history.work.run(*store, history.model, batches, true);
      happened = history.disk.fault_happened();
      history.disk.heal();
      history.disk.kill();
      // A header that a failed write left half done is reported as damage; that costs nothing.
      auto shown = open_store(history.disk, history.options, seed + 1000).value();
      history.model.check(*shown);
      while (seed % 4 < 2 && shown->idle_work()) {  // with the old file zeroed everything rests on one
      }
      history.disk.crash([](const SimDisk::Effect&) { return SimDisk::Fate::dropped; });
      auto left = open_store(history.disk, history.options, seed + 2000).value();
      history.model.check(*left);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

TEST(Crash, APowerCutDuringRecoveryLosesNothingEither) {
  for (std::uint64_t seed = 201; seed <= 230; ++seed) {
    bool cut = true;
    for (std::uint64_t stop = 3; cut; stop += 7) {
      bool cut_again = true;
      for (std::uint64_t again = 1; cut_again; ++again) {
        SCOPED_TRACE("seed " + std::to_string(seed) + " stops " + std::to_string(stop) + ", " +
                     std::to_string(again));
        History history(seed);
        cut = history.run_until(stop);
        history.disk.crash();
        history.disk.stop_at(history.disk.operations() + again);
        (void)open_store(history.disk, history.options, seed + 1000);
        cut_again = history.disk.fault_happened();
        history.disk.crash();
        recover(history.disk, history.model, history.options, seed + 2000);
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

TEST(Crash, APowerCutDuringCreationLeavesNothingInTheWay) {
  bool cut = true;
  for (std::uint64_t stop = 1; cut; ++stop) {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
      SCOPED_TRACE("seed " + std::to_string(seed) + " stop " + std::to_string(stop));
      SimDisk disk(seed);
      Model model;
      disk.stop_at(stop);
      (void)open_store(disk, small_options(), seed);
      cut = disk.fault_happened();
      disk.crash();
      const auto store = recover(disk, model, small_options(), seed + 1);
      ASSERT_TRUE(store);
      ASSERT_TRUE(run_one(*store, write_of(vm(1), Slot::permall, 1)).result);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

/// The journal works again, without being opened anew, as soon as the disk does.
void expect_alive(Store& store, Model& model, Workload& work) {
  for (int attempt = 0; attempt < 5 && store.stats().state == State::failed; ++attempt) store.revive();
  EXPECT_EQ(store.stats().state, State::ok);
  for (const auto& done : run_modelled(store, model, {write_of(vm(7), Slot::permall, 1'000'000, 50)})) {
    EXPECT_TRUE(done.result) << done.result.error().message;
  }
  work.continue_above(1'000'000);
  work.run(store, model, 3, true);
}

void fail_each_operation(std::uint64_t first_seed, std::uint64_t last_seed, int os_errno, bool for_ever) {
  for (std::uint64_t seed = first_seed; seed <= last_seed; ++seed) {
    bool happened = true;
    for (std::uint64_t n = 1; happened; ++n) {
      SCOPED_TRACE("seed " + std::to_string(seed) + " operation " + std::to_string(n));
      History history(seed);
      auto store = open_store(history.disk, history.options, seed).value();
      history.disk.fail_at(history.disk.operations() + n, os_errno, for_ever);
      history.work.run(*store, history.model, batches, false);
      happened = history.disk.fault_happened();
      history.disk.heal();
      expect_alive(*store, history.model, history.work);
      history.disk.crash();
      recover(history.disk, history.model, history.options, seed + 1000);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

TEST(Fault, AnyOperationMayFailOnce) {
  fail_each_operation(301, 315, EIO, false);
  fail_each_operation(316, 330, ENOSPC, false);
}

TEST(Fault, APowerCutAfterAnyFailedOperationLosesNothingThatWasAcknowledgedSince) {
  for (std::uint64_t seed = 601; seed <= 640; ++seed) {
    bool happened = true;
    for (std::uint64_t n = 1; happened; ++n) {
      SCOPED_TRACE("seed " + std::to_string(seed) + " operation " + std::to_string(n));
      History history(seed);
      auto store = open_store(history.disk, history.options, seed).value();
      history.disk.fail_at(history.disk.operations() + n, EIO);
      history.work.run(*store, history.model, batches, false);  // nobody revives it
      happened = history.disk.fault_happened();
      history.disk.crash();
      recover(history.disk, history.model, history.options, seed + 1000);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

TEST(Fault, TheDiskMayFailForAWhileFromAnyOperationOn) { fail_each_operation(331, 350, EIO, true); }

TEST(Fault, OpeningFailsOrSucceedsAtAnyFailingOperationAndHarmsNothing) {
  for (std::uint64_t seed = 401; seed <= 420; ++seed) {
    bool happened = true;
    for (std::uint64_t n = 1; happened; ++n) {
      SCOPED_TRACE("seed " + std::to_string(seed) + " operation " + std::to_string(n));
      History history(seed);
      (void)history.run_until(10 + seed % 20);
      history.disk.crash();
      history.disk.fail_at(history.disk.operations() + n, EIO);
      auto store = open_store(history.disk, history.options, seed + 1000);
      happened = history.disk.fault_happened();
      history.disk.heal();
      if (store) history.model.check(**store);
      history.disk.kill();
      recover(history.disk, history.model, history.options, seed + 2000);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

TEST(Fault, CreationMayFailAtAnyOperationAndIsThenDoneAnew) {
  bool happened = true;
  for (std::uint64_t n = 1; happened; ++n) {
    SCOPED_TRACE("operation " + std::to_string(n));
    SimDisk disk(n);
    Model model;
    disk.fail_at(n, ENOSPC);
    const bool opened = open_store(disk).has_value();
    happened = disk.fault_happened();
    EXPECT_TRUE(opened || happened);  // a read that fails once is repeated
    EXPECT_FALSE(disk.exists("a.new") || disk.exists("b.new"));
    disk.heal();
    disk.kill();
    auto store = recover(disk, model, small_options(), 2);
    ASSERT_TRUE(store);
    EXPECT_TRUE(run_modelled(*store, model, {write_of(vm(1), Slot::permall, 1)})[0].result);
    disk.crash();
    recover(disk, model, small_options(), 3);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(Fault, OneFailingFileIsNoticedByNobody) {
  SimDisk disk(1);
  Model model;
  auto store = open_store(disk).value();
  run_modelled(*store, model, {write_of(vm(1), Slot::permall, 1)});
  disk.fail_at(disk.operations() + 2, EIO);  // the sync
  EXPECT_TRUE(run_modelled(*store, model, {write_of(vm(1), Slot::permall, 2)})[0].result);
  EXPECT_TRUE(disk.fault_happened());
  EXPECT_EQ(store->stats().switches, 1u);
  EXPECT_EQ(store->stats().state, State::ok);
  disk.crash();
  recover(disk, model, small_options(), 2);
}

TEST(Fault, ADiskThatStaysBadIsToldOnceAndAgainWhenItGetsBadAgain) {
  class Collector final : public Logger {
   public:
    void log(LogLevel, std::string_view event, std::initializer_list<Field>) override {
      ++lines[std::string(event)];
    }
    bool enabled(LogLevel) const override { return true; }
    std::map<std::string, int> lines;
  } log;
  SimDisk disk(1);
  auto store = Store::open(disk.root(), small_options(), salts(1), log).value();
  for (int time = 1; time <= 2; ++time) {
    disk.fail_all(SimDisk::Kind::sync, EIO);
    EXPECT_FALSE(store->run({write_of(vm(1), Slot::permall, static_cast<Sequence>(time))})[0].result);
    for (int attempt = 0; attempt < 20; ++attempt) EXPECT_FALSE(store->revive());
    EXPECT_EQ(log.lines["journal_failed"], time);
    EXPECT_EQ(log.lines["journal_file_failed"], time);
    EXPECT_LE(log.lines["journal_switch_failed"], time);
    disk.heal();
    EXPECT_TRUE(store->revive());
  }
}

TEST(Fault, AFailedJournalRefusesWritesServesReadsAndRevives) {
  SimDisk disk(1);
  Model model;
  auto store = open_store(disk).value();
  run_modelled(*store, model, {write_of(vm(1), Slot::permall, 1)});
  const auto generation = store->stats().generation;
  disk.fail_all(SimDisk::Kind::sync, EIO);
  const auto failed = run_modelled(*store, model, {write_of(vm(1), Slot::permall, 2)})[0];
  ASSERT_FALSE(failed.result);
  EXPECT_EQ(failed.result.error().code, Errc::io);
  EXPECT_EQ(store->stats().state, State::failed);
  EXPECT_EQ(read_value(*store, vm(1), Slot::permall, 1), text_of(1, 100));
  const auto before = disk.operations();
  EXPECT_FALSE(run_modelled(*store, model, {write_of(vm(1), Slot::permall, 3)})[0].result);
  EXPECT_FALSE(run_modelled(*store, model, {removal_of(vm(1), Slot::permall, 1)})[0].result);
  EXPECT_EQ(disk.operations(), before) << "only revive() tries again";
  EXPECT_FALSE(store->revive());
  disk.heal();
  EXPECT_TRUE(store->revive());
  EXPECT_GT(store->stats().generation, generation) << "the failed batches are left behind";
  disk.crash();
  auto again = recover(disk, model, small_options(), 2);
  EXPECT_EQ(read_value(*again, vm(1), Slot::permall, 1), text_of(1, 100));
}

TEST(Fault, WithoutAnotherFileTheRestOfTheCurrentOneStillTakesRemovals) {
  SimDisk disk(1);
  Model model;
  auto store = open_store(disk).value();
  Sequence s = 0;
  for (unsigned i = 0; i < 4; ++i) run_modelled(*store, model, {write_of(vm(i), Slot::permall, ++s, 2000)});
  const auto switches = store->stats().switches;
  // Writing fails from the first operation of the next switch on, until it has given up.
  while (store->stats().state == State::ok) {
    disk.fail_at(disk.operations() + 3, EIO);  // the third one exists only in a batch that switches
    run_modelled(*store, model, {write_of(vm(0), Slot::permall, ++s, 2000)});
    disk.heal();
    ASSERT_LT(s, 1000u);
  }
  EXPECT_EQ(store->stats().switches, switches);
  EXPECT_FALSE(run_modelled(*store, model, {write_of(vm(1), Slot::permall, ++s, 2000)})[0].result);
  std::vector<Request> removals;
  for (unsigned i = 0; i < 4; ++i) removals.push_back(removal_of(vm(i), Slot::permall, s));
  for (const auto& done : run_modelled(*store, model, removals)) EXPECT_TRUE(done.result);
  disk.crash();
  recover(disk, model, small_options(), 2);
}

TEST(TornTail, ABatchCutOffAtAnyByteIsAbsentOrWhole) {
  SimDisk disk(1);
  Model model;
  {
    auto store = open_store(disk).value();
    run_modelled(*store, model,
                 {write_of(vm(1), Slot::permall, 1, 700), write_of(vm(2), Slot::permall, 2, 700)});
    store->seal();
  }
  const auto before = disk.contents("a");
  {
    auto store = open_store(disk).value();
    for (const auto& request : std::vector<Request>{write_of(vm(1), Slot::permall, 3, 500),
                                                    write_of(vm(2), Slot::savestate, 4, 900),
                                                    removal_of(vm(2), Slot::permall, 2)}) {
      model.submitted(request);
    }
    store->run({write_of(vm(1), Slot::permall, 3, 500), write_of(vm(2), Slot::savestate, 4, 900),
                removal_of(vm(2), Slot::permall, 2)});
  }
  const auto after = disk.contents("a");
  const auto differs = [&](std::size_t i) { return before[i] != after[i]; };
  std::size_t first = 0;
  while (!differs(first)) ++first;
  std::size_t last = after.size() - 1;
  while (!differs(last)) --last;
  for (std::size_t cut = first; cut <= last + 1; ++cut) {
    SCOPED_TRACE("cut at byte " + std::to_string(cut));
    auto image = after;
    std::copy(before.begin() + static_cast<std::ptrdiff_t>(cut), before.end(),
              image.begin() + static_cast<std::ptrdiff_t>(cut));
    SimDisk one(cut);
    {
      auto dir = one.root();
      for (const auto* name : {"a", "b"}) {
        const auto bytes = *name == 'a' ? image : disk.contents(name);
        const std::span<const std::byte> part = bytes;
        auto file = dir->open_file(name, Directory::Mode::create_new).value();
        ASSERT_TRUE(file->write_at(0, {&part, 1}));
        ASSERT_TRUE(file->sync_all());
      }
      ASSERT_TRUE(dir->sync());
    }
    Model copy = model;
    auto store = recover(one, copy, small_options(), 5);
    ASSERT_TRUE(store);
    EXPECT_EQ(store->recovery().torn, cut > first + 103 && cut <= last)
        << "torn is what left a whole header behind";
    // The cut must not be taken for damage either once something was written after it.
    ASSERT_TRUE(run_modelled(*store, copy, {write_of(vm(3), Slot::permall, 10)})[0].result);
    one.crash();
    recover(one, copy, small_options(), 6);
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace guard::journal
