// Clearing a tree that was imported and renamed out of the way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "cache_tree/layout.h"
#include "guard/env.h"

namespace guard::cache_tree {

/// Imported trees are called this, and this with `.2`, `.3` and so on behind it.
inline constexpr std::string_view swept_name = "Swtpm.imported";

struct Swept {
  std::size_t removed = 0;    ///< values: those imported, and older ones
  std::size_t set_aside = 0;  ///< files moved to `quarantine`
  std::size_t left = 0;       ///< could be neither removed nor moved
};

/// The timestamp up to which the values of a key are in the journal, or superseded by one that is.
using ImportedKeys = std::map<std::pair<Uuid, Slot>, std::uint64_t>;

/// Clears the directory `name` of the state directory, and removes it: values that `imported` names are
/// removed; everything else is moved to `quarantine`, from where nothing is ever imported. What cannot be
/// moved stays and is counted. At most limits::log_lines_per_event lines. Nothing depends on its success. A
/// name that is no directory is moved too.
Swept sweep(Directory& state, const std::string& name, const ImportedKeys& imported, Logger& log);

}  // namespace guard::cache_tree
