#include "wire/message_switch.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "base/text.h"

namespace guard::wire::message_switch {

namespace {

std::unexpected<Error> malformed(std::string_view what) {
  return std::unexpected(Error::invalid("message switch: " + std::string(what)));
}

/// Length of the UTF-8 sequence that begins at `at`, 0 when there is none.
std::size_t sequence_length(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned first = byte(at);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return 0;
  }
  const unsigned second = byte(at + 1);
  const bool overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
  const bool beyond = (first == 0xed && second > 0x9f) || (first == 0xf4 && second > 0x8f);
  return overlong || beyond ? 0 : length;
}

std::string with_valid_utf8(std::string_view text) {
  std::string out(text);
  for (std::size_t i = 0; i < out.size();) {
    const std::size_t length = sequence_length(out, i);
    if (length == 0) out[i] = '?';
    i += std::max<std::size_t>(length, 1);
  }
  return out;
}

Result<Json> parse(std::string_view text, JsonLimits limits) {
  auto json = parse_json(text, limits);
  if (!json && text.size() <= limits.max_bytes) json = parse_json(with_valid_utf8(text), limits);
  return json;
}

const Json* at(const JsonArray* array, std::size_t i) {
  return array != nullptr && i < array->size() ? &(*array)[i] : nullptr;
}

const std::string* string_of(const Json* json) { return json != nullptr ? json->string() : nullptr; }
const JsonArray* array_of(const Json* json) { return json != nullptr ? json->array() : nullptr; }
const std::int64_t* integer_of(const Json* json) { return json != nullptr ? json->integer() : nullptr; }

/// ["queue", 7]
std::optional<MessageId> read_id(const Json* json) {
  const JsonArray* parts = array_of(json);
  const std::string* queue = string_of(at(parts, 0));
  const std::int64_t* number = integer_of(at(parts, 1));
  if (queue == nullptr || number == nullptr || parts->size() != 2) return std::nullopt;
  return MessageId{*queue, *number};
}

/// {"payload":TEXT,"kind":["Request",REPLY_QUEUE]} or with ["Response",ID]; tags in any case.
bool read_message(const Json* json, Message& message) {
  if (json == nullptr) return false;
  const std::string* payload = string_of(json->find("payload"));
  const JsonArray* kind = array_of(json->find("kind"));
  const std::string* tag = string_of(at(kind, 0));
  if (payload == nullptr || tag == nullptr || kind->size() != 2) return false;
  message.payload = *payload;
  const std::string name = lower(*tag);
  if (name == "request") {
    const std::string* reply_queue = string_of(at(kind, 1));
    if (reply_queue == nullptr) return false;
    message.kind = Message::Kind::request;
    message.reply_queue = *reply_queue;
    return true;
  }
  const auto request = name == "response" ? read_id(at(kind, 1)) : std::nullopt;
  if (!request) return false;
  message.kind = Message::Kind::response;
  message.request = *request;
  return true;
}

/// Everything that has a meaning in a path, and '%' itself, is encoded; ':' and '.' are not.
std::string encoded(std::string_view name) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  std::string out;
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("-_.~:").find(c) != std::string_view::npos;
    if (plain) {
      out += c;
    } else {
      out += '%';
      out += digits[byte >> 4];
      out += digits[byte & 15];
    }
  }
  return out;
}

std::string path_of(std::initializer_list<std::string_view> names) {
  std::string path;
  for (const std::string_view name : names) path.append("/").append(encoded(name));
  return path;
}

/// The contents of the queue among the queues of the diagnostics; nullptr when it is not there. An
/// association list with strings for keys is written as an object; as a list of pairs it would mean the same.
const JsonArray* contents_of(const Json* queues, std::string_view queue) {
  const Json* found = queues != nullptr ? queues->find(queue) : nullptr;
  if (const JsonArray* list = array_of(queues)) {
    for (const Json& item : *list) {
      const std::string* name = string_of(at(item.array(), 0));
      if (name != nullptr && *name == queue) found = at(item.array(), 1);
    }
  }
  return found != nullptr ? array_of(found->find("queue_contents")) : nullptr;
}

}  // namespace

Result<Transfer> parse_transfer(std::string_view text, JsonLimits limits) {
  const auto json = parse(text, limits);
  if (!json) return malformed("the answer to a poll is not JSON");
  const JsonArray* messages = array_of(json->find("messages"));
  const std::string* next = string_of(json->find("next"));
  if (messages == nullptr || next == nullptr) return malformed("not the answer to a poll");
  const std::string_view digits = std::string_view(*next).substr(next->starts_with('-') ? 1 : 0);
  if (!parse_decimal(digits)) return malformed("the position of the next poll is not a number");
  Transfer transfer;
  transfer.next = *next;
  for (const Json& item : *messages) {
    const JsonArray* pair = item.array();
    const auto id = read_id(at(pair, 0));
    if (!id) {
      ++transfer.nameless;
      continue;
    }
    Message message;
    message.id = *id;
    if (pair->size() == 2 && read_message(at(pair, 1), message)) {
      transfer.messages.push_back(std::move(message));
    } else {
      transfer.unreadable.push_back(*id);
    }
  }
  std::stable_sort(transfer.messages.begin(), transfer.messages.end(),
                   [](const Message& a, const Message& b) { return a.id.number < b.id.number; });
  return transfer;
}

Result<std::optional<MessageId>> parse_posted(std::string_view text) {
  const auto json = parse(text, {.max_depth = 4, .max_bytes = 64 * 1024});
  const JsonArray* option = json ? json->array() : nullptr;
  if (option == nullptr || option->size() > 1) return malformed("not the answer to a posted message");
  if (option->empty()) return std::optional<MessageId>();
  auto id = read_id(option->data());
  if (!id) return malformed("not the id of a message");
  return id;
}

Result<Ages> parse_ages(std::string_view text, std::string_view queue, JsonLimits limits) {
  const auto json = parse(text, limits);
  const std::int64_t* start = json ? integer_of(json->find("start_time")) : nullptr;
  const std::int64_t* now = json ? integer_of(json->find("current_time")) : nullptr;
  if (start == nullptr || now == nullptr) return malformed("not its diagnostics");
  const JsonArray* contents = contents_of(json->find("permanent_queues"), queue);
  if (contents == nullptr) contents = contents_of(json->find("transient_queues"), queue);
  if (contents == nullptr) return malformed("its diagnostics do not name the queue");
  Ages ages;
  for (const Json& item : *contents) {
    const JsonArray* pair = item.array();
    const auto id = read_id(at(pair, 0));
    const Json* entry = at(pair, 1);
    const std::int64_t* time = entry != nullptr ? integer_of(entry->find("time")) : nullptr;
    if (!id || time == nullptr) continue;
    Ages::Entry age{id->number, 0, 0};
    if (__builtin_sub_overflow(*now, *time, &age.age_ns)) continue;
    if (__builtin_sub_overflow(*time, *start, &age.after_start_ns)) continue;
    ages.entries.push_back(age);
  }
  return ages;
}

std::string transfer_body(const std::optional<std::string>& from, unsigned timeout_seconds,
                          std::string_view queue) {
  std::string body = "{";
  if (from) {
    body += "\"from\":";
    append_string(body, *from);
    body += ',';
  }
  // The switch takes a float only in this form.
  body += "\"timeout\":" + std::to_string(timeout_seconds) + ".0,\"queues\":[";
  append_string(body, queue);
  return body + "]}";
}

std::string login_path(std::string_view token) { return path_of({"login", token}); }
std::string persistent_path(std::string_view queue) { return path_of({"persistent", queue}); }
std::string transient_path(std::string_view queue) { return path_of({"transient", queue}); }
std::string destroy_path(std::string_view queue) { return path_of({"destroy", queue}); }
std::string request_path(std::string_view queue, std::string_view reply_queue) {
  return path_of({"request", queue, reply_queue});
}
std::string response_path(std::string_view reply_queue, const MessageId& request) {
  return path_of({"response", reply_queue, request.queue}) + "/" + std::to_string(request.number);
}
std::string ack_path(const MessageId& message) {
  return path_of({"ack", message.queue}) + "/" + std::to_string(message.number);
}

}  // namespace guard::wire::message_switch
