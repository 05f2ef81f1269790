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

/// And this once nothing but values that were imported, or are older, is left in them.
inline constexpr std::string_view done_name = "Swtpm.done";

struct Swept {
  std::size_t removed = 0;    ///< values: those imported, and older ones; with Removal::later still there
  std::size_t set_aside = 0;  ///< files moved to `quarantine`
  std::size_t left = 0;       ///< could be neither removed nor moved
};

/// The timestamp up to which the values of a key are in the journal, or superseded by one that is.
using ImportedKeys = std::map<std::pair<Uuid, Slot>, std::uint64_t>;

enum class Removal { now, later };

/// Clears the directory `name` of the state directory: values that `imported` names are
/// removed, now or later with the directory; everything else is moved to `quarantine`, from where nothing is
/// ever imported. What cannot be moved stays and is counted. At most limits::log_lines_per_event lines.
/// Nothing depends on its success. A name that is no directory is moved too.
Swept sweep(Directory& state, const std::string& name, const ImportedKeys& imported, Removal removal,
            Logger& log);

/// Removes what is left of trees called done_name, at most `files` files: there may be thousands, on a slow
/// disk, and others wait. True when there is more to do. What cannot be removed stays until the next start.
bool clear_done(Directory& state, std::size_t files);

}  // namespace guard::cache_tree
