#include "cache_tree/layout.h"

#include <array>

#include "base/limits.h"
#include "base/text.h"

namespace guard::cache_tree {

namespace {

/// Of a state: version, least version, length of the header, flags; total length.
constexpr std::size_t length_at = 6;
constexpr std::size_t header_size = 10;
/// Base64 of these bytes: the first 16 characters decode to 12.
constexpr std::size_t header_text = 16;

std::uint32_t value_of(char c) {
  if (c >= 'A' && c <= 'Z') return static_cast<std::uint32_t>(c - 'A');
  if (c >= 'a' && c <= 'z') return static_cast<std::uint32_t>(c - 'a') + 26;
  if (c >= '0' && c <= '9') return static_cast<std::uint32_t>(c - '0') + 52;
  return c == '+' ? 62 : c == '/' ? 63 : 0;
}

/// The total length in the header of a state given as base64 of at least header_text characters.
std::uint32_t total_length(std::string_view text) {
  std::array<std::uint8_t, header_text / 4 * 3> bytes{};
  for (std::size_t i = 0; i < header_text / 4; ++i) {
    std::uint32_t quantum = 0;
    for (std::size_t j = 0; j < 4; ++j) quantum = quantum << 6 | value_of(text[4 * i + j]);
    for (std::size_t j = 0; j < 3; ++j) {
      bytes[3 * i + j] = static_cast<std::uint8_t>(quantum >> (16 - 8 * j));
    }
  }
  std::uint32_t length = 0;
  for (std::size_t i = length_at; i < header_size; ++i) length = length << 8 | bytes[i];
  return length;
}

std::size_t decoded_size(std::string_view text) {
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  return text.size() / 4 * 3 - padding;
}

}  // namespace

std::optional<Uuid> parse_vm(std::string_view name) {
  const auto vm = Uuid::parse(name);
  if (!vm || vm->is_nil() || vm->str() != name) return std::nullopt;
  return vm;
}

std::optional<Slot> parse_key(std::string_view name) {
  if (name.size() != 1 || name[0] < '0' || name[0] > '2') return std::nullopt;
  return static_cast<Slot>(name[0] - '0');
}

std::optional<std::uint64_t> parse_timestamp(std::string_view name) { return parse_decimal(name); }

std::string key_of(Slot slot) { return std::to_string(static_cast<unsigned>(slot)); }

std::string Place::str() const { return vm.str() + "/" + key_of(slot) + "/" + std::to_string(timestamp); }

std::string_view flaw_of(std::string_view text) {
  if (text.empty()) return "empty";
  if (text.size() > limits::max_body_vtpm) return "larger than any state";
  if (!is_base64(text)) return "not base64";
  if (text.size() < header_text || decoded_size(text) < header_size) return "shorter than a header";
  if (decoded_size(text) != total_length(text)) return "not of the length in its header";
  return {};
}

}  // namespace guard::cache_tree
