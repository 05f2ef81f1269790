// The words of the product as types: uuids, slots, sequences, digests and guest bytes.
//
// Everything here is a value: copyable, comparable, bound to no thread. Vocabulary: ARCHITECTURE, "Words".
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace guard {

/// A uuid as 16 raw bytes. The nil uuid means "not known" wherever a uuid is optional on disk.
struct Uuid {
  std::array<std::uint8_t, 16> bytes{};

  /// Parses exactly the canonical 36-character form, hex digits in either case; anything else is nullopt.
  static std::optional<Uuid> parse(std::string_view text);
  /// The canonical form in lower case.
  std::string str() const;
  bool is_nil() const;
  auto operator<=>(const Uuid&) const = default;
};

/// One state of one VM. The numbers are those of the original's cache tree and of the journal format.
enum class Slot : std::uint8_t { permall = 0, savestate = 1, volatilestate = 2, nvram = 3 };
inline constexpr std::size_t slot_count = 4;
std::string_view name_of(Slot slot);
/// Inverse of name_of; nullopt for any other text.
std::optional<Slot> slot_named(std::string_view name);

/// A device of a VM; each has a lane of its own.
enum class Device : std::uint8_t { vtpm = 0, uefi = 1 };
std::string_view name_of(Device device);
constexpr Device device_of(Slot slot) { return slot == Slot::nvram ? Device::uefi : Device::vtpm; }

/// Whether the upstream shall count a new value of the UEFI variables as an update of the Secure Boot
/// certificates: `yes` = they are up to date now, `no` = nothing changes, `unspecified` = it looks for
/// itself. The numbers are those of the journal.
enum class UpdateFlag : std::uint8_t { unspecified = 0, yes = 1, no = 2 };
/// As on the wire: "yes".
std::string_view name_of(UpdateFlag flag);

/// Whose state it is: one device of one VM. The key of a lane.
struct Owner {
  Uuid vm;
  Device device = Device::vtpm;
  auto operator<=>(const Owner&) const = default;
};

/// Orders all writes of this host; strictly increasing, also across restarts; 0 means "none".
using Sequence = std::uint64_t;

/// XXH3-128 of a value. Tells values apart; it is not a defence against a guest that forges its own state.
struct Digest {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  auto operator<=>(const Digest&) const = default;
};

/// Guest bytes: immutable, shared, cheap to copy, safe to hand to another thread. It has no stream
/// operator and no formatter on purpose: secrets must not find their way into a log.
class Value {
 public:
  Value() = default;
  explicit Value(std::string bytes);

  std::string_view view() const { return bytes_ ? std::string_view(*bytes_) : std::string_view(); }
  std::size_t size() const { return bytes_ ? bytes_->size() : 0; }
  bool empty() const { return size() == 0; }
  /// Computed at each call (about 0.5 us for 8 KiB).
  Digest digest() const;
  friend bool operator==(const Value& a, const Value& b) { return a.view() == b.view(); }

 private:
  std::shared_ptr<const std::string> bytes_;
};

/// Digest of raw bytes; digest_of(v.view()) == v.digest().
Digest digest_of(std::string_view bytes);

}  // namespace guard

template <>
struct std::hash<guard::Uuid> {
  std::size_t operator()(const guard::Uuid& u) const noexcept {
    std::uint64_t a = 0, b = 0;
    for (int i = 0; i < 8; ++i) {
      a = a << 8 | u.bytes[static_cast<std::size_t>(i)];
      b = b << 8 | u.bytes[static_cast<std::size_t>(i + 8)];
    }
    return static_cast<std::size_t>(a * 0x9E3779B97F4A7C15ull ^ (b + (a >> 29)));
  }
};
template <>
struct std::hash<guard::Owner> {
  std::size_t operator()(const guard::Owner& o) const noexcept {
    return std::hash<guard::Uuid>{}(o.vm) * 31 + static_cast<std::size_t>(o.device);
  }
};
