// Files and clocks as objects, so that tests can put a simulated disk and clock in their place.
//
// The contract of each function is its comment: what is true after success and after failure. One contract
// suite (testing/) runs over the real and the simulated implementation.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "guard/result.h"

namespace guard {

/// Monotonic time since an arbitrary start; never goes back, stops for nothing.
using Time = std::chrono::nanoseconds;

/// An open regular file, used by one thread at a time.
class File {
 public:
  virtual ~File() = default;
  /// Reads into `buffer`; returns how many bytes were read, less than asked only at the end of the file.
  virtual Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> buffer) = 0;
  /// Writes all parts one after the other from `offset`, with as few system calls as possible. After success
  /// the bytes are visible to readers and *not* durable. After a failure any part may have been written.
  virtual Result<void> write_at(std::uint64_t offset, std::span<const std::span<const std::byte>> parts) = 0;
  /// fdatasync. After success all earlier successful writes survive a power cut. After a failure none since
  /// the last success can be trusted, and a later success says nothing about them.
  virtual Result<void> sync_data() = 0;
  /// fsync: data and all metadata.
  virtual Result<void> sync_all() = 0;
  virtual Result<std::uint64_t> size() = 0;
};

/// A directory held open; names are single path components, links are never followed.
class Directory {
 public:
  virtual ~Directory() = default;
  enum class Mode { open_existing, create_new, open_or_create };
  /// Opens a regular file for reading and writing; created with mode 0600 and, on btrfs, no copying on write.
  virtual Result<std::unique_ptr<File>> open_file(std::string_view name, Mode mode) = 0;
  /// Opens a regular file for reading only.
  virtual Result<std::unique_ptr<File>> open_for_read(std::string_view name) = 0;
  /// Opens a subdirectory; with `create` makes it (0700) when it is missing.
  virtual Result<std::unique_ptr<Directory>> open_dir(std::string_view name, bool create) = 0;
  /// Atomically replaces `to`. Durable only after sync().
  virtual Result<void> rename(std::string_view from, std::string_view to) = 0;
  virtual Result<void> unlink(std::string_view name) = 0;
  /// Removes an empty subdirectory; Errc::busy when it is not empty. Durable only after sync().
  virtual Result<void> remove_dir(std::string_view name) = 0;
  /// Gives the file `name` (of any kind but a directory; a link itself, not what it refers to) the further
  /// name `to_name` in the directory `to` of the same file system; Errc::busy when that name is taken.
  /// Durable only after to.sync(). Moving without a moment in which the file has no durable name is this,
  /// to.sync(), unlink().
  virtual Result<void> link(std::string_view name, Directory& to, std::string_view to_name) = 0;
  /// What stands under a name, without opening or following it. Errc::not_found when nothing does.
  struct Found {
    enum class Kind { file, directory, link, other };
    Kind kind = Kind::other;
    std::uint64_t size = 0;  ///< of a file, bytes
    std::uint32_t uid = 0;   ///< of its owner
    std::uint32_t mode = 0;  ///< permission bits
  };
  virtual Result<Found> look_at(std::string_view name) = 0;
  virtual Result<std::vector<std::string>> list() = 0;
  /// fsync of the directory: creations, renames and removals so far survive a power cut.
  virtual Result<void> sync() = 0;
  /// Takes an exclusive lock on the file `name` (created if missing) for as long as the returned object
  /// lives; Errc::busy when another process holds it.
  virtual Result<std::shared_ptr<void>> lock(std::string_view name) = 0;
  /// True where overwriting is known to need no free space: not where a file system copies on write.
  virtual bool overwrites_in_place() const = 0;
};

/// Opens a directory of the real file system, creating it (0700) and its parents when missing; each created
/// level is synced into its parent.
Result<std::unique_ptr<Directory>> open_directory(const std::string& path);
/// Opens a directory of the real file system that exists; creates nothing. Errc::not_found when nothing is
/// there. For tools that only look.
Result<std::unique_ptr<Directory>> open_existing_directory(const std::string& path);

/// Writes `contents` to `name` so that after success it is there, whole, after a power cut: temporary file,
/// write, fsync, rename, fsync of the directory. After failure `name` is either the old or the new one and
/// no temporary is left behind unless unlinking failed too. The only function that replaces small files.
Result<void> replace_file(Directory& dir, std::string_view name, std::string_view contents);

}  // namespace guard
