// Opening a journal: which of the two files counts, what is live in it, and what is damaged.
//
// Nothing is trusted before it was synced by this process: after a kill the file may show records that exist
// only in the page cache, and a power cut would take back what a read has already shown. For the same
// reason the last batch, if nothing proves that its sync succeeded, is written once more.
#include <cassert>

#include "journal/store_impl.h"

namespace guard::journal {

namespace {

/// Damage may hide sequences that were handed out; this leaves room for all of them.
constexpr Sequence damage_gap = Sequence{1} << 32;

constexpr std::uint64_t everywhere = ~std::uint64_t{0};

}  // namespace

Result<> Store::Impl::open() {
  auto headers = open_files();
  if (!headers) return std::unexpected(headers.error());
  // The highest generation first; of the other file only the header counts once this one is complete.
  const std::size_t newer = files[1].header.generation > files[0].header.generation ? 1 : 0;
  for (const std::size_t candidate : {newer, 1 - newer}) {
    active = candidate;
    if ((*headers)[active].best() == nullptr) continue;
    index = {};
    std::vector<Record> removals;
    auto scan = replay(removals);
    if (!scan) return std::unexpected(scan.error());
    highest_sequence = std::max(highest_sequence, scan->highest_sequence);
    if (!scan->complete && scan->unreadable_blocks != 0) {
      return std::unexpected(Error{Errc::io, 0, "journal: cannot tell whether a file is complete"});
    }
    if (!scan->complete) continue;
    write_position = scan->end;
    current().size = std::max(current().size, scan->end);  // enlarged in this generation
    largest_copy = index.largest_bytes();
    judge((*headers)[active], (*headers)[1 - active], *scan);
    if (auto resumed = resume(*scan, removals); !resumed) return resumed;
    return report_live();
  }
  return start_afresh();
}

/// Opens both files, creates what is missing, and reads the headers.
Result<std::array<Headers, 2>> Store::Impl::open_files() {
  std::array<Headers, 2> headers;
  std::array<bool, 2> missing{};
  for (std::size_t i = 0; i < 2; ++i) {
    JournalFile& file = files[i];
    file.name = i == 0 ? "a" : "b";
    auto opened = dir->open_file(file.name, Directory::Mode::open_existing);
    missing[i] = !opened && opened.error().code == Errc::not_found;
    if (missing[i]) continue;
    if (!opened) return std::unexpected(opened.error());
    file.file = std::move(*opened);
    // So that a header that is only in the page cache is never what the safety of the other copy rests on.
    if (auto synced = file.file->sync_all(); !synced) return std::unexpected(synced.error());
    auto read = read_headers(*file.file);
    if (!read) return std::unexpected(read.error());
    headers[i] = *read;
    file.safe_copy = read->safe();
    auto size = file.file->size();
    if (!size) return std::unexpected(size.error());
    file.found_size = *size;
    file.size = *size / block * block;
    if (const FileHeader* best = headers[i].best()) {
      file.header = *best;
      file.size = std::min(file.size, best->size);
      highest_generation = std::max(highest_generation, best->generation);
      highest_sequence = std::max(highest_sequence, best->highest_sequence);
    }
  }
  recovery.created = missing[0] && missing[1];
  // A name, too, may be in the cache only: who made the files may have been killed before it synced them.
  if (!recovery.created) {
    if (auto synced = dir->sync(); !synced) return std::unexpected(synced.error());
  }
  // `a` is durable, and complete, before `b` exists: so of one file alone only `b` can tell of a loss.
  for (std::size_t i = 0; i < 2; ++i) {
    if (!missing[i]) continue;
    const bool complete = recovery.created && i == 0;
    if (auto made = create(files[i], complete); !made) return std::unexpected(made.error());
    headers[i].copies = {files[i].header, files[i].header};
    recreated = !recovery.created;
  }
  return headers;
}

/// Under another name, until everything in it is durable: a file of the journal has had a good header from
/// its first moment, through any crash.
Result<> Store::Impl::create(JournalFile& file, bool complete) {
  const std::string temporary = file.name + ".new";
  const auto make = [&]() -> Result<> {
    auto opened = dir->open_file(temporary, Directory::Mode::create_new);
    if (!opened && opened.error().code == Errc::busy) {
      if (auto gone = dir->unlink(temporary); !gone) return gone;
      opened = dir->open_file(temporary, Directory::Mode::create_new);
    }
    if (!opened) return std::unexpected(opened.error());
    file.file = std::move(*opened);
    file.size = 0;
    if (auto sized = extend(file, options.size); !sized) return sized;
    file.found_size = file.size;
    if (auto begun = begin_generation(file); !begun) return begun;
    if (complete) {
      if (auto completed = complete_twice(file, data_start); !completed) return completed;
    }
    if (auto synced = file.file->sync_all(); !synced) return synced;
    if (auto renamed = dir->rename(temporary, file.name); !renamed) return renamed;
    return dir->sync();
  };
  auto made = make();
  if (made) return made;
  if (auto gone = dir->unlink(temporary); !gone && gone.error().code != Errc::not_found) {
    log.log(LogLevel::warning, "journal_left_behind", {{"file", temporary}, {"error", gone.error().message}});
  }
  return made;
}

/// As large as asked for, and as what is live needs: the journal may have been larger than what its headers
/// say. A file that holds a journal already goes on with the size it has when it cannot be enlarged.
Result<> Store::Impl::fit_size(JournalFile& file) {
  auto grown = extend(file, std::max(options.size, needed(room())));
  if (grown || file.size < smallest_size) return grown;
  log.log(LogLevel::warning, "journal_not_enlarged", {{"file", file.name}, {"error", grown.error().message}});
  return {};
}

Result<Scan> Store::Impl::replay(std::vector<Record>& removals) {
  return scan_file(*current().file, current().header,
                   [&](const Record& r, std::span<const std::byte> payload) {
                     std::array<std::uint32_t, 3> sizes{};
                     if (r.type == RecordType::contents) {
                       const auto values = *unpack_contents(as_text(payload));
                       for (std::size_t i = 0; i < 3; ++i)
                         sizes[i] = static_cast<std::uint32_t>(values[i].size());
                     }
                     index.apply(r, sizes);
                     // Only those of the last batch will be asked for.
                     if (!r.resumed && (removals.empty() || removals.back().batch_start != r.batch_start))
                       removals.clear();
                     if (r.type == RecordType::removed || r.type == RecordType::released)
                       removals.push_back(r);
                   });
}

/// No file can be replayed. That is no trace of a crash: since its creation one of them has been complete.
Result<> Store::Impl::start_afresh() {
  index = {};
  ++recovery.corrupt_records;
  highest_sequence += damage_gap;
  for (const JournalFile& file : files) quarantine(file, 0, file.found_size);
  log.log(LogLevel::error, "journal_lost", {{"quarantined_bytes", recovery.quarantined_bytes}});
  active = 1;
  for (JournalFile& file : files) {
    if (auto sized = fit_size(file); !sized) return sized;
  }
  // Twice, so that both files have a header: one without would be taken for damage at the next start.
  for (int i = 0; i < 2; ++i) {
    if (auto switched = switch_files(); !switched) return switched;
  }
  return report_live();
}

/// Counts and keeps what is damaged in the current file, and doubts what may have been replaced there.
void Store::Impl::judge(const Headers& own, const Headers& others, const Scan& scan) {
  recovery.torn = scan.torn;
  const auto damaged = [this](const JournalFile& file, std::uint64_t from, std::uint64_t to) {
    ++recovery.corrupt_records;
    quarantine(file, from, to);
  };
  for (std::size_t i = 0; i < 2; ++i) {
    const bool good = own.copies[i] && own.copies[i]->generation == current().header.generation;
    if (!good) damaged(current(), i * block, (i + 1) * block);
  }
  if (current().found_size < current().header.size) {
    damaged(current(), current().found_size, current().found_size);  // cut off; nothing is left to keep
    index.suspect_before(everywhere);
  }
  for (const Damage& damage : scan.damage) {
    damaged(current(), damage.from, damage.to);
    if (damage.lost && damage.lost->is_entry()) {
      const Record& lost = *damage.lost;
      const bool contents = lost.type == RecordType::contents;
      for (std::size_t i = 0; i < (contents ? 3u : 1u); ++i) {
        index.suspect({lost.owner, contents ? static_cast<Slot>(i) : lost.slot}, lost.sequence);
      }
    } else if (damage.hides_records && (scan.complete_at == 0 || damage.to > scan.complete_at)) {
      index.suspect_before(damage.from);  // before `complete` each slot stands once, nothing is older
    }
  }
  // A file without a header, or none at all, is never the trace of a crash: it may have been the newer one.
  const bool other_lost = others.best() == nullptr;
  // Nor is a newer one that was cut off: its `complete` records may have stood in what is missing.
  const bool other_cut = !other_lost && other().found_size < other().header.size &&
                         other().header.generation > current().header.generation;
  if (other_lost || other_cut || (recreated && index.entries() != 0)) {
    damaged(other(), 0, other_lost || other_cut ? other().found_size : 0);
    index.suspect_before(everywhere);
  }
  if (recovery.corrupt_records == 0) return;
  highest_sequence += damage_gap;
  log.log(LogLevel::error, "journal_damaged",
          {{"places", recovery.corrupt_records}, {"quarantined_bytes", recovery.quarantined_bytes}});
}

/// Makes certain that everything in the index is durable, and that no damage is carried on. Until it is
/// certain that the current file is complete on the disk, the other one is left as it is: with the last sync
/// of a switch failed, and the process killed, the page cache may show a file as complete while a power cut
/// would still make the other one count. Its end may hold batches, if it was enlarged in its generation.
Result<> Store::Impl::resume(const Scan& scan, const std::vector<Record>& removals) {
  zero_from = data_start;
  if (auto sized = fit_size(current()); !sized) return sized;
  bool whole = recovery.corrupt_records == 0 && !current().bad;
  // What this process has just created, it has also synced.
  if (whole && scan.unproven_from != 0 && !recovery.created) whole = rewrite_unproven(scan, removals);
  if (!whole && !scan.committed && scan.complete_at != 0) {
    Record complete;
    complete.type = RecordType::complete;
    complete.copied = true;
    Batch only;
    only.add(complete, {});
    auto proven = only.write(*current().file, scan.complete_at, current().header.salt);
    if (proven) proven = current().file->sync_data();
    if (!proven) return proven;
  }
  if (auto sized = fit_size(other()); !sized) return sized;
  return whole ? Result<>() : switch_files();
}

/// The last batch once more, behind it; false if there is no room or it fails.
bool Store::Impl::rewrite_unproven(const Scan& scan, const std::vector<Record>& removals) {
  Copy copy;
  copy.from = scan.unproven_from;
  copy.resumed = true;
  copy.piece = everywhere;  // a second batch would disown damage to the first
  Record complete;          // first, so that the batch does not prove itself
  complete.type = RecordType::complete;
  complete.resumed = true;
  copy.batch.add(complete, {});
  for (Record removal : removals) {
    if (removal.position < scan.unproven_from) continue;
    removal.resumed = true;
    copy.batch.add(removal, {});
  }
  copy.flush = [&](Batch& records) -> Result<> {
    if (write_position + records.disk_bytes() + removal_room(index.entries()) > current().size)
      return std::unexpected(Error{Errc::no_space, 0, "journal: full"});
    return write_and_sync(records);
  };
  if (!copy_live(copy)) return false;
  settle(copy);
  return true;
}

Result<> Store::Impl::report_live() {
  recovery.highest_sequence = highest_sequence;
  const auto add = [this](const SlotKey& key, const Live& live) -> Result<> {
    const bool part = live.part != Live::whole;
    const std::uint64_t wanted =
        part ? live.record_size : std::min<std::uint64_t>(live.record_size, record_header_max);
    read_buffer.resize(wanted);
    auto got = current().file->read_at(live.position, std::as_writable_bytes(std::span(read_buffer)));
    if (!got) return std::unexpected(got.error());
    const auto bytes = std::as_bytes(std::span(read_buffer));
    const auto record = decode_record(bytes, live.position, current().header.salt);
    if (*got != wanted || !record)
      return std::unexpected(Error::corrupt("journal: changed while it was read"));
    LiveEntry entry;
    entry.type = record->type;
    entry.owner = key.owner;
    entry.slot = key.slot;
    entry.sequence = live.sequence;
    entry.vtpm = record->vtpm;
    entry.known = merge_known({record->known.data(), record->known_count}, index.more_known(key));
    entry.digest = record->digest;
    if (part)
      entry.digest = digest_of((*unpack_contents(as_text(bytes.subspan(record->header_size()))))[live.part]);
    entry.size = live.value_size;
    entry.wall_ms = record->wall_ms;
    entry.flags = record->flags;
    entry.retained = live.retained;
    entry.suspect = live.suspect;
    recovery.live.push_back(std::move(entry));
    return {};
  };
  recovery.live.reserve(index.entries());
  for (const auto& [key, live] : index.slots()) {
    if (auto added = add(key, live); !added) return added;
  }
  for (const auto& [sequence, alert] : index.alerts()) {
    if (auto added = add(alert.key, alert.live); !added) return added;
  }
  std::sort(recovery.live.begin(), recovery.live.end(), [](const LiveEntry& a, const LiveEntry& b) {
    return std::pair(a.sequence, a.slot) < std::pair(b.sequence, b.slot);
  });
  stats.corrupt_records += recovery.corrupt_records;
  return {};
}

/// Best effort: a copy that cannot be made stops nothing. What cannot be read is kept as zeros.
void Store::Impl::quarantine(const JournalFile& from, std::uint64_t begin, std::uint64_t end) {
  // The same range of the same generation has the same name, however often recovery is repeated. The salt
  // itself is kept out of names: it is what makes records unforgeable.
  const std::uint64_t salt = from.header.generation == 0 ? random_salt() : from.header.salt;
  const auto bytes = std::as_bytes(std::span(&salt, 1));
  const std::string name = from.name + "-" + std::to_string(from.header.generation) + "-" +
                           std::to_string(digest_of(as_text(bytes)).low % 1'000'000'000) + "-" +
                           std::to_string(begin) + "-" + std::to_string(end);
  if (begin == end) return;
  const auto keep = [&]() -> Result<> {
    auto place = dir->open_dir("quarantine", true);
    if (!place) return std::unexpected(place.error());
    auto names = (*place)->list();
    if (!names) return std::unexpected(names.error());
    std::uint64_t used = 0;
    for (const auto& other_name : *names) {
      if (other_name == name) continue;
      if (auto file = (*place)->open_for_read(other_name)) used += (*file)->size().value_or(0);
    }
    if (used >= limits::quarantine_bytes)
      return std::unexpected(Error{Errc::no_space, 0, "quarantine is full"});
    const std::uint64_t length = std::min(end - begin, limits::quarantine_bytes - used);
    auto kept = (*place)->open_file(name, Directory::Mode::open_or_create);
    if (!kept) return std::unexpected(kept.error());
    std::array<std::byte, block> buffer;
    for (std::uint64_t done = 0; done < length; done += buffer.size()) {
      const auto piece = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), length - done));
      if (auto got = from.file->read_at(begin + done, piece); !got)
        std::fill(piece.begin(), piece.end(), std::byte{0});
      const std::span<const std::byte> part = piece;
      if (auto written = (*kept)->write_at(done, {&part, 1}); !written) return written;
    }
    stats.quarantined_bytes += length;
    if (auto synced = (*kept)->sync_all(); !synced) return synced;
    if (auto synced = (*place)->sync(); !synced) return synced;
    return dir->sync();
  };
  if (auto kept = keep(); !kept) {
    log.log(LogLevel::warning, "quarantine_failed", {{"file", from.name}, {"error", kept.error().message}});
  }
  recovery.quarantined_bytes = stats.quarantined_bytes;
}

}  // namespace guard::journal
