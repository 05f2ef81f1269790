// What stands in a cache tree: the walk that import and export share.
//
// Nothing is followed, nothing is opened that is no regular file or directory. What the disk refuses once is
// asked for once more.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "cache_tree/layout.h"
#include "cache_tree/manifest.h"
#include "guard/env.h"
#include "guard/result.h"

namespace guard::cache_tree {

/// Reads a small file of a directory, at most `limit` bytes. Errors: invalid when it is larger, or no regular
/// file; of the operating system.
Result<std::string> read_small(Directory& dir, std::string_view name, std::size_t limit);

/// The values of one key of one VM.
struct Key {
  std::set<std::uint64_t> timestamps;  ///< of regular files with canonical names
  bool unreadable = false;             ///< what stands there could not be listed
};

/// All keys of a tree that hold a value, or cannot be listed. A VM's directory that cannot be listed counts
/// as three such keys. Errors: the tree itself cannot be listed.
Result<std::map<std::pair<Uuid, Slot>, Key>> keys_of(Directory& tree);

/// The directory of one key.
Result<std::unique_ptr<Directory>> open_key(Directory& tree, const Uuid& vm, Slot slot);

struct Judged {
  Value value;
  std::string flaw;  ///< empty: `value` is what was acknowledged
};
/// Reads the value at `place`, which stands in `dir`, and judges it.
Judged judge(Directory& dir, const Place& place, const Manifest& manifest);

}  // namespace guard::cache_tree
