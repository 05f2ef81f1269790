#include "journal/format.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>

namespace guard::journal {

namespace {

static_assert(std::endian::native == std::endian::little, "fields are copied as they are");

constexpr std::uint64_t header_magic = 0x4C4E524A44524147;  // "GARDJRNL"
constexpr std::uint64_t record_magic = 0xA7C35D1E94E26B8F;  // no text, no base64
constexpr std::uint32_t format_version = 1;

// Offsets; docs/JOURNAL_FORMAT.md, "Header" and "Record".
namespace file_at {
constexpr std::size_t magic = 0, version = 8, block_size = 12, generation = 16, salt = 24, highest = 32,
                      size = 40;
constexpr std::size_t checksum = block - 8;
}  // namespace file_at

namespace at {
constexpr std::size_t magic = 0, checksum = 8, payload_size = 16, type = 20, device = 21, slot = 22,
                      flags = 23, marks = 24, known_count = 25, position = 28, batch_start = 32,
                      batch_length = 36, sequence = 40, wall_ms = 48, vm = 56, vtpm = 72, digest = 88,
                      known = 104;
}  // namespace at
static_assert(at::known == record_header);

namespace mark {
constexpr std::uint8_t retained = 1, suspect = 2, alert = 4, copied = 8, resumed = 16, all = 31;
}  // namespace mark

template <class T>
void put(std::byte* out, std::size_t offset, const T& value) {
  std::memcpy(out + offset, &value, sizeof value);
}

template <class T>
T get(const std::byte* in, std::size_t offset) {
  T value;
  std::memcpy(&value, in + offset, sizeof value);
  return value;
}

std::uint64_t record_checksum(const std::byte* header, std::size_t size, std::uint64_t salt) {
  return XXH3_64bits_withSeed(header + at::payload_size, size - at::payload_size, salt);
}

/// What the numbers of a record with a good checksum must obey; a violation means that we wrote nonsense.
bool plausible(const Record& r) {
  if (r.payload_size > limits::journal_payload) return false;
  if (!r.is_entry() && r.payload_size != 0) return false;
  return r.batch_start >= data_start && r.position >= r.batch_start &&
         r.position + r.padded_size() <= r.batch_end();
}

}  // namespace

std::array<std::byte, block> encode(const FileHeader& header) {
  std::array<std::byte, block> bytes{};
  put(bytes.data(), file_at::magic, header_magic);
  put(bytes.data(), file_at::version, format_version);
  put(bytes.data(), file_at::block_size, static_cast<std::uint32_t>(block));
  put(bytes.data(), file_at::generation, header.generation);
  put(bytes.data(), file_at::salt, header.salt);
  put(bytes.data(), file_at::highest, header.highest_sequence);
  put(bytes.data(), file_at::size, header.size);
  put(bytes.data(), file_at::checksum,
      static_cast<std::uint64_t>(XXH3_64bits(bytes.data(), file_at::checksum)));
  return bytes;
}

std::optional<FileHeader> decode_file_header(std::span<const std::byte> bytes) {
  if (bytes.size() < block) return std::nullopt;
  const std::byte* in = bytes.data();
  if (get<std::uint64_t>(in, file_at::magic) != header_magic) return std::nullopt;
  if (get<std::uint64_t>(in, file_at::checksum) != XXH3_64bits(in, file_at::checksum)) return std::nullopt;
  if (get<std::uint32_t>(in, file_at::version) != format_version) return std::nullopt;
  if (get<std::uint32_t>(in, file_at::block_size) != block) return std::nullopt;
  FileHeader header;
  header.generation = get<std::uint64_t>(in, file_at::generation);
  header.salt = get<std::uint64_t>(in, file_at::salt);
  header.highest_sequence = get<std::uint64_t>(in, file_at::highest);
  header.size = get<std::uint64_t>(in, file_at::size);
  if (header.size < data_start || header.size % block != 0) return std::nullopt;
  return header;
}

void encode(const Record& record, std::uint64_t salt, std::byte* out) {
  assert(plausible(record));
  const std::size_t size = record.header_size();
  std::memset(out, 0, record_header);
  put(out, at::magic, record_magic);
  put(out, at::payload_size, record.payload_size);
  put(out, at::type, record.type);
  put(out, at::device, record.owner.device);
  put(out, at::slot, record.slot);
  put(out, at::flags, record.flags);
  const int marks = (record.retained ? mark::retained : 0) | (record.suspect ? mark::suspect : 0) |
                    (record.alert ? mark::alert : 0) | (record.copied ? mark::copied : 0) |
                    (record.resumed ? mark::resumed : 0);
  put(out, at::marks, static_cast<std::uint8_t>(marks));
  put(out, at::known_count, record.known_count);
  put(out, at::position, static_cast<std::uint32_t>(record.position / 8));
  put(out, at::batch_start, static_cast<std::uint32_t>(record.batch_start / block));
  put(out, at::batch_length, static_cast<std::uint32_t>(record.batch_length / 8));
  put(out, at::sequence, record.sequence);
  put(out, at::wall_ms, record.wall_ms);
  put(out, at::vm, record.owner.vm.bytes);
  put(out, at::vtpm, record.vtpm.bytes);
  put(out, at::digest, record.digest);
  if (record.known_count != 0) std::memcpy(out + at::known, record.known.data(), size - record_header);
  put(out, at::checksum, record_checksum(out, size, salt));
}

std::optional<Record> decode_record(std::span<const std::byte> bytes, std::uint64_t position,
                                    std::uint64_t salt) {
  if (bytes.size() < record_header) return std::nullopt;
  const std::byte* in = bytes.data();
  if (get<std::uint64_t>(in, at::magic) != record_magic) return std::nullopt;
  if (get<std::uint32_t>(in, at::position) != position / 8) return std::nullopt;
  const auto known_count = get<std::uint8_t>(in, at::known_count);
  if (known_count > limits::known_digests) return std::nullopt;
  const std::size_t size = record_header + known_count * sizeof(Digest);
  if (bytes.size() < size || get<std::uint64_t>(in, at::checksum) != record_checksum(in, size, salt)) {
    return std::nullopt;
  }
  const auto type = get<std::uint8_t>(in, at::type);
  const auto device = get<std::uint8_t>(in, at::device);
  const auto slot = get<std::uint8_t>(in, at::slot);
  const auto marks = get<std::uint8_t>(in, at::marks);
  const bool named = type >= static_cast<std::uint8_t>(RecordType::write) &&
                     type <= static_cast<std::uint8_t>(RecordType::complete) && device <= 1 &&
                     slot < slot_count;
  if (!named || (marks & ~mark::all) != 0) return std::nullopt;

  Record r;
  r.type = static_cast<RecordType>(type);
  r.owner.device = static_cast<Device>(device);
  r.owner.vm.bytes = get<std::array<std::uint8_t, 16>>(in, at::vm);
  r.slot = static_cast<Slot>(slot);
  r.flags = get<std::uint8_t>(in, at::flags);
  r.retained = (marks & mark::retained) != 0;
  r.suspect = (marks & mark::suspect) != 0;
  r.alert = (marks & mark::alert) != 0;
  r.copied = (marks & mark::copied) != 0;
  r.resumed = (marks & mark::resumed) != 0;
  r.sequence = get<std::uint64_t>(in, at::sequence);
  r.wall_ms = get<std::int64_t>(in, at::wall_ms);
  r.vtpm.bytes = get<std::array<std::uint8_t, 16>>(in, at::vtpm);
  r.digest = get<Digest>(in, at::digest);
  r.payload_size = get<std::uint32_t>(in, at::payload_size);
  r.known_count = known_count;
  if (known_count != 0) std::memcpy(r.known.data(), in + at::known, size - record_header);
  r.position = position;
  r.batch_start = get<std::uint32_t>(in, at::batch_start) * block;
  r.batch_length = std::uint64_t{get<std::uint32_t>(in, at::batch_length)} * 8;
  if (!plausible(r)) return std::nullopt;
  return r;
}

std::size_t find_magic(std::span<const std::byte> bytes, std::size_t from) {
  const std::size_t end = bytes.size() / 8 * 8;
  while (from < end && get<std::uint64_t>(bytes.data(), from) != record_magic) from += 8;
  return std::min(from, end);
}

bool all_zero(std::span<const std::byte> bytes) {
  return bytes.empty() ||
         (bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

Value pack_contents(const std::array<Value, 3>& values) {
  std::string packed;
  packed.reserve(12 + values[0].size() + values[1].size() + values[2].size());
  for (const auto& value : values) {
    const auto size = static_cast<std::uint32_t>(value.size());
    packed.append(reinterpret_cast<const char*>(&size), sizeof size);
    packed.append(value.view());
  }
  return Value(std::move(packed));
}

std::optional<std::array<std::string_view, 3>> unpack_contents(std::string_view packed) {
  std::array<std::string_view, 3> values;
  for (auto& value : values) {
    std::uint32_t size = 0;
    if (packed.size() < sizeof size) return std::nullopt;
    std::memcpy(&size, packed.data(), sizeof size);
    packed.remove_prefix(sizeof size);
    if (packed.size() < size) return std::nullopt;
    value = packed.substr(0, size);
    packed.remove_prefix(size);
  }
  if (!packed.empty()) return std::nullopt;
  return values;
}

}  // namespace guard::journal
