// For tests: SQLite's usual file system, with calls that fail on demand.
#pragma once

#include <functional>
#include <memory>
#include <string>

namespace guard::upstream::testing {

/// Registered with SQLite under name() for as long as it lives; connections must be closed before. Any
/// thread.
class FaultyVfs {
 public:
  enum class Op { read, write, sync };

  FaultyVfs();
  ~FaultyVfs();
  FaultyVfs(const FaultyVfs&) = delete;

  const std::string& name() const;
  /// From now on, of calls of this kind, lets `after` succeed and fails the next with SQLite's `code`; and
  /// all those after it too, when `lasting`. A failing write has written half of its bytes; a failing sync
  /// has synced nothing.
  void fail(Op op, unsigned after, int code, bool lasting);
  /// Runs `work` once, on the thread that syncs.
  void before_next_sync(std::function<void()> work);
  void heal();
  /// So many calls of this kind so far.
  unsigned count(Op op) const;
  /// How many calls have failed since the last fail().
  unsigned failed() const;
  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace guard::upstream::testing
