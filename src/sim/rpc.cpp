#include "sim/rpc.h"

#include <array>

namespace guard::sim {

using wire::Json;
using wire::JsonArray;
using wire::JsonObject;

namespace {

/// Length of the UTF-8 sequence at the start of `text`, 0 when there is none.
std::size_t sequence_length(std::string_view text) {
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xc2 && first <= 0xdf ? 2 : first >= 0xe0 && first <= 0xef ? 3 : 4;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, and what is above the last code point.
  if ((first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) > 0x9f) ||
      (first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) > 0x8f)) {
    return 0;
  }
  return length;
}

/// The text with everything that is not UTF-8 replaced by U+FFFD.
std::string repair_utf8(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t length = sequence_length(text);
    out += length == 0 ? std::string_view("\xef\xbf\xbd") : text.substr(0, length);
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return out;
}

net::Reply ok(std::string body) {
  std::string head = "HTTP/1.1 200 OK\r\ncontent-length: " + std::to_string(body.size()) +
                     "\r\nconnection: keep-alive\r\ncache-control: no-cache, no-store\r\n"
                     "content-type: application/json\r\nAccess-Control-Allow-Origin: *\r\n"
                     "Access-Control-Allow-Headers: X-Requested-With\r\n\r\n";
  return {std::move(head), Value(std::move(body)), false};
}

Json error_array(const XenError& error) { return JsonArray(error.begin(), error.end()); }

std::string_view reason(unsigned status) {
  switch (status) {
    case 403:
      return "Forbidden";
    case 500:
      return "Internal Error";
    case 501:
      return "Method Not Implemented";
    case 503:
      return "Service Unavailable";
    default:
      return "Failure";
  }
}

}  // namespace

std::optional<RpcRequest> read_rpc(std::string_view body) {
  RpcRequest request;
  auto json = wire::parse_json(body);
  if (!json) {
    json = wire::parse_json(repair_utf8(body));
    request.utf8 = false;
  }
  if (!json || !json->object()) return std::nullopt;
  bool has_method = false;
  for (auto& [name, value] : *json->object()) {
    if (name == "method" && value.string()) {
      request.method = std::move(std::get<std::string>(value.value));
      has_method = true;
    } else if (name == "params" && value.array()) {
      request.params = std::move(*value.array());
    } else if (name == "id") {
      request.id = std::move(value);
    } else if (name == "jsonrpc") {
      request.version2 = value == Json("2.0");
    }
  }
  if (!has_method) return std::nullopt;
  return request;
}

net::Reply rpc_success(const Json& id, bool version2, const Json& result) {
  std::string body = version2 ? R"({"jsonrpc":"2.0","result":)" : R"({"result":)";
  wire::append(body, result);
  body += version2 ? R"(,"id":)" : R"(,"error":null,"id":)";
  wire::append(body, id);
  body += '}';
  return ok(std::move(body));
}

net::Reply rpc_failure(const Json& id, bool version2, const XenError& error) {
  if (!version2)
    return ok(wire::to_string(JsonObject{{"result", nullptr}, {"error", error_array(error)}, {"id", id}}));
  const Json data = JsonArray(error.begin() + 1, error.end());
  return ok(wire::to_string(
      JsonObject{{"jsonrpc", "2.0"},
                 {"error", JsonObject{{"code", 1}, {"message", error.front()}, {"data", data}}},
                 {"id", id}}));
}

net::Reply rpc_emergency(const XenError& error) {
  return ok(wire::to_string(JsonObject{{"jsonrpc", "2.0"}, {"error", error_array(error)}, {"id", 0}}));
}

net::Reply rpc_garbage() { return ok("{\"result\":\"OpaqueRef"); }

net::Reply http_failure(unsigned status, std::string_view extra) {
  const std::string title = "HTTP " + std::to_string(status) + " " + std::string(reason(status));
  std::string body = "<html><body><h1>" + title + "</h1>" + std::string(extra) + "</body></html>";
  std::string head = "HTTP/1.1 " + std::to_string(status) + " " + std::string(reason(status)) +
                     "\r\ncontent-length: " + std::to_string(body.size()) +
                     "\r\nconnection: close\r\ncache-control: no-cache, no-store\r\n"
                     "content-type: text/html; charset=UTF-8\r\n\r\n";
  return {std::move(head), Value(std::move(body)), true};
}

net::Reply too_large_failure() { return http_failure(500, "Client_requested_size_over_limit"); }

}  // namespace guard::sim
