// `xapi-guardctl journal` as a process on real files, and the parts it is made of.
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "cli/journal_place.h"
#include "cli/journal_view.h"
#include "cli/lock_holder.h"
#include "journal/format.h"

namespace guard::cli {
namespace {

namespace fs = std::filesystem;
using journal::block;

struct Ended {
  int exit_status = -1;
  std::string out;
  std::string err;
};

std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

class JournalCli : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/tmp/guard-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    state = name;
  }
  void TearDown() override { fs::remove_all(state); }

  /// A journal with two live entries, one of them replaced and one removed, as a daemon leaves it behind.
  void make_journal(const std::string& secret = "the secret of the guest") {
    auto dir = open_directory((state / "journal").string()).value();
    journal::Options options;
    options.size = 32 * block;
    std::uint64_t salt = 0x5A17;
    auto store = journal::Store::open(std::move(dir), options, [&] { return ++salt; }, null_logger()).value();
    Sequence sequence = 0;
    const auto write = [&](std::uint8_t number, Slot slot) {
      journal::Entry entry;
      entry.owner = owner(number);
      entry.slot = slot;
      entry.sequence = ++sequence;
      entry.wall_ms = 1'700'000'000'000;
      entry.value = Value(secret);
      EXPECT_TRUE(store->run({entry}).at(0).result);
    };
    write(1, Slot::permall);
    write(1, Slot::permall);
    write(2, Slot::savestate);
    write(3, Slot::volatilestate);
    journal::Removal removal;
    removal.owner = owner(3);
    removal.slot = Slot::volatilestate;
    removal.up_to = 4;
    EXPECT_TRUE(store->run({removal}).at(0).result);
    store->seal();
  }
  static Owner owner(std::uint8_t number) {
    Owner owner;
    owner.vm.bytes[15] = number;
    return owner;
  }
  void damage(const std::string& file, std::uint64_t at) const {
    std::fstream stream(state / "journal" / file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(static_cast<std::streamoff>(at));
    stream.put('\xFF');
  }

  Ended ctl(const std::string& arguments) const {
    const std::string command = std::string(GUARDCTL) + " " + arguments + " >" + (state / "out").string() +
                                " 2>" + (state / "err").string();
    const int status = std::system(command.c_str());
    return {WEXITSTATUS(status), text_of(state / "out"), text_of(state / "err")};
  }
  Ended ctl_journal(const std::string& arguments) const { return ctl("journal " + arguments); }

  fs::path state;
};

TEST_F(JournalCli, InspectShowsWhatIsInIt) {
  make_journal();
  const Ended shown = ctl_journal("inspect " + state.string());
  EXPECT_EQ(shown.exit_status, 0) << shown.err;
  EXPECT_EQ(shown.err, "");
  EXPECT_EQ(
      shown.out,
      "journal     " + (state / "journal").string() +
          "\n"
          "state       good\n"
          "file a      128.0 KiB, generation 1, 8 records in 8 batches, next batch at 40960, complete"
          "  <- is replayed\n"
          "file b      128.0 KiB, generation 2, 0 records in 0 batches, next batch at 8192, not complete\n"
          "sequence    4 is the highest seen\n"
          "live        2 of the file that is replayed\n"
          "\n"
          "Live entries\n"
          "  00000000-0000-0000-0000-000000000001 permall              2       23 B"
          "  2023-11-14T22:13:20.000Z  write\n"
          "  00000000-0000-0000-0000-000000000002 savestate            3       23 B"
          "  2023-11-14T22:13:20.000Z  write\n");
}

TEST_F(JournalCli, InspectListsRecordsWhenAskedAndSpeaksJson) {
  make_journal();
  const Ended text = ctl_journal("inspect --records " + (state / "journal/").string());
  EXPECT_NE(
      text.out.find("batch at 16384\n       16384  write     00000000-0000-0000-0000-000000000001 permall"),
      text.out.npos)
      << text.out;
  EXPECT_NE(text.out.find("removed   00000000-0000-0000-0000-000000000003 volatilestate"), text.out.npos);
  const Ended shown = ctl_journal("inspect --json --records " + state.string());
  EXPECT_EQ(shown.exit_status, 0);
  const auto json = wire::parse_json(shown.out);
  ASSERT_TRUE(json) << shown.out;
  EXPECT_EQ(*json->find("state"), wire::Json("good"));
  EXPECT_EQ(*json->find("replayed"), wire::Json("a"));
  EXPECT_EQ(*json->find("generation"), wire::Json(1));
  EXPECT_EQ(*json->find("highest_sequence"), wire::Json(4));
  EXPECT_TRUE(json->find("in_use_by")->is_null());
  ASSERT_EQ(json->find("live")->array()->size(), 2u);
  const wire::Json& live = json->find("live")->array()->at(0);
  EXPECT_EQ(*live.find("sequence"), wire::Json(2));
  EXPECT_EQ(*live.find("bytes"), wire::Json(23));
  EXPECT_EQ(*live.find("slot"), wire::Json("permall"));
  EXPECT_EQ(*live.find("time"), wire::Json("2023-11-14T22:13:20.000Z"));
  EXPECT_EQ(live.find("digest")->string()->size(), 32u);
  ASSERT_EQ(json->find("batches")->array()->size(), 8u);
  const wire::Json& batch = json->find("batches")->array()->at(2);
  EXPECT_EQ(*batch.find("at"), wire::Json(16384));
  EXPECT_EQ(*batch.find("records")->array()->at(0).find("type"), wire::Json("write"));
}

TEST_F(JournalCli, ShowsNoGuestBytesAndNoSalt) {
  make_journal("SECRETSECRETSECRET");
  damage("a", 16384 + journal::record_header + 3);
  for (const char* how :
       {"inspect", "inspect --records", "--json inspect --records", "verify", "--json verify"}) {
    const Ended shown = ctl(std::string(how).starts_with("--json")
                                ? "--json journal " + std::string(how).substr(7) + " " + state.string()
                                : "journal " + std::string(how) + " " + state.string());
    EXPECT_EQ((shown.out + shown.err).find("SECRET"), std::string::npos) << how;
    EXPECT_EQ(shown.out.find("23064"), std::string::npos) << how;
    EXPECT_EQ(shown.out.find("5a18"), std::string::npos) << how;
  }
}

TEST_F(JournalCli, VerifyTellsGoodDamagedAndUnreadableApart) {
  make_journal();
  const Ended good = ctl_journal("verify " + state.string());
  EXPECT_EQ(good.exit_status, 0);
  EXPECT_EQ(good.out, "good: generation 1 in file a, 8 records, 2 live entries\n");
  damage("a", 16384 + journal::record_header + 3);
  damage("a", 100);
  const Ended damaged = ctl_journal("verify " + state.string());
  EXPECT_EQ(damaged.exit_status, 1);
  EXPECT_EQ(damaged.out,
            "a 0-4096: the first copy of the header is not good\n"
            "a 16384-16512: the payload of a record is not what was written (write permall of "
            "00000000-0000-0000-0000-000000000001, sequence 1)\n"
            "damaged: generation 1 in file a, 8 records, 2 live entries\n");
  damage("a", 4096);
  EXPECT_EQ(ctl_journal("verify " + state.string()).exit_status, 1);
  EXPECT_EQ(ctl_journal("inspect " + state.string()).exit_status, 0);
  fs::remove(state / "journal/b");
  fs::create_directory(state / "journal/b");
  const Ended unreadable = ctl_journal("verify " + state.string());
  EXPECT_EQ(unreadable.exit_status, 3);
  EXPECT_NE(unreadable.out.find("unreadable: open b"), std::string::npos) << unreadable.out;
  EXPECT_EQ(ctl_journal("inspect " + state.string()).exit_status, 3);
}

TEST_F(JournalCli, LooksOnlyAndChangesNothingAlsoWhereNothingCanBeChanged) {
  make_journal();
  const auto snapshot = [&] {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(state)) {
      if (entry.path().filename() == "out" || entry.path().filename() == "err") continue;
      struct stat st{};
      ::lstat(entry.path().c_str(), &st);
      files[entry.path()] = (entry.is_regular_file() ? text_of(entry.path()) : "") +
                            std::to_string(st.st_mtim.tv_sec) + "." + std::to_string(st.st_mtim.tv_nsec);
    }
    return files;
  };
  const auto before = snapshot();
  EXPECT_EQ(ctl_journal("inspect --records " + state.string()).exit_status, 0);
  EXPECT_EQ(ctl_journal("verify " + state.string()).exit_status, 0);
  EXPECT_EQ(snapshot(), before);
  if (std::system("unshare -m true 2>/dev/null") != 0) return;  // the rest needs a mount
  const std::string mounts = "unshare -m sh -c 'mount --bind " + state.string() + " " + state.string() +
                             "/m && mount -o remount,ro,bind " + state.string() + "/m && exec " + GUARDCTL +
                             " journal verify " + state.string() + "/m' >" + (state / "out").string();
  fs::create_directory(state / "m");
  EXPECT_EQ(WEXITSTATUS(std::system(mounts.c_str())), 0);
  EXPECT_EQ(text_of(state / "out"), "good: generation 1 in file a, 8 records, 2 live entries\n");
}

TEST_F(JournalCli, SaysThatADaemonMayBeWriting) {
  make_journal();
  const int lock = ::open((state / "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_GE(lock, 0);
  EXPECT_EQ(lock_holder((state / "lock").string()), std::nullopt);
  ASSERT_EQ(::flock(lock, LOCK_EX | LOCK_NB), 0);
  EXPECT_EQ(lock_holder((state / "lock").string()), ::getpid());
  EXPECT_EQ(lock_holder((state / "nothing").string()), std::nullopt);
  const std::string line = "in use by process " + std::to_string(::getpid()) + ": it may be changing";
  for (const char* command : {"inspect ", "verify "}) {
    const Ended shown = ctl_journal(command + state.string());
    EXPECT_EQ(shown.exit_status, 0);
    EXPECT_NE(shown.out.find(line), std::string::npos) << shown.out;
  }
  const auto json = wire::parse_json(ctl_journal("inspect --json " + state.string()).out);
  EXPECT_EQ(*json->find("in_use_by"), wire::Json(std::int64_t{::getpid()}));
  ::close(lock);
}

TEST_F(JournalCli, SaysWhatIsWrongWithADirectoryThatHoldsNoJournal) {
  const Ended missing = ctl_journal("verify " + (state / "nowhere").string());
  EXPECT_EQ(missing.exit_status, 3);
  EXPECT_NE(missing.err.find("No such file"), std::string::npos) << missing.err;
  EXPECT_EQ(ctl_journal("verify " + state.string()).exit_status, 3);
  fs::create_directory(state / "journal");
  const Ended empty = ctl_journal("inspect " + state.string());
  EXPECT_EQ(empty.exit_status, 3);
  EXPECT_NE(empty.err.find("there is no journal"), std::string::npos) << empty.err;
  EXPECT_EQ(ctl("journal").exit_status, 2);
  EXPECT_EQ(ctl("journal inspect").exit_status, 2);
  EXPECT_FALSE(fs::exists(state / "nowhere"));
}

TEST_F(JournalCli, FindsTheJournalThatIsMeant) {
  make_journal();
  const std::string journal = (state / "journal").string();
  for (const std::string& name :
       {state.string(), state.string() + "/", journal, journal + "/", journal + "/."}) {
    const auto place = find_journal(name);
    ASSERT_TRUE(place) << name;
    EXPECT_EQ(place->journal, journal);
    EXPECT_EQ(place->state_dir, state.string());
  }
  fs::rename(journal, state / "copy");
  const auto copy = find_journal((state / "copy").string());
  EXPECT_EQ(copy->journal, (state / "copy").string());
  EXPECT_EQ(copy->state_dir, "");
  std::ofstream(state / "journal") << "a file";
  EXPECT_EQ(find_journal(journal)->state_dir, state.string());
  EXPECT_EQ(find_journal(state.string())->journal, journal);
  std::ofstream(state / "a") << "what?";
  EXPECT_EQ(find_journal(state.string()).error().code, Errc::invalid);
  EXPECT_EQ(find_journal("/").error().code, Errc::invalid);
}

TEST(LockLines, AreReadFromTheListOfTheKernel) {
  const auto locks = parse_locks(
      "1: FLOCK  ADVISORY  WRITE 4711 fd:01:131098 0 EOF\n"
      "1: -> FLOCK  ADVISORY  WRITE 4712 fd:01:131098 0 EOF\n"
      "2: POSIX  ADVISORY  WRITE 812 00:19:1234 0 EOF\n"
      "3: FLOCK  ADVISORY  READ 813 00:19:1235 0 EOF\n"
      "4: FLOCK  ADVISORY  WRITE -1 00:19:1236 0 EOF\n"
      "5: FLOCK  ADVISORY  WRITE x 00:19:1237 0 EOF\n"
      "nonsense");
  ASSERT_EQ(locks.size(), 2u);
  EXPECT_EQ(locks[0].pid, 4711);
  EXPECT_EQ(locks[0].inode, 131098u);
  EXPECT_EQ(locks[1].pid, -1);
}

}  // namespace
}  // namespace guard::cli
