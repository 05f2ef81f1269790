// A disk cache for another program: values that are acknowledged at once and reach a store of yours later,
// whatever happens to the store, to the program or to the machine in between.
//
// A write goes straight to the store (the upstream) while that answers, and to a journal in a directory while
// it does not. Either way it is acknowledged only when it is safe: accepted by the upstream, or durable on
// the disk. What is in the journal is served to readers and delivered, oldest owner first, when the upstream
// is back, also by the next process that opens the directory. Promises P1 to P10 of docs/DURABILITY.md hold.
// An introduction is docs/LIBRARY.md, a complete program is in examples/.
//
// Link guard::buffer (find_package(guard)); C++20 or later; nothing but the standard library is included.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "guard/log_level.h"
#include "guard/result.h"
#include "guard/types.h"
#include "guard/upstream.h"

namespace guard {

/// Where a value belongs. An owner is any 16 bytes and has three slots, Slot{0}, Slot{1} and Slot{2}. What is
/// pending of one owner is delivered together; owners never wait for each other.
struct Key {
  Uuid owner;
  Slot slot = Slot{0};
  auto operator<=>(const Key&) const = default;
};

struct BufferOptions {
  /// Size of each of the two files of the journal, bytes, a multiple of 4096 and at least 64 KiB. That much
  /// is written when they are created, so that acknowledging needs no free space on the disk later.
  std::uint64_t journal_size = std::uint64_t{32} << 20;
  /// How far they may grow when more is pending; at least journal_size.
  std::uint64_t journal_max = std::uint64_t{1} << 30;
  /// A write that the upstream has not answered by then goes to the journal and is acknowledged there.
  std::chrono::milliseconds direct_timeout{500};
  /// After an answer `unknown` the owner gets no update for so long, because the lost one may still act.
  std::chrono::milliseconds doubt_window{120'000};
  /// A read that the upstream has not answered by then fails.
  std::chrono::milliseconds read_timeout{10'000};
  /// How long close() waits for what is under way.
  std::chrono::milliseconds close_timeout{10'000};
  /// Deliveries under way at once; those unanswered for direct_timeout do not count.
  unsigned delivery_concurrency = 8;
  /// Entries whose values stay in memory while pending; those of the rest are read back from the disk.
  std::size_t queue_entries = 512;
  /// Requests accepted and not yet answered, and the bytes of their values. What is more is refused
  /// (Errc::busy), or waits in the calls that wait.
  std::size_t max_requests = 4096;
  std::size_t max_request_bytes = std::size_t{64} << 20;
  /// Receives one line per event, `event key=value ...`, without values. On a thread of the buffer's; must
  /// not block. Empty = nobody listens.
  std::function<void(LogLevel, std::string_view line)> log;
  LogLevel log_level = LogLevel::info;  ///< lines that matter less are not made
};

/// A write that is acknowledged and has not yet arrived upstream.
struct PendingEntry {
  Key key;
  std::size_t bytes = 0;
  std::chrono::milliseconds age{};
};

struct BufferStatus {
  enum class UpstreamState { unknown, up, down };
  struct HeldOwner {
    Uuid owner;
    std::string reason;  ///< an error class of Outcome, and the upstream's text
    std::chrono::milliseconds age{};
  };
  UpstreamState upstream = UpstreamState::unknown;
  std::string upstream_error;  ///< the last one, also after it is over
  std::size_t pending_entries = 0;
  std::size_t pending_bytes = 0;
  std::chrono::milliseconds oldest_age{};
  /// Owners whose deliveries the upstream refuses for a reason of their own. Retried, never dropped.
  std::vector<HeldOwner> held;
  std::size_t doubt = 0;          ///< owners with an update whose outcome is not known
  bool journal_usable = false;    ///< false: the disk fails; writes are refused while the upstream is away
  bool journal_reserved = false;  ///< false: the file system copies on write, a full disk stops acknowledging
  std::uint64_t journal_live_bytes = 0;
  std::uint64_t journal_capacity_bytes = 0;
  std::uint64_t journal_corrupt_records = 0;  ///< damage found and survived
};

/// Thread: any thread may call, also several at once; opening, moving and destroying are one thread's affair.
/// All callbacks, and all calls of the upstream, come on the buffer's own thread: they must not block, since
/// everything else waits meanwhile, and must not throw. An exception is caught, logged, and otherwise
/// ignored.
///
/// A call with a callback either fails, and then the callback is never invoked; or it succeeds, and then the
/// callback is invoked exactly once, at the latest before close() returns. The calls without a callback
/// wait for the answer; on the buffer's own thread they fail with Errc::invalid.
///
/// Errors common to all requests: `invalid` = no such slot, or larger than the bounds allow, for ever; `busy`
/// = BufferOptions::max_requests or max_request_bytes are under way; `closed` = close() was called; after
/// that it is unknown whether a write was kept.
class Buffer {
 public:
  using Options = BufferOptions;
  /// The argument is the outcome. An empty function is allowed: nobody wants to know.
  using Done = std::function<void(Result<>)>;
  using ReadDone = std::function<void(Result<Value>)>;

  /// Opens the buffer in `dir`, creating the directory (0700) and the journal in it when missing; recovers
  /// what is pending and begins to deliver it. Blocks on the disk: 2 x journal_size are written when the
  /// journal is new.
  ///
  /// The upstream outlives the buffer. It is used as upstream.h says, with one freedom more: its callbacks
  /// may be invoked on any thread, also when the buffer is long gone (they do nothing then), and of
  /// UpstreamEvents too every function may be called on any thread, until set_events(nullptr) has returned.
  /// A callback that is destroyed without having been invoked counts as `unknown` (deliver) or `transient`;
  /// so does an exception. limits().vtpm_contents is the largest sum of an owner's three slots, plus two
  /// bytes; at most 1 MiB of it are used. limits() is called here, once; limits().nvram is not used.
  ///
  /// Errors: `busy` = the directory is open already, in this process or another; `invalid` = an option or a
  /// limit is out of range; `corrupt`, `io`, `no_space`, ... = the journal cannot be read or made, nothing
  /// was changed in it.
  static Result<Buffer> open(const std::string& dir, const Options& options, Upstream& upstream) {
    Error error;
    auto impl = open_impl(dir, options, upstream, error);
    if (!impl) return Failure(std::move(error));
    return Buffer(std::move(impl));
  }

  Buffer(Buffer&& other) noexcept;
  /// Closes what was open here before.
  Buffer& operator=(Buffer&& other) noexcept;
  /// close(). Destroying a buffer on its own thread, in a callback, would wait for itself: that ends the
  /// process.
  ~Buffer();

  /// Stores `value` (empty = the slot is removed). Success = accepted by the upstream, or durable in the
  /// journal. `unavailable` = neither took it, trying again later may help; `invalid` = the upstream will
  /// never take it. Writes of one thread take effect in the order of its calls; a write that is superseded
  /// before it was begun succeeds with its successor.
  [[nodiscard]] Result<> write(Key key, Value value, Done done) {
    return result(start_write(key, std::move(value), adapt(std::move(done))));
  }
  /// The same, waiting: first until there is room, then for the outcome.
  [[nodiscard]] Result<> write(Key key, Value value) { return result(write_and_wait(key, std::move(value))); }

  /// The newest acknowledged value: from the journal if pending there, else from the upstream, else what the
  /// upstream is known to hold. Empty = the slot has no value, for certain. `unavailable` = cannot be told
  /// now; `timeout` = the upstream did not answer.
  [[nodiscard]] Result<> read(Key key, ReadDone done) {
    return result(start_read(key, [done = std::move(done)](std::optional<Error> error, Value value) {
      if (!done) return;
      if (error) return done(Failure(std::move(*error)));
      done(std::move(value));
    }));
  }
  [[nodiscard]] Result<Value> read(Key key) {
    Value value;
    if (auto error = read_and_wait(key, value)) return Failure(std::move(*error));
    return value;
  }

  /// Tries everything that waits for a retry now, and succeeds once nothing is pending; `timeout` if that is
  /// not so after `patience`.
  [[nodiscard]] Result<> drain(std::chrono::milliseconds patience, Done done) {
    return result(start_drain(patience, adapt(std::move(done))));
  }
  [[nodiscard]] Result<> drain(std::chrono::milliseconds patience) {
    return result(drain_and_wait(patience));
  }

  /// What is acknowledged and not yet upstream, in no particular order. Waits for the buffer's thread (on it:
  /// does not wait). Empty after close().
  std::vector<PendingEntry> pending() const;
  /// The same for the state as a whole. After close() that of a buffer without journal.
  BufferStatus status() const;

  /// Refuses new requests, waits for those under way and for updates that the upstream has not answered, at
  /// most close_timeout; then answers the rest with `closed` and ends. Pending entries stay in the journal
  /// for the next open(). No callback is invoked, and the upstream is not called, after it has returned.
  /// `timeout` = it is closed, but something had not been answered: such an update of the upstream may still
  /// take effect, so wait for its callback before you open the directory again. A second call waits for the
  /// first and succeeds. On the buffer's own thread: `invalid`, and nothing happens.
  Result<> close() { return result(close_impl()); }

 private:
  class Impl;
  // The linked interface: without Result, which is another type in C++20.
  using RawDone = std::function<void(std::optional<Error>)>;
  using RawReadDone = std::function<void(std::optional<Error>, Value)>;

  explicit Buffer(std::shared_ptr<Impl> impl);
  static std::shared_ptr<Impl> open_impl(const std::string& dir, const Options& options, Upstream& upstream,
                                         Error& error);
  std::optional<Error> start_write(Key key, Value value, RawDone done);
  std::optional<Error> write_and_wait(Key key, Value value);
  std::optional<Error> start_read(Key key, RawReadDone done);
  std::optional<Error> read_and_wait(Key key, Value& value);
  std::optional<Error> start_drain(std::chrono::milliseconds patience, RawDone done);
  std::optional<Error> drain_and_wait(std::chrono::milliseconds patience);
  std::optional<Error> close_impl();

  static Result<> result(std::optional<Error> error) {
    if (error) return Failure(std::move(*error));
    return {};
  }
  static RawDone adapt(Done done) {
    return [done = std::move(done)](std::optional<Error> error) {
      if (done) done(result(std::move(error)));
    };
  }

  std::shared_ptr<Impl> impl_;  ///< null after it was moved from
};

}  // namespace guard
