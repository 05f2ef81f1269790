// How large the files must be, enlarging them, and what is given up when they cannot be enlarged.
//
// A file is enlarged at its end: zeros are written there, the file is synced, and only then do they count
// (JournalFile::size). Nothing that stood before is touched, so a growth that fails, or is cut off by a crash
// at any point, costs nothing: the file is merely longer than what counts of it. What counts is in the header
// from the next generation on; until then a recovery goes by the header and by where the last batch ends, and
// writes the rest anew if it needs it. The two files may differ in size at any time: what is live must fit in
// the smaller one.
//
// Who waits: ahead of need, a piece of limits::journal_zero is written between batches or when nothing is to
// do. Only when the live set outgrows a file faster than that, a commit itself enlarges both files by what it
// needs, rounded up to such a piece.
#include <algorithm>
#include <array>
#include <vector>

#include "journal/store_impl.h"

namespace guard::journal {

namespace {

constexpr std::array<std::byte, 64 * limits::KiB> zeros{};
static_assert(limits::journal_zero % zeros.size() == 0);

Result<> write_zeros(File& file, std::uint64_t from, std::uint64_t to) {
  std::vector<std::span<const std::byte>> parts;
  while (from < to) {
    parts.clear();
    const std::uint64_t end = std::min<std::uint64_t>(to, from + limits::journal_zero);
    for (std::uint64_t at = from; at < end; at += zeros.size()) {
      parts.push_back(std::span(zeros).first(std::min<std::uint64_t>(zeros.size(), end - at)));
    }
    if (auto written = file.write_at(from, parts); !written) return written;
    from = end;
  }
  return {};
}

}  // namespace

std::uint64_t Store::Impl::needed(const Room& room) {
  // Pieces of a copy are rounded up to blocks, and each is filled but for one record.
  const std::uint64_t pieces = room.live / (limits::journal_copy - 2 * limits::journal_payload) + 1;
  const std::uint64_t completes = 2;
  const std::uint64_t fixed =
      data_start + round_up(room.live, block) + (pieces + completes) * block + removal_room(room.entries);
  // An eighth of the file to work in: a full journal copies at most eight bytes for each one it takes.
  const std::uint64_t work = std::max(round_up(room.largest, block), round_up(fixed / 7, block));
  return fixed + work;
}

std::uint64_t Store::Impl::wanted_size() const {
  const std::uint64_t twice = 2 * needed(room());
  std::uint64_t size = options.size;
  while (size < twice && size < options.max_size) size = std::min(2 * size, options.max_size);
  return size;
}

Result<> Store::Impl::extend(JournalFile& file, std::uint64_t to) {
  if (file.size >= to) return {};
  auto done = write_zeros(*file.file, file.size, to);
  if (!done) return done;  // behind all that counts: the file is as good as before
  done = file.file->sync_all();
  if (!done) {
    file_failed(file, done.error());
    return done;
  }
  file.size = to;
  return done;
}

bool Store::Impl::grow_to(std::uint64_t size) {
  const std::uint64_t before = smallest_file();
  for (const std::size_t i : {1 - active, active}) {
    auto grown = extend(files[i], size);
    if (grown) continue;
    if (!growth_failed) {
      log.log(LogLevel::warning, "journal_not_enlarged",
              {{"file", files[i].name}, {"size", size}, {"error", grown.error().message}});
    }
    growth_failed = true;
    // What a failed sync leaves of a file is not known: what is live moves on at once.
    if (current().bad) (void)make_room();
    return false;
  }
  const bool reached = std::exchange(growth_failed, false) || size >= wanted_size();
  if (reached && smallest_file() > before) log.log(LogLevel::notice, "journal_enlarged", {{"size", size}});
  return true;
}

bool Store::Impl::grow_some() {
  const std::uint64_t target = wanted_size();
  if (growth_failed || failed() || smallest_file() >= target) return false;
  // In turns, so that what was written so far is of use whenever it ends.
  grow_to(std::min(smallest_file() + limits::journal_zero, target));
  return !growth_failed && smallest_file() < target;
}

Result<> Store::Impl::find_space(Room room, std::span<const SlotKey> replaced) {
  const std::uint64_t now = smallest_file();
  const std::uint64_t wanted = needed(room);
  if (now < options.max_size && !std::exchange(growth_tried, true)) {
    // In steps, so that a series of commits does not pay for each.
    const std::uint64_t step =
        std::clamp<std::uint64_t>(now / 8 / block * block, block, limits::journal_zero);
    if (grow_to(std::min(round_up(wanted, step), options.max_size))) {
      growth_tried = false;
      return {};
    }
    if (failed()) return std::unexpected(Error{Errc::io, 0, "journal: no file can be used"});
    if (smallest_file() > now) return {};
  }
  return give_up_retained(room, replaced);
}

/// The oldest first, and none if all of them would not be enough.
Result<> Store::Impl::give_up_retained(Room room, std::span<const SlotKey> replaced) {
  const auto full = std::unexpected(Error{Errc::no_space, 0, "journal: full"});
  if (index.retained() == 0) return full;
  std::vector<std::pair<SlotKey, Live>> oldest;
  for (const auto& [key, live] : index.slots()) {
    if (live.retained && std::find(replaced.begin(), replaced.end(), key) == replaced.end())
      oldest.emplace_back(key, live);
  }
  std::sort(oldest.begin(), oldest.end(),
            [](const auto& a, const auto& b) { return a.second.sequence < b.second.sequence; });
  std::size_t count = 0;
  for (; needed(room) > smallest_file() && count < oldest.size(); ++count) {
    room.live -= Index::copy_bytes(oldest[count].second.value_size);
    --room.entries;
  }
  if (needed(room) > smallest_file()) return full;
  Batch ended;
  for (std::size_t i = 0; i < count; ++i) {
    Record record;
    record.type = RecordType::released;
    record.owner = oldest[i].first.owner;
    record.slot = oldest[i].first.slot;
    record.sequence = oldest[i].second.sequence;
    ended.add(record, {});
  }
  if (write_position + ended.disk_bytes() + removal_room(index.entries()) > current().size) {
    if (auto switched = make_room(); !switched) return switched;
  }
  if (auto written = write_and_sync(ended); !written) {
    if (auto switched = make_room(); !switched) return switched;
    return written;
  }
  for (const Record& record : ended.records()) index.apply(record, std::array<std::uint32_t, 3>{});
  stats.retained_given_up += count;
  log.log(LogLevel::warning, "journal_retained_given_up",
          {{"entries", count}, {"oldest", oldest[0].second.sequence}});
  return {};
}

}  // namespace guard::journal
