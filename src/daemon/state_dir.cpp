#include "daemon/state_dir.h"

#include "base/random.h"

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

Result<std::unique_ptr<journal::Store>> StateDir::open_journal() {
  if (auto locked = lock(); !locked) return std::unexpected(std::move(locked.error()));
  auto journal_dir = dir_->open_dir("journal", true);
  if (!journal_dir) return std::unexpected(std::move(journal_dir.error()));
  auto store = journal::Store::open(std::move(*journal_dir), options_, random_bits, log_);
  if (store) (*store)->keep(lock_);  // a call to a disk that hangs may outlive us
  return store;
}

}  // namespace guard::daemon
