// Which entries were parked when the daemon stopped: the file `parked.json` in the state directory. The
// journal does not tell them from others, because a daemon that starts finds out by itself; an export cannot.
//
//   {"version":1,"sequences":["4711"]}
#pragma once

#include <set>
#include <string>
#include <string_view>

#include "guard/env.h"
#include "guard/result.h"
#include "guard/types.h"

namespace guard::cache_tree {

inline constexpr std::string_view parked_name = "parked.json";

/// Replaces the file durably; removes it when nothing was parked. What an earlier daemon left there never
/// matters: a sequence is used once.
Result<> save_parked(Directory& state, const std::set<Sequence>& sequences);
/// None when there is no file. Errors: of the disk; invalid when it is not exactly such a text.
Result<std::set<Sequence>> load_parked(Directory& state);

}  // namespace guard::cache_tree
