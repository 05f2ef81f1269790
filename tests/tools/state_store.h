// Where a TPM keeps its state: behind a device socket, or in a contents string held in memory.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "device_client.h"
#include "guard/result.h"
#include "guard/types.h"

namespace guard::tool {

/// States are base64 text, as on the wire; the empty text is "no such state". Every error is final: the TPM
/// goes into failure mode.
class StateStore {
 public:
  virtual ~StateStore() = default;
  virtual Result<std::string> load(Slot slot) = 0;
  virtual Result<> store(Slot slot, std::string_view text) = 0;
  virtual Result<> remove(Slot slot) = 0;
};

/// Told of every change before it is sent and after it was acknowledged, and asked about everything that is
/// read; see Ledger.
class StoreWitness {
 public:
  virtual ~StoreWitness() = default;
  virtual void store_begins(Slot slot, std::string_view text) = 0;
  virtual void store_acknowledged(Slot slot) = 0;
  /// An error when this cannot be what the TPM stored; the TPM then never sees it.
  virtual Result<> loaded(Slot slot, std::string_view text) = 0;
};

struct HttpStoreOptions {
  std::string socket_path;
  /// Ends the retries of an operation after this long; none = for ever, as swtpm does.
  std::optional<std::chrono::milliseconds> give_up_after;
};

struct HttpStoreStats {
  std::vector<double> put_us;  ///< from the first attempt to the acknowledgement, one per acknowledged PUT
  std::uint64_t retries = 0;   ///< attempts that ended in a 5xx or without an answer
  unsigned connects = 0;
};

/// A device socket. 5xx and transport errors are repeated after 0.1 s, doubling to 20 s, beginning anew with
/// each operation; any status other than these, 200 and 204 is final.
class HttpStateStore : public StateStore {
 public:
  /// `witness` may be null and must outlive the store.
  HttpStateStore(HttpStoreOptions options, StoreWitness* witness);

  Result<std::string> load(Slot slot) override;
  Result<> store(Slot slot, std::string_view text) override;
  Result<> remove(Slot slot) override;

  HttpStoreStats stats() const;

 private:
  Result<Answer> until_answered(std::string_view method, Slot slot, std::string_view body);

  HttpStoreOptions options_;
  DeviceClient client_;
  StoreWitness* witness_;
  HttpStoreStats stats_;
};

/// A contents string as xapi stores it (one or three fields); changes stay in memory.
class ContentsStateStore : public StateStore {
 public:
  /// `witness` is asked about what is read only; may be null, must outlive the store.
  static Result<ContentsStateStore> parse(std::string_view contents, StoreWitness* witness);

  Result<std::string> load(Slot slot) override;
  Result<> store(Slot slot, std::string_view text) override;
  Result<> remove(Slot slot) override;

 private:
  std::string fields_[3];
  StoreWitness* witness_ = nullptr;
};

/// The envelope swtpm puts around a state before it encodes it: a header with the total length, and one
/// tagged field that holds the state.
std::string wrap_state(std::string_view state);
/// Inverse; nullopt when the text is not base64 of such an envelope, cut or padded included.
std::optional<std::string> unwrap_state(std::string_view text);

}  // namespace guard::tool
