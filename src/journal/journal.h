// The journal: the guard's durable disk buffer. Format: docs/JOURNAL_FORMAT.md. Promises: P1, P9, P10.
//
// Two layers. `Store` is the whole journal as a synchronous object, used by one thread at a time, made for
// simulation and crash enumeration. `Journal` runs a Store on a thread of its own, with group commit.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <variant>
#include <vector>

#include "base/histogram.h"
#include "base/limits.h"
#include "base/log.h"
#include "guard/env.h"
#include "guard/result.h"
#include "guard/types.h"

namespace guard::journal {

enum class RecordType : std::uint8_t {
  write = 1,     ///< a new value of one slot
  contents = 2,  ///< all slots of a vTPM at once
  alert = 3,     ///< never superseded; ended only by a removal of exactly its sequence
  removed = 4,   ///< ends the entries of a slot up to a sequence
  released = 5,  ///< ends a retention
  complete = 6,  ///< the file holds everything live of the one before it
};

/// Bits of Entry::flags. The journal carries them and looks at none of them.
inline constexpr std::uint8_t flag_update_bits = 0x03;  ///< of nvram: UpdateFlag
/// The value itself is lost, and that it is must not be forgotten: the slot is unknown until it is written or
/// given up. The entry's own value is empty and is never delivered.
inline constexpr std::uint8_t flag_lost = 0x40;
inline constexpr std::uint8_t flag_over_anything = 0x80;  ///< delivered whatever stands upstream

/// An entry to be made durable: `write`, `contents` or `alert`. `contents` uses slot permall, carries
/// pack_contents() as its value and stands for three values of one sequence: they are superseded, removed,
/// read back and recovered slot by slot.
struct Entry {
  RecordType type = RecordType::write;
  Owner owner;
  Slot slot = Slot::permall;
  Sequence sequence = 0;
  Uuid vtpm;                  ///< nil = not known
  std::vector<Digest> known;  ///< at most limits::known_digests
  std::int64_t wall_ms = 0;   ///< milliseconds since 1970, for people only
  std::uint8_t flags = 0;     ///< opaque to the journal: see above
  Value value;
};

/// Ends every entry of the slot with a sequence of at most `up_to`; newer ones are untouched. Durable
/// before the completion says so; then a power cut cannot bring those entries back.
struct Removal {
  Owner owner;
  Slot slot = Slot::permall;
  Sequence up_to = 0;
  Digest delivered;       ///< of the value delivered; the base of a newer entry
  bool retained = false;  ///< the delivered entry is kept for P13, until a removal that does not retain
  bool alert = false;     ///< ends the alert whose sequence is exactly `up_to`, and nothing else
};

/// Reads the value of a live entry back: not_found when no live entry of the slot has exactly this sequence,
/// corrupt when the bytes on disk are no longer what was stored.
struct ReadBack {
  Owner owner;
  Slot slot = Slot::permall;
  Sequence sequence = 0;
};

using Request = std::variant<Entry, Removal, ReadBack>;

/// One completion per request, in the order of the requests.
struct Completion {
  enum class Kind { entry, removal, read };
  Kind kind = Kind::entry;
  Owner owner;
  Slot slot = Slot::permall;
  Sequence sequence = 0;  ///< of the entry; `up_to` of a removal
  /// Success = durable (entry, removal) or read. Failures of an entry or removal: `no_space` = the journal
  /// is full, nothing was written, it may pass later; `invalid` = a bug of the caller, nothing was written;
  /// anything else = it *may* be on the disk all the same, until a newer record of the slot is durable or
  /// Stats::generation has risen.
  Result<> result;
  Value value;  ///< of a read
};

/// A live entry that recovery found; its payload stays on disk and is read back when needed. A `contents`
/// entry appears once per slot that is still live, each with the digest and size of its own value.
struct LiveEntry {
  RecordType type = RecordType::write;
  Owner owner;
  Slot slot = Slot::permall;
  Sequence sequence = 0;
  Uuid vtpm;
  std::vector<Digest> known;
  Digest digest;
  std::uint32_t size = 0;  ///< of the value, bytes
  std::int64_t wall_ms = 0;
  std::uint8_t flags = 0;
  bool retained = false;  ///< delivered already, kept for P13
  bool suspect = false;   ///< stands in a file with damage and is older than it: only after its P14 check
};

struct Recovery {
  std::vector<LiveEntry> live;    ///< ordered by sequence; at most one per owner and slot, plus alerts
  Sequence highest_sequence = 0;  ///< the next sequence must be above it
  std::uint64_t corrupt_records = 0;
  std::uint64_t quarantined_bytes = 0;
  bool created = false;  ///< there was no journal before
  bool torn = false;     ///< the last batch was cut off by a crash; nobody was told it was durable
};

struct Options {
  /// Of each file when it is made, multiple of limits::journal_block.
  std::uint64_t size = limits::journal_size;
  /// The files grow with what is live, to at most this size each; multiple of limits::journal_block, at least
  /// `size`. They never shrink.
  std::uint64_t max_size = limits::journal_max;
};

enum class State { ok, failed, stalled };
std::string_view name_of(State state);

struct Stats {
  State state = State::ok;
  bool reserved = true;  ///< false where overwriting needs free space (copy on write)
  std::uint64_t live_bytes = 0;
  std::uint64_t capacity_bytes = 0;
  std::uint64_t generation = 0;
  std::uint64_t corrupt_records = 0;
  std::uint64_t quarantined_bytes = 0;
  std::uint64_t retained_entries = 0;
  std::uint64_t retained_given_up = 0;  ///< released by the journal itself, for lack of room
  std::uint64_t batches = 0;
  std::uint64_t syncs = 0;
  std::uint64_t switches = 0;
  std::uint64_t bytes_written = 0;
  Histogram batch_times;  ///< until batches were durable; measured by Journal, empty in a Store
};

/// The journal as a synchronous object. Not thread-safe. `Directory` must be the journal's own and locked by
/// the caller.
class Store {
 public:
  /// Opens or creates the journal and recovers it. `random_salt` yields 64 random bits per call.
  static Result<std::unique_ptr<Store>> open(std::unique_ptr<Directory> dir, Options options,
                                             std::function<std::uint64_t()> random_salt, Logger& log);
  ~Store();

  const Recovery& recovery() const;

  /// Makes entries and removals durable with one write and one sync, then serves the reads. Completions are
  /// in the order of `batch`. It takes longer when the current file is nearly full, by the copying of
  /// everything live to the other one; and when the live set outgrows the files before grow_ahead() was done,
  /// by writing and syncing as many zeros to each of them as the batch enlarges it, and one piece.
  std::vector<Completion> run(std::vector<Request> batch);

  /// Work that may be done when nothing is waiting: marking the last batch as durable, growing ahead of need,
  /// zeroing the old file after a switch. Does a bounded piece; returns true when there is more to do.
  bool idle_work();

  /// Part of idle_work() that should not wait for quiet: when what is live fills more than half a file, one
  /// piece of growing (writes and syncs limits::journal_zero in each file). True when there is more to do.
  bool grow_ahead();

  /// Marks everything so far as durable, so that damage to the last batch is told apart from one that a
  /// crash cut off. Part of idle_work(); to be called before an orderly end.
  void seal();

  /// In state `failed`: tries once to make the journal usable again, by switching files. Returns true when
  /// it is usable.
  bool revive();

  Stats stats() const;

  /// Keeps something for as long as this object lives: the lock of the directory, so that nobody else opens
  /// the files while a call of this store has not returned.
  void keep(std::shared_ptr<void> kept);
  /// Writes to the logger given to open(), as long as mute() was not called. Any thread.
  Logger& logger();
  /// After it returns the logger given to open() is not used any more. Any thread.
  void mute();

  struct Impl;  ///< of the implementation files only

 private:
  explicit Store(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// The value of a `contents` entry: permall, savestate and volatilestate in this order, each after its
/// length.
Value pack_contents(const std::array<Value, 3>& values);
/// Inverse; nullopt unless the bytes are exactly what pack_contents makes. The views are into `packed`.
std::optional<std::array<std::string_view, 3>> unpack_contents(std::string_view packed);

/// A Store on a thread of its own. Thread of the caller: the loop thread. Nothing here waits for the disk but
/// the destructor, and that not for ever.
class Journal {
 public:
  /// `on_complete` is called on the journal thread, once per batch, and must not block. Requests are
  /// completed in the order in which they were submitted.
  Journal(std::unique_ptr<Store> store, std::function<void(std::vector<Completion>)> on_complete);
  /// Finishes what was submitted and ends the thread. A disk that has not answered for longer than
  /// limits::journal_stall is left alone: then the thread ends by itself when its call returns, without
  /// another write, completion or use of the logger, and until then the store keeps what it keeps.
  ~Journal();

  /// Hands requests over; never blocks on the disk. The caller bounds what is under way
  /// (limits::commit_bytes).
  void submit(std::vector<Request> requests);
  /// Any thread; a copy of the figures as of the last batch. The state is `stalled` while a call to the disk,
  /// for a batch or for idle work, has been under way for longer than limits::journal_stall: what was
  /// submitted will be answered when it returns.
  Stats stats() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;  ///< shared with the thread
  std::thread thread_;
};

}  // namespace guard::journal
