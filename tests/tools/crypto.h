// What OpenSSL does for guest-tpm.
#pragma once

#include <string>
#include <string_view>

namespace guard::tool {

/// 32 bytes.
std::string sha256(std::string_view bytes);

/// True when `signature` (r and s, 32 bytes each) was made over `digest` by the owner of the P-256 public
/// point (04 x y). False also when any of them is malformed.
bool verify_ecdsa(std::string_view point, std::string_view digest, std::string_view signature);

/// Lower case.
std::string hex(std::string_view bytes);
/// Inverse for well-formed text; what is not hex ends it.
std::string unhex(std::string_view text);

}  // namespace guard::tool
