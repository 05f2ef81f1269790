// What the message switch answers: any text is read without failing, messages come out in order, and what
// was read can be written as the switch would and read again unchanged.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "wire/message_switch.h"

using namespace guard::wire;
using namespace guard::wire::message_switch;

namespace {

constexpr JsonLimits limits{.max_depth = 16, .max_bytes = 1 << 20};

void require(bool condition) {
  if (!condition) std::abort();
}

Json id_of(const MessageId& id) { return JsonArray{id.queue, id.number}; }

/// As the switch lists it: newest first.
std::string write(const Transfer& transfer) {
  JsonArray messages;
  for (const Message& message : transfer.messages) {
    const bool request = message.kind == Message::Kind::request;
    JsonArray kind{request ? "Request" : "Response",
                   request ? Json(message.reply_queue) : id_of(message.request)};
    messages.insert(messages.begin(), JsonArray{id_of(message.id), JsonObject{{"payload", message.payload},
                                                                              {"kind", std::move(kind)}}});
  }
  return to_string(JsonObject{{"messages", std::move(messages)}, {"next", transfer.next}});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto transfer = parse_transfer(text, limits)) {
    require(std::is_sorted(transfer->messages.begin(), transfer->messages.end(),
                           [](const Message& a, const Message& b) { return a.id.number < b.id.number; }));
    const std::string written = write(*transfer);
    const auto again = parse_transfer(written, {.max_depth = 16, .max_bytes = written.size()});
    require(again && again->messages.size() == transfer->messages.size() && again->unreadable.empty());
    require(again->next == transfer->next);
    for (const Message& message : transfer->messages) {
      require(std::any_of(again->messages.begin(), again->messages.end(), [&](const Message& other) {
        return other.id == message.id && other.payload == message.payload && other.kind == message.kind &&
               other.reply_queue == message.reply_queue && other.request == message.request;
      }));
      // A path is one line without anything that ends it early.
      for (const std::string& path : {ack_path(message.id), response_path(message.reply_queue, message.id)}) {
        require(path.find_first_of(" \r\n?#") == path.npos);
      }
    }
  }
  if (const auto posted = parse_posted(text)) {
    if (*posted) require(*parse_posted(to_string(JsonArray{id_of(**posted)})) == **posted);
  }
  static_cast<void>(parse_ages(text, "q", limits));
  return 0;
}
