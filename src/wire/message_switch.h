// Codec of the message switch: the paths and JSON bodies of its HTTP interface. Pure; bounded by the texts
// given.
//
// The switch is a store-and-forward daemon with named queues. A server polls its queue (`/transfer`), posts
// responses to the reply queue named in each request, and acknowledges what it has dealt with; a client posts
// requests and polls a transient queue of its own. The formats are those of xapi's message-switch:
// `Message_switch_core.Protocol`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "guard/result.h"
#include "wire/json.h"

namespace guard::wire::message_switch {

/// A message in a queue. Numbers are per queue; they start again when the switch does.
struct MessageId {
  std::string queue;
  std::int64_t number = 0;
  bool operator==(const MessageId&) const = default;
};

struct Message {
  enum class Kind { request, response };
  MessageId id;
  Kind kind = Kind::request;
  std::string payload;
  std::string reply_queue;  ///< of a request: where its response belongs
  MessageId request;        ///< of a response: what it answers
};

/// The answer to a poll.
struct Transfer {
  std::vector<Message> messages;      ///< oldest first, whatever order they came in
  std::vector<MessageId> unreadable;  ///< listed, with contents that are no message
  std::size_t nameless = 0;           ///< list members without so much as an id
  std::string next;                   ///< `from` of the next poll
};

/// Reads the answer to a poll. Errc::invalid when it is no such answer at all. Bytes that are not UTF-8 are
/// read as '?': one such message must not hide all others.
Result<Transfer> parse_transfer(std::string_view text, JsonLimits limits);

/// Reads the answer to a posted request or response: the id it got, or nullopt when its queue does not exist.
Result<std::optional<MessageId>> parse_posted(std::string_view text);

/// How long the messages of `queue` have been in it, in nanoseconds, from the switch's diagnostics (`GET /`).
struct Ages {
  struct Entry {
    std::int64_t number = 0;
    std::int64_t age_ns = 0;          ///< negative: the clock of another run of the switch
    std::int64_t after_start_ns = 0;  ///< when it was queued, counted from the start of the switch
  };
  std::vector<Entry> entries;
};
Result<Ages> parse_ages(std::string_view text, std::string_view queue, JsonLimits limits);

/// The body of a poll. `from` absent = everything that is not acknowledged.
std::string transfer_body(const std::optional<std::string>& from, unsigned timeout_seconds,
                          std::string_view queue);

// Paths. Names are percent-encoded where they need it.
std::string login_path(std::string_view token);
std::string persistent_path(std::string_view queue);
std::string transient_path(std::string_view queue);
std::string destroy_path(std::string_view queue);
std::string request_path(std::string_view queue, std::string_view reply_queue);
std::string response_path(std::string_view reply_queue, const MessageId& request);
std::string ack_path(const MessageId& message);
inline constexpr std::string_view transfer_path = "/transfer";
inline constexpr std::string_view diagnostics_path = "/";

/// The headers of a request as the original's clients send them, up to the value of content-length, and what
/// follows it.
inline constexpr std::string_view headers_before_length = "user-agent: cohttp\r\ncontent-length: ";
inline constexpr std::string_view headers_after_length =
    "\r\nconnection: keep-alive\r\nhost: localhost\r\n\r\n";

}  // namespace guard::wire::message_switch
