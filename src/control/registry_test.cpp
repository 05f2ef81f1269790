#include "control/registry.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <deque>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/limits.h"
#include "control/socket_birth.h"
#include "control/test_daemon.h"
#include "control/test_dir.h"

namespace guard::control {
namespace {

namespace fs = std::filesystem;

const Uuid vm_a = *Uuid::parse("3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10");
const Uuid vm_b = *Uuid::parse("321e3a5e-b32b-4b26-be1c-c20c902c3cff");
const std::uint32_t gid = test_gid();

std::string contents_of(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

/// A registry with a worker that works when told to, so that a test decides what is under way.
class Daemon {
 public:
  explicit Daemon(const TestDir& dir, std::vector<Device> devices = {Device::vtpm})
      : registry({.resume_file = dir / "resume.json",
                  .devices = std::move(devices),
                  .open = [this](const SocketEntry& entry, int fd) { return open(entry, fd); },
                  .run_blocking =
                      [this](auto work, auto then) { works.emplace_back(std::move(work), std::move(then)); }},
                 log) {}

  /// Does the oldest work (or the one at `index`), then what follows it.
  void work(std::size_t index = 0) {
    ASSERT_LT(index, works.size());
    auto [work, then] = std::move(works[index]);
    works.erase(works.begin() + static_cast<std::ptrdiff_t>(index));
    work();
    then();
  }
  void work_all() {
    while (!works.empty()) work();
  }

  /// Notes the result of an operation under a name, "ok" or the error's message.
  Registry::Done note(const std::string& name) {
    return [this, name](Result<> result) {
      done.push_back(name + ": " + (result ? "ok" : result.error().message));
    };
  }
  std::string create(SocketEntry entry) {
    done.clear();
    registry.create(std::move(entry), note("create"));
    work_all();
    return done.size() == 1 ? done[0] : "not answered once";
  }
  std::string destroy(std::string path, std::uint32_t of_gid = gid, Device device = Device::vtpm) {
    done.clear();
    registry.destroy(device, std::move(path), of_gid, note("destroy"));
    work_all();
    return done.size() == 1 ? done[0] : "not answered once";
  }

  LogLines log;
  std::deque<std::pair<std::function<void()>, std::function<void()>>> works;
  std::vector<std::string> done;
  std::vector<std::string> events;  ///< "open <path>", "close <path>"
  Registry registry;

 private:
  struct Handle final : SocketHandle {
    Handle(Daemon& d, SocketEntry e, int fd) : daemon(d), entry(std::move(e)), listener(fd) {}
    ~Handle() override { daemon.events.push_back("close " + entry.path); }
    Daemon& daemon;
    SocketEntry entry;
    OwnedFd listener;
  };
  std::unique_ptr<SocketHandle> open(const SocketEntry& entry, int fd) {
    events.push_back("open " + entry.path);
    return std::make_unique<Handle>(*this, entry, fd);
  }
};

SocketEntry entry_of(std::string path, Uuid vm = vm_a) { return {Device::vtpm, gid, std::move(path), vm}; }

class RegistryTest : public ::testing::Test {
 protected:
  RegistryTest() {
    for (const char* name : {"a", "b", "c"}) fs::create_directory(dir / name);
  }
  std::string resume_file() const { return contents_of(dir / "resume.json"); }
  static std::string object(const std::string& path, const char* typ = "Swtpm", Uuid vm = vm_a) {
    return R"({"typ":")" + std::string(typ) + R"(","gid":)" + std::to_string(gid) + R"(,"path":")" + path +
           R"(","vm_uuid":")" + vm.str() + R"("})";
  }
  TestDir dir{memory};
};

TEST_F(RegistryTest, CreatesServesAndSavesASocketBeforeItAnswers) {
  Daemon daemon(dir);
  daemon.registry.serve();
  daemon.registry.create(entry_of(dir / "a/s"), daemon.note("create"));
  EXPECT_EQ(daemon.works.size(), 1u);
  daemon.work();
  EXPECT_EQ(daemon.events, std::vector{"open " + dir / "a/s"});
  EXPECT_TRUE(daemon.done.empty()) << "not before the resume file is written";
  daemon.work();
  EXPECT_EQ(daemon.done, std::vector<std::string>{"create: ok"});
  EXPECT_EQ(resume_file(), "[" + object(dir / "a/s") + "]");
  EXPECT_EQ(daemon.registry.sockets(), std::vector{entry_of(dir / "a/s")});
  EXPECT_TRUE(connect_to(dir / "a/s"));
  const auto stats = daemon.registry.stats();
  EXPECT_EQ(stats.sockets, 1u);
  EXPECT_EQ(stats.creates, 1u);
  EXPECT_EQ(stats.saves, 1u);
}

TEST_F(RegistryTest, RefusesASecondCreateOfAPathAndChangesNothing) {
  Daemon daemon(dir);
  daemon.registry.serve();
  EXPECT_EQ(daemon.create(entry_of(dir / "a/s")), "create: ok");
  EXPECT_EQ(daemon.create(entry_of(dir / "a/s", vm_b)), "create: Path " + dir / "a/s" + " is already in use");
  EXPECT_EQ(daemon.registry.sockets(), std::vector{entry_of(dir / "a/s", vm_a)});
  EXPECT_EQ(daemon.events.size(), 1u);
  EXPECT_TRUE(connect_to(dir / "a/s"));
}

TEST_F(RegistryTest, ReplacesASocketNobodyCanReachAnyMore) {
  Daemon daemon(dir);
  daemon.registry.serve();
  EXPECT_EQ(daemon.create(entry_of(dir / "a/s")), "create: ok");
  fs::remove_all(dir / "a");
  fs::create_directory(dir / "a");
  EXPECT_EQ(daemon.create(entry_of(dir / "a/s", vm_b)), "create: ok");
  EXPECT_EQ(daemon.events,
            (std::vector{"open " + dir / "a/s", "close " + dir / "a/s", "open " + dir / "a/s"}));
  EXPECT_EQ(resume_file(), "[" + object(dir / "a/s", "Swtpm", vm_b) + "]");
  EXPECT_EQ(daemon.log.count("socket_replaced"), 1u);
}

TEST_F(RegistryTest, DestroysASocketItsFileAndItsEntryBeforeItAnswers) {
  Daemon daemon(dir);
  daemon.registry.serve();
  daemon.create(entry_of(dir / "a/s"));
  daemon.create(entry_of(dir / "b/s", vm_b));
  daemon.done.clear();
  daemon.registry.destroy(Device::vtpm, dir / "a/s", gid, daemon.note("destroy"));
  EXPECT_EQ(daemon.events.back(), "close " + dir / "a/s") << "closed at once";
  daemon.work();
  EXPECT_FALSE(fs::exists(dir / "a/s"));
  EXPECT_TRUE(daemon.done.empty());
  daemon.work();
  EXPECT_EQ(daemon.done, std::vector<std::string>{"destroy: ok"});
  EXPECT_EQ(resume_file(), "[" + object(dir / "b/s", "Swtpm", vm_b) + "]");
  EXPECT_EQ(daemon.registry.sockets(), std::vector{entry_of(dir / "b/s", vm_b)});
  EXPECT_EQ(daemon.create(entry_of(dir / "a/s")), "create: ok") << "the path is free again";
}

TEST_F(RegistryTest, AnswersADestroyOfAnUnknownPathOrAnotherDeviceWithSuccessAndDoesNothing) {
  Daemon daemon(dir, {Device::vtpm, Device::uefi});
  daemon.registry.serve();
  EXPECT_EQ(daemon.destroy(dir / "a/s"), "destroy: ok");
  EXPECT_EQ(daemon.destroy("not even a path"), "destroy: ok");
  SocketEntry uefi = entry_of(dir / "a/s");
  uefi.device = Device::uefi;
  EXPECT_EQ(daemon.create(uefi), "create: ok");
  EXPECT_EQ(daemon.destroy(dir / "a/s"), "destroy: ok");
  EXPECT_EQ(daemon.registry.sockets(), std::vector{uefi});
  EXPECT_TRUE(connect_to(dir / "a/s"));
  EXPECT_EQ(daemon.log.count("socket_unknown"), 3u);
  EXPECT_EQ(daemon.destroy(dir / "a/s", gid, Device::uefi), "destroy: ok");
  EXPECT_TRUE(daemon.registry.sockets().empty());
}

TEST_F(RegistryTest, RefusesADestroyThatNamesAnotherGid) {
  Daemon daemon(dir);
  daemon.registry.serve();
  daemon.create(entry_of(dir / "a/s"));
  EXPECT_EQ(daemon.destroy(dir / "a/s", gid + 1), "destroy: Path " + dir / "a/s" + " belongs to gid " +
                                                      std::to_string(gid) + ", not " +
                                                      std::to_string(gid + 1));
  EXPECT_TRUE(connect_to(dir / "a/s"));
}

TEST_F(RegistryTest, LeavesAFileAloneThatSomebodyElsePutInThePlaceOfItsSocket) {
  Daemon daemon(dir);
  daemon.registry.serve();
  daemon.create(entry_of(dir / "a/s"));
  fs::remove(dir / "a/s");
  std::ofstream(dir / "a/s") << "not ours";
  EXPECT_EQ(daemon.destroy(dir / "a/s"), "destroy: ok");
  EXPECT_EQ(contents_of(dir / "a/s"), "not ours");
  EXPECT_EQ(resume_file(), "[]");
}

TEST_F(RegistryTest, AFailedCreateLeavesNothingAndDoesNotBlockThePath) {
  Daemon daemon(dir);
  daemon.registry.serve();
  const std::string missing = "create: open directory " + dir / "new" + ": No such file or directory";
  EXPECT_EQ(daemon.create(entry_of(dir / "new/s")), missing);
  EXPECT_EQ(daemon.create(entry_of(dir / "new/s")), missing);
  EXPECT_FALSE(fs::exists(dir / "resume.json")) << "nothing changed, nothing saved";
  EXPECT_TRUE(daemon.registry.sockets().empty());
  fs::create_directory(dir / "new");
  EXPECT_EQ(daemon.create(entry_of(dir / "new/s")), "create: ok");
  EXPECT_EQ(daemon.create(entry_of("relative")), "create: socket path is not absolute");
  SocketEntry uefi = entry_of(dir / "a/s");
  uefi.device = Device::uefi;
  EXPECT_EQ(daemon.create(uefi), "create: uefi is not served");
}

TEST_F(RegistryTest, WorksOffOnePathInOrderAndOthersMeanwhile) {
  Daemon daemon(dir);
  daemon.registry.serve();
  daemon.registry.create(entry_of(dir / "a/s"), daemon.note("a create"));
  daemon.registry.destroy(Device::vtpm, dir / "a/s", gid, daemon.note("a destroy"));
  daemon.registry.create(entry_of(dir / "a/s", vm_b), daemon.note("a create again"));
  daemon.registry.create(entry_of(dir / "b/s"), daemon.note("b create"));
  ASSERT_EQ(daemon.works.size(), 2u) << "one per path";
  // The worker is stuck with path a; path b is finished all the same.
  daemon.work(1);
  daemon.work(1);
  EXPECT_EQ(daemon.done, std::vector<std::string>{"b create: ok"});
  daemon.work_all();
  EXPECT_EQ(daemon.done, (std::vector<std::string>{"b create: ok", "a create: ok", "a destroy: ok",
                                                   "a create again: ok"}));
  EXPECT_EQ(daemon.registry.sockets(), (std::vector{entry_of(dir / "a/s", vm_b), entry_of(dir / "b/s")}));
}

TEST_F(RegistryTest, ChangesMadeDuringASaveShareTheNextOne) {
  Daemon daemon(dir);
  daemon.registry.serve();
  for (const char* name : {"a/s", "b/s", "c/s"}) {
    daemon.registry.create(entry_of(dir / name), daemon.note(name));
  }
  daemon.work();  // a is made; its save waits in the worker's queue
  daemon.work();
  daemon.work();
  ASSERT_EQ(daemon.works.size(), 1u);
  daemon.work();
  EXPECT_EQ(daemon.done, std::vector<std::string>{"a/s: ok"});
  EXPECT_EQ(resume_file(), "[" + object(dir / "a/s") + "]");
  ASSERT_EQ(daemon.works.size(), 1u);
  daemon.work();
  EXPECT_EQ(daemon.done, (std::vector<std::string>{"a/s: ok", "b/s: ok", "c/s: ok"}));
  EXPECT_EQ(resume_file(),
            "[" + object(dir / "a/s") + "," + object(dir / "b/s") + "," + object(dir / "c/s") + "]");
  EXPECT_EQ(daemon.registry.stats().saves, 2u);
}

TEST_F(RegistryTest, RefusesMoreOperationsThanItsBound) {
  Daemon daemon(dir);
  daemon.registry.serve();
  for (std::size_t i = 0; i < limits::registry_operations; ++i) {
    daemon.registry.create(entry_of(dir / "a/s"), daemon.note("create"));
  }
  EXPECT_TRUE(daemon.done.empty());
  daemon.registry.create(entry_of(dir / "b/s"), daemon.note("one more"));
  EXPECT_EQ(daemon.done, std::vector<std::string>{"one more: too many requests are under way"});
  daemon.work_all();
  EXPECT_EQ(daemon.done.size(), limits::registry_operations + 1);
  EXPECT_EQ(daemon.create(entry_of(dir / "b/s")), "create: ok");
}

TEST_F(RegistryTest, ASaveThatFailsDoesNotFailTheOperationAndIsMadeGoodByTheNextChange) {
  Daemon daemon(dir);
  daemon.registry.serve();
  fs::create_directory(dir / "resume.json");
  EXPECT_EQ(daemon.create(entry_of(dir / "a/s")), "create: ok");
  EXPECT_EQ(daemon.create(entry_of(dir / "b/s")), "create: ok");
  EXPECT_EQ(daemon.log.count("resume_file_not_saved"), 1u) << "one line per trouble";
  EXPECT_TRUE(daemon.registry.stats().unsaved);
  EXPECT_EQ(daemon.registry.stats().save_failures, 2u);
  fs::remove(dir / "resume.json");
  EXPECT_EQ(daemon.destroy(dir / "b/s"), "destroy: ok");
  EXPECT_EQ(resume_file(), "[" + object(dir / "a/s") + "]");
  EXPECT_FALSE(daemon.registry.stats().unsaved);
  EXPECT_EQ(daemon.log.count("resume_file_saved_again"), 1u);
}

TEST_F(RegistryTest, EndingWithOperationsUnderWayClosesEverythingAndAnswersNothing) {
  std::vector<std::string> late;
  decltype(Daemon::works) works;
  {
    Daemon ending(dir);
    ending.registry.serve();
    ending.create(entry_of(dir / "a/s"));
    ending.registry.create(entry_of(dir / "b/s"), [&](const Result<>&) { late.push_back("b"); });
    ending.registry.destroy(Device::vtpm, dir / "a/s", gid, [&](const Result<>&) { late.push_back("a"); });
    works = std::move(ending.works);
  }
  for (auto& [work, then] : works) {
    work();
    then();
  }
  works.clear();
  EXPECT_TRUE(late.empty());
  EXPECT_FALSE(connect_to(dir / "b/s")) << "the listener of an abandoned create is closed";
}

TEST_F(RegistryTest, AnAnswerMayStartTheNextOperation) {
  Daemon daemon(dir);
  daemon.registry.serve();
  daemon.registry.create(entry_of(dir / "a/s"), [&](Result<> created) {
    daemon.note("create")(std::move(created));
    daemon.registry.destroy(Device::vtpm, dir / "a/s", gid, daemon.note("destroy"));
  });
  daemon.work_all();
  EXPECT_EQ(daemon.done, (std::vector<std::string>{"create: ok", "destroy: ok"}));
  EXPECT_TRUE(daemon.registry.sockets().empty());
}

// --- Resume
// -------------------------------------------------------------------------------------------------

TEST_F(RegistryTest, BringsEverySocketBackAfterTheDaemonWasKilled) {
  {
    Daemon first(dir);
    first.registry.serve();
    first.create(entry_of(dir / "a/s"));
    first.create(entry_of(dir / "b/s", vm_b));
    first.create(entry_of(dir / "c/s"));
    first.destroy(dir / "c/s");
  }
  EXPECT_TRUE(fs::exists(dir / "a/s")) << "socket files stay, dead";
  EXPECT_FALSE(connect_to(dir / "a/s"));
  const std::string before = resume_file();
  Daemon second(dir);
  const auto report = second.registry.resume();
  EXPECT_EQ(report.listening, 2u);
  EXPECT_EQ(report.dropped + report.failed + report.unreadable + report.foreign, 0u);
  EXPECT_TRUE(connect_to(dir / "a/s")) << "clients may queue before requests can be served";
  EXPECT_TRUE(second.events.empty());
  second.registry.serve();
  EXPECT_EQ(second.events, (std::vector{"open " + dir / "a/s", "open " + dir / "b/s"}));
  EXPECT_EQ(second.registry.sockets(), (std::vector{entry_of(dir / "a/s"), entry_of(dir / "b/s", vm_b)}));
  EXPECT_EQ(resume_file(), before);
  EXPECT_EQ(second.registry.stats().saves, 0u) << "nothing changed, nothing written";
  EXPECT_EQ(second.create(entry_of(dir / "a/s")), "create: Path " + dir / "a/s" + " is already in use");
  EXPECT_EQ(second.destroy(dir / "b/s"), "destroy: ok");
}

TEST_F(RegistryTest, StartsEmptyWithoutAFile) {
  Daemon daemon(dir);
  EXPECT_EQ(daemon.registry.resume().listening, 0u);
  EXPECT_FALSE(fs::exists(dir / "resume.json"));
  EXPECT_TRUE(daemon.log.lines.empty());
}

TEST_F(RegistryTest, UnderstandsWhatTheOriginalWrote) {
  std::ofstream(dir / "resume.json") << R"([{"path":")" << dir / "a/s" << R"(","vm_uuid":")" << vm_a.str()
                                     << R"(","GID":")" << gid << R"(","typ":"swtpm","extra":1}])";
  Daemon daemon(dir);
  EXPECT_EQ(daemon.registry.resume().listening, 1u);
  EXPECT_EQ(resume_file(), "[" + object(dir / "a/s") + "]");
}

TEST_F(RegistryTest, DropsEntriesWhoseDirectoryIsGoneWithOneLineAndKeepsTheOthers) {
  std::ofstream(dir / "resume.json") << "[" << object(dir / "gone1/s") << "," << object(dir / "a/s") << ","
                                     << object(dir / "gone2/s") << "]";
  Daemon daemon(dir);
  const auto report = daemon.registry.resume();
  EXPECT_EQ(report.listening, 1u);
  EXPECT_EQ(report.dropped, 2u);
  EXPECT_EQ(daemon.log.lines,
            std::vector{"sockets_dropped count=2 first=" + dir / "gone1/s" + " reason=directory is gone"});
  EXPECT_EQ(resume_file(), "[" + object(dir / "a/s") + "]");
}

TEST_F(RegistryTest, TakesTheLastOfSeveralEntriesOfOnePath) {
  std::ofstream(dir / "resume.json") << "[" << object(dir / "a/s") << ","
                                     << object(dir / "a/s", "Swtpm", vm_b) << "]";
  Daemon daemon(dir);
  EXPECT_EQ(daemon.registry.resume().listening, 1u);
  EXPECT_EQ(daemon.registry.sockets(), std::vector{entry_of(dir / "a/s", vm_b)});
}

TEST_F(RegistryTest, KeepsEntriesItCannotServeInTheFile) {
  fs::create_directory(dir / "b/s");
  const std::string text =
      "[" + object(dir / "a/s", "Varstored") + "," + object(dir / "b/s") + "," + object(dir / "c/s") + "]";
  std::ofstream(dir / "resume.json") << text;
  Daemon daemon(dir);
  const auto report = daemon.registry.resume();
  EXPECT_EQ(report.foreign, 1u);
  EXPECT_EQ(report.failed, 1u);
  EXPECT_EQ(report.listening, 1u);
  EXPECT_EQ(daemon.log.count("socket_not_restored path=" + dir / "b/s"), 1u);
  EXPECT_FALSE(fs::exists(dir / "a/s"));
  EXPECT_EQ(resume_file(), text);
  daemon.registry.serve();
  EXPECT_EQ(daemon.registry.stats().not_served, 2u);
  EXPECT_EQ(daemon.destroy(dir / "c/s"), "destroy: ok");
  EXPECT_EQ(resume_file(), "[" + object(dir / "a/s", "Varstored") + "," + object(dir / "b/s") + "]");
  // What was in the way is gone: a create, or a destroy, deals with the entry.
  fs::remove(dir / "b/s");
  EXPECT_EQ(daemon.create(entry_of(dir / "b/s", vm_b)), "create: ok");
  EXPECT_EQ(daemon.destroy(dir / "b/s"), "destroy: ok");
  EXPECT_EQ(resume_file(), "[" + object(dir / "a/s", "Varstored") + "]");
}

TEST_F(RegistryTest, UsesWhatIsWholeInATruncatedFileAtEveryLengthAndKeepsTheRest) {
  const std::string whole = "[" + object(dir / "a/s") + "," + object(dir / "b/s", "Swtpm", vm_b) + "]";
  const std::size_t first_ends = 1 + object(dir / "a/s").size();
  for (std::size_t length = 0; length < whole.size(); ++length) {
    SCOPED_TRACE(length);
    for (const auto& name : dir.names()) {
      if (name.starts_with("resume")) fs::remove(dir / name);
    }
    std::ofstream(dir / "resume.json") << whole.substr(0, length);
    Daemon daemon(dir);
    const auto report = daemon.registry.resume();
    EXPECT_EQ(report.listening, length < first_ends ? 0u : length + 1 < whole.size() ? 1u : 2u);
    EXPECT_TRUE(report.damaged);
    EXPECT_EQ(report.set_aside, "resume.json.broken-1");
    EXPECT_EQ(contents_of(dir / "resume.json.broken-1"), whole.substr(0, length));
    EXPECT_EQ(daemon.log.count("resume_file_damaged"), 1u);
    EXPECT_EQ(resume_file(), wire::write_resume_file(daemon.registry.sockets()));
  }
}

TEST_F(RegistryTest, SetsAsideWhatIsNoResumeFileAtAllAndKeepsOnlySoMany) {
  for (unsigned i = 1; i <= limits::broken_resume_files + 2; ++i) {
    std::ofstream(dir / "resume.json") << "foreign " << i;
    Daemon daemon(dir);
    const auto report = daemon.registry.resume();
    EXPECT_EQ(report.set_aside,
              i > limits::broken_resume_files ? "" : "resume.json.broken-" + std::to_string(i));
    EXPECT_EQ(resume_file(), "[]");
  }
  EXPECT_EQ(contents_of(dir / "resume.json.broken-1"), "foreign 1");
}

TEST_F(RegistryTest, SetsAsideADirectoryALinkAndAnEnormousFileInThePlaceOfTheResumeFile) {
  fs::create_directory(dir / "resume.json");
  {
    EXPECT_EQ(Daemon(dir).registry.resume().set_aside, "resume.json.broken-1");
  }
  EXPECT_TRUE(fs::is_directory(dir / "resume.json.broken-1"));
  fs::remove(dir / "resume.json");
  std::ofstream(dir / "elsewhere") << "[" << object(dir / "a/s") << "]";
  fs::create_symlink("elsewhere", dir / "resume.json");
  {
    Daemon daemon(dir);
    const auto report = daemon.registry.resume();
    EXPECT_EQ(report.set_aside, "resume.json.broken-2");
    EXPECT_EQ(report.listening, 0u) << "links are not followed";
  }
  fs::remove(dir / "resume.json");
  {
    std::ofstream file(dir / "resume.json");
    file << "[" << object(dir / "a/s") << std::string(limits::resume_file_bytes, ' ') << "]";
  }
  Daemon daemon(dir);
  const auto report = daemon.registry.resume();
  EXPECT_EQ(report.set_aside, "resume.json.broken-3");
  EXPECT_EQ(report.listening, 1u) << "what is whole in its beginning is used";
  EXPECT_GT(fs::file_size(dir / "resume.json.broken-3"), limits::resume_file_bytes);
  EXPECT_EQ(resume_file(), "[" + object(dir / "a/s") + "]");
}

TEST_F(RegistryTest, SkipsEntriesWhosePathCannotBeServed) {
  std::ofstream(dir / "resume.json") << "[" << object("relative") << "," << object(dir / "a/../b/s") << ","
                                     << object(dir / "a/s") << "]";
  Daemon daemon(dir);
  const auto report = daemon.registry.resume();
  EXPECT_EQ(report.unreadable, 2u);
  EXPECT_EQ(report.listening, 1u);
}

TEST_F(RegistryTest, ResumesAndDestroysASocketBeforeAnythingIsServed) {
  std::ofstream(dir / "resume.json") << "[" << object(dir / "a/s") << "]";
  Daemon daemon(dir);
  daemon.registry.resume();
  EXPECT_EQ(daemon.create(entry_of(dir / "b/s", vm_b)), "create: ok");
  EXPECT_EQ(daemon.destroy(dir / "a/s"), "destroy: ok");
  EXPECT_FALSE(fs::exists(dir / "a/s"));
  EXPECT_TRUE(daemon.events.empty());
  daemon.registry.serve();
  EXPECT_EQ(daemon.events, std::vector{"open " + dir / "b/s"});
}

}  // namespace
}  // namespace guard::control
