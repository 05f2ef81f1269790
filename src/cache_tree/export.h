// Going back to the original daemon: what is pending becomes a cache tree that it delivers. Decision 0051.
//
// Each value is durable in the tree before it is removed from the journal, so that a crash at any step leaves
// it in one of them or in both, and an import of the tree over the same journal is harmless.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "guard/env.h"
#include "guard/result.h"
#include "journal/journal.h"

namespace guard::cache_tree {

struct ExportOptions {
  /// Export what can be, and leave the rest in the journal.
  bool lossy = false;
  /// CLOCK_MONOTONIC in nanoseconds: what the original's later writes are newer than.
  std::uint64_t now_ns = 0;
  /// Sequences of entries that were parked: somebody else's value stands upstream.
  std::set<Sequence> parked;
};

/// An entry that the original would not deliver, or would deliver wrongly.
struct Obstacle {
  Owner owner;
  Slot slot = Slot::permall;
  bool alert = false;
  std::string reason;
};

struct Exported {
  std::size_t entries = 0;  ///< now in the tree and no longer in the journal
  std::vector<Obstacle>
      obstacles;      ///< still in the journal; without `lossy`, when there are any, so is the rest
  bool done = false;  ///< false: there are obstacles, and nothing was changed
};

/// Exports what `store` recovered to `target`, the original's state directory. `store` has just been opened.
/// Blocks. Errors: the disk, or an unusable manifest of an earlier export; what was exported so far may be in
/// the tree and in the journal, and the export is to be repeated.
Result<Exported> export_tree(Directory& target, journal::Store& store, const ExportOptions& options);

}  // namespace guard::cache_tree
