// Building TPM 2.0 commands and taking replies apart, byte by byte (TPM 2.0 Library, parts 2 and 3).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace guard::tool {

inline constexpr std::uint32_t cc_evict_control = 0x120;
inline constexpr std::uint32_t cc_nv_define = 0x12a;
inline constexpr std::uint32_t cc_create_primary = 0x131;
inline constexpr std::uint32_t cc_nv_increment = 0x134;
inline constexpr std::uint32_t cc_nv_write = 0x137;
inline constexpr std::uint32_t cc_startup = 0x144;
inline constexpr std::uint32_t cc_shutdown = 0x145;
inline constexpr std::uint32_t cc_nv_read = 0x14e;
inline constexpr std::uint32_t cc_sign = 0x15d;
inline constexpr std::uint32_t cc_flush_context = 0x165;
inline constexpr std::uint32_t cc_nv_read_public = 0x169;
inline constexpr std::uint32_t cc_read_public = 0x173;
inline constexpr std::uint32_t cc_get_random = 0x17b;
inline constexpr std::uint32_t cc_pcr_read = 0x17e;
inline constexpr std::uint32_t cc_pcr_extend = 0x182;

/// Big-endian fields one after the other.
class Writer {
 public:
  Writer& u8(std::uint8_t v) { return number(v, 1); }
  Writer& u16(std::uint16_t v) { return number(v, 2); }
  Writer& u32(std::uint32_t v) { return number(v, 4); }
  Writer& raw(std::string_view bytes);
  /// A TPM2B: 16 bits of length, then the bytes.
  Writer& sized(std::string_view bytes);
  const std::string& bytes() const { return bytes_; }

 private:
  Writer& number(std::uint64_t v, int bytes);
  std::string bytes_;
};

/// A whole command: header, handles, one empty password for each of the first `passwords` handles, then the
/// parameters in the order they are appended.
class Command {
 public:
  explicit Command(std::uint32_t code, std::initializer_list<std::uint32_t> handles = {},
                   unsigned passwords = 0);

  Command& u8(std::uint8_t v) { return writer_.u8(v), *this; }
  Command& u16(std::uint16_t v) { return writer_.u16(v), *this; }
  Command& u32(std::uint32_t v) { return writer_.u32(v), *this; }
  Command& raw(std::string_view bytes) { return writer_.raw(bytes), *this; }
  Command& sized(std::string_view bytes) { return writer_.sized(bytes), *this; }
  std::string finish() const;

 private:
  std::uint16_t tag_;
  std::uint32_t code_;
  Writer writer_;
};

/// Takes big-endian fields off the front. Reading past the end yields zeros and makes ok() false.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  std::uint16_t u16() { return static_cast<std::uint16_t>(number(2)); }
  std::uint32_t u32() { return static_cast<std::uint32_t>(number(4)); }
  std::uint64_t u64() { return number(8); }
  /// Points into the bytes given to the constructor.
  std::string_view sized() { return take(u16()); }
  void skip(std::size_t bytes) { take(bytes); }
  bool ok() const { return ok_; }

 private:
  std::uint64_t number(std::size_t bytes);
  std::string_view take(std::size_t bytes);
  std::string_view bytes_;
  bool ok_ = true;
};

/// The TPM may leave out leading zeros of a coordinate.
std::string left_padded(std::string_view bytes, std::size_t size);
/// `0x101`.
std::string hex_number(std::uint32_t value);

}  // namespace guard::tool
