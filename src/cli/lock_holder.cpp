#include "cli/lock_holder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace guard::cli {

namespace {

/// Whether the process has the file open. The inode number alone may belong to another file system, and the
/// device number that /proc/locks gives is not that of stat(2) everywhere (btrfs, overlayfs). Without the
/// right to look, true.
bool has_open(pid_t pid, const struct stat& wanted) {
  std::error_code error;
  std::filesystem::directory_iterator files("/proc/" + std::to_string(pid) + "/fd", error);
  if (error) return true;
  for (; files != std::filesystem::directory_iterator(); files.increment(error)) {
    struct stat found{};
    if (::stat(files->path().c_str(), &found) == 0 && found.st_dev == wanted.st_dev &&
        found.st_ino == wanted.st_ino) {
      return true;
    }
  }
  return static_cast<bool>(error);
}

/// The words of a line, by spaces.
std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  while (!line.empty()) {
    const auto end = line.find(' ');
    if (end != 0) words.push_back(line.substr(0, end));
    line.remove_prefix(end == line.npos ? line.size() : end + 1);
  }
  return words;
}

template <class Number>
bool read_number(std::string_view text, Number& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::vector<LockLine> parse_locks(std::string_view text) {
  // "1: FLOCK  ADVISORY  WRITE 4711 fd:01:131098 0 EOF"; who only waits has "->" behind the number.
  std::vector<LockLine> locks;
  while (!text.empty()) {
    const auto end = text.find('\n');
    const auto words = words_of(text.substr(0, end));
    text.remove_prefix(end == text.npos ? text.size() : end + 1);
    if (words.size() != 8 || words[1] != "FLOCK" || words[3] != "WRITE") continue;
    LockLine lock;
    const auto inode = words[5].substr(words[5].rfind(':') + 1);
    if (read_number(words[4], lock.pid) && read_number(inode, lock.inode)) locks.push_back(lock);
  }
  return locks;
}

std::optional<pid_t> lock_holder(const std::string& path) {
  struct stat wanted{};
  if (::stat(path.c_str(), &wanted) != 0) return std::nullopt;
  std::ifstream file("/proc/locks");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  for (const LockLine& lock : parse_locks(text)) {
    if (lock.inode == wanted.st_ino && lock.pid > 0 && has_open(lock.pid, wanted)) return lock.pid;
  }
  return std::nullopt;
}

}  // namespace guard::cli
