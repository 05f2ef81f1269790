#include "sim/store_file.h"

#include <utility>
#include <vector>

namespace guard::sim {

namespace {
/// A pool's worth of vTPMs.
constexpr std::size_t largest_store = std::size_t{2} << 30;
}  // namespace

Result<std::unique_ptr<StoreFile>> StoreFile::open(const std::string& path, Logger& log) {
  const std::size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  const std::string name = path.substr(slash == std::string::npos ? 0 : slash + 1);
  if (name.empty()) return std::unexpected(Error::invalid("the store must be a file"));
  auto dir = open_directory(folder);
  if (!dir) return std::unexpected(dir.error());
  return std::unique_ptr<StoreFile>(new StoreFile(std::move(*dir), name, log));
}

StoreFile::StoreFile(std::unique_ptr<Directory> dir, std::string name, Logger& log)
    : dir_(std::move(dir)), name_(std::move(name)), log_(log), thread_([this] { run(); }) {}

StoreFile::~StoreFile() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

Result<wire::Json> StoreFile::read() {
  auto file = dir_->open_for_read(name_);
  if (!file && file.error().code == Errc::not_found) return wire::Json();
  if (!file) return std::unexpected(file.error());
  const auto size = (*file)->size();
  if (!size) return std::unexpected(size.error());
  if (*size > largest_store) return std::unexpected(Error::invalid("the store is too large"));
  std::string text(*size, '\0');
  const auto got = (*file)->read_at(0, std::as_writable_bytes(std::span(text)));
  if (!got) return std::unexpected(got.error());
  text.resize(*got);
  return wire::parse_json(text, {.max_bytes = largest_store});
}

void StoreFile::write(wire::Json json) {
  {
    const std::lock_guard lock(mutex_);
    next_ = std::move(json);
  }
  changed_.notify_one();
}

void StoreFile::write_now(const wire::Json& json) {
  const std::lock_guard file_lock(file_mutex_);
  {
    const std::lock_guard lock(mutex_);
    next_.reset();
  }
  replace(json);
}

void StoreFile::run() {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return next_ || stop_; });
      if (!next_) return;
    }
    // Taken only while no other replacement is under way, so that an older state never follows a newer one.
    const std::lock_guard file_lock(file_mutex_);
    std::optional<wire::Json> json;
    {
      const std::lock_guard lock(mutex_);
      json = std::exchange(next_, std::nullopt);
    }
    if (json) replace(*json);
  }
}

void StoreFile::replace(const wire::Json& json) {
  const auto written = replace_file(*dir_, name_, wire::to_string(json));
  if (!written) log_.log(LogLevel::error, "store_write_failed", {{"reason", written.error().message}});
}

}  // namespace guard::sim
