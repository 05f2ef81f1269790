// What the registry does with a descriptor store, one that knows names and one that does not.
#include <gtest/gtest.h>

#include <filesystem>
#include <optional>
#include <string>

#include "control/registry.h"
#include "control/test_registry.h"
#include "control/test_store.h"

namespace guard::control {
namespace {

namespace fs = std::filesystem;
using Names = TestStore::Names;

class RegistryStore : public RegistryTest, public ::testing::WithParamInterface<Names> {
 protected:
  /// The next process; the one before has ended.
  void start() {
    daemon.reset();
    daemon.emplace(dir, std::vector{Device::vtpm}, &store, store.pass());
    report = daemon->registry.resume();
  }
  /// Whether a client that connected has been refused or thrown out.
  static bool lost(const OwnedFd& client) {
    pollfd state{client.get(), POLLRDHUP, 0};
    return !client || ::poll(&state, 1, 0) != 0;
  }

  TestStore store{GetParam()};
  std::optional<Daemon> daemon;
  ResumeReport report;
};

INSTANTIATE_TEST_SUITE_P(Store, RegistryStore, ::testing::Values(Names::known, Names::unknown),
                         [](const auto& with) {
                           return with.param == Names::known ? "ThatKnowsNames" : "WithoutNames";
                         });

TEST_P(RegistryStore, KeepsSocketsOpenBetweenOneProcessAndTheNext) {
  start();
  daemon->registry.serve();
  EXPECT_EQ(daemon->create(entry_of(dir / "a/s")), "create: ok");
  EXPECT_EQ(daemon->create(entry_of(dir / "b/s", vm_b)), "create: ok");
  EXPECT_EQ(store.size(), 2u);
  daemon.reset();
  EXPECT_EQ(store.size(), 2u) << "an orderly end shuts nothing down";
  const OwnedFd early = connect_to(dir / "a/s");
  EXPECT_TRUE(early);
  start();
  EXPECT_EQ(report.listening, 2u);
  EXPECT_EQ(report.inherited, 2u);
  EXPECT_FALSE(lost(early));
  daemon->registry.serve();
  EXPECT_EQ(daemon->events, (std::vector{"open " + dir / "a/s", "open " + dir / "b/s"}));
  EXPECT_FALSE(lost(early));
  EXPECT_EQ(store.size(), 2u) << "and nothing is stored twice";
  // The registry knows its file: what is in use stays so, and a destroy removes it.
  EXPECT_EQ(daemon->create(entry_of(dir / "a/s")), "create: Path " + dir / "a/s" + " is already in use");
  EXPECT_EQ(daemon->destroy(dir / "a/s"), "destroy: ok");
  EXPECT_FALSE(fs::exists(dir / "a/s"));
  EXPECT_EQ(store.size(), 1u);
  EXPECT_TRUE(lost(early));
}

TEST_P(RegistryStore, DestroyedSocketsDoNotComeBack) {
  start();
  EXPECT_EQ(daemon->create(entry_of(dir / "a/s")), "create: ok");
  EXPECT_EQ(daemon->destroy(dir / "a/s"), "destroy: ok") << "before anything is served";
  EXPECT_EQ(store.size(), 0u);
  daemon->registry.serve();
  EXPECT_EQ(daemon->create(entry_of(dir / "a/s")), "create: ok");
  EXPECT_EQ(daemon->destroy(dir / "a/s"), "destroy: ok");
  EXPECT_EQ(store.size(), 0u);
  // Created again under the same name, it is kept.
  EXPECT_EQ(daemon->create(entry_of(dir / "a/s", vm_b)), "create: ok");
  EXPECT_EQ(store.size(), 1u);
  start();
  EXPECT_EQ(report.inherited, 1u);
  EXPECT_EQ(daemon->registry.sockets(), std::vector{entry_of(dir / "a/s", vm_b)});
}

TEST_P(RegistryStore, ClosesWhatTheResumeFileDoesNotList) {
  start();
  daemon->registry.serve();
  daemon->create(entry_of(dir / "a/s"));
  daemon->create(entry_of(dir / "b/s", vm_b));
  daemon.reset();
  std::ofstream(dir / "resume.json") << "[" << object(dir / "b/s", "Swtpm", vm_b) << "]";
  const OwnedFd client = connect_to(dir / "a/s");
  start();
  EXPECT_EQ(report.inherited, 1u);
  EXPECT_EQ(report.listening, 1u);
  EXPECT_EQ(store.size(), 1u);
  EXPECT_TRUE(lost(client)) << "once the store has dropped its copy";
  EXPECT_EQ(daemon->log.count("inherited_sockets_closed count=1"), 1u);
}

TEST_P(RegistryStore, BindsAnewWhatWasNotKeptOrCannotBeReached) {
  std::ofstream(dir / "resume.json") << "[" << object(dir / "a/s") << "," << object(dir / "b/s") << "]";
  start();
  EXPECT_EQ(report.listening, 2u);
  EXPECT_EQ(report.inherited, 0u);
  EXPECT_EQ(store.size(), 2u) << "from now on they are kept";
  daemon.reset();
  fs::remove(dir / "b/s");
  start();
  EXPECT_EQ(report.listening, 2u);
  EXPECT_EQ(report.inherited, 1u);
  EXPECT_TRUE(connect_to(dir / "b/s"));
  EXPECT_EQ(store.size(), 2u) << "the one that nobody could reach has been dropped";
}

TEST_P(RegistryStore, DropsTheSocketOfADirectoryThatIsGone) {
  start();
  daemon->create(entry_of(dir / "a/s"));
  daemon.reset();
  fs::remove_all(dir / "a");
  start();
  EXPECT_EQ(report.dropped, 1u);
  EXPECT_EQ(report.listening, 0u);
  EXPECT_EQ(store.size(), 0u);
}

TEST_P(RegistryStore, KeepsOnlyTheNewSocketWhenOneIsReplaced) {
  start();
  daemon->registry.serve();
  daemon->create(entry_of(dir / "a/s"));
  const ino_t old = inode_of(store.kept.at(0).fd.get());
  fs::remove(dir / "a/s");
  EXPECT_EQ(daemon->create(entry_of(dir / "a/s", vm_b)), "create: ok");
  ASSERT_EQ(store.size(), 1u);
  EXPECT_NE(inode_of(store.kept.at(0).fd.get()), old);
  start();
  EXPECT_EQ(report.inherited, 1u);
}

TEST_P(RegistryStore, WhatCouldNotBeServedAtTheStartIsTakenByTheNext) {
  start();
  daemon->create(entry_of(dir / "a/s"));
  daemon->cannot_open = dir / "a/s";
  daemon->registry.serve();
  EXPECT_EQ(daemon->log.count("socket_not_served"), 1u);
  EXPECT_EQ(store.size(), 1u);
  start();
  EXPECT_EQ(report.inherited, 1u);
}

TEST_P(RegistryStore, ACreateThatFailsHalfWayIsNotTakenForASocket) {
  start();
  daemon->registry.serve();
  daemon->cannot_open = dir / "a/s";
  EXPECT_NE(daemon->create(entry_of(dir / "a/s")), "create: ok");
  start();
  EXPECT_EQ(report.listening, 0u);
  EXPECT_EQ(store.size(), 0u);
}

TEST_P(RegistryStore, ADaemonThatDoesNotGetSoFarLosesNothing) {
  start();
  daemon->create(entry_of(dir / "a/s"));
  const OwnedFd client = connect_to(dir / "a/s");
  daemon.reset();
  // It gets the descriptors and ends before it has read the resume file.
  daemon.emplace(dir, std::vector{Device::vtpm}, &store, store.pass());
  start();
  EXPECT_EQ(report.inherited, 1u);
  EXPECT_FALSE(lost(client));
}

}  // namespace
}  // namespace guard::control
