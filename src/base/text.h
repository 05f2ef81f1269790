// Small text helpers shared by all folders.
#pragma once

#include <charconv>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace guard {

/// Exactly a decimal number without sign, leading zeros other than "0" itself, or anything after it.
std::optional<std::uint64_t> parse_decimal(std::string_view text);

/// `500ms`, `2s`, `15min`, `2h`; a bare number is refused.
std::optional<std::chrono::milliseconds> parse_duration(std::string_view text);
/// `512KiB`, `32MiB`, `1GiB`, `100B`; a bare number is refused.
std::optional<std::uint64_t> parse_size(std::string_view text);

/// True when the text is non-empty standard base64 with correct padding and nothing else: what swtpm
/// stores. Runs over the text once, without decoding.
bool is_base64(std::string_view text);

/// RFC 3339 in UTC with milliseconds.
std::string rfc3339(std::chrono::system_clock::time_point when);

std::string lower(std::string_view text);

}  // namespace guard
