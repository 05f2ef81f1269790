#include "control/inherited.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/limits.h"
#include "control/test_daemon.h"
#include "control/test_dir.h"
#include "control/test_store.h"

namespace guard::control {
namespace {

namespace fs = std::filesystem;

bool hung_up(int fd) {
  pollfd state{fd, 0, 0};
  return ::poll(&state, 1, 0) != 0;
}

class InheritedTest : public ::testing::Test {
 protected:
  InheritedTest() : path(dir / "socket") {}

  SocketSpec spec() const { return {.path = path, .gid = ::getegid()}; }
  /// A socket of an earlier process, kept in the store.
  void born() {
    auto made = create_socket(spec());
    ASSERT_TRUE(made) << made.error().message;
    file = made->file;
    store.keep(private_name(path), made->listener.get());
  }
  int kept() const { return store.kept.at(0).fd.get(); }
  std::unique_ptr<Inherited> passed() { return std::make_unique<Inherited>(store.pass(), &store, log); }
  /// What take() says of what the store has kept, when it should refuse.
  void expect_refused() {
    const auto inherited = passed();
    EXPECT_FALSE(inherited->take(spec()));
    EXPECT_EQ(store.forgotten, std::vector{private_name(path)});
    EXPECT_EQ(log.count("inherited_socket_unusable"), 1u);
  }

  TestDir dir;
  const std::string path;
  TestStore store;
  LogLines log;
  FileId file;
};

TEST_F(InheritedTest, TakesTheSocketThatClientsReachAndLeavesThoseWhoWaitAlone) {
  born();
  const OwnedFd client = connect_to(path);
  ASSERT_EQ(::send(client.get(), "hello", 5, 0), 5);
  const auto taken = passed()->take(spec());
  ASSERT_TRUE(taken);
  EXPECT_EQ(inode_of(taken->listener.get()), inode_of(kept()));
  EXPECT_EQ(taken->file, file);
  EXPECT_NE(::fcntl(taken->listener.get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_NE(::fcntl(taken->listener.get(), F_GETFL) & O_NONBLOCK, 0);
  const OwnedFd accepted(::accept(taken->listener.get(), nullptr, nullptr));
  char text[8] = {};
  EXPECT_EQ(::recv(accepted.get(), text, sizeof text, 0), 5);
  EXPECT_STREQ(text, "hello");
  EXPECT_TRUE(connect_to(path)) << "and others can come";
  EXPECT_TRUE(log.lines.empty());
  EXPECT_TRUE(store.forgotten.empty());
}

TEST_F(InheritedTest, TakesASocketWhoseBacklogIsFull) {
  born();
  std::vector<OwnedFd> clients;
  for (;;) {
    OwnedFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    if (::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) break;
    clients.push_back(std::move(client));
  }
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_GE(clients.size(), static_cast<std::size_t>(limits::listen_backlog));
  EXPECT_TRUE(passed()->take(spec()));
  for (const OwnedFd& client : clients) ASSERT_FALSE(hung_up(client.get()));
}

TEST_F(InheritedTest, RefusesASocketWhoseFileIsGone) {
  born();
  const OwnedFd client = connect_to(path);
  fs::remove(path);
  expect_refused();
  EXPECT_TRUE(hung_up(client.get())) << "it tries again, and reaches the new socket";
  EXPECT_EQ(store.size(), 0u);
}

TEST_F(InheritedTest, RefusesASocketWhoseDirectoryIsGone) {
  born();
  fs::remove_all(dir.path());
  expect_refused();
}

TEST_F(InheritedTest, RefusesASocketInWhosePlaceAnotherListens) {
  born();
  fs::remove(path);
  const OwnedFd other(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  ASSERT_EQ(::bind(other.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(other.get(), 5), 0);
  fs::permissions(path, fs::perms(0660));
  expect_refused();
}

TEST_F(InheritedTest, RefusesASocketInWhosePlaceALaterOneOfOursStands) {
  born();
  fs::remove(path);
  const auto later = create_socket(spec());
  ASSERT_TRUE(later);
  expect_refused();
  EXPECT_FALSE(hung_up(later->listener.get()));
}

TEST_F(InheritedTest, RefusesASocketInWhosePlaceADeadOneStands) {
  born();
  fs::remove(path);
  ASSERT_TRUE(create_socket(spec()));
  expect_refused();
}

TEST_F(InheritedTest, RefusesAFileAndALinkInThePlaceOfTheSocketAndDoesNotFollow) {
  born();
  fs::rename(path, dir / "moved");
  std::ofstream(path) << "x";
  expect_refused();
  fs::remove(path);
  store.kept.clear();
  store.forgotten.clear();
  log.lines.clear();
  born();
  const auto victim = create_socket({.path = dir / "victim", .gid = ::getegid()});
  ASSERT_TRUE(victim);
  fs::remove(path);
  fs::create_symlink("victim", path);
  expect_refused();
  EXPECT_LT(::accept(victim->listener.get(), nullptr, nullptr), 0) << "nobody was connected through the link";
}

TEST_F(InheritedTest, RefusesASocketOfAnotherModeOrGroup) {
  born();
  fs::permissions(path, fs::perms(0600));
  expect_refused();
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give a file to another group";
  store.kept.clear();
  store.forgotten.clear();
  log.lines.clear();
  born();
  ASSERT_EQ(::lchown(path.c_str(), 0, 131076), 0);
  expect_refused();
}

TEST_F(InheritedTest, RefusesBothWhenTwoSocketsClaimOnePath) {
  born();
  fs::remove(path);
  born();
  store.kept[0].name = "";
  ASSERT_EQ(store.kept.size(), 2u);
  expect_refused();
  EXPECT_EQ(store.size(), 0u) << "dropped without a name too, as they hung up";
}

TEST_F(InheritedTest, ClosesASecondCopyOfASocketAndKeepsTheFirstAlive) {
  born();
  auto fds = store.pass();
  fds.push_back({OwnedFd(::dup(kept())), "stored"});
  Inherited inherited(std::move(fds), &store, log);
  const auto taken = inherited.take(spec());
  ASSERT_TRUE(taken);
  EXPECT_FALSE(hung_up(taken->listener.get()));
  EXPECT_TRUE(connect_to(path));
  EXPECT_TRUE(log.lines.empty());
}

TEST_F(InheritedTest, ShutsDownWhatNobodyTakes) {
  born();
  const OwnedFd client = connect_to(path);
  passed();
  EXPECT_TRUE(hung_up(client.get()));
  EXPECT_EQ(store.size(), 0u);
  EXPECT_EQ(store.forgotten, std::vector{private_name(path)});
  EXPECT_EQ(log.count("inherited_sockets_closed count=1"), 1u);
}

TEST_F(InheritedTest, ClosesWhatIsNoSocketOfOursAndDoesNotShutItDown) {
  const OwnedFd tcp(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::listen(tcp.get(), 1), 0);
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  int pipes[2];
  ASSERT_EQ(::pipe2(pipes, O_CLOEXEC), 0);
  const OwnedFd one(pair[0]), two(pair[1]), read_end(pipes[0]), write_end(pipes[1]);
  std::ofstream(dir / "file") << "x";
  const OwnedFd regular(::open((dir / "file").c_str(), O_RDONLY | O_CLOEXEC));
  const OwnedFd datagrams(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const OwnedFd foreign(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_EQ(::bind(foreign.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(sa_family_t)), 0);
  ASSERT_EQ(::listen(foreign.get(), 1), 0);
  born();
  store.kept[0].name = private_name(path);
  ::shutdown(kept(), SHUT_RDWR);
  std::vector<InheritedFd> fds = store.pass();
  for (const int fd : {tcp.get(), pair[0], pipes[0], regular.get(), datagrams.get(), foreign.get()}) {
    fds.push_back({OwnedFd(::dup(fd)), "name" + std::to_string(fd)});
  }
  fds.push_back({OwnedFd(::dup(regular.get())), "stored"});
  fds.push_back({OwnedFd(::dup(regular.get())), ""});
  fds.push_back({OwnedFd(), "not open"});
  {
    Inherited inherited(std::move(fds), &store, log);
    EXPECT_FALSE(inherited.take(spec()));
  }
  EXPECT_EQ(log.count("descriptor_refused"), 10u);
  // What has a name of its own is not passed again.
  EXPECT_EQ(store.forgotten.size(), 7u);
  EXPECT_FALSE(hung_up(tcp.get()));
  EXPECT_FALSE(hung_up(foreign.get()));
  EXPECT_EQ(::send(pair[0], "x", 1, MSG_NOSIGNAL), 1) << "it is somebody's";
}

TEST_F(InheritedTest, SaysNoMoreThanSoManyLinesAboutWhatItRefuses) {
  std::vector<InheritedFd> fds;
  for (std::size_t i = 0; i < 3 * limits::log_lines_per_event; ++i) fds.push_back({OwnedFd(::dup(0)), "x"});
  const Inherited inherited(std::move(fds), nullptr, log);
  EXPECT_EQ(log.lines.size(), limits::log_lines_per_event + 1);
  EXPECT_EQ(log.count("descriptors_refused count=60"), 1u);
}

}  // namespace
}  // namespace guard::control
