// What a TPM was told and what it acknowledged, line by line in a file: the witness against which a later
// start of the TPM is checked.
//
// The lines, in the order they happen:
//   guest-tpm-ledger 1
//   begin STATE SHA256|- BYTES     a PUT ("-": a DELETE) of this text is about to be sent
//   ack STATE                      ... and was acknowledged
//   ready KEY NV_BYTES COUNTER     init is complete: public key (hex), size of the NV index, counter value
//   op N nv BYTES | op N counter V operation N is about to be given to the TPM
//   done N | lost N                ... and succeeded; or it was under way at a crash and left no trace
//   pcr INDEX HEX                  value of a PCR that a resumed TPM must show
// A line is written with one write(2) before anything else happens, so that whatever kills this process or
// any other, the file is never ahead of the truth. A last line without its end is ignored.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "guard/result.h"
#include "state_store.h"

namespace guard::tool {

/// The text an NV write of this operation stores.
std::string nv_pattern(std::uint64_t number, std::size_t bytes);

class Ledger : public StoreWitness {
 public:
  struct Identity {
    std::string key_point;  ///< 65 bytes
    std::uint16_t nv_bytes = 0;
  };
  /// One NV write or counter increment.
  struct Operation {
    std::uint64_t number = 0;
    bool counter = false;
    std::uint64_t amount = 0;  ///< bytes written, or the value after the increment
  };

  /// Opens the file, creating it when it is missing. Errc::corrupt when it is not a ledger.
  static Result<std::unique_ptr<Ledger>> open(const std::string& path);
  ~Ledger() override;

  /// Set once init has completed.
  const std::optional<Identity>& identity() const { return identity_; }
  void ready(const Identity& identity, std::uint64_t counter);

  /// What the TPM must hold, by what it acknowledged. Meaningful once there is an identity.
  const std::string& nv_content() const { return nv_content_; }
  std::uint64_t counter() const { return counter_; }
  std::uint64_t last_operation() const { return last_operation_; }

  /// An operation that was begun and neither acknowledged nor found lost.
  const std::optional<Operation>& under_way() const { return under_way_; }
  /// The NV content if that operation took effect.
  std::string nv_content_after(const Operation& operation) const;
  void begin(const Operation& operation);
  void done();
  void lost();

  const std::optional<std::pair<unsigned, std::string>>& pcr() const { return pcr_; }
  void expect_pcr(unsigned index, const std::string& value);

  // StoreWitness: a text that is read must be the last one acknowledged or one sent after it.
  void store_begins(Slot slot, std::string_view text) override;
  void store_acknowledged(Slot slot) override;
  Result<> loaded(Slot slot, std::string_view text) override;
  /// SHA-256 (hex) of the last acknowledged text of a state; "-" when it was deleted, nullopt when unknown.
  std::optional<std::string> acknowledged_digest(Slot slot) const;

 private:
  struct State {
    std::optional<std::string> acknowledged;
    std::optional<std::string> last_begun;
    std::set<std::string> begun;  ///< sent after the acknowledged one, the last included
  };

  explicit Ledger(int fd) : fd_(fd) {}
  bool apply(const std::string& line);
  void record(const std::string& line);

  int fd_;
  std::optional<Identity> identity_;
  std::string nv_content_;
  std::uint64_t counter_ = 0;
  std::uint64_t last_operation_ = 0;
  std::optional<Operation> under_way_;
  std::optional<std::pair<unsigned, std::string>> pcr_;
  std::array<State, slot_count> states_;
};

}  // namespace guard::tool
