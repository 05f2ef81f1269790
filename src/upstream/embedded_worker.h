// The blocking half of the embedded upstream: takes the calls that have queued up, and answers them from the
// store. Owns the session: one for each time the store was opened. One thread at a time.
//
// Reads are answered first, from one snapshot; then all updates go into one transaction (group commit), whose
// sync they share. If it fails and there were several, each is tried by itself, so that one of them harms no
// other (P5).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "guard/upstream.h"
#include "upstream/embedded_store.h"

namespace guard::upstream {

using EmbeddedCallId = std::uint64_t;

struct EmbeddedCall {
  struct Fetch {
    Owner owner;
  };
  struct Probe {};
  struct FindVm {
    Uuid vtpm;
  };
  /// Ends the session in an orderly way.
  struct Close {};

  EmbeddedCallId id = 0;
  std::variant<Delivery, Fetch, Probe, FindVm, Close> what;
};

struct EmbeddedAnswer {
  struct Closed {};
  using FoundVm = Result<std::optional<Uuid>>;
  /// A session that is over; the answer to no call.
  struct Ended {
    Epoch epoch = 0;
    std::string reason;
  };

  EmbeddedCallId id = 0;
  std::variant<Outcome, Fetched, FoundVm, Closed, Ended> what;
};

/// What the store was asked to do, since the start of the process.
struct EmbeddedCounters {
  std::uint64_t opens = 0;         ///< sessions so far
  std::uint64_t transactions = 0;  ///< committed ones that carried updates
};

class EmbeddedWorker {
 public:
  /// `emit` gets answers in their order as soon as they are certain, also before serve() returns.
  EmbeddedWorker(EmbeddedOptions options, std::function<void(std::vector<EmbeddedAnswer>)> emit);

  /// Answers every call exactly once. Takes as long as the disk and other users of the store take.
  void serve(std::vector<EmbeddedCall> calls);

  const EmbeddedCounters& counters() const { return counters_; }

 private:
  struct Update;

  Result<> ensure_session();
  void end_session(std::string reason, bool distrusted);
  void fail_all(const std::vector<EmbeddedCall>& calls, const Error& error);
  void serve_reads(const std::vector<EmbeddedCall>& calls);
  void serve_updates(std::vector<EmbeddedCall>& calls);
  void serve_probes(const std::vector<EmbeddedCall>& calls);
  Result<> transact(std::span<Update> updates);
  Result<> attempt(Update& update);
  Result<> commit(std::span<Update> updates);
  void read_back(Update& update);
  Result<> check();

  void answer(EmbeddedCallId id, decltype(EmbeddedAnswer::what) what);
  void flush();

  EmbeddedStore store_;
  const std::function<void(std::vector<EmbeddedAnswer>)> emit_;
  std::vector<EmbeddedAnswer> answers_;
  Epoch epoch_ = 0;  ///< of the last session; it lives while the store is open
  EmbeddedCounters counters_;
  /// What did not fit when the disk was last found full: as much must fit before a probe says that all is
  /// well again.
  std::size_t wanted_bytes_ = 0;
};

}  // namespace guard::upstream
