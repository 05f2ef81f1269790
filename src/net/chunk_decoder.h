// Decodes a chunked request body (RFC 9112 section 7.1), strictly: what two parsers could read differently
// is refused. Extensions and trailer fields are skipped, within bounds.
//
// Written by hand because the parser used for the heads asserts on a last chunk that arrives byte by byte,
// and a client must not be able to end the process. Pure; no I/O.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace guard::net {

class ChunkDecoder {
 public:
  enum class Status {
    more,       ///< everything was consumed and the body goes on
    complete,   ///< the last byte of the message was consumed; what follows is not
    too_large,  ///< the body would be longer than allowed
    malformed,
  };
  struct Progress {
    Status status;
    std::size_t consumed;
  };

  /// Forgets everything and expects the first chunk of a body of at most `max_body` bytes.
  void reset(std::size_t max_body);

  /// Takes the next bytes, however they were split, and appends what is body to `body`. After anything but
  /// `more` the decoder must be reset.
  Progress put(std::string_view input, std::string& body);

 private:
  enum class State {
    size_first,  ///< the first digit of a chunk's size
    size,        ///< further digits
    extension,   ///< after the size, up to the end of the line
    size_lf,
    data,
    data_cr,
    data_lf,
    trailer_first,  ///< the first byte of a trailer line, or the end
    trailer,
    trailer_lf,
    last_lf,  ///< the LF that ends the message
  };
  Status byte(unsigned char c);
  Status digit(unsigned char c);

  State state_ = State::size_first;
  std::uint64_t left_ = 0;           ///< of the chunk under way
  unsigned size_digits_ = 0;         ///< of its size
  std::size_t room_ = 0;             ///< of the body
  std::size_t extension_bytes_ = 0;  ///< of all chunks together
  std::size_t trailer_bytes_ = 0;
  bool last_ = false;  ///< the chunk under way is the last one
};

}  // namespace guard::net
