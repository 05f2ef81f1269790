#include "daemon/state_dir.h"

#include <unistd.h>

#include <filesystem>
#include <system_error>

#include "base/limits.h"
#include "base/random.h"
#include "cache_tree/import.h"
#include "cache_tree/layout.h"
#include "cache_tree/sweep.h"
#include "journal/aside.h"

namespace guard::daemon {

Result<> StateDir::lock() {
  if (!dir_) {
    auto dir = open_directory(path_);
    if (!dir) return std::unexpected(std::move(dir.error()));
    dir_ = std::move(*dir);
  }
  if (!lock_) {
    auto lock = dir_->lock("lock");
    if (!lock) {
      // The next attempt looks at what is mounted there then, and until then nothing of ours is in its way.
      dir_.reset();
      return std::unexpected(std::move(lock.error()));
    }
    lock_ = std::move(*lock);
  }
  return {};
}

bool StateDir::has_cache_tree() {
  return dir_ != nullptr && dir_->look_at(cache_tree::tree_name).has_value();
}

bool StateDir::clear_cache_tree() { return cache_tree::clear_done(*dir_, limits::cache_tree_removed); }

Result<StateDir::Opened> StateDir::open_journal() {
  if (auto locked = lock(); !locked) return std::unexpected(std::move(locked.error()));
  auto journal_dir = dir_->open_dir("journal", true);
  if (!journal_dir) return std::unexpected(std::move(journal_dir.error()));
  auto store = journal::Store::open(std::move(*journal_dir), options_, random_bits, log_);
  if (!store) return std::unexpected(std::move(store.error()));
  (*store)->keep(lock_);  // a call to a disk that hangs may outlive us
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const cache_tree::ImportOptions options{std::chrono::duration_cast<std::chrono::milliseconds>(now).count(),
                                          ::geteuid()};
  auto imported = cache_tree::import_tree(*dir_, **store, options, log_);
  if (!imported) {
    imported.error().message = "import of the cache tree: " + imported.error().message;
    return std::unexpected(std::move(imported.error()));
  }
  opened_ = true;
  return Opened{std::move(*store), std::move(imported->recovery)};
}

Result<std::string> StateDir::set_journal_aside(const std::string& directory,
                                                std::chrono::system_clock::time_point now) {
  if (opened_) {
    return std::unexpected(
        Error{Errc::busy, 0, "the journal is in use: it was read, nothing has to be set aside"});
  }
  std::error_code error;
  if (!std::filesystem::equivalent(directory, path_, error)) {
    return std::unexpected(Error::invalid("the state directory of this daemon is " + path_));
  }
  if (auto locked = lock(); !locked) return std::unexpected(std::move(locked.error()));
  auto name = journal::set_aside(*dir_, now);
  if (!name) return name;
  return path_ + "/" + *name;
}

Result<std::vector<std::string>> StateDir::list_set_aside() {
  if (auto locked = lock(); !locked) return std::unexpected(std::move(locked.error()));
  return journal::list_set_aside(*dir_);
}

}  // namespace guard::daemon
