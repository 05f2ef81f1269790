// What a device handler holds: access to exactly one lane. It cannot name another VM, because nothing in
// this interface takes a VM.
#pragma once

#include <functional>
#include <string>

#include "guard/types.h"

namespace guard {

enum class WriteStatus {
  accepted,     ///< accepted by the upstream or durable in the journal (P1): say success
  too_large,    ///< can never be delivered: 413
  unavailable,  ///< not now: 503, the client tries again
};

struct ReadResult {
  enum class Source {
    none,      ///< could not be read: 503
    pending,   ///< from the journal
    upstream,  ///< the upstream answered this very request
    known,     ///< what the upstream was known to hold in this session
  };
  Source source = Source::none;
  Value value;  ///< empty = "no such state", certain (P4), unless source is none
};

/// Thread: the loop thread only; callbacks come on it, possibly before the call returns, exactly once.
class LaneAccess {
 public:
  virtual ~LaneAccess() = default;
  /// A DELETE is a write of the empty value.
  virtual void write(Slot slot, Value value, std::function<void(WriteStatus)> done) = 0;
  virtual void read(Slot slot, std::function<void(ReadResult)> done) = 0;
};

}  // namespace guard
