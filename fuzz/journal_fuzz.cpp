// The journal reader: whatever stands in the two files, opening them does not crash; what is found can be
// read back; the journal takes a write; and after a power cut the same is found again, without damage.
//
// The input is a program that writes the files, because checksums would stop a plain mutation at the first
// record: its instructions are headers, records (each field from the input, the checksum right unless a bit
// says otherwise) and raw bytes.
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <source_location>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"
#include "journal/format.h"
#include "journal/journal.h"
#include "testing/sim_disk.h"

using namespace guard;
using namespace guard::journal;

namespace {

constexpr std::size_t file_blocks = 16;

void require(bool condition, std::source_location where = std::source_location::current()) {
  if (condition) return;
  std::fprintf(stderr, "not so: %s:%u\n", where.file_name(), where.line());
  std::abort();
}

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(data, data + size) {}
  bool empty() const { return at_ >= rest_.size(); }
  std::uint8_t byte() { return empty() ? 0 : rest_[at_++]; }
  std::uint16_t word() { return static_cast<std::uint16_t>(byte() | byte() << 8); }
  std::string bytes(std::size_t count) {
    std::string text;
    while (text.size() < count) text += static_cast<char>(byte());
    return text;
  }

 private:
  std::vector<std::uint8_t> rest_;
  std::size_t at_ = 0;
};

/// One file being made.
struct Image {
  std::vector<std::byte> bytes = std::vector<std::byte>(file_blocks * block);
  std::uint64_t salt = 1;
  std::uint64_t position = data_start;
  std::uint64_t batch_start = data_start;

  void put(std::uint64_t at, std::string_view text) {
    if (at >= bytes.size()) return;
    std::memcpy(bytes.data() + at, text.data(), std::min<std::size_t>(text.size(), bytes.size() - at));
  }
};

void add_header(Image& image, Input& in) {
  const std::uint8_t which = in.byte();
  image.salt = which >> 4;
  FileHeader header{in.byte(), image.salt, in.byte(),
                    (which & 4) != 0 ? in.byte() * block : image.bytes.size()};
  const auto encoded = encode(header);
  for (std::uint64_t i = 0; i < 2; ++i) {
    if ((which & (1u << i)) != 0) image.put(i * block, as_text(encoded));
  }
}

/// Bits of the first byte: 1 = a new batch begins, 2 = the batch goes on after this, 4 = any place, 8 = the
/// payload's digest is wrong, 16 = the checksum is.
void add_record(Image& image, Input& in) {
  const std::uint8_t how = in.byte();
  if ((how & 1) != 0) image.batch_start = image.position = round_up(image.position, block);
  if ((how & 4) != 0) image.position = in.word() / 8 * 8;
  std::string header(record_header, '\0');
  const auto set = [&header](std::size_t at, auto value) {
    std::memcpy(header.data() + at, &value, sizeof value);
  };
  const std::uint8_t type = in.byte();
  const std::uint8_t place = in.byte();
  const std::uint8_t known = in.byte() % 18;
  std::string payload;
  if ((type & 7) <= 3) payload = in.bytes(in.byte() * ((type & 8) != 0 ? 16u : 1u));
  if ((type & 0x17) == 2 && payload.size() > 12) {  // of contents: make the sizes right
    const auto third = static_cast<std::uint32_t>((payload.size() - 12) / 3);
    const auto last = static_cast<std::uint32_t>(payload.size() - 12 - 2 * third);
    std::memcpy(payload.data(), &third, 4);
    std::memcpy(payload.data() + 4 + third, &third, 4);
    std::memcpy(payload.data() + 8 + 2 * third, &last, 4);
  }
  const std::uint64_t size = round_up(header.size() + known * sizeof(Digest) + payload.size(), 8);
  const std::uint64_t more = (how & 2) != 0 ? in.word() / 8 * 8 : 0;
  set(0, std::uint64_t{0xA7C35D1E94E26B8F});
  set(16, static_cast<std::uint32_t>(payload.size()));
  set(20, static_cast<std::uint8_t>(type & 7));
  set(21, static_cast<std::uint8_t>(place >> 7));
  set(22, static_cast<std::uint8_t>(place & 3));
  const std::uint8_t marks = in.byte();
  set(24, marks);
  set(25, known);
  set(28, static_cast<std::uint32_t>(image.position / 8));
  set(32, static_cast<std::uint32_t>(image.batch_start / block));
  set(36, static_cast<std::uint32_t>((image.position + size + more - image.batch_start) / 8));
  // The journal gives no sequence to two entries. Here alerts have the odd ones.
  const std::uint64_t odd = (type & 7) == 3 || ((type & 7) >= 4 && (marks & 4) != 0) ? 1 : 0;
  const std::uint64_t half = (type & 0x40) != 0 ? ~std::uint64_t{0} / 4 - in.byte() : in.byte() + 1;
  set(40, 2 * half + odd);
  set(56, static_cast<std::uint8_t>(place >> 2 & 3));
  Digest digest = digest_of(payload);
  if ((how & 8) != 0) ++digest.low;
  set(88, digest);
  header += in.bytes(known * sizeof(Digest) % 64);
  header.resize(record_header + known * sizeof(Digest));
  std::uint64_t checksum = XXH3_64bits_withSeed(header.data() + 16, header.size() - 16, image.salt);
  if ((how & 16) != 0) ++checksum;
  set(8, checksum);
  image.put(image.position, header + payload);
  image.position += size;
}

std::unique_ptr<testing::SimDisk> disk_of(Input& in) {
  std::array<Image, 2> images;
  while (!in.empty()) {
    const std::uint8_t instruction = in.byte();
    Image& image = images[instruction & 1];
    switch (instruction >> 1 & 3) {
      case 0:
        add_header(image, in);
        break;
      case 1:
      case 2:
        add_record(image, in);
        break;
      case 3:
        const std::uint16_t at = in.word();
        image.put(at, in.bytes(in.byte() % 32));
        break;
    }
  }
  auto disk = std::make_unique<testing::SimDisk>(1);
  const auto dir = disk->root();
  for (std::size_t i = 0; i < 2; ++i) {
    const auto file = dir->open_file(i == 0 ? "a" : "b", Directory::Mode::create_new);
    const std::span<const std::byte> part = images[i].bytes;
    require(file && (*file)->write_at(0, {&part, 1}) && (*file)->sync_all());
  }
  require(dir->sync().has_value());
  return disk;
}

Result<std::unique_ptr<Store>> open(testing::SimDisk& disk, std::uint64_t salt) {
  Options options;
  options.size = file_blocks * block;
  options.max_size = 2 * options.size;
  return Store::open(
      disk.root(), options, [salt]() mutable { return salt += 0x9E3779B97F4A7C15; }, null_logger());
}

bool same(const LiveEntry& a, const LiveEntry& b) {
  return a.owner == b.owner && a.slot == b.slot && a.sequence == b.sequence && a.digest == b.digest &&
         a.size == b.size && a.retained == b.retained && a.suspect == b.suspect;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, std::min<std::size_t>(size, 4096));
  const auto disk = disk_of(in);
  auto opened = open(*disk, 100);
  if (!opened) return 0;
  Store& store = **opened;
  const std::vector<LiveEntry> live = store.recovery().live;
  std::vector<Request> reads;
  for (const LiveEntry& entry : live) reads.emplace_back(ReadBack{entry.owner, entry.slot, entry.sequence});
  const auto values = store.run(reads);
  for (std::size_t i = 0; i < values.size(); ++i) {
    require(values[i].result.has_value() && digest_of(values[i].value.view()) == live[i].digest);
  }

  const auto left = disk->after_power_cut();
  auto again = open(*left, 200);
  require(again.has_value());
  const Recovery& second = (*again)->recovery();
  require(second.corrupt_records == 0 && second.live.size() == live.size());
  for (std::size_t i = 0; i < live.size(); ++i) require(same(live[i], second.live[i]));
  return 0;
}
