// Restarts: what the registry makes of a resume file in every state.
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

using RegistryResume = RegistryTest;

TEST_F(RegistryResume, BringsEverySocketBackAfterTheDaemonWasKilled) {
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

TEST_F(RegistryResume, StartsEmptyWithoutAFile) {
  Daemon daemon(dir);
  EXPECT_EQ(daemon.registry.resume().listening, 0u);
  EXPECT_FALSE(fs::exists(dir / "resume.json"));
  EXPECT_TRUE(daemon.log.lines.empty());
}

TEST_F(RegistryResume, UnderstandsWhatTheOriginalWrote) {
  std::ofstream(dir / "resume.json") << R"([{"path":")" << dir / "a/s" << R"(","vm_uuid":")" << vm_a.str()
                                     << R"(","GID":")" << gid << R"(","typ":"swtpm","extra":1}])";
  Daemon daemon(dir);
  EXPECT_EQ(daemon.registry.resume().listening, 1u);
  EXPECT_EQ(resume_file(), "[" + object(dir / "a/s") + "]");
}

TEST_F(RegistryResume, DropsEntriesWhoseDirectoryIsGoneWithOneLineAndKeepsTheOthers) {
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

TEST_F(RegistryResume, TakesTheLastOfSeveralEntriesOfOnePath) {
  std::ofstream(dir / "resume.json") << "[" << object(dir / "a/s") << ","
                                     << object(dir / "a/s", "Swtpm", vm_b) << "]";
  Daemon daemon(dir);
  EXPECT_EQ(daemon.registry.resume().listening, 1u);
  EXPECT_EQ(daemon.registry.sockets(), std::vector{entry_of(dir / "a/s", vm_b)});
}

TEST_F(RegistryResume, KeepsEntriesItCannotServeInTheFile) {
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

TEST_F(RegistryResume, UsesWhatIsWholeInATruncatedFileAtEveryLengthAndKeepsTheRest) {
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

TEST_F(RegistryResume, SetsAsideWhatIsNoResumeFileAtAllAndKeepsOnlySoMany) {
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

TEST_F(RegistryResume, SetsAsideADirectoryALinkAndAnEnormousFileInThePlaceOfTheResumeFile) {
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

TEST_F(RegistryResume, SkipsEntriesWhosePathCannotBeServed) {
  std::ofstream(dir / "resume.json") << "[" << object("relative") << "," << object(dir / "a/../b/s") << ","
                                     << object(dir / "a/s") << "]";
  Daemon daemon(dir);
  const auto report = daemon.registry.resume();
  EXPECT_EQ(report.unreadable, 2u);
  EXPECT_EQ(report.listening, 1u);
}

TEST_F(RegistryResume, ResumesAndDestroysASocketBeforeAnythingIsServed) {
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
