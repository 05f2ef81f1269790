// Bytes of the journal: headers of files and records. Pure; docs/JOURNAL_FORMAT.md draws the tables.
//
// A record's checksum covers its header, which includes the digest of the payload: so a record can be told
// from noise without its payload, a lost payload still says whose it was, and a value is hashed once.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/limits.h"
#include "guard/types.h"
#include "journal/journal.h"

namespace guard::journal {

inline constexpr std::uint64_t block = limits::journal_block;
/// The header stands twice, each time in a block of its own; batches follow.
inline constexpr std::uint64_t data_start = 2 * block;
inline constexpr std::size_t record_header = 104;
inline constexpr std::size_t record_header_max = record_header + limits::known_digests * sizeof(Digest);

constexpr std::uint64_t round_up(std::uint64_t bytes, std::uint64_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

/// The header of a file. A generation begins when a header with a new salt is written.
struct FileHeader {
  std::uint64_t generation = 0;
  std::uint64_t salt = 0;
  Sequence highest_sequence = 0;  ///< handed out when the generation began
  /// Of the file when the generation began, whole blocks: so much had been written and synced, the file can
  /// only be longer.
  std::uint64_t size = 0;
};

/// Fills one whole block.
std::array<std::byte, block> encode(const FileHeader& header);
/// nullopt unless `bytes` is a whole, undamaged header block of this version.
std::optional<FileHeader> decode_file_header(std::span<const std::byte> bytes);

/// A record but for its payload. Sizes and places are in bytes here and scaled on disk.
struct Record {
  RecordType type = RecordType::write;
  Owner owner;
  Slot slot = Slot::permall;
  std::uint8_t flags = 0;  ///< Entry::flags
  bool retained = false;   ///< entry: delivered, kept; removal: keeps what it ends
  bool suspect = false;
  bool alert = false;   ///< removal: of the alert with exactly this sequence
  bool copied = false;  ///< written by a switch, before `complete`
  /// Written by a recovery: whatever counts in the batch before it stands in this batch again, so that the
  /// remains of a batch that a crash cut off are never taken for damage later.
  bool resumed = false;
  Sequence sequence = 0;
  std::int64_t wall_ms = 0;
  Uuid vtpm;
  Digest digest;  ///< of the payload; of a removal: of the value delivered
  std::uint32_t payload_size = 0;
  std::uint8_t known_count = 0;
  std::array<Digest, limits::known_digests> known;
  std::uint64_t position = 0;      ///< of the record in the file, multiple of 8
  std::uint64_t batch_start = 0;   ///< of its batch, multiple of the block size
  std::uint64_t batch_length = 0;  ///< of all records of the batch, multiple of 8

  std::size_t header_size() const { return record_header + known_count * sizeof(Digest); }
  /// Without the padding to a multiple of 8 that follows.
  std::size_t size() const { return header_size() + payload_size; }
  std::size_t padded_size() const { return round_up(size(), 8); }
  std::uint64_t batch_end() const { return batch_start + batch_length; }
  bool is_entry() const {
    return type == RecordType::write || type == RecordType::contents || type == RecordType::alert;
  }
};

/// Writes the header of `record` to `out`, which has room for record.header_size() bytes.
void encode(const Record& record, std::uint64_t salt, std::byte* out);

/// Reads the header of the record that stands at `position`. nullopt unless it was written there, in this
/// generation, whole. `bytes` should hold record_header_max bytes or whatever is left of the file.
std::optional<Record> decode_record(std::span<const std::byte> bytes, std::uint64_t position,
                                    std::uint64_t salt);

/// Offset of the first place at or after `from` (multiple of 8) where a record could begin; bytes.size()
/// rounded down if there is none.
std::size_t find_magic(std::span<const std::byte> bytes, std::size_t from);

bool all_zero(std::span<const std::byte> bytes);

inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace guard::journal
