// What all lanes share inside the core, and the context of one step.
#pragma once

#include <cstdint>
#include <deque>

#include "base/limits.h"
#include "core/backoff.h"
#include "core/events.h"
#include "core/health.h"
#include "core/history.h"
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
  std::size_t retained_bytes = limits::retained_bytes;
  Time retain = limits::retain;                ///< zero: nothing is retained
  Time journal_stall = limits::journal_stall;  ///< zero: it is never called stalled
  UpstreamLimits upstream;
  bool takes_alerts = false;  ///< the upstream does
  bool concerns = false;      ///< whether the guard speaks of its own troubles
  Time pending_alert{};       ///< data pending for so long is one; zero: never
  Uuid host;                  ///< whom messages about the host are about; nil: there are none
  std::uint64_t seed = 1;     ///< of the jitter
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
  std::uint64_t redelivered = 0;  ///< retained values that had to be delivered again
  std::uint64_t parked = 0;       ///< entries set aside in conflicts
  std::uint64_t discarded = 0;    ///< entries given up by an operator
  std::uint64_t alerts_accepted = 0;
  std::uint64_t alerts_delivered = 0;
  std::uint64_t messages_created = 0;  ///< about the guard's own troubles
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
  /// The session `epoch` was alive at `at`: a call sent then was answered in it.
  struct Alive {
    Epoch epoch = 0;
    Time at{};
  } alive;
  std::vector<Owner> awaiting_alive;  ///< lanes whose retentions end when the session proves alive
  HistoryBudget history;
  std::size_t known_bytes = 0;
  std::size_t retained_bytes = 0;
  std::size_t commit_bytes = 0;      ///< handed to the journal, not yet answered
  std::deque<Owner> commit_backlog;  ///< lanes that wait for room in commit_bytes, in order
  unsigned counted_deliveries = 0;   ///< deliveries under way that are not late
  bool journal_trouble = false;      ///< reported; until the journal has gone well for a while
  Time trouble_at{};                 ///< its newest failure
  Time journal_good_at{};            ///< its newest success
  Time save_probe_at{};              ///< until then no more values are written for retention alone
  bool saves_waiting = false;        ///< some wait for that
  bool stalled = false;              ///< the journal owes answers for too long: nothing more is given to it
  bool buffering = true;             ///< false: what cannot go direct is refused, not journaled
  bool stopping = false;
  Time
      doubt_all_until{};  ///< lanes that come into being before are in doubt: nobody knows what was under way

  bool retains() const { return config.retain > Time{} && !config.upstream.accepted_is_durable; }
  /// Whether updates and reads may be tried.
  bool updates_allowed() const { return health.worth_trying() && !stopping; }
};

struct Context {
  Shared& shared;
  Time now;
  Actions& out;
};

}  // namespace guard::core
