// How long things took: counts in fixed buckets. Recording allocates nothing and takes no lock; one thread at
// a time.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "guard/env.h"

namespace guard {

class Histogram {
 public:
  /// Upper bounds of the buckets, inclusive: from a fast disk's sync to the longest a client waits. The last
  /// bucket, of everything longer, has none.
  static constexpr std::array<std::chrono::microseconds, 16> bounds{
      std::chrono::microseconds(100), std::chrono::microseconds(250),  std::chrono::microseconds(500),
      std::chrono::milliseconds(1),   std::chrono::microseconds(2500), std::chrono::milliseconds(5),
      std::chrono::milliseconds(10),  std::chrono::milliseconds(25),   std::chrono::milliseconds(50),
      std::chrono::milliseconds(100), std::chrono::milliseconds(250),  std::chrono::milliseconds(500),
      std::chrono::seconds(1),        std::chrono::milliseconds(2500), std::chrono::seconds(5),
      std::chrono::seconds(10)};

  /// Negative times count as none.
  void record(Time lasted) {
    lasted = std::max(lasted, Time{});
    const auto bucket = std::lower_bound(bounds.begin(), bounds.end(), lasted,
                                         [](Time bound, Time value) { return bound < value; });
    ++counts_[static_cast<std::size_t>(bucket - bounds.begin())];
    ++count_;
    sum_ += lasted;
  }

  /// What fell into bucket `i` alone; `i == bounds.size()` is the one without a bound.
  std::uint64_t in_bucket(std::size_t i) const { return counts_[i]; }
  std::uint64_t count() const { return count_; }
  Time sum() const { return sum_; }

 private:
  std::array<std::uint64_t, bounds.size() + 1> counts_{};
  std::uint64_t count_ = 0;
  Time sum_{};
};

}  // namespace guard
