// What the embedded store does when its disk, its file or other programs misbehave. Without threads: the
// worker is called directly.
#include "upstream/embedded_worker.h"

#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <random>
#include <sstream>

#include "upstream/embedded_faulty_vfs.h"
#include "upstream/embedded_test_support.h"

namespace guard::upstream::testing {
namespace {

using Kind = Outcome::Kind;
using Op = FaultyVfs::Op;

const Uuid vm_a = *Uuid::parse("3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10");
const Uuid vm_b = *Uuid::parse("b1c0e5a3-8f5b-4c0e-9d2b-6a1e5b7c9d11");
const Uuid vm_never = *Uuid::parse("c1c0e5a3-8f5b-4c0e-9d2b-6a1e5b7c9d12");

Owner vtpm_of(const Uuid& vm) { return {vm, Device::vtpm}; }

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

class EmbeddedWorkerTest : public ::testing::Test {
 protected:
  EmbeddedWorkerTest() { reopen(); }

  void reopen() {
    worker.reset();
    EmbeddedOptions options = place.options();
    options.vfs = vfs.name();
    options.busy_patience = std::chrono::milliseconds(50);
    worker = std::make_unique<EmbeddedWorker>(options, [this](std::vector<EmbeddedAnswer> more) {
      syncs_at_answer = vfs.count(Op::sync);
      for (auto& answer : more) {
        if (const auto* over = std::get_if<EmbeddedAnswer::Ended>(&answer.what)) ended.push_back(over->epoch);
        answers.push_back(std::move(answer));
      }
    });
  }

  static Delivery delivery_of(std::string permall, const Uuid& vm = vm_a) {
    Delivery delivery;
    delivery.owner = vtpm_of(vm);
    delivery.writes.push_back({Slot::permall, 1, Value(std::move(permall)), {}, {}, false});
    return delivery;
  }
  static EmbeddedCall call(EmbeddedCallId id, decltype(EmbeddedCall::what) what) {
    return {id, std::move(what)};
  }

  template <class What>
  What one(decltype(EmbeddedCall::what) what) {
    answers.clear();
    worker->serve({call(1, std::move(what))});
    for (auto& answer : answers) {
      if (auto* mine = std::get_if<What>(&answer.what); mine != nullptr && answer.id == 1)
        return std::move(*mine);
    }
    ADD_FAILURE() << "not answered";
    return {};
  }
  Outcome deliver(Delivery delivery) { return one<Outcome>(std::move(delivery)); }
  Outcome probe() { return one<Outcome>(EmbeddedCall::Probe{}); }
  Fetched fetch(const Uuid& vm = vm_a) { return one<Fetched>(EmbeddedCall::Fetch{vtpm_of(vm)}); }
  std::string permall(const Uuid& vm = vm_a) {
    const Fetched fetched = fetch(vm);
    EXPECT_EQ(fetched.kind, Kind::delivered) << fetched.reason;
    return std::string(fetched.contents[Slot::permall].view());
  }

  StorePlace place;
  FaultyVfs vfs;
  std::vector<EmbeddedAnswer> answers;
  std::vector<Epoch> ended;
  unsigned syncs_at_answer = 0;
  std::unique_ptr<EmbeddedWorker> worker;
};

TEST_F(EmbeddedWorkerTest, WhatIsAnsweredIsSynced) {
  ASSERT_EQ(deliver(delivery_of("0")).kind, Kind::delivered);
  for (int i = 1; i < 20; ++i) {
    const unsigned before = vfs.count(Op::sync);
    ASSERT_EQ(deliver(delivery_of(std::to_string(i))).kind, Kind::delivered);
    EXPECT_GT(syncs_at_answer, before);
  }
}

TEST_F(EmbeddedWorkerTest, UpdatesThatQueueUpShareATransactionAndItsSync) {
  ASSERT_EQ(deliver(delivery_of("0")).kind, Kind::delivered);
  const unsigned before = vfs.count(Op::sync);
  std::vector<EmbeddedCall> calls;
  for (unsigned i = 0; i < 64; ++i) {
    Uuid vm = vm_b;
    vm.bytes[0] = static_cast<std::uint8_t>(i);
    calls.push_back(call(i + 1, delivery_of("together", vm)));
  }
  answers.clear();
  worker->serve(std::move(calls));
  ASSERT_EQ(answers.size(), 64u);
  for (const auto& answer : answers) EXPECT_EQ(std::get<Outcome>(answer.what).kind, Kind::delivered);
  EXPECT_EQ(worker->counters().transactions, 2u);
  EXPECT_EQ(vfs.count(Op::sync), before + 1);
}

TEST_F(EmbeddedWorkerTest, ReadsAreAnsweredBeforeTheUpdatesThatCameWithThem) {
  ASSERT_EQ(deliver(delivery_of("old")).kind, Kind::delivered);
  answers.clear();
  worker->serve({call(1, delivery_of("new")), call(2, EmbeddedCall::Fetch{vtpm_of(vm_a)})});
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_EQ(std::get<Fetched>(answers[0].what).contents[Slot::permall].view(), "old");
  EXPECT_EQ(std::get<Outcome>(answers[1].what).kind, Kind::delivered);
}

TEST_F(EmbeddedWorkerTest, OneThatCannotBeStoredHarmsNoneOfThoseThatCameWithIt) {
  ASSERT_EQ(deliver(delivery_of("old", vm_a)).kind, Kind::delivered);
  place.sql("UPDATE value SET bytes = x'00'");
  answers.clear();
  worker->serve({call(1, delivery_of("new", vm_a)), call(2, delivery_of("new", vm_b)),
                 call(3, delivery_of("no text", vm_never))});
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_EQ(std::get<Outcome>(answers[0].what).kind, Kind::lane);
  EXPECT_EQ(std::get<Outcome>(answers[1].what).kind, Kind::delivered);
  EXPECT_EQ(std::get<Outcome>(answers[2].what).kind, Kind::payload);
  EXPECT_EQ(permall(vm_b), "new");
}

TEST_F(EmbeddedWorkerTest, WritesThatFindNoSpaceAreTransientWhereverTheyFail) {
  ASSERT_EQ(deliver(delivery_of("old")).kind, Kind::delivered);
  const std::string value(60'000, 'v');
  unsigned failures = 0;
  for (unsigned n = 0;; ++n) {
    vfs.fail(Op::write, n, SQLITE_FULL, true);
    const Outcome outcome = deliver(delivery_of(value));
    if (outcome.kind == Kind::delivered) break;
    ++failures;
    ASSERT_EQ(outcome.kind, Kind::transient) << "at write " << n << ": " << outcome.reason;
    EXPECT_TRUE(outcome.upstream_suspect);
    EXPECT_NE(outcome.reason.find("full"), std::string::npos) << outcome.reason;
    vfs.heal();
    ASSERT_EQ(permall(), "old") << "at write " << n;
  }
  EXPECT_GT(failures, 10u);
  EXPECT_TRUE(ended.empty()) << "the session goes on";
  EXPECT_EQ(permall(), value);
}

TEST_F(EmbeddedWorkerTest, AProbeAsksForAsMuchAsDidNotFit) {
  ASSERT_EQ(deliver(delivery_of("old")).kind, Kind::delivered);
  const std::string value(60'000, 'v');
  vfs.fail(Op::write, 6, SQLITE_FULL, true);
  ASSERT_EQ(deliver(delivery_of(value)).kind, Kind::transient);
  // Room for a few pages, as on a disk that is nearly full.
  vfs.fail(Op::write, 6, SQLITE_FULL, true);
  EXPECT_EQ(probe().kind, Kind::transient) << "a small write would fit, the update would not";
  vfs.heal();
  EXPECT_EQ(probe().kind, Kind::delivered);
  vfs.fail(Op::write, 6, SQLITE_FULL, true);
  EXPECT_EQ(probe().kind, Kind::delivered) << "from now on a small write will do";
}

TEST_F(EmbeddedWorkerTest, ASyncThatFailsIsDoubtAndEndsTheSession) {
  const Outcome first = deliver(delivery_of("old"));
  vfs.fail(Op::sync, 0, SQLITE_IOERR_FSYNC, false);
  const Outcome outcome = deliver(delivery_of("new"));
  EXPECT_EQ(vfs.failed(), 1u);
  EXPECT_EQ(outcome.kind, Kind::unknown);
  EXPECT_FALSE(outcome.contents);
  EXPECT_EQ(ended, std::vector<Epoch>{first.epoch});
  // The next session copies the log into the database, and syncs that, before it says what stands there.
  const unsigned before = vfs.count(Op::sync);
  const Fetched fetched = fetch();
  ASSERT_EQ(fetched.kind, Kind::delivered) << fetched.reason;
  EXPECT_GE(vfs.count(Op::sync), before + 2);
  EXPECT_GT(fetched.epoch, first.epoch);
  const std::string standing(fetched.contents[Slot::permall].view());
  EXPECT_TRUE(standing == "old" || standing == "new") << standing;
  EXPECT_EQ(read_file(place.file() + "-wal"), "");
}

TEST_F(EmbeddedWorkerTest, WhileEverySyncFailsNothingIsAcceptedNorReadAndAbsenceIsNotInvented) {
  ASSERT_EQ(deliver(delivery_of("old")).kind, Kind::delivered);
  vfs.fail(Op::sync, 0, SQLITE_IOERR_FSYNC, true);
  EXPECT_EQ(deliver(delivery_of("new")).kind, Kind::unknown);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(fetch().kind, Kind::transient);
    EXPECT_EQ(fetch(vm_never).kind, Kind::transient);
    EXPECT_EQ(deliver(delivery_of("newer")).kind, Kind::transient);
    EXPECT_EQ(probe().kind, Kind::transient);
  }
  vfs.heal();
  EXPECT_EQ(probe().kind, Kind::delivered);
  const std::string standing = permall();
  EXPECT_TRUE(standing == "old" || standing == "new") << standing;
}

TEST_F(EmbeddedWorkerTest, WritesThatFailAreNeverTakenForDoneWhereverTheyFail) {
  ASSERT_EQ(deliver(delivery_of("v0")).kind, Kind::delivered);
  std::string standing = "v0";
  unsigned failures = 0;
  for (unsigned n = 0; n < 200; ++n) {
    const std::string value = "v" + std::to_string(n + 1) + std::string(9000, 'x');
    vfs.fail(Op::write, n % 12, SQLITE_IOERR_WRITE, n % 2 == 0);
    const Outcome outcome = deliver(delivery_of(value));
    failures += vfs.failed() > 0 ? 1 : 0;
    vfs.heal();
    if (outcome.kind == Kind::delivered) standing = value;
    const std::string now = permall();
    if (outcome.kind == Kind::unknown && now == value) standing = value;
    ASSERT_EQ(now, standing) << "after " << name_of(outcome.kind) << " at write " << n % 12;
    ASSERT_NE(outcome.kind, Kind::lane);
  }
  EXPECT_GT(failures, 50u);
}

TEST_F(EmbeddedWorkerTest, ReadsThatFailAreNeverAbsence) {
  ASSERT_EQ(deliver(delivery_of(std::string(30'000, 'p'))).kind, Kind::delivered);
  for (const int code : {SQLITE_IOERR_READ, SQLITE_CORRUPT}) {
    unsigned failures = 0;
    for (unsigned n = 0; n < 60; ++n) {
      reopen();
      vfs.fail(Op::read, n, code, n % 2 == 0);
      const Fetched fetched = fetch();
      const bool failed = vfs.failed() > 0;
      failures += failed ? 1 : 0;
      if (fetched.kind == Kind::delivered) {
        ASSERT_EQ(fetched.contents[Slot::permall].size(), 30'000u) << "at read " << n;
      } else {
        ASSERT_TRUE(failed);
        EXPECT_FALSE(fetched.reason.empty());
      }
      vfs.heal();
      ASSERT_EQ(permall().size(), 30'000u) << "well again, after read " << n;
    }
    EXPECT_GT(failures, 10u);
  }
}

TEST_F(EmbeddedWorkerTest, ValuesThatCannotBeReadBackAreDoubt) {
  ASSERT_EQ(deliver(delivery_of("old")).kind, Kind::delivered);
  Delivery delivery = delivery_of("new");
  delivery.verify = true;
  ASSERT_EQ(deliver(delivery).kind, Kind::delivered);
  delivery.writes[0].value = Value("newer");
  vfs.before_next_sync([this] { vfs.fail(Op::read, 0, SQLITE_IOERR_READ, true); });
  const Outcome outcome = deliver(delivery);
  EXPECT_EQ(outcome.kind, Kind::unknown) << outcome.reason;
  EXPECT_NE(outcome.reason.find("reading back"), std::string::npos) << outcome.reason;
  vfs.heal();
  EXPECT_EQ(permall(), "newer");
}

TEST_F(EmbeddedWorkerTest, AStoreReplacedWhileItIsWrittenIsDoubt) {
  const Outcome first = deliver(delivery_of("old"));
  const std::string aside = place.file() + ".aside";
  vfs.before_next_sync([&] { std::rename(place.file().c_str(), aside.c_str()); });
  EXPECT_EQ(deliver(delivery_of("new")).kind, Kind::unknown);
  EXPECT_EQ(ended, std::vector<Epoch>{first.epoch});
  EXPECT_EQ(fetch().kind, Kind::transient);
  std::rename(aside.c_str(), place.file().c_str());
  EXPECT_EQ(permall(), "new") << "it went into the file that was open";
}

TEST_F(EmbeddedWorkerTest, LocksOfOthersAreTransientForUpdatesAndHinderNoReads) {
  ASSERT_EQ(deliver(delivery_of("old")).kind, Kind::delivered);
  auto other = *SqlConnection::open(place.file(), "", std::chrono::seconds(1));
  ASSERT_TRUE(other->run("BEGIN IMMEDIATE"));
  const Outcome outcome = deliver(delivery_of("new"));
  EXPECT_EQ(outcome.kind, Kind::transient);
  EXPECT_TRUE(outcome.upstream_suspect);
  EXPECT_NE(outcome.reason.find("locked"), std::string::npos) << outcome.reason;
  EXPECT_EQ(probe().kind, Kind::transient);
  EXPECT_EQ(permall(), "old");
  EXPECT_TRUE(ended.empty());
  ASSERT_TRUE(other->run("ROLLBACK"));
  EXPECT_EQ(deliver(delivery_of("new")).kind, Kind::delivered);
}

TEST_F(EmbeddedWorkerTest, AStoreThatSomebodyHoldsForHimselfAloneIsNotEmpty) {
  place.write(vtpm_of(vm_a), delivery_of("old").writes);
  auto other = *SqlConnection::open(place.file(), "", std::chrono::seconds(1));
  ASSERT_TRUE(other->run("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT"));
  EXPECT_EQ(fetch().kind, Kind::transient);
  EXPECT_EQ(fetch(vm_never).kind, Kind::transient);
  EXPECT_EQ(deliver(delivery_of("new")).kind, Kind::transient);
  other.reset();
  EXPECT_EQ(permall(), "old");
}

TEST_F(EmbeddedWorkerTest, DamageIsNeverTakenForAbsence) {
  const std::string of_a = "vm = " + literal(vm_a);
  const std::vector<std::string> damages{
      "DELETE FROM device WHERE " + of_a,
      "DELETE FROM value WHERE id / 4 = (SELECT id FROM device WHERE " + of_a + ")",
      "UPDATE device SET vm = x'00000000000000000000000000000000' WHERE " + of_a,
      "UPDATE device SET device = 1 WHERE " + of_a,
      "UPDATE device SET digests = zeroblob(64) WHERE " + of_a,
      "UPDATE device SET vtpm = zeroblob(16) WHERE " + of_a,
      "UPDATE device SET version = version - 1 WHERE " + of_a,
      "UPDATE device SET checksum = x'' WHERE " + of_a,
      "UPDATE value SET bytes = x'6f6c65'"};
  ASSERT_EQ(deliver(delivery_of("old")).kind, Kind::delivered);
  one<EmbeddedAnswer::Closed>(EmbeddedCall::Close{});
  const std::string whole = read_file(place.file());
  for (const std::string& damage : damages) {
    write_file(place.file(), whole);
    ASSERT_EQ(permall(), "old");
    place.sql(damage);
    EXPECT_NE(fetch().kind, Kind::delivered) << damage;
    EXPECT_NE(deliver(delivery_of("new")).kind, Kind::delivered) << damage;
    one<EmbeddedAnswer::Closed>(EmbeddedCall::Close{});
  }
}

TEST_F(EmbeddedWorkerTest, AbsenceIsBelievedOnlyWhenAllDevicesAreCounted) {
  ASSERT_EQ(deliver(delivery_of("a", vm_a)).kind, Kind::delivered);
  ASSERT_EQ(deliver(delivery_of("b", vm_b)).kind, Kind::delivered);
  EXPECT_EQ(permall(vm_never), "");
  place.sql("UPDATE device SET checksum = x'' WHERE vm = " + literal(vm_b));
  EXPECT_EQ(fetch(vm_never).kind, Kind::lane);
  place.sql("DELETE FROM device WHERE vm = " + literal(vm_b));
  EXPECT_EQ(fetch(vm_never).kind, Kind::lane);
  place.sql("DELETE FROM meta");
  EXPECT_EQ(fetch(vm_never).kind, Kind::lane);
  EXPECT_EQ(deliver(delivery_of("new", vm_never)).kind, Kind::lane);
  EXPECT_EQ(permall(vm_a), "a") << "who is there is served";
}

TEST_F(EmbeddedWorkerTest, AFlippedBitAnywhereNeverChangesOrHidesAValue) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  ASSERT_EQ(deliver(delivery_of("valueOfA")).kind, Kind::delivered);
  ASSERT_EQ(deliver(delivery_of(std::string(9000, 'b'), vm_b)).kind, Kind::delivered);
  one<EmbeddedAnswer::Closed>(EmbeddedCall::Close{});
  const std::string whole = read_file(place.file());
  unsigned noticed = 0;
  for (int i = 0; i < 300; ++i) {
    std::string damaged = whole;
    const std::size_t at = random() % damaged.size();
    damaged[at] = static_cast<char>(damaged[at] ^ 1 << random() % 8);
    write_file(place.file(), damaged);
    for (const auto& [vm, value] :
         {std::pair(vm_a, std::string("valueOfA")), std::pair(vm_b, std::string(9000, 'b')),
          std::pair(vm_never, std::string())}) {
      const Fetched fetched = fetch(vm);
      if (fetched.kind != Kind::delivered) {
        ++noticed;
      } else {
        ASSERT_EQ(fetched.contents[Slot::permall].view(), value) << "bit flipped in byte " << at;
      }
    }
    one<EmbeddedAnswer::Closed>(EmbeddedCall::Close{});
  }
  EXPECT_GT(noticed, 30u);
}

TEST_F(EmbeddedWorkerTest, VariablesOfAVmAreADeviceOfTheirOwn) {
  const auto nvram = [](std::size_t size) {
    Delivery delivery;
    delivery.owner = {vm_a, Device::uefi};
    delivery.writes.push_back({Slot::nvram, 1, Value(std::string(size, ' ')), {}, {}, false});
    return delivery;
  };
  ASSERT_EQ(deliver(delivery_of("tpm")).kind, Kind::delivered);
  const Outcome outcome = deliver(nvram(limits::embedded_nvram));
  ASSERT_EQ(outcome.kind, Kind::delivered) << "a space is nothing special there";
  EXPECT_TRUE(outcome.contents->vtpm.is_nil());
  EXPECT_TRUE((*outcome.contents)[Slot::permall].empty());
  EXPECT_EQ(deliver(nvram(limits::embedded_nvram + 1)).kind, Kind::payload);
  const auto fetched = one<Fetched>(EmbeddedCall::Fetch{{vm_a, Device::uefi}});
  EXPECT_EQ(fetched.contents[Slot::nvram].size(), limits::embedded_nvram);
  EXPECT_EQ(permall(), "tpm");
}

TEST_F(EmbeddedWorkerTest, AVtpmIsFoundByItsUuidAndKeepsIt) {
  const Outcome first = deliver(delivery_of("1"));
  const Uuid vtpm = first.contents->vtpm;
  EXPECT_EQ(*one<EmbeddedAnswer::FoundVm>(EmbeddedCall::FindVm{vtpm}), vm_a);
  EXPECT_EQ(*one<EmbeddedAnswer::FoundVm>(EmbeddedCall::FindVm{vm_never}), std::nullopt);
  EXPECT_EQ(deliver(delivery_of("2")).contents->vtpm, vtpm);
  Delivery delivery = delivery_of("3", vm_b);
  delivery.writes[0].vtpm = vm_never;
  EXPECT_EQ(deliver(delivery).contents->vtpm, vm_never) << "the one its value was made under";
  place.sql("UPDATE device SET checksum = x''");
  EXPECT_FALSE(one<EmbeddedAnswer::FoundVm>(EmbeddedCall::FindVm{vtpm}));
  std::rename(place.file().c_str(), (place.file() + ".aside").c_str());
  EXPECT_FALSE(one<EmbeddedAnswer::FoundVm>(EmbeddedCall::FindVm{vtpm}));
}

// --- Which file is the store ------------------------------------------------------------------------------

TEST_F(EmbeddedWorkerTest, OnlyTheStoreThatWasBegunIsUsedAndNoneIsBegunInItsPlace) {
  ASSERT_EQ(deliver(delivery_of("old")).kind, Kind::delivered);
  const std::string aside = place.file() + ".aside";
  std::rename(place.file().c_str(), aside.c_str());
  EXPECT_EQ(fetch().kind, Kind::transient);
  EXPECT_NE(fetch().reason.find("gone"), std::string::npos) << fetch().reason;
  EXPECT_NE(::access(place.file().c_str(), F_OK), 0);
  const std::vector<std::pair<std::string, std::string>> impostors{
      {std::string(), "empty"}, {std::string(20'000, 'x'), "not a database"}};
  for (const auto& [bytes, said] : impostors) {
    write_file(place.file(), bytes);
    EXPECT_EQ(fetch().kind, Kind::transient);
    EXPECT_EQ(deliver(delivery_of("new")).kind, Kind::transient);
    EXPECT_NE(fetch().reason.find(said), std::string::npos) << fetch().reason;
    EXPECT_EQ(read_file(place.file()), bytes);
  }
  std::remove(place.file().c_str());
  StorePlace another;
  another.write(vtpm_of(vm_a), delivery_of("another's").writes);
  write_file(place.file(), read_file(another.file()));
  EXPECT_EQ(fetch().kind, Kind::transient);
  EXPECT_NE(fetch().reason.find("another store"), std::string::npos) << fetch().reason;
  std::rename(aside.c_str(), place.file().c_str());
  EXPECT_EQ(permall(), "old");
}

TEST_F(EmbeddedWorkerTest, ADatabaseOfAnotherProgramOrALaterVersionIsLeftAlone) {
  write_file(place.file(), "");
  place.sql("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)");
  const std::string theirs = read_file(place.file());
  EXPECT_EQ(fetch().kind, Kind::transient);
  EXPECT_NE(fetch().reason.find("another program"), std::string::npos) << fetch().reason;
  EXPECT_EQ(read_file(place.file()), theirs);
  std::remove(place.file().c_str());
  ASSERT_EQ(deliver(delivery_of("old")).kind, Kind::delivered);
  place.sql("PRAGMA user_version = 2");
  reopen();
  EXPECT_EQ(fetch().kind, Kind::transient);
  EXPECT_NE(fetch().reason.find("format 2"), std::string::npos) << fetch().reason;
}

TEST_F(EmbeddedWorkerTest, ABeginningThatWasCutShortIsBegunAgain) {
  const std::string identity = place.options().identity_file;
  write_file(place.file(), "");
  EXPECT_EQ(fetch().kind, Kind::delivered) << "a file was made, and nothing more";
  ASSERT_EQ(deliver(delivery_of("old")).kind, Kind::delivered);
  std::remove(identity.c_str());
  reopen();
  EXPECT_EQ(permall(), "old") << "a store was made, and not yet named";
  EXPECT_EQ(read_file(identity).size(), 37u);
  write_file(identity, "what is this");
  reopen();
  EXPECT_EQ(fetch().kind, Kind::transient);
  struct stat status{};
  ASSERT_EQ(::stat(place.file().c_str(), &status), 0);
}

TEST_F(EmbeddedWorkerTest, BeginningFailsCleanlyWhereverTheDiskDoes) {
  const EmbeddedOptions options = place.options();
  unsigned failures = 0;
  for (unsigned n = 0;; ++n) {
    for (const char* suffix : {"", "-wal", "-shm"}) std::remove((options.file + suffix).c_str());
    std::remove(options.identity_file.c_str());
    reopen();
    vfs.fail(Op::write, n, SQLITE_FULL, true);
    const Fetched fetched = fetch();
    const bool failed = vfs.failed() > 0;
    vfs.heal();
    ASSERT_TRUE(fetched.kind == Kind::delivered || fetched.kind == Kind::transient);
    EXPECT_EQ(fetch().kind, Kind::delivered) << "well again, after write " << n;
    EXPECT_EQ(deliver(delivery_of("x")).kind, Kind::delivered);
    if (!failed) break;
    ++failures;
  }
  EXPECT_GT(failures, 5u);
}

TEST_F(EmbeddedWorkerTest, ALongLogIsCopiedIntoTheDatabase) {
  const std::string value(200'000, 'v');
  for (int i = 0; i < 60; ++i)
    ASSERT_EQ(deliver(delivery_of(value + std::to_string(i))).kind, Kind::delivered);
  struct stat log{};
  ASSERT_EQ(::stat((place.file() + "-wal").c_str(), &log), 0);
  EXPECT_LT(log.st_size, 2 * limits::embedded_log_pages * 4200) << "12 MB were written";
}

}  // namespace
}  // namespace guard::upstream::testing
