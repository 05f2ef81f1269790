// What all lanes share inside the core, and the context of one step.
#pragma once

#include <cstdint>
#include <deque>

#include "base/limits.h"
#include "core/backoff.h"
#include "core/events.h"
#include "core/health.h"
#include "core/queue.h"

namespace guard::core {

struct Config {
  Time direct_timeout = limits::direct_timeout;
  Time doubt_window = limits::doubt_window;
  unsigned delivery_concurrency = limits::delivery_concurrency;
  std::size_t queue_entries = limits::queue_entries;
  std::size_t queue_bytes = limits::queue_bytes;
  std::size_t commit_bytes = limits::commit_bytes;
  std::size_t known_bytes = limits::known_bytes;
  UpstreamLimits upstream;
  std::uint64_t seed = 1;  ///< of the jitter
};

/// Counts since start; for status, metrics and benchmarks.
struct Counters {
  std::uint64_t writes_direct = 0;     ///< acknowledged because the upstream accepted them
  std::uint64_t writes_journaled = 0;  ///< acknowledged because they are durable here
  std::uint64_t writes_unavailable = 0;
  std::uint64_t writes_too_large = 0;
  std::uint64_t reads_pending = 0;
  std::uint64_t reads_upstream = 0;
  std::uint64_t reads_known = 0;
  std::uint64_t reads_unavailable = 0;
  std::uint64_t direct_calls = 0;
  std::uint64_t delivery_calls = 0;
  std::uint64_t delivered = 0;
  std::uint64_t failed_transient = 0;
  std::uint64_t failed_lane = 0;
  std::uint64_t failed_payload = 0;
  std::uint64_t failed_conflict = 0;
  std::uint64_t failed_unknown = 0;
  std::uint64_t commits = 0;
  std::uint64_t removals = 0;
  std::uint64_t invariants = 0;  ///< our own bugs, survived; anything but 0 is worth a report
};

struct Shared {
  explicit Shared(Config c) : config(c), random{c.seed}, queue(c.queue_entries, c.queue_bytes) {}

  Config config;
  Random random;
  Health health;
  Queue queue;
  Counters counters;
  Sequence sequence = 0;  ///< the last one handed out
  CallId call = 0;        ///< the last one handed out
  Epoch ended_epoch = 0;  ///< sessions up to this one are over
  std::size_t known_bytes = 0;
  std::size_t commit_bytes = 0;      ///< handed to the journal, not yet answered
  std::deque<Owner> commit_backlog;  ///< lanes that wait for room in commit_bytes, in order
  unsigned counted_deliveries = 0;   ///< deliveries under way that are not late
  bool journal_trouble = false;      ///< the last thing the journal said was a failure
};

struct Context {
  Shared& shared;
  Time now;
  Actions& out;
};

}  // namespace guard::core
