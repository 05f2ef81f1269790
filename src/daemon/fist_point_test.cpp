#include "daemon/fist_point.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace guard::daemon {
namespace {

namespace fs = std::filesystem;

class FistPointTest : public ::testing::Test {
 protected:
  FistPointTest() {
    std::string name = (fs::temp_directory_path() / "guard-fist-XXXXXX").string();
    dir = ::mkdtemp(name.data());
    path = dir / "fist";
  }
  ~FistPointTest() override { fs::remove_all(dir); }
  fs::path dir, path;
};

TEST_F(FistPointTest, IsSetAsLongAsTheFileIsThere) {
  const FistPoint point(path);
  EXPECT_FALSE(point.is_set());
  std::ofstream(path).flush();
  EXPECT_TRUE(point.is_set());
  fs::remove(path);
  EXPECT_FALSE(point.is_set());
}

TEST_F(FistPointTest, IsNotSetByLinksDirectoriesAndPipes) {
  const FistPoint point(path);
  std::ofstream(dir / "other").flush();
  fs::create_symlink(dir / "other", path);
  EXPECT_FALSE(point.is_set());
  fs::remove(path);
  fs::create_directory(path);
  EXPECT_FALSE(point.is_set());
  fs::remove(path);
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  EXPECT_FALSE(point.is_set());
}

TEST_F(FistPointTest, IsNotSetByAFileOfSomebodyElse) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can make one";
  const FistPoint point(path);
  std::ofstream(path).flush();
  ASSERT_EQ(::chown(path.c_str(), 65534, 65534), 0);
  EXPECT_FALSE(point.is_set());
}

}  // namespace
}  // namespace guard::daemon
