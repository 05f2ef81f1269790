// Bytes of headers and records.
#include "journal/format.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace guard::journal {
namespace {

Record sample(std::uint8_t known) {
  Record r;
  r.type = RecordType::removed;
  r.owner.vm.bytes[3] = 7;
  r.owner.device = Device::uefi;
  r.slot = Slot::nvram;
  r.flags = 0x81;
  r.retained = r.suspect = r.alert = r.copied = r.resumed = true;
  r.sequence = 0x0102030405060708;
  r.wall_ms = -5;
  r.vtpm.bytes[15] = 9;
  r.digest = {11, 12};
  r.known_count = known;
  for (std::uint8_t i = 0; i < known; ++i) r.known[i] = {i, 100u + i};
  r.batch_start = 5 * block;
  r.position = 5 * block + 80;
  r.batch_length = 1000;
  return r;
}

std::vector<std::byte> bytes_of(const Record& r, std::uint64_t salt) {
  std::vector<std::byte> bytes(r.header_size());
  encode(r, salt, bytes.data());
  return bytes;
}

TEST(RecordFormat, EveryFieldComesBack) {
  for (const std::uint8_t known : std::initializer_list<std::uint8_t>{0, 1, 16}) {
    const Record r = sample(known);
    const auto bytes = bytes_of(r, 42);
    ASSERT_EQ(bytes.size(), 104u + 16u * known);
    const auto back = decode_record(bytes, r.position, 42);
    ASSERT_TRUE(back);
    EXPECT_EQ(back->type, r.type);
    EXPECT_EQ(back->owner, r.owner);
    EXPECT_EQ(back->slot, r.slot);
    EXPECT_EQ(back->flags, r.flags);
    EXPECT_TRUE(back->retained && back->suspect && back->alert && back->copied && back->resumed);
    EXPECT_EQ(back->sequence, r.sequence);
    EXPECT_EQ(back->wall_ms, r.wall_ms);
    EXPECT_EQ(back->vtpm, r.vtpm);
    EXPECT_EQ(back->digest, r.digest);
    EXPECT_EQ(back->known_count, known);
    EXPECT_TRUE(std::equal(r.known.begin(), r.known.begin() + known, back->known.begin()));
    EXPECT_EQ(back->batch_start, r.batch_start);
    EXPECT_EQ(back->batch_length, r.batch_length);
    EXPECT_EQ(back->position, r.position);
  }
}

TEST(RecordFormat, TheLayoutIsTheDocumentedOne) {
  const auto bytes = bytes_of(sample(1), 42);
  const auto number = [&]<class T>(std::size_t at, T) {
    T value;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
  };
  EXPECT_EQ(number(0, std::uint64_t{}), 0xA7C35D1E94E26B8Fu);
  EXPECT_EQ(number(16, std::uint32_t{}), 0u);
  EXPECT_EQ(number(20, std::uint8_t{}), 4u);
  EXPECT_EQ(number(21, std::uint8_t{}), 1u);
  EXPECT_EQ(number(22, std::uint8_t{}), 3u);
  EXPECT_EQ(number(23, std::uint8_t{}), 0x81u);
  EXPECT_EQ(number(24, std::uint8_t{}), 31u);
  EXPECT_EQ(number(25, std::uint8_t{}), 1u);
  EXPECT_EQ(number(28, std::uint32_t{}), (5 * 4096 + 80) / 8u);
  EXPECT_EQ(number(32, std::uint32_t{}), 5u);
  EXPECT_EQ(number(36, std::uint32_t{}), 125u);
  EXPECT_EQ(number(40, std::uint64_t{}), 0x0102030405060708u);
  EXPECT_EQ(number(48, std::int64_t{}), -5);
  EXPECT_EQ(number(56 + 3, std::uint8_t{}), 7u);
  EXPECT_EQ(number(72 + 15, std::uint8_t{}), 9u);
  EXPECT_EQ(number(88, std::uint64_t{}), 11u);
  EXPECT_EQ(number(112, std::uint64_t{}), 100u);
}

TEST(RecordFormat, AnotherSaltPlaceOrBitIsNoRecord) {
  const Record r = sample(2);
  const auto bytes = bytes_of(r, 42);
  EXPECT_FALSE(decode_record(bytes, r.position, 43));
  EXPECT_FALSE(decode_record(bytes, r.position + 8, 42));
  EXPECT_FALSE(decode_record(std::span(bytes).first(bytes.size() - 1), r.position, 42));
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    auto bad = bytes;
    bad[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    EXPECT_FALSE(decode_record(bad, r.position, 42)) << "bit " << bit;
  }
}

TEST(RecordFormat, NoiseIsNoRecordAndIsNotReadBeyondItsEnd) {
  std::mt19937_64 random(5);
  const auto valid = bytes_of(sample(16), 42);
  for (int i = 0; i < 20'000; ++i) {
    std::vector<std::byte> noise(1 + random() % 400);
    for (auto& byte : noise) byte = static_cast<std::byte>(random());
    std::memcpy(noise.data(), valid.data(), std::min(noise.size(), static_cast<std::size_t>(random() % 105)));
    EXPECT_FALSE(decode_record(noise, sample(16).position, 42));
  }
}

TEST(RecordFormat, TheMagicIsFoundOnEightByteBoundariesOnly) {
  const auto record = bytes_of(sample(0), 1);
  std::vector<std::byte> bytes(4096);
  EXPECT_EQ(find_magic(bytes, 0), 4096u);
  std::copy(record.begin(), record.end(), bytes.begin() + 804);
  EXPECT_EQ(find_magic(bytes, 0), 4096u);
  std::copy(record.begin(), record.end(), bytes.begin() + 1600);
  EXPECT_EQ(find_magic(bytes, 0), 1600u);
  EXPECT_EQ(find_magic(bytes, 1600), 1600u);
  EXPECT_EQ(find_magic(bytes, 1608), 4096u);
}

TEST(FileHeaderFormat, ComesBackAndAnyOtherBitIsNone) {
  const FileHeader header{3, 0xDEADBEEF, 77, 25 * block};
  const auto bytes = encode(header);
  const auto back = decode_file_header(bytes);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->generation, 3u);
  EXPECT_EQ(back->salt, 0xDEADBEEFu);
  EXPECT_EQ(back->highest_sequence, 77u);
  EXPECT_EQ(back->size, 25 * block);
  EXPECT_FALSE(decode_file_header(encode({3, 0xDEADBEEF, 77, 25 * block + 1})));
  EXPECT_FALSE(decode_file_header(encode({3, 0xDEADBEEF, 77, block})));
  EXPECT_FALSE(decode_file_header(std::span(bytes).first(100)));
  for (std::size_t bit = 0; bit < bytes.size() * 8; bit += bit < 400 ? 1 : 37) {
    auto bad = bytes;
    bad[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    EXPECT_FALSE(decode_file_header(bad)) << "bit " << bit;
  }
}

TEST(Contents, AreUnpackedAsPacked) {
  const std::array values{Value("perm"), Value(), Value(std::string(1000, 'v'))};
  const Value packed = pack_contents(values);
  const auto back = unpack_contents(packed.view());
  ASSERT_TRUE(back);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ((*back)[i], values[i].view());
  for (std::size_t size = 0; size < packed.size(); ++size) {
    EXPECT_FALSE(unpack_contents(packed.view().substr(0, size))) << size;
  }
  EXPECT_FALSE(unpack_contents(std::string(packed.view()) + "x"));
}

}  // namespace
}  // namespace guard::journal
