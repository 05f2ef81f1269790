// What a device handler holds: access to exactly one lane. It cannot name another VM, because nothing in
// this interface takes a VM.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

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

// --- UEFI variables ---------------------------------------------------------------------------------------

/// How a call for UEFI variables ended.
struct UefiOutcome {
  enum class Kind {
    done,         ///< accepted by the upstream or durable in the journal (P1); for a read: answered
    refused,      ///< never: trying again cannot help (the upstream refuses the VM or the value, or a bound)
    unavailable,  ///< not now; certainly not taken over: trying again soon may help
  };
  Kind kind = Kind::unavailable;
  std::string reason;  ///< unless done: for people, at most 200 characters, no guest bytes
};

/// What the upstream holds under VM.NVRAM, with what is pending laid over it. Order as the upstream gave it.
struct NvramResult {
  UefiOutcome outcome;
  std::vector<std::pair<std::string, Value>> entries;  ///< empty = "no variables", certain (P4), if done
};

struct SecurebootResult {
  UefiOutcome outcome;
  std::string state;  ///< as the upstream names it: "ok", "update_available", "update_on_boot"
};

/// What the UEFI handler of one VM holds. Thread: the loop thread only; callbacks come on it, possibly before
/// the call returns, exactly once. Writes take effect in the order of their calls.
class UefiAccess {
 public:
  virtual ~UefiAccess() = default;
  virtual void get_nvram(std::function<void(NvramResult)> done) = 0;
  /// `value` is the whole new value of the entry "EFI-variables"; other entries stay as they are.
  virtual void set_nvram(Value value, UpdateFlag update, std::function<void(UefiOutcome)> done) = 0;
  virtual void get_secureboot_state(std::function<void(SecurebootResult)> done) = 0;
  /// A message about this VM for the operator: VM_SECURE_BOOT_FAILED. Delivered at least once.
  virtual void alert(std::int64_t priority, Value body, std::function<void(UefiOutcome)> done) = 0;
};

}  // namespace guard
