// Four ways to make values durable, behind one interface, so that they can be measured in turns in one run.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace guard::bench {

/// Keeps the newest value of each of many keys. Every failure ends the process with a message: a figure of
/// something that failed is worth nothing.
class Durable {
 public:
  virtual ~Durable() = default;
  /// Replaces the values of the keys 0 to `values.size()` - 1. When it returns all of them survive a power
  /// cut.
  virtual void commit(const std::vector<std::string>& values) = 0;
};

/// What no journal can beat: the same bytes appended to a preallocated file with one pwritev and one
/// fdatasync, without headers, checksums, or a way to find them again.
std::unique_ptr<Durable> bare_appends(const std::string& dir, std::size_t file_bytes);
/// journal::Journal as the guard uses it, with its thread.
std::unique_ptr<Durable> journal(const std::string& dir, std::size_t file_bytes);
/// One transaction per commit; journal_mode=WAL, synchronous=FULL, everything else as it comes.
std::unique_ptr<Durable> sqlite_wal_full(const std::string& dir);
/// What the OCaml daemon does for each value, one after the other: a temporary file written with O_SYNC,
/// fsync, rename, fsync of the directory. Files that a commit has superseded are unlinked before the next
/// one, as its reader does later and as part of the work.
std::unique_ptr<Durable> file_per_value(const std::string& dir);

/// The calling program ends, with `what` and the text of errno.
[[noreturn]] void give_up(const std::string& what);

}  // namespace guard::bench
