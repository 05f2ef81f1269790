#include "net/request_head.h"

#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>
#include <optional>

namespace guard::net {

namespace http = boost::beast::http;
using boost::beast::string_view;
using boost::system::error_code;

namespace {

std::string_view std_view(string_view text) { return {text.data(), text.size()}; }

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/// Beast's grammar with callbacks that keep only what is needed. It is never given bytes of a body: its own
/// reader of chunks asserts on some splits.
class HeadParser final : public http::basic_parser<true> {
 public:
  explicit HeadParser(RequestHead::Found& found, std::size_t max_header) : found_(found) {
    header_limit(static_cast<std::uint32_t>(max_header));
    body_limit(boost::none);
  }

 private:
  void on_request_impl(http::verb, string_view method, string_view target, int version,
                       error_code&) override {
    found_.method = std_view(method);
    found_.path = path_of_target(std_view(target));
    old_version_ = version < 11;
  }
  void on_field_impl(http::field name, string_view, string_view value, error_code& error) override {
    if (name == http::field::transfer_encoding) {
      // Any other coding, or one that Beast would ignore, leaves the length of the body to interpretation;
      // and HTTP/1.0 knows no codings at all.
      if (!boost::beast::iequals(value, "chunked") || old_version_)
        error = http::error::bad_transfer_encoding;
    } else if (name == http::field::expect) {
      found_.expects_continue = !old_version_ && boost::beast::iequals(value, "100-continue");
    }
  }
  void on_header_impl(error_code&) override {
    // No reply says `Connection: keep-alive`, without which HTTP/1.0 ends the connection.
    found_.close = old_version_ || !keep_alive();
    if (chunked()) {
      found_.framing = RequestHead::Framing::chunked;
    } else if (const auto length = content_length()) {
      found_.framing = RequestHead::Framing::length;
      found_.length = *length;
    }
  }
  void on_response_impl(int, string_view, int, error_code&) override {}
  void on_body_init_impl(const boost::optional<std::uint64_t>&, error_code&) override {}
  std::size_t on_body_impl(string_view, error_code&) override { return 0; }
  void on_chunk_header_impl(std::uint64_t, string_view, error_code&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, string_view, error_code&) override { return 0; }
  void on_finish_impl(error_code&) override {}

  RequestHead::Found& found_;
  bool old_version_ = false;
};

}  // namespace

struct RequestHead::Impl {
  explicit Impl(std::size_t max) : max_header(max) {}
  const std::size_t max_header;
  std::size_t seen = 0;  ///< bytes consumed
  Found found;
  std::optional<HeadParser> parser;
};

RequestHead::RequestHead(std::size_t max_header) : impl_(std::make_unique<Impl>(max_header)) { reset(); }
RequestHead::~RequestHead() = default;

void RequestHead::reset() {
  impl_->seen = 0;
  impl_->found = Found();
  impl_->parser.emplace(impl_->found, impl_->max_header);
}

RequestHead::Found& RequestHead::found() { return impl_->found; }

RequestHead::Progress RequestHead::put(std::string_view input) {
  error_code error;
  const std::size_t consumed = impl_->parser->put({input.data(), input.size()}, error);
  impl_->seen += consumed;
  // Beast counts what is shown to it at once, so a head in many pieces could grow without end.
  const bool complete = !error && impl_->parser->is_header_done();
  const std::size_t size = impl_->seen + (complete ? 0 : input.size() - consumed);
  const bool fits = complete ? size <= impl_->max_header : size < impl_->max_header;
  if ((error && error != http::error::need_more) || !fits) return {Status::malformed, consumed};
  return {complete ? Status::complete : Status::more, consumed};
}

std::string path_of_target(std::string_view target) {
  if (!target.empty() && target.front() != '/') {
    const auto scheme = target.find("://");
    if (scheme != std::string_view::npos) {
      const auto slash = target.find_first_of("/?#", scheme + 3);
      target = slash == std::string_view::npos ? std::string_view() : target.substr(slash);
      if (target.empty() || target.front() != '/') return "/";
    }
  }
  target = target.substr(0, target.find_first_of("?#"));
  if (target.find('%') == std::string_view::npos) return std::string(target);
  std::string path;
  path.reserve(target.size());
  for (std::size_t i = 0; i < target.size(); ++i) {
    const int high = target[i] == '%' && i + 2 < target.size() ? hex_digit(target[i + 1]) : -1;
    const int low = high >= 0 ? hex_digit(target[i + 2]) : -1;
    if (low < 0) {
      path.push_back(target[i]);
    } else {
      path.push_back(static_cast<char>(high << 4 | low));
      i += 2;
    }
  }
  return path;
}

}  // namespace guard::net
