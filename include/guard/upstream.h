// What a store must do to be an upstream of the guard: xapi, the embedded store, or your own.
//
// Thread: all calls are made on, and all callbacks must be invoked on, the one thread that owns the
// upstream (the daemon's loop thread). A callback may be invoked before the call returns.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "guard/types.h"

namespace guard {

/// Counts the sessions of an upstream, from 1; 0 = there is none. What an upstream has accepted in one
/// session may be gone in the next (P13).
using Epoch = std::uint64_t;

/// The entry of a VM's NVRAM map that is the slot `nvram`.
inline constexpr std::string_view efi_variables = "EFI-variables";
/// A VM's NVRAM map, in the order in which the upstream gave it.
using NvramMap = std::vector<std::pair<std::string, Value>>;

/// All slots of one device as the upstream holds them; slots of another device are empty.
struct Contents {
  std::array<Value, slot_count> slots;
  /// Of UEFI variables: the whole map, of which the guard changes one entry only. The value of that entry
  /// stands in the slot and is empty here; there may be no such entry.
  NvramMap nvram_map;
  /// Which vTPM object holds them, nil when the upstream has no such notion. A snapshot revert changes it.
  Uuid vtpm;

  Value& operator[](Slot s) { return slots[static_cast<std::size_t>(s)]; }
  const Value& operator[](Slot s) const { return slots[static_cast<std::size_t>(s)]; }
};

/// One value on its way to the upstream.
struct SlotWrite {
  Slot slot = Slot::permall;
  Sequence sequence = 0;
  Value value;
  /// The vTPM the value was written under; nil = unknown (then any will do).
  Uuid vtpm;
  /// Digests of the values of this slot that were known to stand upstream, or were pushed, before this
  /// value was accepted. Empty = nothing known, no conflict check. See Delivery::check.
  std::vector<Digest> known;
  /// Deliver it whatever stands upstream (the operator said so).
  bool force = false;
  /// Of slot nvram only.
  UpdateFlag update = UpdateFlag::unspecified;
  /// The upstream has accepted it once (P13): nothing is to be done where the value stands, whatever `update`
  /// says.
  bool accepted_before = false;
};

struct Delivery {
  Owner owner;
  std::vector<SlotWrite> writes;  ///< at most one per slot
  /// When set: merge into these contents instead of reading the upstream first, provided `base_epoch` is
  /// still the session and the references are still good; otherwise the outcome is `stale`, and nothing was
  /// sent. When not set: read, check (P14), merge, write.
  std::optional<Contents> base;
  Epoch base_epoch = 0;
  /// Read back after the update and report `unknown` unless the values stand there.
  bool verify = false;
  /// Ask first whether the VM runs on another host; if so, nothing is written and the outcome is
  /// `elsewhere`. An upstream that serves one host only has nothing to ask. Never set together with `base`.
  bool ask_residence = false;
};

struct Outcome {
  enum class Kind {
    delivered,  ///< the upstream has accepted every value
    conflict,   ///< somebody else's value stands there (P14); nothing was written
    elsewhere,  ///< the VM runs on another host, which has its state now; nothing was written
    transient,  ///< certainly not written; trying again later may help
    stale,      ///< certainly not written; the base or the session was out of date; try again at once
    lane,       ///< certainly not written; this VM cannot be written (deleted, no vTPM, malformed contents)
    payload,    ///< certainly not written; this value can never be written
    unknown,    ///< the update was sent and no answer came: it may still take effect, at any time
  };
  Kind kind = Kind::transient;
  /// For operators: an error class and short text, no guest bytes, at most 200 characters.
  std::string reason;
  /// The failure speaks against the upstream as a whole (connect, login or a small call failed).
  bool upstream_suspect = false;
  /// The session in which the update was sent, or 0.
  Epoch epoch = 0;
  /// After `delivered`: all slots as they now stand upstream.
  std::optional<Contents> contents;
  /// What stood upstream before the update, if it was read: after `conflict`, and after `delivered` and
  /// `unknown` without a base.
  std::optional<Contents> found;
};
std::string_view name_of(Outcome::Kind kind);

struct Fetched {
  /// `delivered` = `contents` is what the upstream holds now; otherwise why it could not be read (`transient`
  /// or `lane`).
  Outcome::Kind kind = Outcome::Kind::transient;
  std::string reason;
  bool upstream_suspect = false;
  Epoch epoch = 0;
  Contents contents;
};

/// Receives what an upstream notices by itself. Called on the upstream's thread.
class UpstreamEvents {
 public:
  virtual ~UpstreamEvents() = default;
  /// A session that was `epoch` turned out to be invalid: updates sent in it that were not answered can
  /// take effect no more once their connection is gone, and what it accepted may be lost.
  virtual void session_ended(Epoch epoch) = 0;
  /// There is a sign of life (the socket file appeared); probing now is worth while.
  virtual void sign_of_life() = 0;
};

/// A message about a VM, or about the host, for those who look after it.
struct Alert {
  Uuid vm;  ///< or the host
  std::int64_t priority = 0;
  Value body;
  std::string name = "VM_SECURE_BOOT_FAILED";  ///< the only one of a VM's own; others are the guard's
  bool about_host = false;
};

struct CertificatesState {
  /// `delivered` = `state` is what the upstream says; otherwise why it could not be read (`transient` or
  /// `lane`).
  Outcome::Kind kind = Outcome::Kind::transient;
  std::string reason;  ///< as Outcome::reason
  bool upstream_suspect = false;
  std::string state;
};

/// What an upstream that serves UEFI variables does for their VMs besides keeping them. Thread and callbacks
/// as guard::Upstream.
class UefiUpstream {
 public:
  virtual ~UefiUpstream() = default;
  /// Passes an alert on. Kinds of outcome: delivered, transient, lane, payload, and unknown: it was sent and
  /// no answer came; passing it on again may double it. Ends within a time limit of its own.
  virtual void raise(Alert alert, std::function<void(Outcome)> done) = 0;
  /// The state of the VM's Secure Boot certificates in the upstream's words. Ends as fetch() does.
  virtual void certificates_state(Uuid vm, std::function<void(CertificatesState)> done) = 0;
};

/// Largest encoded sizes the upstream takes, in bytes of value.
struct UpstreamLimits {
  /// Sum of the three vTPM slots, separators included.
  std::size_t vtpm_contents = 0;
  std::size_t nvram = 0;
  /// What was accepted is durable: nothing needs to be retained after it was delivered (P13).
  bool accepted_is_durable = false;
  /// An update under way ends with this process: when the next one begins, it has taken effect or never will.
  bool ends_with_process = false;
};

class Upstream {
 public:
  virtual ~Upstream() = default;

  virtual UpstreamLimits limits() const = 0;
  virtual void set_events(UpstreamEvents* events) = 0;

  /// Brings all of `delivery.writes` to the upstream in one update. `done` is invoked exactly once, however
  /// long it takes; there is no cancelling. The caller never has two deliveries of one owner under way.
  virtual void deliver(Delivery delivery, std::function<void(Outcome)> done) = 0;

  /// Reads the current contents. Ends within a time limit of its own.
  virtual void fetch(Owner owner, std::function<void(Fetched)> done) = 0;

  /// A small call that tells whether the upstream answers at all, logging in if necessary; ends within a
  /// few seconds. `delivered` = it answers; `transient` = it does not, with the reason.
  virtual void probe(std::function<void(Outcome)> done) = 0;

  /// The same upstream as one of UEFI variables; nullptr when it has nowhere to bring alerts, and knows of no
  /// certificates.
  virtual UefiUpstream* uefi() { return nullptr; }
};

}  // namespace guard
