// For tests of the cache tree: states as swtpm makes them, trees as the original leaves them, journals.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/log.h"
#include "cache_tree/import.h"
#include "cache_tree/layout.h"
#include "cache_tree/manifest.h"
#include "cache_tree/sweep.h"
#include "journal/journal.h"

namespace guard::cache_tree {

inline Uuid vm(unsigned number) {
  Uuid uuid;
  uuid.bytes[0] = 0xab;
  uuid.bytes[14] = static_cast<std::uint8_t>(number >> 8);
  uuid.bytes[15] = static_cast<std::uint8_t>(number);
  return uuid;
}

inline std::string base64(const std::string& bytes) {
  constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t quantum = 0;
    for (std::size_t j = 0; j < 3; ++j) {
      quantum = quantum << 8 | (i + j < bytes.size() ? static_cast<std::uint8_t>(bytes[i + j]) : 0u);
    }
    for (std::size_t j = 0; j < 4; ++j) {
      text += i + j > bytes.size() ? '=' : digits[quantum >> (18 - 6 * j) & 63];
    }
  }
  return text;
}

/// What swtpm sends for a state of `size` bytes: its header is 2, 1, 10 (16 bits), 0 (16 bits) and the total
/// length (32 bits); the rest is made from `seed`.
inline std::string state(unsigned seed, std::size_t size = 60) {
  std::string bytes(size, '\0');
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 7 + seed);
  const std::string head{2, 1, 0, 10, 0, 0};
  bytes.replace(0, head.size(), head);
  for (std::size_t i = 0; i < 4; ++i) bytes[6 + i] = static_cast<char>(size >> (24 - 8 * i));
  return base64(bytes);
}

/// Keeps the lines.
class LogLines final : public Logger {
 public:
  void log(LogLevel, std::string_view event, std::initializer_list<Field> fields) override {
    lines.push_back(log_line(event, fields));
  }
  bool enabled(LogLevel) const override { return true; }
  std::size_t count(std::string_view event) const {
    std::size_t n = 0;
    for (const std::string& line : lines) n += line.starts_with(event);
    return n;
  }
  std::vector<std::string> lines;
};

inline journal::Options small_journal() {
  return {.size = 64 * limits::journal_block, .max_size = 4096 * limits::journal_block};
}

inline std::unique_ptr<journal::Store> open_store(Directory& state) {
  static std::uint64_t salt = 0;
  auto store = journal::Store::open(
      state.open_dir("journal", true).value(), small_journal(), [] { return ++salt; }, null_logger());
  if (!store) throw std::runtime_error(store.error().message);
  return std::move(*store);
}

/// What a recovery holds: the text of a value, "LOST", or "UNREADABLE".
using Values = std::map<std::pair<Uuid, Slot>, std::string>;
inline Values values_of(const journal::Recovery& recovery, journal::Store& store) {
  Values values;
  for (const journal::LiveEntry& live : recovery.live) {
    if (live.type == journal::RecordType::alert) continue;
    std::string& text = values[{live.owner.vm, live.slot}];
    EXPECT_TRUE(text.empty()) << "two of one slot";
    if ((live.flags & journal::flag_lost) != 0) {
      text = "LOST";
      continue;
    }
    const auto read = store.run({journal::ReadBack{live.owner, live.slot, live.sequence}}).at(0);
    text = read.result ? std::string(read.value.view()) : "UNREADABLE";
    EXPECT_EQ(live.digest, digest_of(text));
  }
  return values;
}

/// A state directory on the real file system.
class StateDirTest : public ::testing::Test {
 protected:
  StateDirTest() {
    std::string name = (std::filesystem::temp_directory_path() / "guard-tree-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path = name;
    dir = open_directory(path + "/state").value();
  }
  ~StateDirTest() override { std::filesystem::remove_all(path); }

  std::filesystem::path tree(const std::string& below = "") const { return path + "/state/Swtpm/" + below; }
  void put(const std::string& below, const std::string& text) const {
    std::filesystem::create_directories(tree(below).parent_path());
    std::ofstream(tree(below)) << text;
  }
  void put(const Place& place, const std::string& text) const { put(place.str(), text); }

  /// Closes the journal and goes through a whole start.
  Values import() {
    store.reset();
    store = open_store(*dir);
    auto done = import_tree(*dir, *store, {.wall_ms = 1700000000000, .own_uid = ::getuid()}, log);
    EXPECT_TRUE(done) << done.error().message;
    imported = std::move(*done);
    EXPECT_FALSE(dir->look_at("Swtpm"));
    while (clear_done(*dir, 3)) {
    }
    const Values values = values_of(imported.recovery, *store);
    store = nullptr;
    store = open_store(*dir);
    EXPECT_EQ(values_of(store->recovery(), *store), values) << "what was told is what is on the disk";
    EXPECT_GE(imported.recovery.highest_sequence, store->recovery().highest_sequence);
    return values;
  }
  std::vector<std::string> quarantine() const {
    auto place = dir->open_dir("quarantine", false);
    return place ? (*place)->list().value() : std::vector<std::string>();
  }

  std::string path;
  std::unique_ptr<Directory> dir;
  std::unique_ptr<journal::Store> store;
  Imported imported;
  LogLines log;
};

}  // namespace guard::cache_tree
