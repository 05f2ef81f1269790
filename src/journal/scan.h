// Reading a journal file from front to back: every record that is whole, and every range that is not what
// was written. Changes nothing, neither on disk nor elsewhere.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "guard/env.h"
#include "guard/result.h"
#include "journal/format.h"

namespace guard::journal {

/// Bytes that are not what was written there.
struct Damage {
  std::uint64_t from = 0;
  std::uint64_t to = 0;
  /// Set when the record's header is good and only its payload is lost: so it is known whose value it was.
  std::optional<Record> lost;
  /// Whole records may have stood here, of any slot. False for padding.
  bool hides_records = true;
};

struct Scan {
  /// Where the next batch may begin: after the last one, or what is left of it.
  std::uint64_t end = data_start;
  /// The file holds everything live: there is a `complete` record, or a batch that can only follow one.
  bool complete = false;
  std::uint64_t complete_at = 0;  ///< of the first `complete` record of the switch; 0 = none could be read
  /// A batch that neither a switch nor a recovery wrote was found: so the sync of the `complete` records had
  /// succeeded. Otherwise they may be in the page cache only.
  bool committed = false;
  /// In the order of the file. What a crash cut off in the last batch is not among it.
  std::vector<Damage> damage;
  /// The last batch was cut off before anybody was told that it was durable.
  bool torn = false;
  /// Start of the last batch (and of those that it resumes) when nothing proves that it was ever synced;
  /// 0 = there is proof.
  std::uint64_t unproven_from = 0;
  std::uint64_t records = 0;
  std::uint64_t unreadable_blocks = 0;
  Sequence highest_sequence = 0;  ///< of all records
};

/// Calls `on_record` for every record of generation `header` in the order of the file, with its payload (the
/// span is valid during the call only). Errors: the file cannot be read, as opposed to damaged.
Result<Scan> scan_file(File& file, const FileHeader& header,
                       const std::function<void(const Record&, std::span<const std::byte>)>& on_record);

/// What stands in the two header blocks.
struct Headers {
  std::array<std::optional<FileHeader>, 2> copies;
  /// The copy with the higher generation; nullptr if both are damaged.
  const FileHeader* best() const;
  /// Which copy must outlive the writing of the other: the good one; of two, the older, because a newer one
  /// need not be durable.
  std::size_t safe() const;
};
Result<Headers> read_headers(File& file);

/// Reads the record at `position` whole and checks all of it, payload included; Errc::corrupt unless it is
/// the record with this sequence. `bytes` receives header and payload.
Result<Record> read_record(File& file, const FileHeader& header, std::uint64_t position, std::uint64_t size,
                           Sequence sequence, std::string& bytes);

}  // namespace guard::journal
