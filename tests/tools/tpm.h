// A TPM 2.0 in this process: libtpms as the chip, a StateStore as its non-volatile memory.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "guard/result.h"
#include "state_store.h"

namespace guard::tool {

/// What QEMU keeps of a suspended TPM: states as binary, without swtpm's envelope.
struct SuspendedState {
  std::string permanent;
  std::string volatile_part;
};

struct NvIndex {
  std::uint32_t handle = 0;
  std::uint16_t bytes = 0;
  bool counter = false;
};

/// libtpms has one TPM per process, so at most one Tpm may be powered on at a time. Functions named after a
/// TPM command run it and return its result; an error says which command failed and with what code, and why
/// the state could not be kept if that was the reason. Not thread-safe; commands block while the state store
/// retries, as swtpm does.
class Tpm {
 public:
  /// `store` must outlive the Tpm.
  explicit Tpm(StateStore& store);
  ~Tpm();
  Tpm(const Tpm&) = delete;

  /// Loads the state, or makes a new TPM when there is none, as swtpm does at a boot of its VM; then
  /// TPM2_Startup(CLEAR).
  Result<> power_on();
  /// Goes on from a suspended state: it is stored as the permanent one and the volatile one is deleted.
  Result<> resume(const SuspendedState& state);
  /// Saves the volatile state the way swtpm does for QEMU and returns both states as read back.
  Result<SuspendedState> suspend();
  /// TPM2_Shutdown(CLEAR), what an operating system sends before it halts.
  Result<> shutdown();

  /// True when the last power_on() found no state and made a new identity.
  bool manufactured() const { return manufactured_; }

  Result<> define_nv(const NvIndex& index);
  /// Size of a defined index; nullopt when it is not defined.
  Result<std::optional<std::uint16_t>> nv_size(std::uint32_t handle);
  /// One command, so all of it or nothing: at most 1024 bytes.
  Result<> write_nv(std::uint32_t handle, std::string_view bytes, std::uint16_t offset = 0);
  Result<std::string> read_nv(std::uint32_t handle, std::uint16_t bytes);
  Result<> increment_counter(std::uint32_t handle);
  Result<std::uint64_t> read_counter(std::uint32_t handle);

  /// Makes a P-256 signing key from the owner seed and keeps it at a persistent handle.
  Result<> create_persistent_key(std::uint32_t handle);
  /// The public point as 04 x y (65 bytes); nullopt when there is no such key.
  Result<std::optional<std::string>> key_point(std::uint32_t handle);
  /// ECDSA over a SHA-256 digest; r and s, 32 bytes each.
  Result<std::string> sign(std::uint32_t handle, std::string_view digest);

  Result<> extend_pcr(unsigned pcr, std::string_view sha256);
  Result<std::string> read_pcr(unsigned pcr);
  Result<std::string> random(std::uint16_t bytes);

 private:
  struct Reply {
    std::uint32_t code = 0;
    std::string body;  ///< all after the header
  };
  Result<> start_library();
  Result<Reply> process(std::string_view command);
  Result<> perform(std::string_view name, std::string_view command);
  Result<std::string> run(std::string_view name, std::string_view command);
  Error command_error(std::string_view name, std::uint32_t code) const;

  StateStore& store_;
  bool manufactured_ = false;
};

}  // namespace guard::tool
