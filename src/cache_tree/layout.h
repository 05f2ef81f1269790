// The cache tree of the original daemon: names, and what may stand in its files. Pure.
//
//   Swtpm/<vm uuid, lower case>/<key 0|1|2>/<timestamp>       the body of a PUT, unmodified
//   Swtpm/<vm uuid, lower case>/<key 0|1|2>/<timestamp>.pre   one that was being written: never acknowledged
//
// A timestamp is nanoseconds of CLOCK_MONOTONIC in decimal; the numerically highest of a key is the pending
// value, whatever the clock says now. The original takes other spellings of a number (hexadecimal, with
// underscores, negative) and uuids with something behind them for the same thing, and then looks for the
// canonical name; here they are no names at all.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "guard/types.h"

namespace guard::cache_tree {

inline constexpr std::string_view tree_name = "Swtpm";

std::optional<Uuid> parse_vm(std::string_view name);
std::optional<Slot> parse_key(std::string_view name);
std::optional<std::uint64_t> parse_timestamp(std::string_view name);
/// "0", "1", "2". `slot` is one of a vTPM.
std::string key_of(Slot slot);

/// A value in the tree.
struct Place {
  Uuid vm;
  Slot slot = Slot::permall;
  std::uint64_t timestamp = 0;
  auto operator<=>(const Place&) const = default;
  /// "<vm>/<key>/<timestamp>"
  std::string str() const;
};

/// Why a file cannot be what swtpm sent; empty when it can. On a full disk the original drops the last bytes
/// of a file, down to none, and acknowledges it: a state is whole only if its decoded length is the total
/// length that swtpm wrote into its header (32 bits, big-endian, at offset 6 of the decoded state).
std::string_view flaw_of(std::string_view text);

}  // namespace guard::cache_tree
