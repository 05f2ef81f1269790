#include "net/chunk_decoder.h"

#include <gtest/gtest.h>

#include <string>

#include "base/limits.h"

namespace guard::net {
namespace {

using Status = ChunkDecoder::Status;

struct Decoded {
  Status status;
  std::string body;
  std::size_t consumed;
};

/// Shows `first` and then the rest, as two receives would.
Decoded decode(std::string_view text, std::size_t first, std::size_t max_body = 100) {
  ChunkDecoder decoder;
  decoder.reset(max_body);
  std::string body;
  auto progress = decoder.put(text.substr(0, first), body);
  if (progress.status != Status::more) return {progress.status, body, progress.consumed};
  EXPECT_EQ(progress.consumed, first);
  progress = decoder.put(text.substr(first), body);
  return {progress.status, body, first + progress.consumed};
}

/// The same outcome for every split into two.
Decoded decode_split(std::string_view text, std::size_t max_body = 100) {
  const Decoded whole = decode(text, 0, max_body);
  for (std::size_t first = 1; first <= text.size(); ++first) {
    const Decoded split = decode(text, first, max_body);
    EXPECT_EQ(split.status, whole.status) << text << " split at " << first;
    EXPECT_EQ(split.body, whole.body) << text << " split at " << first;
    EXPECT_EQ(split.consumed, whole.consumed) << text << " split at " << first;
  }
  return whole;
}

TEST(ChunkDecoder, JoinsChunksAndStopsBehindTheLastByte) {
  const std::string_view text = "4\r\nWiki\r\n6\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\n\r\nGET /";
  const Decoded decoded = decode_split(text);
  EXPECT_EQ(decoded.status, Status::complete);
  EXPECT_EQ(decoded.body, "Wikipedia in \r\n\r\nchunks.");
  EXPECT_EQ(text.substr(decoded.consumed), "GET /");
}

TEST(ChunkDecoder, AnEmptyBodyMayComeByteByByte) {
  for (const std::string_view text : {"0\r\n\r\n", "000\r\n\r\n", "0;last\r\n\r\n"}) {
    EXPECT_EQ(decode_split(text).status, Status::complete);
    EXPECT_EQ(decode_split(text).body, "");
  }
}

TEST(ChunkDecoder, SkipsExtensionsAndTrailers) {
  const Decoded decoded = decode_split("3;name=\"v\";x\r\nabc\r\n0;y\r\nTrailer: 1\r\nOther: 2\r\n\r\n");
  EXPECT_EQ(decoded.status, Status::complete);
  EXPECT_EQ(decoded.body, "abc");
}

TEST(ChunkDecoder, TakesDigitsOfEitherCase) {
  EXPECT_EQ(decode("1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n", 0).status, Status::complete);
  EXPECT_EQ(decode("1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n", 0).status, Status::complete);
}

TEST(ChunkDecoder, RefusesWhatTwoReadersCouldReadDifferently) {
  for (const std::string_view text : {"\r\n",
                                      " 3\r\nabc\r\n",
                                      "3 \r\nabc\r\n",
                                      "-3\r\nabc\r\n",
                                      "+3\r\nabc\r\n",
                                      "0x3\r\nabc\r\n",
                                      "3\nabc\n",
                                      "3\rabc\r",
                                      "3\r\nabcd\r\n",
                                      "3\r\nab\r\nc",
                                      "3\r\nabc\n0\r\n\r\n",
                                      "3\r\nabc\r0\r\n\r\n",
                                      ";x\r\n",
                                      "3;a\nb\r\nabc\r\n",
                                      "10000000000000000\r\n",
                                      "00000000000000003\r\nabc\r\n",
                                      "g\r\n",
                                      "0\r\n\n",
                                      "0\r\nTrailer\n\r\n",
                                      "0\r\n\rx",
                                      "0\n\r\n"}) {
    EXPECT_EQ(decode_split(text).status, Status::malformed) << text;
  }
  using namespace std::string_view_literals;
  EXPECT_EQ(decode_split("3;\0\r\nabc\r\n"sv).status, Status::malformed);
  EXPECT_EQ(decode_split("0\r\nA: \0\r\n\r\n"sv).status, Status::malformed);
}

TEST(ChunkDecoder, CountsTheBodyBeforeItArrives) {
  EXPECT_EQ(decode_split("6\r\nabcdef\r\n4\r\nghij\r\n0\r\n\r\n", 10).status, Status::complete);
  EXPECT_EQ(decode_split("b\r\n", 10).status, Status::too_large);
  EXPECT_EQ(decode_split("6\r\nabcdef\r\n5\r\n", 10).status, Status::too_large);
  EXPECT_EQ(decode_split("ffffffffffffffff\r\n", 10).status, Status::too_large);
  EXPECT_EQ(decode_split("1\r\nx", 0).status, Status::too_large);
}

TEST(ChunkDecoder, BoundsExtensionsOfAllChunksTogetherAndTrailers) {
  const std::string extension = "1;" + std::string(limits::max_header / 2, 'e') + "\r\nx\r\n";
  EXPECT_EQ(decode(extension + "0\r\n\r\n", 0).status, Status::complete);
  EXPECT_EQ(decode(extension + extension + "0\r\n\r\n", 0).status, Status::complete);
  EXPECT_EQ(decode(extension + extension + extension + "0\r\n\r\n", 0).status, Status::malformed);
  EXPECT_EQ(decode("0\r\n" + std::string(limits::max_header, 't') + "\r\n\r\n", 0).status, Status::complete);
  EXPECT_EQ(decode("0\r\n" + std::string(limits::max_header + 1, 't') + "\r\n\r\n", 0).status,
            Status::malformed);
  std::string lines = "0\r\n";
  for (std::size_t i = 0; i <= limits::max_header / 2; ++i) lines += "t:\r\n";
  EXPECT_EQ(decode(lines + "\r\n", 0).status, Status::malformed);
}

TEST(ChunkDecoder, IsAsNewAfterReset) {
  ChunkDecoder decoder;
  std::string body;
  decoder.reset(10);
  EXPECT_EQ(decoder.put("5\r\nab", body).status, Status::more);
  decoder.reset(3);
  body.clear();
  EXPECT_EQ(decoder.put("3\r\nabc\r\n0\r\n\r\n", body).status, Status::complete);
  EXPECT_EQ(body, "abc");
}

}  // namespace
}  // namespace guard::net
