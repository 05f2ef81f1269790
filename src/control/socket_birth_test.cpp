#include "control/socket_birth.h"

#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "control/test_dir.h"

namespace guard::control {
namespace {

namespace fs = std::filesystem;

struct stat lstat_of(const std::string& path) {
  struct stat st{};
  EXPECT_EQ(::lstat(path.c_str(), &st), 0) << path;
  return st;
}

bool connects(const std::string& path) { return static_cast<bool>(connect_to(path)); }

SocketSpec spec_of(const std::string& path, std::uint32_t gid = ::getegid()) {
  return {.path = path, .gid = gid};
}

TEST(SocketBirth, MakesASocketOf0660WithTheGroupAskedForThatAcceptsAtOnce) {
  const TestDir dir;
  const std::uint32_t gid = ::geteuid() == 0 ? 131076 : ::getegid();
  const auto born = create_socket(spec_of(dir / "socket", gid));
  ASSERT_TRUE(born) << born.error().message;
  const auto st = lstat_of(dir / "socket");
  EXPECT_TRUE(S_ISSOCK(st.st_mode));
  EXPECT_EQ(st.st_mode & 07777, 0660u);
  EXPECT_EQ(st.st_gid, gid);
  EXPECT_EQ(st.st_uid, ::geteuid());
  EXPECT_EQ(dir.names(), std::vector<std::string>{"socket"});
  EXPECT_TRUE(connects(dir / "socket"));
  EXPECT_TRUE(is_still_there(dir / "socket", born->file));
  EXPECT_NE(::fcntl(born->listener.get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_NE(::fcntl(born->listener.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST(SocketBirth, LeavesUmaskAndGroupOfTheCallerAlone) {
  const TestDir dir;
  const mode_t before = ::umask(027);
  ASSERT_TRUE(create_socket(spec_of(dir / "socket")));
  EXPECT_EQ(::umask(before), 027u);
  std::ofstream(dir / "file") << "x";
  EXPECT_EQ(lstat_of(dir / "file").st_gid, ::getegid());
}

TEST(SocketBirth, GivesTheModeAskedFor) {
  const TestDir dir;
  const auto born = create_socket({.path = dir / "socket", .gid = {}, .mode = 0600});
  ASSERT_TRUE(born) << born.error().message;
  EXPECT_EQ(lstat_of(dir / "socket").st_mode & 07777, 0600u);
}

TEST(SocketBirth, IsBornUnderANameThatLeadsBackToThePath) {
  const TestDir dir;
  const auto born = create_socket(spec_of(dir / "socket"));
  ASSERT_TRUE(born);
  sockaddr_un address{};
  socklen_t size = sizeof(address);
  ASSERT_EQ(::getsockname(born->listener.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::string name = fs::path(address.sun_path).filename();
  EXPECT_EQ(name, private_name(dir / "socket"));
  // Pinned: a later version must find the same name in the descriptors it inherits.
  EXPECT_EQ(private_name("/var/lib/xcp/run/swtpm-root-4/xapi-depriv-socket"), ".guard-f5a4fd727373796c");
}

TEST(SocketBirth, ReplacesAStaleSocketAndAPlainFile) {
  const TestDir dir;
  {
    ASSERT_TRUE(create_socket(spec_of(dir / "socket")));
  }
  EXPECT_FALSE(connects(dir / "socket"));
  const auto second = create_socket(spec_of(dir / "socket"));
  ASSERT_TRUE(second) << second.error().message;
  EXPECT_TRUE(connects(dir / "socket"));
  std::ofstream(dir / "file") << "in the way";
  const auto third = create_socket(spec_of(dir / "file"));
  ASSERT_TRUE(third) << third.error().message;
  EXPECT_TRUE(connects(dir / "file"));
}

TEST(SocketBirth, RefusesAPlainFileWhenOnlySocketsMayBeReplaced) {
  const TestDir dir;
  std::ofstream(dir / "file") << "precious";
  SocketSpec spec = spec_of(dir / "file");
  spec.replace_files = false;
  const auto born = create_socket(spec);
  ASSERT_FALSE(born);
  EXPECT_EQ(born.error().message, dir / "file" + " is a file, not a socket");
  EXPECT_EQ(fs::file_size(dir / "file"), 8u);
}

TEST(SocketBirth, RefusesADirectoryALinkAndADanglingLinkInTheWay) {
  const TestDir dir;
  fs::create_directory(dir / "directory");
  std::ofstream(dir / "target") << "x";
  fs::create_symlink(dir / "target", dir / "link");
  fs::create_symlink(dir / "nowhere", dir / "dangling");
  const auto before = dir.names();
  for (const char* name : {"directory", "link", "dangling"}) {
    const auto born = create_socket(spec_of(dir / name));
    ASSERT_FALSE(born) << name;
    EXPECT_EQ(born.error().code, Errc::invalid) << name;
    EXPECT_EQ(born.error().message, dir / name + " is in the way and is not a socket");
    EXPECT_EQ(dir.names(), before) << name;
  }
  EXPECT_EQ(fs::file_size(dir / "target"), 1u);
  // Nothing blocks the path once it is clear.
  fs::remove(dir / "dangling");
  EXPECT_TRUE(create_socket(spec_of(dir / "dangling")));
}

TEST(SocketBirth, RefusesADirectoryThatIsALinkAndFollowsLinksFurtherUp) {
  const TestDir dir;
  fs::create_directories(dir / "real/chroot");
  fs::create_directory_symlink(dir / "real/chroot", dir / "chroot-link");
  fs::create_directory_symlink(dir / "real", dir / "run");
  const auto refused = create_socket(spec_of(dir / "chroot-link/socket"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, dir / "chroot-link" + " is a symbolic link, not a directory");
  EXPECT_TRUE(fs::is_empty(dir / "real/chroot"));
  EXPECT_TRUE(create_socket(spec_of(dir / "run/chroot/socket")));
}

TEST(SocketBirth, SaysWhichDirectoryIsMissing) {
  const TestDir dir;
  const auto born = create_socket(spec_of(dir / "gone/socket"));
  ASSERT_FALSE(born);
  EXPECT_EQ(born.error().code, Errc::not_found);
  EXPECT_EQ(born.error().message, "open directory " + dir / "gone" + ": No such file or directory");
  std::ofstream(dir / "file") << "x";
  const auto not_a_directory = create_socket(spec_of(dir / "file/socket"));
  ASSERT_FALSE(not_a_directory);
  EXPECT_EQ(not_a_directory.error().os_errno, ENOTDIR);
}

TEST(SocketBirth, RefusesPathsThatCannotBeServed) {
  const TestDir dir;
  EXPECT_EQ(check_socket_path("socket").error().message, "socket path is not absolute");
  EXPECT_EQ(check_socket_path("").error().message, "socket path is not absolute");
  EXPECT_EQ(check_socket_path("/" + std::string(107, 'a')).error().message,
            "socket path has 108 bytes, at most 107 are possible");
  EXPECT_TRUE(check_socket_path("/" + std::string(106, 'a')));
  EXPECT_EQ(check_socket_path(std::string("/a\0b", 4)).error().message, "socket path contains a NUL byte");
  for (const char* path : {"/", "/a/", "/a//b", "/a/./b", "/a/../b", "/..", "/a/."}) {
    EXPECT_FALSE(check_socket_path(path)) << path;
    EXPECT_FALSE(create_socket(spec_of(path))) << path;
  }
  EXPECT_TRUE(check_socket_path("/a"));
  EXPECT_TRUE(check_socket_path("/a/..b/.c"));
}

TEST(SocketBirth, ServesAPathOfTheGreatestLength) {
  const TestDir dir;
  const std::string path = dir / std::string(107 - dir.path().size() - 1, 'x');
  ASSERT_EQ(path.size(), 107u);
  const auto born = create_socket(spec_of(path));
  ASSERT_TRUE(born) << born.error().message;
  EXPECT_TRUE(connects(path));
}

TEST(SocketBirth, CleansUpWhatACrashLeftAtThePrivateName) {
  const TestDir dir;
  const std::string left = dir / private_name(dir / "socket");
  std::ofstream(left) << "x";
  ASSERT_TRUE(create_socket(spec_of(dir / "socket")));
  EXPECT_EQ(dir.names(), std::vector<std::string>{"socket"});
  // A directory there is somebody's obstruction: refused, and nothing else changes.
  fs::create_directory(left);
  EXPECT_FALSE(create_socket(spec_of(dir / "socket")));
  EXPECT_TRUE(S_ISSOCK(lstat_of(dir / "socket").st_mode));
}

TEST(SocketBirth, RefusesADirectoryThatGivesFilesItsOwnGroup) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  const TestDir dir;
  fs::create_directory(dir / "setgid");
  ASSERT_EQ(::chown((dir / "setgid").c_str(), 0, 4711), 0);
  ASSERT_EQ(::chmod((dir / "setgid").c_str(), 02770), 0);
  const auto born = create_socket(spec_of(dir / "setgid/socket", 131076));
  ASSERT_FALSE(born);
  EXPECT_EQ(born.error().message, dir / "setgid/socket" + " would get group 4711 from its directory");
  EXPECT_TRUE(fs::is_empty(dir / "setgid"));
}

TEST(SocketBirth, RemovesOnlyTheSocketItMade) {
  const TestDir dir;
  auto born = create_socket(spec_of(dir / "socket"));
  ASSERT_TRUE(born);
  fs::rename(dir / "socket", dir / "moved");
  std::ofstream(dir / "socket") << "somebody else's";
  EXPECT_FALSE(is_still_there(dir / "socket", born->file));
  EXPECT_TRUE(remove_socket(dir / "socket", born->file));
  EXPECT_EQ(fs::file_size(dir / "socket"), 15u);
  fs::remove(dir / "socket");
  fs::create_symlink(dir / "moved", dir / "socket");
  EXPECT_FALSE(is_still_there(dir / "socket", born->file));
  EXPECT_TRUE(remove_socket(dir / "socket", born->file));
  EXPECT_TRUE(fs::is_symlink(dir / "socket"));
  fs::remove(dir / "socket");
  EXPECT_TRUE(remove_socket(dir / "socket", born->file)) << "missing is success";
  EXPECT_TRUE(remove_socket(dir / "gone/socket", born->file)) << "so is a missing directory";
  fs::rename(dir / "moved", dir / "socket");
  EXPECT_TRUE(remove_socket(dir / "socket", born->file));
  EXPECT_TRUE(dir.names().empty());
}

/// Runs `body` in a child process of its own and returns its exit status.
template <class Body>
int in_child(Body body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

TEST(SocketBirth, WorksForAnOrdinaryUserWithItsOwnGroupAndSaysSoForAnother) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become somebody else";
  const TestDir dir;
  ASSERT_EQ(::chown(dir.path().c_str(), 4711, 4711), 0);
  EXPECT_EQ(in_child([&] {
              if (::setgroups(0, nullptr) != 0 || ::setresgid(4711, 4711, 4711) != 0 ||
                  ::setresuid(4711, 4711, 4711) != 0) {
                return 10;
              }
              if (!create_socket(spec_of(dir / "own", 4711))) return 11;
              const auto other = create_socket(spec_of(dir / "other", 131076));
              if (other) return 12;
              return other.error().message == "not permitted to create a socket for group 131076" ? 0 : 13;
            }),
            0);
  EXPECT_EQ(dir.names(), std::vector<std::string>{"own"});
  EXPECT_EQ(lstat_of(dir / "own").st_gid, 4711u);
}

/// Makes unshare(2) fail with EPERM in this process, as container runtimes do.
bool forbid_unshare() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_unshare, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{std::size(program), program};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) == 0 && ::unshare(CLONE_FS) == -1;
}

TEST(SocketBirth, GivesTheRightModeAlsoWhereAThreadCannotHaveAUmaskOfItsOwn) {
  const TestDir dir;
  EXPECT_EQ(in_child([&] {
              if (!forbid_unshare()) return 10;
              ::umask(077);
              std::atomic<int> bad = 0;
              {
                std::vector<std::jthread> threads;
                threads.reserve(4);
                for (int t = 0; t < 4; ++t) {
                  threads.emplace_back([&dir, &bad, t] {
                    for (int i = 0; i < 50; ++i) {
                      if (!create_socket(spec_of(dir / std::to_string(t * 50 + i)))) ++bad;
                    }
                  });
                }
              }
              if (bad != 0) return 11;
              return ::umask(0) == 077 ? 0 : 12;
            }),
            0);
  EXPECT_EQ(dir.names().size(), 200u);
  for (const auto& name : dir.names()) EXPECT_EQ(lstat_of(dir / name).st_mode & 07777, 0660u) << name;
}

TEST(SocketBirth, TouchesNothingOutsideWhileTheOwnerOfTheDirectorySwapsLinksInALoop) {
  const TestDir dir;
  fs::create_directory(dir / "chroot");
  fs::create_directory(dir / "outside");
  std::ofstream(dir / "outside/victim") << "victim";
  ASSERT_EQ(::chmod((dir / "outside/victim").c_str(), 0600), 0);
  const auto before = lstat_of(dir / "outside/victim");
  const std::string path = dir / "chroot/socket";
  const std::string newborn = dir / ("chroot/" + private_name(path));
  std::atomic<bool> stop = false;
  std::jthread owner([&] {
    for (unsigned i = 0; !stop; ++i) {
      const std::string& name = i % 2 == 0 ? path : newborn;
      (void)::unlink(name.c_str());
      (void)::symlink(i % 4 < 2 ? "../outside/victim" : "../outside/absent", name.c_str());
      if (i % 64 == 0) (void)::unlink(name.c_str());
    }
  });
  int made = 0;
  for (int i = 0; i < 3000; ++i) {
    auto born = create_socket(spec_of(path, ::geteuid() == 0 ? 131076 : ::getegid()));
    if (!born) continue;
    ++made;
    EXPECT_TRUE(remove_socket(path, born->file));
  }
  stop = true;
  owner.join();
  const auto after = lstat_of(dir / "outside/victim");
  EXPECT_EQ(after.st_mode, before.st_mode);
  EXPECT_EQ(after.st_gid, before.st_gid);
  EXPECT_EQ(after.st_ino, before.st_ino);
  EXPECT_EQ(after.st_ctim.tv_nsec, before.st_ctim.tv_nsec) << "not even touched";
  EXPECT_EQ(fs::file_size(dir / "outside/victim"), 6u);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir / "outside"), fs::directory_iterator()), 1);
  EXPECT_GT(made, 0) << "the race must leave some creations through, or nothing was tested";
  // And none of it blocks the path.
  (void)::unlink(path.c_str());
  EXPECT_TRUE(create_socket(spec_of(path)));
}

}  // namespace
}  // namespace guard::control
