#include "guard/types.h"

#include <xxhash.h>

#include "guard/upstream.h"

namespace guard {

namespace {

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

std::optional<Uuid> Uuid::parse(std::string_view text) {
  if (text.size() != 36) return std::nullopt;
  Uuid uuid;
  std::size_t nibble = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash) {
      if (text[i] != '-') return std::nullopt;
      continue;
    }
    const int value = hex_value(text[i]);
    if (value < 0) return std::nullopt;
    auto& byte = uuid.bytes[nibble / 2];
    byte = static_cast<std::uint8_t>(byte << 4 | value);
    ++nibble;
  }
  return uuid;
}

std::string Uuid::str() const {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  text.reserve(36);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text.push_back('-');
    text.push_back(digits[bytes[i] >> 4]);
    text.push_back(digits[bytes[i] & 15]);
  }
  return text;
}

bool Uuid::is_nil() const {
  for (const auto byte : bytes) {
    if (byte != 0) return false;
  }
  return true;
}

std::string_view name_of(Slot slot) {
  switch (slot) {
    case Slot::permall:
      return "permall";
    case Slot::savestate:
      return "savestate";
    case Slot::volatilestate:
      return "volatilestate";
    case Slot::nvram:
      return "nvram";
  }
  return "unknown";
}

std::optional<Slot> slot_named(std::string_view name) {
  for (std::size_t i = 0; i < slot_count; ++i) {
    if (name_of(static_cast<Slot>(i)) == name) return static_cast<Slot>(i);
  }
  return std::nullopt;
}

std::string_view name_of(UpdateFlag flag) {
  switch (flag) {
    case UpdateFlag::unspecified:
      return "unspecified";
    case UpdateFlag::yes:
      return "yes";
    case UpdateFlag::no:
      return "no";
  }
  return "unknown";
}

std::string_view name_of(Device device) { return device == Device::vtpm ? "vtpm" : "uefi"; }

std::string_view name_of(Outcome::Kind kind) {
  switch (kind) {
    case Outcome::Kind::delivered:
      return "delivered";
    case Outcome::Kind::conflict:
      return "conflict";
    case Outcome::Kind::elsewhere:
      return "elsewhere";
    case Outcome::Kind::transient:
      return "transient";
    case Outcome::Kind::stale:
      return "stale";
    case Outcome::Kind::lane:
      return "lane";
    case Outcome::Kind::payload:
      return "payload";
    case Outcome::Kind::unknown:
      return "unknown";
  }
  return "unknown";
}

Value::Value(std::string bytes) {
  if (!bytes.empty()) bytes_ = std::make_shared<const std::string>(std::move(bytes));
}

Digest Value::digest() const { return digest_of(view()); }

Digest digest_of(std::string_view bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.low64, hash.high64};
}

}  // namespace guard
