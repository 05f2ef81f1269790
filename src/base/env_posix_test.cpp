// What only the real file system can show; the contract all implementations share is tested in testing/.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "guard/env.h"

namespace guard {
namespace {

namespace fs = std::filesystem;

class EnvPosix : public ::testing::Test {
 protected:
  EnvPosix() {
    std::string name = (fs::temp_directory_path() / "guard-posix-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path = name;
    dir = open_directory(path).value();
  }
  ~EnvPosix() override { fs::remove_all(path); }

  unsigned mode_of(const std::string& name) const {
    struct stat st{};
    EXPECT_EQ(::stat((path + "/" + name).c_str(), &st), 0);
    return st.st_mode & 07777;
  }

  std::string path;
  std::unique_ptr<Directory> dir;
  using Mode = Directory::Mode;
};

TEST_F(EnvPosix, MissingDirectoriesAreMadeForTheirOwnerOnly) {
  ASSERT_TRUE(open_directory(path + "/x/y/z"));
  ASSERT_TRUE(open_directory(path + "/x/y/z/"));
  ASSERT_TRUE(open_directory("/"));
  ASSERT_TRUE(open_directory("."));
  for (const auto* name : {"x", "x/y", "x/y/z"}) EXPECT_EQ(mode_of(name), 0700u);
  ASSERT_TRUE(dir->open_dir("sub", true));
  EXPECT_EQ(mode_of("sub"), 0700u);
}

TEST_F(EnvPosix, LooksAtLinksAndOddThingsWithoutFollowingOrOpeningThem) {
  using Kind = Directory::Found::Kind;
  std::ofstream(path + "/target") << "12345";
  fs::create_symlink(path + "/target", path + "/link");
  fs::create_symlink(path + "/nowhere", path + "/dangling");
  ASSERT_EQ(::mkfifo((path + "/fifo").c_str(), 0600), 0);
  EXPECT_EQ(dir->look_at("link")->kind, Kind::link);
  EXPECT_EQ(dir->look_at("link")->size, 0u);
  EXPECT_EQ(dir->look_at("dangling")->kind, Kind::link);
  EXPECT_EQ(dir->look_at("fifo")->kind, Kind::other);
  EXPECT_EQ(dir->look_at("target")->uid, ::getuid());
  ASSERT_TRUE(dir->link("dangling", *dir->open_dir("sub", true).value(), "moved"));
  EXPECT_TRUE(fs::is_symlink(path + "/sub/moved")) << "the link itself";
  EXPECT_FALSE(dir->remove_dir("link"));
}

TEST_F(EnvPosix, APathThatCannotBeADirectoryIsAnError) {
  std::ofstream(path + "/file") << "x";
  EXPECT_FALSE(open_directory(path + "/file"));
  EXPECT_FALSE(open_directory(path + "/file/below"));
  EXPECT_EQ(open_directory("").error().code, Errc::invalid);
  fs::create_symlink(path + "/nowhere", path + "/dangling");
  EXPECT_FALSE(open_directory(path + "/dangling")) << "must not be made through a link";
  EXPECT_FALSE(fs::exists(path + "/nowhere"));
}

TEST_F(EnvPosix, FilesAreMadeForTheirOwnerOnly) {
  const mode_t before = ::umask(0);
  ASSERT_TRUE(dir->open_file("f", Mode::create_new));
  ASSERT_TRUE(dir->lock("l"));
  ::umask(before);
  EXPECT_EQ(mode_of("f"), 0600u);
  EXPECT_EQ(mode_of("l"), 0600u);
}

TEST_F(EnvPosix, LinksAreNeverFollowed) {
  std::ofstream(path + "/target") << "secret";
  fs::create_directory(path + "/real");
  fs::create_symlink("target", path + "/link");
  fs::create_symlink("real", path + "/dirlink");
  EXPECT_FALSE(dir->open_file("link", Mode::open_existing));
  EXPECT_FALSE(dir->open_file("link", Mode::open_or_create));
  EXPECT_FALSE(dir->open_for_read("link"));
  EXPECT_FALSE(dir->open_dir("dirlink", false));
  EXPECT_FALSE(dir->open_dir("dirlink", true));
  EXPECT_FALSE(dir->lock("link"));
  ASSERT_TRUE(replace_file(*dir, "link", "new"));  // replaces the link, not what it points to
  EXPECT_FALSE(fs::is_symlink(path + "/link"));
  std::string text;
  std::getline(std::ifstream(path + "/target"), text);
  EXPECT_EQ(text, "secret");
}

TEST_F(EnvPosix, OnlyRegularFilesAreOpenedAndAFifoHangsNobody) {
  ASSERT_EQ(::mkfifo((path + "/fifo").c_str(), 0600), 0);
  fs::create_directory(path + "/sub");
  EXPECT_EQ(open_directory("/dev").value()->open_for_read("null").error().code, Errc::invalid);
  EXPECT_EQ(dir->open_for_read("fifo").error().code, Errc::invalid);
  EXPECT_EQ(dir->open_file("fifo", Mode::open_or_create).error().code, Errc::invalid);
  EXPECT_EQ(dir->open_for_read("sub").error().code, Errc::invalid);
  EXPECT_FALSE(dir->open_file("sub", Mode::open_existing));
}

TEST_F(EnvPosix, ADirectoryThatWasMovedIsStillTheSame) {
  ASSERT_TRUE(dir->open_file("f", Mode::create_new));
  fs::rename(path, path + "-moved");
  EXPECT_TRUE(dir->open_file("f", Mode::open_existing));
  fs::rename(path + "-moved", path);
}

/// Runs `work` with a limit on the size of files: the one way to make the kernel refuse a write to order.
template <class Work>
auto with_file_limit(rlim_t bytes, Work work) {
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  ::getrlimit(RLIMIT_FSIZE, &old);
  const rlimit small{bytes, old.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  auto result = work();
  ::setrlimit(RLIMIT_FSIZE, &old);
  ::signal(SIGXFSZ, handler);
  return result;
}

TEST_F(EnvPosix, ARefusedWriteSaysWhy) {
  auto file = dir->open_file("f", Mode::create_new).value();
  const std::byte one{1};
  const std::span<const std::byte> part(&one, 1);
  const auto written = with_file_limit(4096, [&] { return file->write_at(8192, {&part, 1}); });
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().os_errno, EFBIG);
  EXPECT_EQ(written.error().code, Errc::io);
  EXPECT_NE(written.error().message.find("write f: "), std::string::npos) << written.error().message;
}

TEST_F(EnvPosix, AWriteThatStopsHalfWayIsAFailure) {
  auto file = dir->open_file("f", Mode::create_new).value();
  const std::string text(10'000, 'x');
  const std::span<const std::byte> parts[] = {std::as_bytes(std::span(text)), std::as_bytes(std::span(text))};
  const auto written = with_file_limit(12'000, [&] { return file->write_at(0, parts); });
  EXPECT_FALSE(written);
  EXPECT_EQ(file->size().value(), 12'000u);
}

TEST_F(EnvPosix, ALockHeldByAnotherProcessIsBusyUntilThatEnds) {
  int ready[2];
  int leave[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(leave), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(leave[1]);
    const auto held = open_directory(path).value()->lock("lock");
    char byte = held ? 'y' : 'n';
    if (::write(ready[1], &byte, 1) != 1) ::_exit(2);
    (void)!::read(leave[0], &byte, 1);  // until the parent closes its end
    ::_exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_EQ(byte, 'y');
  const auto refused = dir->lock("lock");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::busy);
  ::kill(child, SIGKILL);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(dir->lock("lock"));
  for (const int fd : {ready[0], ready[1], leave[0], leave[1]}) ::close(fd);
}

TEST_F(EnvPosix, DescriptorsAreNotInheritedByPrograms) {
  auto file = dir->open_file("f", Mode::create_new).value();
  auto lock = dir->lock("l").value();
  unsigned inherited = 0;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const auto target = fs::read_symlink(entry.path(), error).string();
    if (!target.starts_with(path)) continue;
    const int flags = ::fcntl(std::stoi(entry.path().filename().string()), F_GETFD);
    inherited += (flags & FD_CLOEXEC) == 0 ? 1 : 0;
  }
  EXPECT_EQ(inherited, 0u);
}

TEST_F(EnvPosix, AReplacementThatCannotBeMadeLeavesTheOldFile) {
  ASSERT_TRUE(replace_file(*dir, "f", "old"));
  fs::create_directory(path + "/f.new");  // in the way, and cannot be unlinked
  EXPECT_FALSE(replace_file(*dir, "f", "new"));
  std::string text;
  std::getline(std::ifstream(path + "/f"), text);
  EXPECT_EQ(text, "old");
}

TEST_F(EnvPosix, KnowsFileSystemsThatOverwriteInPlace) {
  EXPECT_TRUE(open_directory("/dev/shm").value()->overwrites_in_place());  // tmpfs
  EXPECT_FALSE(open_directory("/proc").value()->overwrites_in_place()) << "what is not known is not promised";
}

}  // namespace
}  // namespace guard
