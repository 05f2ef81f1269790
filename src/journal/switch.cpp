// Switching between the two files: everything live is copied, then the old file is zeroed.
//
// What is on the disk after a crash at each step (the other file is B, the current one A, generation g):
//   1. one copy of B's header, generation g+1; sync   B: a good header, no `complete`; A is replayed
//   2. the other copy and the live entries; sync      the same
//   3. `complete`, twice, in two blocks; sync         B is replayed from here on, A never again
// When step 3 fails, B may be what is replayed: A takes nothing more until a later switch succeeds.
// Step 1 is synced alone, and writes the copy that is not known to be good, so that at no time both can be
// lost in a crash: a file without a good header is damage, never the trace of a crash.
#include <cassert>

#include "journal/store_impl.h"

namespace guard::journal {

Result<> Store::Impl::switch_files() {
  JournalFile& target = other();
  std::uint64_t position = data_start;
  Copy copy;
  copy.copied = true;
  copy.flush = [&](Batch& records) -> Result<> {
    if (position + records.disk_bytes() + 2 * block > target.size) {
      return std::unexpected(
          Error{Errc::no_space, 0, "journal: the live entries do not fit in the other file"});
    }
    auto written = records.write(*target.file, position, target.header.salt);
    position += records.disk_bytes();
    return written;
  };
  zero_from = 0;
  auto filled = begin_generation(target);
  if (filled) filled = copy_live(copy);
  if (filled) filled = target.file->sync_data();
  if (filled) {
    filled = complete_twice(target, position);
    // It may be complete on the disk all the same, and then it is what a recovery replays: the current file
    // must not acknowledge anything any more.
    if (!filled) current().bad = true;
  }
  if (!filled) {
    if (!failure_told) {
      log.log(LogLevel::error, "journal_switch_failed",
              {{"to", target.name}, {"error", filled.error().message}});
    }
    return filled;
  }
  position += 2 * block;

  for (const auto& [key, live] : copy.lost) {
    ++stats.corrupt_records;
    quarantine(current(), live.position, live.position + live.record_size);
    index.drop(key, live.sequence);
  }
  settle(copy);
  target.bad = false;
  active = 1 - active;
  write_position = position;
  largest_copy = index.largest_bytes();
  sealed = true;
  zero_from = data_start;
  read_failures.clear();
  ++stats.switches;
  stats.syncs += 4;
  stats.bytes_written += position;
  return {};
}

Result<> Store::Impl::begin_generation(JournalFile& target) {
  target.header = {++highest_generation, random_salt(), highest_sequence, target.size};
  const auto bytes = encode(target.header);
  const std::span<const std::byte> copy = bytes;
  const std::size_t first = 1 - target.safe_copy;
  auto written = target.file->write_at(first * block, {&copy, 1});
  if (written) written = target.file->sync_data();
  if (!written) return written;
  target.safe_copy = first;
  return target.file->write_at((1 - first) * block, {&copy, 1});
}

/// Twice, because the whole file hangs on it: one bad sector must not make it look unfinished.
Result<> Store::Impl::complete_twice(JournalFile& target, std::uint64_t position) {
  for (int i = 0; i < 2; ++i, position += block) {
    Record complete;
    complete.type = RecordType::complete;
    complete.copied = true;
    Batch only;
    only.add(complete, {});
    if (auto written = only.write(*target.file, position, target.header.salt); !written) return written;
  }
  return target.file->sync_data();
}

Result<> Store::Impl::copy_live(Copy& copy) {
  std::vector<Placed> live;
  for (const auto& [key, entry] : index.slots()) {
    if (entry.position >= copy.from) live.emplace_back(key, entry);
  }
  for (const auto& [sequence, alert] : index.alerts()) {
    if (alert.live.position >= copy.from) live.emplace_back(alert.key, alert.live);
  }
  std::sort(live.begin(), live.end(), [](const Placed& a, const Placed& b) {
    return std::pair(a.second.position, a.second.part) < std::pair(b.second.position, b.second.part);
  });
  for (std::size_t i = 0; i < live.size();) {
    std::size_t count = 1;  // the live parts of a `contents` record stand together
    while (i + count < live.size() && live[i + count].second.position == live[i].second.position) ++count;
    if (auto copied = copy_record(copy, std::span(live).subspan(i, count)); !copied) return copied;
    if (copy.unread.size() > limits::journal_unreadable_records) break;
    i += count;
  }
  if (copy.unread.empty()) return flush_copy(copy);
  if (rest_is_readable()) {
    for (const std::uint64_t position : copy.unread) ++read_failures[position];
  }
  return std::unexpected(copy.unread_error);
}

/// Tells a bad sector, which must not keep the journal from ever switching, from a device in trouble, which
/// must cost nothing.
bool Store::Impl::rest_is_readable() {
  std::array<std::byte, block> header;
  const auto got = current().file->read_at(current().safe_copy * block, header);
  return got && *got == header.size() && decode_file_header(header).has_value();
}

Result<> Store::Impl::copy_record(Copy& copy, std::span<const Placed> group) {
  const Live& first = group[0].second;
  if (copy.batch.bytes() + group.size() * record_header_max + first.record_size > copy.piece) {
    if (auto flushed = flush_copy(copy); !flushed) return flushed;
  }
  std::string& bytes = copy.bytes.emplace_back();
  const JournalFile& source = current();
  auto read =
      read_record(*source.file, source.header, first.position, first.record_size, first.sequence, bytes);
  if (!read) {
    const auto failures = read_failures.find(first.position);
    const bool give_up =
        read.error().code == Errc::corrupt ||
        (failures != read_failures.end() && failures->second >= limits::journal_read_attempts);
    if (!give_up) {
      // The others are looked at all the same, so that the time of all that are bad runs at once.
      copy.unread.push_back(first.position);
      copy.unread_error = read.error();
      return {};
    }
    log.log(
        LogLevel::error, "journal_record_lost",
        {{"vm", group[0].first.owner.vm}, {"slot", group[0].first.slot}, {"error", read.error().message}});
    copy.lost.insert(copy.lost.end(), group.begin(), group.end());
    return {};
  }
  const auto payload = std::as_bytes(std::span(bytes)).subspan(read->header_size());
  const auto add = [&](Record record, std::span<const std::byte> value, std::span<const Placed> held) {
    const auto known = merge_known({read->known.data(), read->known_count}, index.more_known(held[0].first));
    record.known_count = static_cast<std::uint8_t>(known.size());
    std::copy(known.begin(), known.end(), record.known.begin());
    record.payload_size = static_cast<std::uint32_t>(value.size());
    record.retained = held[0].second.retained;
    record.suspect = held[0].second.suspect;
    record.copied = copy.copied;
    record.resumed = copy.resumed;
    for (const auto& [key, live] : held) copy.held.push_back({copy.batch.count(), key, live});
    copy.batch.add(record, value);
  };
  if (read->type != RecordType::contents) {
    add(*read, payload, group);
    return {};
  }
  const bool uniform = std::all_of(group.begin(), group.end(), [&](const Placed& part) {
    return part.second.retained == first.retained && part.second.suspect == first.suspect &&
           index.more_known(part.first).empty();
  });
  // Nobody may have been told yet that what a recovery repeats is durable: then a power cut must not leave
  // half of it. Parts that were replaced do no harm, their newer entries win.
  const bool whole = group.size() == 3 || (copy.resumed && only_replaced(*read));
  if (uniform && whole) {
    add(*read, payload, group);
    return {};
  }
  const auto values = *unpack_contents(as_text(payload));
  for (const Placed& part : group) {
    Record record = *read;
    record.type = RecordType::write;
    record.slot = part.first.slot;
    const auto value = std::as_bytes(std::span(values[part.second.part]));
    record.digest = digest_of(as_text(value));
    add(record, value, {&part, 1});
  }
  return {};
}

/// Whether each slot of a `contents` entry has this or a newer entry.
bool Store::Impl::only_replaced(const Record& contents) const {
  for (std::size_t i = 0; i < 3; ++i) {
    const Live* live = index.newest({contents.owner, static_cast<Slot>(i)});
    if (live == nullptr || live->sequence < contents.sequence) return false;
  }
  return true;
}

Result<> Store::Impl::flush_copy(Copy& copy) {
  if (copy.batch.empty()) return {};
  if (auto flushed = copy.flush(copy.batch); !flushed) return flushed;
  for (auto& [record, key, to] : copy.held) {
    const Record& written = copy.batch.records()[record];
    to.position = written.position;
    to.record_size = static_cast<std::uint32_t>(written.size());
    if (written.type == RecordType::write) to.part = Live::whole;
    to.more_known = false;
    copy.moved.push_back({key, to});
  }
  copy.held.clear();
  copy.batch.clear();
  copy.bytes.clear();
  return {};
}

void Store::Impl::settle(const Copy& copy) {
  for (const auto& [key, to] : copy.moved) index.moved(key, to.sequence, to);
}

bool Store::Impl::zero_some() {
  if (zero_from == 0) return false;
  JournalFile& file = other();
  const std::size_t length = std::min<std::uint64_t>(limits::journal_zero, file.size - zero_from);
  read_buffer.resize(length);
  const auto buffer = std::as_writable_bytes(std::span(read_buffer));
  const auto got = file.file->read_at(zero_from, buffer);
  if (!got || *got != length || !all_zero(buffer)) {
    std::fill(buffer.begin(), buffer.end(), std::byte{0});
    const std::span<const std::byte> zeros = buffer;
    auto written = file.file->write_at(zero_from, {&zeros, 1});
    if (written) written = file.file->sync_data();
    if (!written) {
      log.log(LogLevel::warning, "journal_zeroing_failed",
              {{"file", file.name}, {"error", written.error().message}});
      zero_from = 0;  // not tried again before the next switch
      return false;
    }
    ++stats.syncs;
  }
  zero_from += length;
  if (zero_from < file.size) return true;
  zero_from = 0;
  read_buffer = {};
  return false;
}

}  // namespace guard::journal
