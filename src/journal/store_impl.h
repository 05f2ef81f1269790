// The inside of Store, shared by its four parts: commits (store.cpp), switches (switch.cpp), the size of the
// files (growth.cpp) and recovery (recovery.cpp).
//
// Invariants:
//   * write_position is where the next batch begins; nothing acknowledged stands at or after it.
//   * The index holds exactly what was acknowledged; its positions are in the current file.
//   * A file whose write or sync failed is `bad`: it takes no more batches before a switch has filled it anew
//     from its start, under a new generation.
//   * What is live can always be copied to the other file, and then one more record fits, as large as any it
//     could replace, and a block for the removal of each live entry: needed(room()) is at most the smaller
//     file. What would break this is refused, and what does not enlarge the live set never does.
//   * Of the blocks kept for removals one is used only to end a live entry, and only when no switch is
//     possible: so each can be ended, one after the other.
#pragma once

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "journal/batch.h"
#include "journal/index.h"
#include "journal/journal.h"
#include "journal/scan.h"

namespace guard::journal {

/// Both headers, two `complete` records, and room for something to happen.
inline constexpr std::uint64_t smallest_size = 16 * block;

struct JournalFile {
  std::string name;
  std::unique_ptr<File> file;
  /// What counts of it, whole blocks: so much was written and synced. The file may be longer.
  std::uint64_t size = 0;
  std::uint64_t found_size = 0;  ///< of the whole file, when it was opened
  FileHeader header;
  std::size_t safe_copy = 1;  ///< of the header: known to be durable, if any is
  bool bad = false;
};

/// The way to a logger, which can be closed.
class LogGate final : public Logger {
 public:
  explicit LogGate(Logger& to) : to_(&to) {}
  void log(LogLevel level, std::string_view event, std::initializer_list<Field> fields) override {
    const std::lock_guard lock(mutex_);
    if (to_ != nullptr) to_->log(level, event, fields);
  }
  bool enabled(LogLevel level) const override {
    const std::lock_guard lock(mutex_);
    return to_ != nullptr && to_->enabled(level);
  }
  void close() {
    const std::lock_guard lock(mutex_);
    to_ = nullptr;
  }

 private:
  mutable std::mutex mutex_;
  Logger* to_;
};

struct Store::Impl {
  Impl(std::unique_ptr<Directory> directory, Options opts, std::function<std::uint64_t()> salt,
       Logger& logger)
      : dir(std::move(directory)), options(opts), random_salt(std::move(salt)), log(logger) {}

  JournalFile& current() { return files[active]; }
  JournalFile& other() { return files[1 - active]; }
  bool failed() const { return files[active].bad || blocked; }

  // --- recovery.cpp ---
  Result<> open();
  Result<std::array<Headers, 2>> open_files();
  Result<> create(JournalFile& file, bool complete);
  Result<> fit_size(JournalFile& file);
  Result<Scan> replay(std::vector<Record>& removals);
  Result<> start_afresh();
  void judge(const Headers& own, const Headers& others, const Scan& scan);
  Result<> resume(const Scan& scan, const std::vector<Record>& removals);
  bool rewrite_unproven(const Scan& scan, const std::vector<Record>& removals);
  Result<> report_live();
  void quarantine(const JournalFile& from, std::uint64_t begin, std::uint64_t end);

  // --- switch.cpp ---
  /// Copies everything live to the other file, makes it the current one. After a failure the current file is
  /// what it was; if the other may have become complete, the current one is bad.
  Result<> switch_files();
  Result<> begin_generation(JournalFile& target);
  Result<> complete_twice(JournalFile& target, std::uint64_t position);
  struct Moved {
    SlotKey key;
    Live to;
  };
  using Placed = std::pair<SlotKey, Live>;
  /// Copies live entries of the current file. Neither the index nor the current file is touched.
  struct Copy;
  Result<> copy_live(Copy& copy);
  Result<> copy_record(Copy& copy, std::span<const Placed> group);
  bool rest_is_readable();
  bool only_replaced(const Record& contents) const;
  Result<> flush_copy(Copy& copy);
  /// Enters in the index what a copy did, once it is durable.
  void settle(const Copy& copy);
  bool zero_some();

  // --- growth.cpp ---
  /// What decides how large a file must be, bytes.
  struct Room {
    std::uint64_t live = 0;     ///< Index::copy_bytes()
    std::uint64_t entries = 0;  ///< that may be removed one by one
    std::uint64_t largest = 0;  ///< record that may still have to be taken
  };
  Room room() const { return {index.copy_bytes(), index.entries(), largest_copy}; }
  /// The size of the smallest file in which all that fits.
  static std::uint64_t needed(const Room& room);
  /// The size at which what is live fills at most half a file, as far as Options::max_size permits.
  std::uint64_t wanted_size() const;
  std::uint64_t smallest_file() const { return std::min(files[0].size, files[1].size); }
  /// Enlarges one file and syncs it. After a failure it is as large as before.
  Result<> extend(JournalFile& file, std::uint64_t to);
  /// Enlarges both files; false if one could not be.
  bool grow_to(std::uint64_t size);
  /// A bounded piece of growing ahead of need; true when there is more to do.
  bool grow_some();
  /// Makes `room`, by growing or else by giving up retained entries but for those in `replaced`. After
  /// success at least something was gained; no_space = nothing can be done and nothing was.
  Result<> find_space(Room room, std::span<const SlotKey> replaced);
  Result<> give_up_retained(Room room, std::span<const SlotKey> replaced);

  // --- store.cpp ---
  Result<> write_and_sync(Batch& batch);
  Result<> make_room();
  void file_failed(JournalFile& file, const Error& error);

  /// Bytes for batches in either file.
  std::uint64_t capacity() const { return smallest_file() - data_start; }
  /// Kept free, so that everything live can be removed even when no switch is possible: each batch takes a
  /// block at least, and each removal may come in one of its own. One more for a seal.
  static std::uint64_t removal_room(std::uint64_t entries) { return (entries + 1) * block; }

  std::shared_ptr<void> anchor;  ///< first: released when the files are closed
  std::unique_ptr<Directory> dir;
  Options options;
  std::function<std::uint64_t()> random_salt;
  LogGate log;

  std::array<JournalFile, 2> files;
  std::size_t active = 0;
  std::uint64_t write_position = data_start;
  std::uint64_t highest_generation = 0;
  Sequence highest_sequence = 0;
  Index index;
  std::uint64_t largest_copy = 0;  ///< Index::largest_bytes(), the highest in this generation
  bool growth_failed = false;      ///< the last time; no more ahead of need until it succeeds
  bool growth_tried = false;       ///< in this run(), in vain
  bool recreated = false;          ///< one of the files was missing
  bool sealed = true;              ///< nothing was committed since the last `complete` record
  bool blocked = false;            ///< a switch was necessary and failed; only revive() tries again
  bool failure_told = false;       ///< the log knows that no file can be used
  std::uint64_t zero_from = 0;     ///< where zeroing the other file goes on; 0 = nothing to do
  std::unordered_map<std::uint64_t, unsigned> read_failures;  ///< by position in the current file

  Batch batch;
  std::string read_buffer;
  Recovery recovery;
  Stats stats;
};

/// One copying of live entries.
struct Store::Impl::Copy {
  /// Takes `batch` to the disk.
  std::function<Result<>(Batch&)> flush;
  std::uint64_t from = 0;                      ///< only what stands here or after it in the current file
  std::uint64_t piece = limits::journal_copy;  ///< a batch is flushed when it would exceed this
  bool copied = false;                         ///< marks of the records
  bool resumed = false;

  Batch batch;
  std::deque<std::string> bytes;  ///< what the payloads of `batch` point into
  struct Held {
    std::size_t record;  ///< which of `batch`
    SlotKey key;
    Live to;  ///< but for its position
  };
  std::vector<Held> held;                      ///< what the records of `batch` hold
  std::vector<Moved> moved;                    ///< everything flushed
  std::vector<std::pair<SlotKey, Live>> lost;  ///< could not be read any more
  std::vector<std::uint64_t> unread;           ///< could not be read this time; then nothing is copied
  Error unread_error;
};

}  // namespace guard::journal
