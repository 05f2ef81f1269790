// The thread around the store, on a real file system and on a disk that fails.
#include "journal/journal.h"

#include <stdlib.h>

#include <condition_variable>
#include <filesystem>
#include <future>
#include <map>
#include <mutex>
#include <thread>

#include "testing/journal_model.h"

namespace guard::journal {
namespace {

using namespace std::chrono_literals;

/// Collects completions and waits for them.
class Inbox {
 public:
  std::function<void(std::vector<Completion>)> receiver() {
    return [this](std::vector<Completion> completions) {
      const std::lock_guard lock(mutex_);
      for (auto& c : completions) received_.push_back(std::move(c));
      arrived_.notify_all();
    };
  }
  std::vector<Completion> wait_for(std::size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(arrived_.wait_for(lock, 30s, [&] { return received_.size() >= count; }));
    return std::exchange(received_, {});
  }
  std::size_t size() {
    const std::lock_guard lock(mutex_);
    return received_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<Completion> received_;
};

template <class Condition>
bool eventually(Condition condition) {
  for (int i = 0; i < 1000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(10ms);
  }
  return false;
}

class JournalTest : public ::testing::Test {
 protected:
  JournalTest() {
    std::string name = (std::filesystem::temp_directory_path() / "guard-journal-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path = name;
  }
  ~JournalTest() override { std::filesystem::remove_all(path); }

  std::unique_ptr<Store> open() {
    Options options;
    options.size = 4 * limits::MiB;
    return Store::open(open_directory(path).value(), options, salts(salt++), null_logger()).value();
  }

  std::string path;
  std::uint64_t salt = 1;
  Inbox inbox;
};

TEST_F(JournalTest, CompletesEverythingInOrderAndKeepsItOnARealDisk) {
  {
    Journal journal(open(), inbox.receiver());
    Sequence sequence = 0;
    for (int round = 0; round < 200; ++round) {
      std::vector<Request> batch;
      for (unsigned i = 0; i < 10; ++i) batch.push_back(write_of(vm(i), Slot::permall, ++sequence, 4000));
      journal.submit(std::move(batch));
    }
    const auto completions = inbox.wait_for(2000);
    ASSERT_EQ(completions.size(), 2000u);
    for (std::size_t i = 0; i < completions.size(); ++i) {
      ASSERT_TRUE(completions[i].result) << completions[i].result.error().message;
      ASSERT_EQ(completions[i].sequence, i + 1);
    }
    EXPECT_LT(journal.stats().batches, 2000u);
    journal.submit({ReadBack{vm(3), Slot::permall, 1994}});
    EXPECT_EQ(inbox.wait_for(1).at(0).value.view(), text_of(1994, 4000));
  }
  const auto store = open();
  EXPECT_EQ(store->recovery().live.size(), 10u);
  EXPECT_EQ(store->recovery().highest_sequence, 2000u);
  EXPECT_EQ(read_value(*store, vm(9), Slot::permall, 2000), text_of(2000, 4000));
  EXPECT_EQ(store->stats().batches, 0u) << "an orderly end leaves a sealed journal";
}

TEST_F(JournalTest, WhatWasSubmittedBeforeTheEndIsStillCommitted) {
  {
    Journal journal(open(), inbox.receiver());
    for (Sequence s = 1; s <= 100; ++s) journal.submit({write_of(vm(1), Slot::permall, s)});
  }
  EXPECT_EQ(inbox.size(), 100u);
  EXPECT_EQ(read_value(*open(), vm(1), Slot::permall, 100), text_of(100, 100));
}

TEST_F(JournalTest, ManyThreadsMaySubmitAndAQueueLargerThanABatchIsServedInParts) {
  Options options;
  options.size = 32 * limits::MiB;
  auto store = Store::open(open_directory(path).value(), options, salts(), null_logger()).value();
  Journal journal(std::move(store), inbox.receiver());
  std::atomic<Sequence> sequence{0};
  std::vector<std::jthread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 30; ++i) journal.submit({write_of(vm(t), Slot::permall, ++sequence, 300'000)});
    });
  }
  threads.clear();
  unsigned succeeded = 0;
  for (const auto& c : inbox.wait_for(120)) succeeded += c.result ? 1 : 0;
  EXPECT_EQ(succeeded, 120u);
}

TEST_F(JournalTest, QuietSealsTheLastBatchAndThenNothingHappensAnyMore) {
  Journal journal(open(), inbox.receiver());
  journal.submit({write_of(vm(1), Slot::permall, 1)});
  inbox.wait_for(1);
  EXPECT_TRUE(eventually([&] { return journal.stats().batches == 2; }));  // the write, the seal
  std::this_thread::sleep_for(3 * limits::journal_quiet);
  const auto syncs = journal.stats().syncs;
  std::this_thread::sleep_for(3 * limits::journal_quiet);
  EXPECT_EQ(journal.stats().syncs, syncs);
}

TEST_F(JournalTest, AFailedJournalRevivesByItselfWhenTheDiskDoes) {
  testing::SimDisk disk(1);
  Journal journal(open_store(disk).value(), inbox.receiver());
  journal.submit({write_of(vm(1), Slot::permall, 1)});
  ASSERT_TRUE(inbox.wait_for(1).at(0).result);
  EXPECT_TRUE(eventually([&] { return journal.stats().batches == 2; }));  // at rest: the disk is ours
  std::this_thread::sleep_for(2 * limits::journal_quiet);
  disk.fail_all(testing::SimDisk::Kind::sync, EIO);
  journal.submit({write_of(vm(1), Slot::permall, 2)});
  EXPECT_FALSE(inbox.wait_for(1).at(0).result);
  EXPECT_EQ(journal.stats().state, State::failed);
  journal.submit({ReadBack{vm(1), Slot::permall, 1}});
  EXPECT_TRUE(inbox.wait_for(1).at(0).result) << "reads go on";
  std::this_thread::sleep_for(100ms);
  disk.heal();
  EXPECT_TRUE(eventually([&] { return journal.stats().state == State::ok; }));
  journal.submit({write_of(vm(1), Slot::permall, 3)});
  EXPECT_TRUE(inbox.wait_for(1).at(0).result);
}

/// A file whose syncs wait for permission.
class SlowDirectory final : public Directory {
 public:
  SlowDirectory(std::unique_ptr<Directory> real, std::shared_future<void> go)
      : real_(std::move(real)), go_(go) {}

  Result<std::unique_ptr<File>> open_file(std::string_view name, Mode mode) override {
    auto file = real_->open_file(name, mode);
    if (!file) return file;
    return std::make_unique<SlowFile>(std::move(*file), go_);
  }
  Result<std::unique_ptr<File>> open_for_read(std::string_view name) override {
    return real_->open_for_read(name);
  }
  Result<std::unique_ptr<Directory>> open_dir(std::string_view name, bool create) override {
    return real_->open_dir(name, create);
  }
  Result<void> rename(std::string_view from, std::string_view to) override { return real_->rename(from, to); }
  Result<void> unlink(std::string_view name) override { return real_->unlink(name); }
  Result<void> remove_dir(std::string_view name) override { return real_->remove_dir(name); }
  Result<void> link(std::string_view name, Directory& to, std::string_view to_name) override {
    return real_->link(name, to, to_name);
  }
  Result<Found> look_at(std::string_view name) override { return real_->look_at(name); }
  Result<std::vector<std::string>> list() override { return real_->list(); }
  Result<void> sync() override { return real_->sync(); }
  Result<std::shared_ptr<void>> lock(std::string_view name) override { return real_->lock(name); }
  bool overwrites_in_place() const override { return real_->overwrites_in_place(); }

  /// From now on syncs wait.
  static inline std::atomic<bool> hang = false;

 private:
  class SlowFile final : public File {
   public:
    SlowFile(std::unique_ptr<File> real, std::shared_future<void> go) : real_(std::move(real)), go_(go) {}
    Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> buffer) override {
      return real_->read_at(offset, buffer);
    }
    Result<void> write_at(std::uint64_t offset, std::span<const std::span<const std::byte>> parts) override {
      return real_->write_at(offset, parts);
    }
    Result<void> sync_data() override {
      if (hang) go_.wait();
      return real_->sync_data();
    }
    Result<void> sync_all() override { return real_->sync_all(); }
    Result<std::uint64_t> size() override { return real_->size(); }

   private:
    std::unique_ptr<File> real_;
    std::shared_future<void> go_;
  };

  std::unique_ptr<Directory> real_;
  std::shared_future<void> go_;
};

/// Counts lines by event; must not be used after its end.
class CountingLogger final : public Logger {
 public:
  void log(LogLevel, std::string_view event, std::initializer_list<Field>) override {
    const std::lock_guard lock(mutex_);
    ++lines_[std::string(event)];
  }
  bool enabled(LogLevel) const override { return true; }
  int lines(const std::string& event) {
    const std::lock_guard lock(mutex_);
    return lines_[event];
  }

 private:
  std::mutex mutex_;
  std::map<std::string, int> lines_;
};

/// A journal on a disk that can be made to hang.
class HangingJournalTest : public JournalTest {
 protected:
  HangingJournalTest() { SlowDirectory::hang = false; }
  ~HangingJournalTest() override { let_go(); }

  std::unique_ptr<Store> open_slow() {
    Options options;
    options.size = 4 * limits::MiB;
    auto dir = std::make_unique<SlowDirectory>(open_directory(path).value(), go.get_future().share());
    return Store::open(std::move(dir), options, salts(), *log).value();
  }
  void let_go() {
    SlowDirectory::hang = false;
    if (!std::exchange(gone, true)) go.set_value();
  }

  std::promise<void> go;
  bool gone = false;
  std::unique_ptr<CountingLogger> log = std::make_unique<CountingLogger>();
};

TEST_F(HangingJournalTest, AHangingSyncMakesTheJournalStalledUntilItReturns) {
  Journal journal(open_slow(), inbox.receiver());
  EXPECT_EQ(journal.stats().state, State::ok);
  SlowDirectory::hang = true;
  journal.submit({write_of(vm(1), Slot::permall, 1)});
  const auto begun = std::chrono::steady_clock::now();
  EXPECT_TRUE(eventually([&] { return journal.stats().state == State::stalled; }));
  EXPECT_GE(std::chrono::steady_clock::now() - begun, limits::journal_stall - 100ms);
  EXPECT_EQ(inbox.size(), 0u);
  for (Sequence s = 2; s < 100; ++s) {
    journal.submit({write_of(vm(1), Slot::permall, s)});
    EXPECT_EQ(journal.stats().state, State::stalled) << "nobody who asks waits for the disk";
  }
  EXPECT_EQ(log->lines("disk_stalled"), 1);
  let_go();
  EXPECT_TRUE(inbox.wait_for(99).at(98).result);
  EXPECT_TRUE(eventually([&] { return journal.stats().state == State::ok; }));
  EXPECT_EQ(log->lines("disk_stall_over"), 1);
}

TEST_F(HangingJournalTest, IdleWorkThatHangsMakesTheJournalStalledToo) {
  Journal journal(open_slow(), inbox.receiver());
  journal.submit({write_of(vm(1), Slot::permall, 1)});
  inbox.wait_for(1);
  SlowDirectory::hang = true;  // the seal, or zeroing
  EXPECT_TRUE(eventually([&] { return journal.stats().state == State::stalled; }));
  let_go();
  EXPECT_TRUE(eventually([&] { return journal.stats().state == State::ok; }));
}

TEST_F(HangingJournalTest, TheEndDoesNotWaitForADiskThatHangsAndWhatItLeavesBehindTouchesNothing) {
  auto lock = std::make_shared<int>(0);
  const std::weak_ptr<int> held = lock;
  auto store = open_slow();
  store->keep(std::move(lock));
  auto journal = std::make_unique<Journal>(std::move(store), [this](std::vector<Completion> completions) {
    for (const auto& done : completions) EXPECT_EQ(done.sequence, 1u) << "a completion after the end";
    inbox.receiver()(std::move(completions));
  });
  journal->submit({write_of(vm(1), Slot::permall, 1)});
  inbox.wait_for(1);
  SlowDirectory::hang = true;
  journal->submit({write_of(vm(1), Slot::permall, 2)});
  EXPECT_TRUE(eventually([&] { return journal->stats().state == State::stalled; }));
  journal->submit({write_of(vm(1), Slot::permall, 3)});
  journal.reset();
  EXPECT_EQ(inbox.size(), 0u);
  EXPECT_EQ(log->lines("disk_stalled"), 1);
  log.reset();
  EXPECT_FALSE(held.expired()) << "nobody else may open the files yet";
  let_go();
  EXPECT_TRUE(eventually([&] { return held.expired(); }));
  EXPECT_EQ(inbox.size(), 0u);
  const auto found = open()->recovery().live;
  ASSERT_EQ(found.size(), 1u);
  EXPECT_LT(found[0].sequence, 3u) << "something was written after the end";
}

}  // namespace
}  // namespace guard::journal
