// What an export wrote: `export-manifest.json`, beside the tree.
//
// The tree itself cannot say that an empty file is a deletion and no victim of a full disk, nor that a value
// without swtpm's header is whole all the same. An import believes the manifest about exactly these files
// with exactly these contents, and about no others.
//
//   {"version":1,"files":[{"vm":"...","key":0,"timestamp":"4617725464136","size":8004,"digest":"<32 hex
//   digits>"}]}
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "cache_tree/layout.h"
#include "guard/result.h"

namespace guard::cache_tree {

inline constexpr std::string_view manifest_name = "export-manifest.json";

struct Manifest {
  struct File {
    std::uint64_t size = 0;
    Digest digest;
    bool operator==(const File&) const = default;
  };
  std::map<Place, File> files;

  /// It says of the file at `place` that it holds `text`.
  bool vouches(const Place& place, std::string_view text) const;
};

std::string write_manifest(const Manifest& manifest);
/// Errors: invalid, when it is not exactly such a text.
Result<Manifest> read_manifest(std::string_view text);

}  // namespace guard::cache_tree
