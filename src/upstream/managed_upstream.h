// An upstream as a daemon runs it: what it serves, what it counts, and how it is stopped in an orderly way.
// Thread: as guard::Upstream.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "guard/result.h"
#include "guard/upstream.h"

namespace guard::upstream {

class ManagedUpstream : public Upstream {
 public:
  /// Whether deliver() and fetch() may be called for owners with this device; Errc::invalid if not. Calling
  /// them all the same is a bug of the caller and ends the process.
  virtual Result<> supports(Device device) const = 0;

  /// The VM whose vTPM has this uuid, nullopt if there is none. An error when the store could not tell:
  /// Errc::corrupt, busy, io, ..., unavailable; timeout or unavailable after `patience`, which `done` never
  /// exceeds for long.
  virtual void find_vm(Uuid vtpm, std::chrono::milliseconds patience,
                       std::function<void(Result<std::optional<Uuid>>)> done) = 0;

  /// The current session, 0 = none.
  virtual Epoch epoch() const = 0;

  /// Its own counters and gauges for `status`, by name; names begin with "upstream_".
  using Figures = std::vector<std::pair<std::string_view, std::uint64_t>>;
  virtual Figures figures() const = 0;

  /// For an orderly stop: ends the session, if there is one. `done` comes within limits::logout_timeout
  /// whatever the other side does; without a session, possibly before the return. No end of session is
  /// reported for it.
  virtual void logout(std::function<void()> done) = 0;
};

}  // namespace guard::upstream
