// Taking over the cache tree of the original daemon, so that a change of daemons in the middle of an outage
// loses nothing. Decision 0050 says why in this order.
//
// The newest value of each key becomes an entry of the journal. When all are durable the tree is renamed out
// of the way and that is made durable: from then on nothing in it can come back, and only then are entries
// handed on, so that none is delivered while its file could still be imported again. What is no value, or
// lost, is moved to `quarantine`; values that were imported, and older ones, are left for clear_done()
// (sweep.h), which has time. A crash at any step repeats the import.
#pragma once

#include <cstdint>

#include "base/log.h"
#include "guard/env.h"
#include "guard/result.h"
#include "journal/journal.h"

namespace guard::cache_tree {

struct ImportOptions {
  std::int64_t wall_ms = 0;   ///< milliseconds since 1970; the age that entries get, for people only
  std::uint32_t own_uid = 0;  ///< a tree that belongs to somebody else is reported
};

struct Imported {
  /// What the engine starts with: what the journal recovered, and what was imported on top of it.
  journal::Recovery recovery;
  /// There was a tree: the original ran here since the last import, and may have had updates under way.
  bool found = false;
  std::size_t entries = 0;    ///< made from values of the tree
  std::size_t confirmed = 0;  ///< values that the journal held already
  std::size_t lost = 0;       ///< slots whose newest value cannot be used: unknown until written or discarded
  std::size_t distrusted = 0;  ///< entries of the journal that are delivered over nothing but themselves now
};

/// Imports the tree `Swtpm` of the state directory, if there is one. `store` has just been opened and nothing
/// else was done with it. Blocks. Errors: the journal or the state directory cannot be written, or the tree
/// cannot be listed at all; then the store is to be closed and all of it tried again, and nothing of what it
/// recovered may be handed on. Nothing that stands in the tree is an error.
Result<Imported> import_tree(Directory& state, journal::Store& store, const ImportOptions& options,
                             Logger& log);

}  // namespace guard::cache_tree
