// Randomness of the operating system, for what must not repeat: salts.
#pragma once

#include <cstdint>

namespace guard {

/// 64 bits nobody can foresee. Any thread. Throws only where neither the kernel nor the standard library has
/// a source of them.
std::uint64_t random_bits();

}  // namespace guard
