#include "net/chunk_decoder.h"

#include <algorithm>

#include "base/limits.h"

namespace guard::net {

namespace {

int hex_digit(unsigned char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/// Controls other than TAB have no place in a line; a bare CR or LF least of all.
bool is_text(unsigned char c) { return c == '\t' || (c >= ' ' && c != 0x7f); }

}  // namespace

void ChunkDecoder::reset(std::size_t max_body) {
  *this = ChunkDecoder();
  room_ = max_body;
}

ChunkDecoder::Progress ChunkDecoder::put(std::string_view input, std::string& body) {
  std::size_t at = 0;
  while (at < input.size()) {
    if (state_ == State::data) {
      const auto take = static_cast<std::size_t>(std::min<std::uint64_t>(left_, input.size() - at));
      body.append(input, at, take);
      at += take;
      left_ -= take;
      if (left_ == 0) state_ = State::data_cr;
      continue;
    }
    const Status status = byte(static_cast<unsigned char>(input[at++]));
    if (status != Status::more) return {status, at};
  }
  return {Status::more, at};
}

ChunkDecoder::Status ChunkDecoder::byte(unsigned char c) {
  switch (state_) {
    case State::size_first:
      left_ = 0;
      size_digits_ = 0;
      state_ = State::size;
      return digit(c);
    case State::size:
      if (hex_digit(c) >= 0) return digit(c);
      if (left_ > room_) return Status::too_large;
      last_ = left_ == 0;
      if (c != ';' && c != '\r') return Status::malformed;
      state_ = c == ';' ? State::extension : State::size_lf;
      return Status::more;
    case State::extension:
      if (c == '\r') {
        state_ = State::size_lf;
        return Status::more;
      }
      return is_text(c) && ++extension_bytes_ <= limits::max_header ? Status::more : Status::malformed;
    case State::size_lf:
      state_ = last_ ? State::trailer_first : State::data;
      room_ -= static_cast<std::size_t>(left_);
      return c == '\n' ? Status::more : Status::malformed;
    case State::data:
      break;  // put() takes whole stretches of it
    case State::data_cr:
      state_ = State::data_lf;
      return c == '\r' ? Status::more : Status::malformed;
    case State::data_lf:
      state_ = State::size_first;
      return c == '\n' ? Status::more : Status::malformed;
    case State::trailer_first:
    case State::trailer:
      if (c == '\r') {
        state_ = state_ == State::trailer ? State::trailer_lf : State::last_lf;
        return Status::more;
      }
      state_ = State::trailer;
      return is_text(c) && ++trailer_bytes_ <= limits::max_header ? Status::more : Status::malformed;
    case State::trailer_lf:
      state_ = State::trailer_first;
      return c == '\n' ? Status::more : Status::malformed;
    case State::last_lf:
      return c == '\n' ? Status::complete : Status::malformed;
  }
  return Status::malformed;
}

ChunkDecoder::Status ChunkDecoder::digit(unsigned char c) {
  const int value = hex_digit(c);
  if (value < 0) return Status::malformed;
  // Sixteen digits are 64 bits; leading zeros beyond that are nonsense too.
  if (left_ >> 60 != 0 || ++size_digits_ > 16) return Status::malformed;
  left_ = left_ << 4 | static_cast<unsigned>(value);
  return Status::more;
}

}  // namespace guard::net
