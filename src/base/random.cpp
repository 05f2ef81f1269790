#include "base/random.h"

#include <sys/random.h>

#include <random>

namespace guard {

std::uint64_t random_bits() {
  std::uint64_t bits = 0;
  if (::getrandom(&bits, sizeof bits, 0) == sizeof bits) return bits;
  // Kernels that refuse: the standard's device is the way back.
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

}  // namespace guard
