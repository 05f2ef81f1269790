// Exponential back-off with jitter, deterministic: the random state is handed in.
#pragma once

#include <algorithm>
#include <cstdint>

#include "guard/env.h"

namespace guard::core {

/// splitmix64: a full-period generator of 64 bits of state; enough for jitter, and a copyable value.
struct Random {
  std::uint64_t state = 0;
  std::uint64_t next() {
    std::uint64_t z = (state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
};

/// Doubles from `min` to `max`; each delay is drawn from the upper half of the step, so that lanes that
/// failed together do not come back together.
struct Backoff {
  unsigned failures = 0;

  Time next(Time min, Time max, Random& random) {
    Time step = min;
    for (unsigned i = 0; i < failures && step < max; ++i) step *= 2;
    step = std::min(step, max);
    ++failures;
    const auto half = static_cast<std::uint64_t>(step.count()) / 2;
    return Time(static_cast<Time::rep>(half + (half == 0 ? 0 : random.next() % (half + 1))));
  }
  void reset() { failures = 0; }
};

}  // namespace guard::core
