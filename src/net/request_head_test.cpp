#include "net/request_head.h"

#include <gtest/gtest.h>

#include <string>

namespace guard::net {
namespace {

using Status = RequestHead::Status;
using Framing = RequestHead::Framing;

constexpr std::size_t max_header = 8192;

/// Shows `text` in two pieces as a connection would: what was not consumed is shown again.
Status put_in_two(RequestHead& head, std::string_view text, std::size_t first,
                  std::size_t* consumed = nullptr) {
  head.reset();
  auto progress = head.put(text.substr(0, first));
  std::size_t at = progress.consumed;
  if (progress.status == Status::more) {
    progress = head.put(text.substr(at));
    at += progress.consumed;
  }
  if (consumed != nullptr) *consumed = at;
  return progress.status;
}

/// The same outcome for every split into two, except that what is malformed may be noticed only later.
Status parse(RequestHead& head, std::string_view text) {
  const Status whole = put_in_two(head, text, text.size());
  for (std::size_t first = 1; first < text.size(); ++first) {
    const Status split = put_in_two(head, text, first);
    EXPECT_TRUE(split == whole || (whole == Status::malformed && split == Status::more))
        << text << " split at " << first;
  }
  put_in_two(head, text, text.size());
  return whole;
}

TEST(RequestHead, FindsMethodPathAndLength) {
  RequestHead head(max_header);
  std::size_t consumed = 0;
  const std::string text =
      "PUT /tpm2-00.permall HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nContent-Length: 16\r\n\r\n";
  for (std::size_t first = 1; first < text.size(); ++first) {
    ASSERT_EQ(put_in_two(head, text + "body", first, &consumed), Status::complete) << first;
    EXPECT_EQ(consumed, text.size());
    EXPECT_EQ(head.found().method, "PUT");
    EXPECT_EQ(head.found().path, "/tpm2-00.permall");
    EXPECT_EQ(head.found().framing, Framing::length);
    EXPECT_EQ(head.found().length, 16u);
    EXPECT_FALSE(head.found().close);
    EXPECT_FALSE(head.found().expects_continue);
  }
}

TEST(RequestHead, TellsNoLengthFromLengthZeroAndChunked) {
  RequestHead head(max_header);
  ASSERT_EQ(parse(head, "PUT / HTTP/1.1\r\n\r\n"), Status::complete);
  EXPECT_EQ(head.found().framing, Framing::none);
  ASSERT_EQ(parse(head, "PUT / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"), Status::complete);
  EXPECT_EQ(head.found().framing, Framing::length);
  EXPECT_EQ(head.found().length, 0u);
  ASSERT_EQ(parse(head, "PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n"), Status::complete);
  EXPECT_EQ(head.found().framing, Framing::chunked);
}

TEST(RequestHead, ClosesAfterOldVersionsAndWhenToldSo) {
  RequestHead head(max_header);
  for (const std::string text :
       {"GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "GET / HTTP/1.1\r\nConnection: close\r\n\r\n", "GET / HTTP/1.1\r\nConnection: Close\r\n\r\n",
        "GET / HTTP/1.1\r\nConnection: TE, close\r\n\r\n"}) {
    ASSERT_EQ(parse(head, text), Status::complete) << text;
    EXPECT_TRUE(head.found().close) << text;
  }
  for (const std::string text : {"GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n",
                                 "GET / HTTP/1.1\r\nConnection: closed\r\n\r\n"}) {
    ASSERT_EQ(parse(head, text), Status::complete) << text;
    EXPECT_FALSE(head.found().close) << text;
  }
}

TEST(RequestHead, HeedsExpectOnlyFromClientsThatKnowIt) {
  RequestHead head(max_header);
  ASSERT_EQ(parse(head, "PUT / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n"),
            Status::complete);
  EXPECT_TRUE(head.found().expects_continue);
  ASSERT_EQ(parse(head, "PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"),
            Status::complete);
  EXPECT_FALSE(head.found().expects_continue);
  ASSERT_EQ(parse(head, "PUT / HTTP/1.1\r\nExpect: miracles\r\nContent-Length: 1\r\n\r\n"), Status::complete);
  EXPECT_FALSE(head.found().expects_continue);
}

TEST(RequestHead, RefusesAnyDoubtAboutTheLengthOfTheBody) {
  RequestHead head(max_header);
  for (const std::string fields : {"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                                   "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                                   "Content-Length: 5\r\nContent-Length: 6\r\n",
                                   "Content-Length: 5, 6\r\n",
                                   "Content-Length: -1\r\n",
                                   "Content-Length: +5\r\n",
                                   "Content-Length: 0x5\r\n",
                                   "Content-Length: 5 5\r\n",
                                   "Content-Length: five\r\n",
                                   "Content-Length:\r\n",
                                   "Content-Length: 99999999999999999999999\r\n",
                                   "Transfer-Encoding: gzip\r\n",
                                   "Transfer-Encoding: gzip, chunked\r\n",
                                   "Transfer-Encoding: chunked, gzip\r\n",
                                   "Transfer-Encoding: identity\r\n",
                                   "Transfer-Encoding: xchunked\r\n",
                                   "Transfer-Encoding:\r\n",
                                   "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                                   "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
                                   "Content-Length : 5\r\n",
                                   " Content-Length: 5\r\n",
                                   "Transfer-Encoding : chunked\r\n",
                                   "Transfer-Encoding: \vchunked\r\n"}) {
    EXPECT_EQ(parse(head, "PUT / HTTP/1.1\r\n" + fields + "\r\n"), Status::malformed) << fields;
  }
  EXPECT_EQ(parse(head, "PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Status::malformed);
}

TEST(RequestHead, TakesALengthThatIsSaidTwiceAlike) {
  RequestHead head(max_header);
  ASSERT_EQ(parse(head, "PUT / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"),
            Status::complete);
  EXPECT_EQ(head.found().length, 5u);
}

TEST(RequestHead, RefusesWhatIsNotHttp) {
  RequestHead head(max_header);
  using namespace std::string_literals;
  for (const std::string& text :
       {"\r\n\r\n"s, "GET\r\n\r\n"s, "GET /\r\n\r\n"s, "GET / HTTP/2.0\r\n\r\n"s, "GET / HTTP/1.2\r\n\r\n"s,
        "GET / HTTP/0.9\r\n\r\n"s, "GET / http/1.1\r\n\r\n"s, "GET / HTTP/1.1\n\n"s,
        "GET / HTTP/1.1\nHost: x\n\n"s, "GET / HTTP/1.1\r\nHost: x\n\r\n"s, "GET / HTTP/1.1\r\nHost\r\n\r\n"s,
        "GET / HTTP/1.1\r\nA: \0\r\n\r\n"s, "GET / HTTP/1.1\r\nA: a\rb\r\n\r\n"s, "G@T / HTTP/1.1\r\n\r\n"s,
        "GET /a b HTTP/1.1\r\n\r\n"s, "GET /\x01 HTTP/1.1\r\n\r\n"s, "GET  / HTTP/1.1\r\n\r\n"s,
        "\x16\x03\x01\x02\x00\x01"s}) {
    EXPECT_EQ(parse(head, text), Status::malformed) << text;
  }
}

TEST(RequestHead, TakesHeadsUpToTheLimitHoweverTheyArrive) {
  const auto with_size = [](std::size_t size) {
    std::string text = "GET / HTTP/1.1\r\n";
    while (text.size() + 2 < size) {
      // Several fields, each well below the limit, and the last one exactly as long as is left.
      const std::size_t left = size - 2 - text.size();
      const std::size_t field = left > 1200 ? 1000 : left;
      text += "A: " + std::string(field - 5, 'a') + "\r\n";
    }
    return text + "\r\n";
  };
  ASSERT_EQ(with_size(max_header).size(), max_header);
  for (const std::size_t piece : {1u, 7u, 500u, 5000u, 20000u}) {
    for (const auto& [size, expected] :
         {std::pair(max_header, Status::complete), std::pair(max_header + 1, Status::malformed)}) {
      RequestHead head(max_header);
      const std::string text = with_size(size);
      std::size_t at = 0;
      Status status = Status::more;
      for (std::size_t shown = 0; shown < text.size() && status == Status::more;) {
        shown = std::min(text.size(), shown + piece);
        const auto progress = head.put(std::string_view(text).substr(at, shown - at));
        at += progress.consumed;
        status = progress.status;
      }
      EXPECT_EQ(status, expected) << size << " in pieces of " << piece;
    }
  }
}

TEST(RequestHead, AHeadWithoutEndIsRefusedAtTheLimit) {
  RequestHead head(max_header);
  std::string pending = "GET / HTTP/1.1\r\n";
  std::size_t shown = pending.size();
  Status status = Status::more;
  while (status == Status::more) {
    const auto progress = head.put(pending);
    pending.erase(0, progress.consumed);
    status = progress.status;
    pending += "A: b\r\n";
    shown += 6;
    ASSERT_LE(shown, max_header + 12);
  }
  EXPECT_EQ(status, Status::malformed);
}

TEST(RequestHead, IsAsNewAfterReset) {
  RequestHead head(max_header);
  EXPECT_EQ(head.put("PUT /long HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnec").status,
            Status::more);
  head.reset();
  ASSERT_EQ(head.put("GET / HTTP/1.1\r\n\r\n").status, Status::complete);
  EXPECT_EQ(head.found().method, "GET");
  EXPECT_EQ(head.found().framing, Framing::none);
  EXPECT_FALSE(head.found().expects_continue);
}

TEST(RequestPath, IsThePathComponentPercentDecoded) {
  EXPECT_EQ(path_of_target("/tpm2-00.permall"), "/tpm2-00.permall");
  EXPECT_EQ(path_of_target("/tpm2-00.permall?x=/y#z"), "/tpm2-00.permall");
  EXPECT_EQ(path_of_target("/tpm2-00.permall#z?x"), "/tpm2-00.permall");
  EXPECT_EQ(path_of_target("/tpm2%2D00%2epermall"), "/tpm2-00.permall");
  EXPECT_EQ(path_of_target("/%41%4"), "/A%4");
  EXPECT_EQ(path_of_target("/%zz%"), "/%zz%");
  EXPECT_EQ(path_of_target("/%41%2541"), "/A%41") << "decoded once, not twice";
  EXPECT_EQ(path_of_target("//tpm2-00.permall"), "//tpm2-00.permall");
  EXPECT_EQ(path_of_target("http://host:1/tpm2-00.permall?q"), "/tpm2-00.permall");
  EXPECT_EQ(path_of_target("http://host"), "/");
  EXPECT_EQ(path_of_target("http://host?x=/y"), "/");
  EXPECT_EQ(path_of_target("*"), "*");
}

}  // namespace
}  // namespace guard::net
