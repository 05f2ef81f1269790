#include "device/swtpm_rest.h"

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/text.h"

namespace guard::device {

namespace {

using Method = SwtpmStats::Method;
using Result = SwtpmStats::Result;

Method method_named(std::string_view name) {
  if (name == "PUT") return Method::put;
  if (name == "GET") return Method::get;
  if (name == "DELETE") return Method::del;
  if (name == "HEAD") return Method::head;
  return Method::other;
}

std::string_view name_of(Method method) {
  switch (method) {
    case Method::get:
      return "GET";
    case Method::head:
      return "HEAD";
    case Method::put:
      return "PUT";
    case Method::del:
      return "DELETE";
    case Method::other:
    case Method::methods:
      break;
  }
  return "other";
}

/// The paths swtpm builds, exact and case-sensitive; the number in them is always 00.
std::optional<Slot> slot_at(std::string_view path) {
  constexpr std::string_view prefix = "/tpm2-00.";
  if (!path.starts_with(prefix)) return std::nullopt;
  const auto slot = slot_named(path.substr(prefix.size()));
  if (!slot || device_of(*slot) != Device::vtpm) return std::nullopt;
  return slot;
}

/// A status line and a short text in the shape of the original's answers. The text is for people.
net::Reply text_reply(std::string_view status, std::string_view text) {
  std::string head = "HTTP/1.1 ";
  head += status;
  head += "\r\ncontent-length: " + std::to_string(text.size()) + "\r\n\r\n";
  return {std::move(head), Value(std::string(text)), false};
}

net::Reply no_content() { return {"HTTP/1.1 204 No Content\r\n\r\n", {}, false}; }
net::Reply unavailable() { return text_reply("503 Service Unavailable", "Service unavailable"); }
net::Reply not_found() { return text_reply("404 Not Found", "Not found"); }
net::Reply not_allowed() { return text_reply("405 Method Not Allowed", "Not allowed"); }
net::Reply not_base64() { return text_reply("400 Bad Request", "Not a state in base64"); }
net::Reply length_required() {
  net::Reply reply = text_reply("411 Length Required", "Length required");
  // What follows may be the body, and must not be read as the next request.
  reply.close = true;
  return reply;
}

net::Reply state(Value value) {
  std::string head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\ncontent-length: ";
  head += std::to_string(value.size()) + "\r\n\r\n";
  return {std::move(head), std::move(value), false};
}

/// One request on its way to its answer.
struct Exchange {
  net::Responder respond;
  SwtpmStats& stats;
  Logger& log;
  Method method;
  std::optional<Slot> slot;
  std::uint64_t connection;

  void answer(Result result, net::Reply reply) {
    ++stats.requests[method][result];
    if (log.enabled(LogLevel::debug)) {
      const auto status = std::string_view(reply.head).substr(sizeof "HTTP/1.1", 3);
      log.log(LogLevel::debug, "swtpm_request",
              {{"method", name_of(method)},
               {"slot", slot ? guard::name_of(*slot) : "none"},
               {"status", status},
               {"reply_bytes", reply.body.size()},
               {"connection", connection}});
    }
    respond(std::move(reply));
  }
};

// The lane takes copyable callbacks, and a Responder cannot be copied.
using SharedExchange = std::shared_ptr<Exchange>;

void write(LaneAccess& lane, const SharedExchange& exchange, Value value) {
  lane.write(*exchange->slot, std::move(value), [exchange](WriteStatus status) {
    switch (status) {
      case WriteStatus::accepted:
        return exchange->answer(Result::success, no_content());
      case WriteStatus::too_large:
        return exchange->answer(Result::refused, swtpm_too_large());
      case WriteStatus::unavailable:
        return exchange->answer(Result::unavailable, unavailable());
    }
  });
}

void read(LaneAccess& lane, const SharedExchange& exchange) {
  lane.read(*exchange->slot, [exchange](ReadResult read) {
    if (read.source == ReadResult::Source::none) return exchange->answer(Result::unavailable, unavailable());
    if (exchange->method == Method::head && read.value.empty()) {
      return exchange->answer(Result::refused, not_found());
    }
    exchange->answer(Result::success, state(std::move(read.value)));
  });
}

}  // namespace

net::Server::Handler make_swtpm_handler(LaneAccess& lane, SwtpmStats& stats, Logger& log) {
  return [&lane, &stats, &log](net::Request request, net::Responder respond) {
    const Method method = method_named(request.method);
    const auto slot = slot_at(request.path);
    const auto exchange =
        std::make_shared<Exchange>(std::move(respond), stats, log, method, slot, request.connection);
    if (method == Method::other || request.path == "/")
      return exchange->answer(Result::refused, not_allowed());
    if (!slot) return exchange->answer(Result::refused, not_found());
    switch (method) {
      case Method::get:
      case Method::head:
        return read(lane, exchange);
      case Method::del:
        return write(lane, exchange, Value());
      case Method::put:
        if (!request.has_length) return exchange->answer(Result::refused, length_required());
        if (!is_base64(request.body)) return exchange->answer(Result::refused, not_base64());
        return write(lane, exchange, Value(std::move(request.body)));
      case Method::other:
      case Method::methods:
        break;
    }
  };
}

net::Reply swtpm_too_large() { return text_reply("413 Content Too Large", "Too large"); }

}  // namespace guard::device
