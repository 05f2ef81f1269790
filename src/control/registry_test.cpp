#include "control/registry.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/limits.h"
#include "control/test_registry.h"

namespace guard::control {
namespace {

namespace fs = std::filesystem;

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

TEST_F(RegistryTest, ASocketThatCannotBeServedIsTakenBackAndCostsOnlyItself) {
  Daemon daemon(dir);
  daemon.registry.serve();
  daemon.cannot_open = dir / "a/s";
  EXPECT_EQ(daemon.create(entry_of(dir / "a/s")),
            "create: cannot serve " + dir / "a/s" + ": epoll_ctl: No space left on device");
  EXPECT_FALSE(fs::exists(dir / "a/s"));
  EXPECT_TRUE(daemon.registry.sockets().empty());
  EXPECT_EQ(resume_file(), "[]");
  EXPECT_EQ(daemon.create(entry_of(dir / "b/s")), "create: ok");
  daemon.cannot_open.clear();
  EXPECT_EQ(daemon.create(entry_of(dir / "a/s")), "create: ok");
}

TEST_F(RegistryTest, ASocketThatCannotBeServedAtStartStaysInTheFileAndCostsOnlyItself) {
  std::ofstream(dir / "resume.json") << "[" << object(dir / "a/s") << "," << object(dir / "b/s") << "]";
  Daemon daemon(dir);
  daemon.cannot_open = dir / "a/s";
  EXPECT_EQ(daemon.registry.resume().listening, 2u);
  daemon.registry.serve();
  EXPECT_EQ(daemon.log.count("socket_not_served path=" + dir / "a/s"), 1u);
  EXPECT_EQ(daemon.registry.sockets(), std::vector{entry_of(dir / "b/s")});
  EXPECT_EQ(daemon.registry.stats().not_served, 1u);
  EXPECT_EQ(resume_file(), "[" + object(dir / "a/s") + "," + object(dir / "b/s") + "]");
  daemon.cannot_open.clear();
  EXPECT_EQ(daemon.create(entry_of(dir / "a/s")), "create: ok") << "the path is not blocked";
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

}  // namespace
}  // namespace guard::control
