// The guest: what each sub-command of guest-tpm does with a TPM and its ledger.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "guard/result.h"
#include "ledger.h"
#include "tpm.h"

namespace guard::tool {

inline constexpr std::uint32_t nv_handle = 0x01500010;
inline constexpr std::uint32_t counter_handle = 0x01500011;
/// Indices from here on only take room.
inline constexpr std::uint32_t filler_handle = 0x01500100;
inline constexpr std::uint32_t key_handle = 0x81000001;
/// Extended before a suspension; its value is volatile.
inline constexpr unsigned suspend_pcr = 10;

/// Called with each check that held, as a sentence.
using CheckReport = std::function<void(const std::string&)>;

struct InitOptions {
  std::uint16_t nv_bytes = 512;
  /// NV memory to fill with further indices, which makes the permanent state that much larger.
  std::uint32_t filler_bytes = 0;
};
/// Defines what is missing on a TPM that is powered on and completes the ledger. May be repeated after it
/// was interrupted anywhere.
Result<> initialise(Tpm& tpm, Ledger& ledger, const InitOptions& options);

/// Compares a TPM that is powered on with the ledger: counter, NV content, key, a fresh signature. An
/// operation that was under way at a crash may have taken effect or not. The error says what is wrong.
Result<> check(Tpm& tpm, const Ledger& ledger, const CheckReport& report);
/// The same for the one TPM that will go on: notes whether the operation under way took effect.
Result<> check_and_settle(Tpm& tpm, Ledger& ledger, const CheckReport& report);

struct WriteOptions {
  std::uint64_t count = 0;
  std::optional<std::uint16_t> bytes;  ///< of each NV write; none = all of the index
  std::optional<double> per_second;    ///< none = as fast as it goes
};
/// Operations by turns: an NV write of a pattern, an increment of the counter.
Result<> write_operations(Tpm& tpm, Ledger& ledger, const WriteOptions& options);

/// Extends a PCR with random bytes, notes its value and suspends.
Result<SuspendedState> suspend(Tpm& tpm, Ledger& ledger);
/// The PCR noted at suspension still has its value.
Result<> check_pcr(Tpm& tpm, const Ledger& ledger, const CheckReport& report);

}  // namespace guard::tool
