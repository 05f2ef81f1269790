#include "daemon/state_dir.h"

#include <sys/random.h>

#include <random>

namespace guard::daemon {

namespace {

/// 64 bits from the kernel; the standard's device is the way back for kernels that refuse.
std::uint64_t random_salt() {
  std::uint64_t salt = 0;
  if (::getrandom(&salt, sizeof salt, 0) == sizeof salt) return salt;
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

}  // namespace

Result<> StateDir::lock() {
  if (!dir_) {
    auto dir = open_directory(path_);
    if (!dir) return std::unexpected(std::move(dir.error()));
    dir_ = std::move(*dir);
  }
  if (!lock_) {
    auto lock = dir_->lock("lock");
    if (!lock) return std::unexpected(std::move(lock.error()));
    lock_ = std::move(*lock);
  }
  return {};
}

Result<std::unique_ptr<journal::Store>> StateDir::open_journal() {
  if (auto locked = lock(); !locked) return std::unexpected(std::move(locked.error()));
  auto journal_dir = dir_->open_dir("journal", true);
  if (!journal_dir) return std::unexpected(std::move(journal_dir.error()));
  return journal::Store::open(std::move(*journal_dir), options_, random_salt, log_);
}

}  // namespace guard::daemon
