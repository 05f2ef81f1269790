// Looking at a journal without touching it: for tools, and for people who have to decide something.
//
// Says what a recovery of the same bytes would find (which file it would replay, what is live, what is
// damaged), and changes nothing: nothing is created, locked, written or synced. Therefore it cannot tell what
// is durable from what is in the page cache only.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "guard/env.h"
#include "guard/result.h"
#include "journal/journal.h"
#include "journal/scan.h"

namespace guard::journal {

/// One record as it stands in the file. No payload, and no salt: who knows the salt can forge records.
struct RecordView {
  RecordType type = RecordType::write;
  Owner owner;
  Slot slot = Slot::permall;
  Sequence sequence = 0;
  std::int64_t wall_ms = 0;
  Uuid vtpm;
  Digest digest;
  std::uint32_t payload_size = 0;
  std::uint8_t known_count = 0;
  bool retained = false;
  bool suspect = false;
  bool alert = false;
  bool copied = false;
  bool resumed = false;
  std::uint64_t position = 0;  ///< in the file, bytes
  std::uint64_t batch_start = 0;
};

/// One of the two files.
struct FileView {
  std::string name;
  bool present = false;
  std::optional<Error> error;  ///< why it cannot be read
  std::uint64_t size = 0;      ///< bytes
  Headers headers;
  // What was found of the generation of its newest header:
  std::uint64_t records = 0;
  std::uint64_t batches = 0;
  std::uint64_t end = 0;  ///< where the next batch would begin
  bool complete = false;  ///< it could be replayed
  bool torn = false;      ///< a crash cut off its last batch, of which nobody was told that it is durable
};

/// Something that is not what was written. One of these each counts as one corrupt record of a recovery.
struct Finding {
  std::string file;
  std::uint64_t from = 0;  ///< bytes in the file; from == to: the file as a whole
  std::uint64_t to = 0;
  std::string what;            ///< for people
  std::optional<Record> lost;  ///< the record of which only the payload is lost
  bool hides_records = false;  ///< whole records may have stood here
};

struct Inspection {
  std::array<FileView, 2> files;
  /// Why a recovery would fail, as opposed to find damage. Then nothing below is known.
  std::optional<Error> unreadable;
  std::optional<std::size_t> replayed;  ///< which of the files a recovery replays; none: it begins anew
  bool lost = false;                    ///< it begins anew although there was something
  Sequence highest_sequence = 0;
  std::vector<LiveEntry> live;  ///< ordered by sequence
  std::vector<Finding> damage;
  std::vector<RecordView> records;  ///< of the file that is replayed, in its order, when asked for
  std::uint64_t omitted = 0;        ///< records beyond limits::inspect_records
  /// The files changed while they were read; what is said of them belongs to no single moment.
  bool changed = false;

  bool good() const { return !unreadable && !lost && damage.empty(); }
};

struct InspectOptions {
  bool records = false;  ///< fill Inspection::records
  /// A daemon is writing to it: what looks damaged is looked at again (limits::inspect_attempts), and counts
  /// only if it looks so each time.
  bool in_use = false;
};

/// Looks at the journal in `dir`. Blocks, and reads both files whole. Errors: not_found when there is neither
/// of the two files; what keeps a present file from being read is in Inspection::unreadable.
Result<Inspection> inspect(Directory& dir, const InspectOptions& options = {});

}  // namespace guard::journal
