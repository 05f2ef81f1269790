// A small JSON value for control messages, XenAPI calls and the resume file. Pure; bounded.
//
// Parsing is done by Boost.JSON behind this header. Object members keep their order; duplicates: the last
// wins.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "guard/result.h"

namespace guard::wire {

struct Json;
using JsonArray = std::vector<Json>;
using JsonObject = std::vector<std::pair<std::string, Json>>;

/// A JSON value. A JSON number that is an integer in the range of int64 becomes an int64, any other a double.
struct Json {
  std::variant<std::nullptr_t, bool, std::int64_t, double, std::string, JsonArray, JsonObject> value =
      nullptr;

  Json() = default;
  Json(std::nullptr_t) {}
  Json(bool v) : value(v) {}
  Json(int v) : value(std::int64_t{v}) {}
  Json(unsigned v) : value(std::int64_t{v}) {}
  Json(std::int64_t v) : value(v) {}
  Json(std::uint64_t v) : value(static_cast<std::int64_t>(v)) {}
  Json(double v) : value(v) {}
  Json(const char* v) : value(std::string(v)) {}
  Json(std::string_view v) : value(std::string(v)) {}
  Json(std::string v) : value(std::move(v)) {}
  Json(JsonArray v) : value(std::move(v)) {}
  Json(JsonObject v) : value(std::move(v)) {}

  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value); }
  const std::string* string() const { return std::get_if<std::string>(&value); }
  const std::int64_t* integer() const { return std::get_if<std::int64_t>(&value); }
  const bool* boolean() const { return std::get_if<bool>(&value); }
  const JsonArray* array() const { return std::get_if<JsonArray>(&value); }
  const JsonObject* object() const { return std::get_if<JsonObject>(&value); }
  JsonArray* array() { return std::get_if<JsonArray>(&value); }
  JsonObject* object() { return std::get_if<JsonObject>(&value); }
  /// The member of an object, or nullptr when this is no object or has no such member.
  const Json* find(std::string_view name) const;
  bool operator==(const Json&) const = default;
};

struct JsonLimits {
  std::size_t max_depth = 16;
  std::size_t max_bytes = 2 * 1024 * 1024;
};

/// Parses exactly one JSON document (white space around it allowed). Errors are Errc::invalid and name the
/// position, never the content. Text must be valid UTF-8.
Result<Json> parse_json(std::string_view text, JsonLimits limits = {});

/// No white space. Strings are escaped as XenAPI's own encoder does: \" \\ \b \f \n \r \t, other bytes below
/// 0x20 and 0x7f as \u00xx in lower case, everything else verbatim.
std::string to_string(const Json& json);
void append(std::string& out, const Json& json);
/// Appends a JSON string literal.
void append_string(std::string& out, std::string_view text);

}  // namespace guard::wire
