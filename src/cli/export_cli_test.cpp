// `xapi-guardctl export-cache` as a process on real files.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "base/log.h"
#include "cache_tree/manifest.h"
#include "cache_tree/parked.h"
#include "journal/journal.h"

namespace guard::cli {
namespace {

namespace fs = std::filesystem;

struct Ended {
  int exit_status = -1;
  std::string text;
};

class ExportCli : public ::testing::Test {
 protected:
  ExportCli() {
    std::string name = "/tmp/guard-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    base = name;
    state = base / "state";
    owner.vm.bytes[0] = 0xab;
  }
  ~ExportCli() override { fs::remove_all(base); }

  void write(Slot slot, Sequence sequence, const std::string& text) {
    auto dir = open_directory((state / "journal").string()).value();
    std::uint64_t salt = sequence;
    auto store = journal::Store::open(
        std::move(dir), {.size = 4 << 20, .max_size = 4 << 20}, [&] { return ++salt; }, null_logger());
    journal::Entry entry;
    entry.owner = {owner.vm, device_of(slot)};
    entry.slot = slot;
    entry.sequence = sequence;
    entry.value = Value(text);
    ASSERT_TRUE((*store)->run({entry}).at(0).result);
  }
  static Ended run(const std::string& arguments) {
    Ended ended;
    std::FILE* pipe = ::popen((std::string(GUARDCTL) + " " + arguments + " 2>&1").c_str(), "r");
    std::array<char, 4096> buffer;
    for (std::size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
      ended.text.append(buffer.data(), n);
    }
    const int status = ::pclose(pipe);
    ended.exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return ended;
  }
  std::size_t files(const fs::path& root) const {
    std::size_t n = 0;
    if (!fs::exists(root)) return 0;
    for (const auto& item : fs::recursive_directory_iterator(root)) n += item.is_regular_file();
    return n;
  }

  fs::path base, state;
  Owner owner;
};

TEST_F(ExportCli, ExportsIntoTheSameDirectoryAndOnlyOnce) {
  write(Slot::permall, 1, "c2hv");
  const Ended first = run("export-cache " + state.string());
  EXPECT_EQ(first.exit_status, 0) << first.text;
  EXPECT_EQ(first.text, "exported to " + state.string() + ": 1 entries\n");
  EXPECT_EQ(files(state / "Swtpm" / owner.vm.str() / "0"), 1u);
  EXPECT_TRUE(fs::exists(state / cache_tree::manifest_name));
  const Ended again = run("--json export-cache " + state.string());
  EXPECT_EQ(again.exit_status, 0);
  EXPECT_EQ(again.text,
            "{\"done\":true,\"directory\":\"" + state.string() + "\",\"entries\":0,\"not_exported\":[]}\n");
}

TEST_F(ExportCli, ExportsIntoAnotherDirectoryThatIsMade) {
  write(Slot::permall, 1, "c2hv");
  const fs::path target = base / "some" / "where";
  const Ended ended = run("export-cache --state-dir " + state.string() + " " + target.string());
  EXPECT_EQ(ended.exit_status, 0) << ended.text;
  EXPECT_EQ(files(target / "Swtpm"), 1u);
  EXPECT_FALSE(fs::exists(state / "Swtpm"));
}

TEST_F(ExportCli, ListsWhatWouldBeLeftBehindAndRefuses) {
  write(Slot::permall, 1, "c2hv");
  write(Slot::nvram, 2, "variables");
  write(Slot::savestate, 3, "c2hv");
  ASSERT_TRUE(cache_tree::save_parked(*open_directory(state.string()).value(), {3}));
  const Ended refused = run("export-cache " + state.string());
  EXPECT_EQ(refused.exit_status, 1);
  EXPECT_NE(refused.text.find(owner.vm.str() + " nvram: the original keeps no UEFI variables"),
            refused.text.npos);
  EXPECT_NE(refused.text.find(owner.vm.str() + " savestate: somebody else's value"), refused.text.npos);
  EXPECT_EQ(files(state / "Swtpm"), 0u);
  const Ended lossy = run("export-cache --lossy " + state.string());
  EXPECT_EQ(lossy.exit_status, 0);
  EXPECT_EQ(files(state / "Swtpm"), 1u);
}

TEST_F(ExportCli, RefusesWhileADaemonUsesTheDirectory) {
  write(Slot::permall, 1, "c2hv");
  auto dir = open_directory(state.string()).value();
  const auto lock = dir->lock("lock").value();
  const Ended ended = run("export-cache " + state.string());
  EXPECT_EQ(ended.exit_status, 1);
  EXPECT_NE(ended.text.find("a daemon uses"), ended.text.npos);
  EXPECT_EQ(files(state / "Swtpm"), 0u);
}

TEST_F(ExportCli, TouchesNothingWhereThereIsNoJournal) {
  fs::create_directories(state);
  EXPECT_EQ(run("export-cache " + state.string()).exit_status, 3);
  EXPECT_TRUE(fs::is_empty(state));
  EXPECT_EQ(run("export-cache " + (base / "nowhere").string()).exit_status, 3);
  EXPECT_EQ(run("export-cache").exit_status, 2);
  EXPECT_EQ(run("--switch /nonexistent export-cache " + state.string()).exit_status, 2);
}

}  // namespace
}  // namespace guard::cli
