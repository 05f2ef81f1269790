#include "tpm_marshal.h"

#include <cstdio>

namespace guard::tool {

namespace {
constexpr std::uint16_t tag_no_sessions = 0x8001;
constexpr std::uint16_t tag_sessions = 0x8002;
constexpr std::uint32_t rs_password = 0x40000009;
/// Handle, empty nonce, attributes, empty password.
constexpr std::uint32_t password_session_bytes = 9;
constexpr std::size_t header_bytes = 10;
}  // namespace

Writer& Writer::number(std::uint64_t v, int bytes) {
  for (int shift = (bytes - 1) * 8; shift >= 0; shift -= 8) bytes_ += static_cast<char>(v >> shift & 0xff);
  return *this;
}

Writer& Writer::raw(std::string_view bytes) {
  bytes_ += bytes;
  return *this;
}

Writer& Writer::sized(std::string_view bytes) {
  return u16(static_cast<std::uint16_t>(bytes.size())).raw(bytes);
}

Command::Command(std::uint32_t code, std::initializer_list<std::uint32_t> handles, unsigned passwords)
    : tag_(passwords > 0 ? tag_sessions : tag_no_sessions), code_(code) {
  for (const auto handle : handles) writer_.u32(handle);
  if (passwords == 0) return;
  writer_.u32(passwords * password_session_bytes);
  for (unsigned i = 0; i < passwords; ++i) writer_.u32(rs_password).sized({}).u8(0).sized({});
}

std::string Command::finish() const {
  Writer command;
  command.u16(tag_).u32(static_cast<std::uint32_t>(header_bytes + writer_.bytes().size())).u32(code_);
  return command.raw(writer_.bytes()).bytes();
}

std::uint64_t Reader::number(std::size_t bytes) {
  std::uint64_t value = 0;
  for (const char byte : take(bytes)) value = value << 8 | static_cast<unsigned char>(byte);
  return value;
}

std::string_view Reader::take(std::size_t bytes) {
  if (bytes > bytes_.size()) {
    ok_ = false;
    bytes_ = {};
    return {};
  }
  const auto taken = bytes_.substr(0, bytes);
  bytes_.remove_prefix(bytes);
  return taken;
}

std::string left_padded(std::string_view bytes, std::size_t size) {
  std::string padded(size > bytes.size() ? size - bytes.size() : 0, '\0');
  return padded.append(bytes);
}

std::string hex_number(std::uint32_t value) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%x", value);
  return text;
}

}  // namespace guard::tool
