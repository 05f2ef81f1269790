// The head of an HTTP request: request line and fields. The grammar is Boost.Beast's, tightened where Beast
// is lenient about what tells how long the body is. Sources: RFC 9110, RFC 9112 sections 3 and 6.
//
// Pure; no I/O. One object serves the requests of one connection one after the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace guard::net {

class RequestHead {
 public:
  /// Heads (request line, fields and the blank line) of more than `max_header` bytes are malformed.
  explicit RequestHead(std::size_t max_header);
  ~RequestHead();
  RequestHead(const RequestHead&) = delete;

  /// Forgets everything and expects the first byte of a request.
  void reset();

  enum class Status { more, complete, malformed };
  struct Progress {
    Status status;
    std::size_t consumed;  ///< bytes of the input that need not be shown again
  };
  /// Takes the unconsumed bytes so far together with those that have arrived since.
  Progress put(std::string_view input);

  enum class Framing { none, length, chunked };
  /// What was found; valid after `complete`.
  struct Found {
    std::string method;
    std::string path;  ///< path component, percent-decoded
    Framing framing = Framing::none;
    std::uint64_t length = 0;       ///< of the body, if framing is `length`
    bool close = false;             ///< HTTP/1.0, or the client said so
    bool expects_continue = false;  ///< never of an HTTP/1.0 client
  };
  Found& found();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The path component of a request target in origin or absolute form, percent-decoded; sequences that are
/// not two hex digits stay as they are.
std::string path_of_target(std::string_view target);

}  // namespace guard::net
