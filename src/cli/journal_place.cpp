#include "cli/journal_place.h"

#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <utility>

namespace guard::cli {

namespace {

/// Whether something stands there, whatever it is.
bool is_there(const std::filesystem::path& path) {
  struct stat found{};
  return ::lstat(path.c_str(), &found) == 0;
}

}  // namespace

Result<JournalPlace> find_journal(const std::string& directory) {
  auto path = std::filesystem::absolute(directory).lexically_normal();
  if (path.has_relative_path() && !path.has_filename()) path = path.parent_path();  // a slash at the end
  struct stat found{};
  if (::stat(path.c_str(), &found) != 0) return std::unexpected(Error::system(path.string(), errno));
  const std::string above = path.filename() == "journal" ? path.parent_path().string() : std::string();
  const bool state_dir = S_ISDIR(found.st_mode) && is_there(path / "journal");
  const bool journal = S_ISDIR(found.st_mode) && (is_there(path / "a") || is_there(path / "b"));
  if (state_dir && journal) {
    return std::unexpected(
        Error::invalid(path.string() + " holds a, b and journal: name the directory of the journal itself"));
  }
  if (state_dir) return JournalPlace{(path / "journal").string(), path.string()};
  if (journal || !above.empty()) return JournalPlace{path.string(), above};
  return std::unexpected(
      Error::invalid(path.string() + " is neither a state directory nor the directory of a journal"));
}

Result<LockedState> lock_state(const std::string& state_dir) {
  auto state = open_existing_directory(state_dir);
  if (!state) return std::unexpected(state.error());
  auto lock = (*state)->lock("lock");
  if (!lock) return std::unexpected(lock.error());
  return LockedState{std::move(*state), std::move(*lock)};
}

}  // namespace guard::cli
