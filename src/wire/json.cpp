#include "wire/json.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

// The whole of Boost.JSON that we use is compiled here, so that no other translation unit pays for it.
#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/src.hpp>

namespace guard::wire {

namespace {

constexpr char hex_digits[] = "0123456789abcdef";

/// For each byte: 0 = verbatim, 'u' = \u00xx, else the letter after the backslash.
constexpr std::array<char, 256> make_escapes() {
  std::array<char, 256> table{};
  for (std::size_t c = 0; c < 0x20; ++c) table[c] = 'u';
  table[0x7f] = 'u';
  table['"'] = '"';
  table['\\'] = '\\';
  table['\b'] = 'b';
  table['\f'] = 'f';
  table['\n'] = 'n';
  table['\r'] = 'r';
  table['\t'] = 't';
  return table;
}
constexpr std::array<char, 256> escapes = make_escapes();

/// Keeps the last of several members with one name. Sorting makes it n log n: the text may be hostile.
void drop_duplicates(JsonObject& members) {
  if (members.size() < 2) return;
  std::vector<std::size_t> order(members.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&members](std::size_t a, std::size_t b) {
    const int names = members[a].first.compare(members[b].first);
    return names != 0 ? names < 0 : a < b;
  });
  std::vector<bool> superseded(members.size());
  bool any = false;
  for (std::size_t i = 0; i + 1 < order.size(); ++i) {
    if (members[order[i]].first != members[order[i + 1]].first) continue;
    superseded[order[i]] = true;
    any = true;
  }
  if (!any) return;
  JsonObject kept;
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (!superseded[i]) kept.push_back(std::move(members[i]));
  }
  members = std::move(kept);
}

/// Builds a Json from the parser's events. The names and signatures are what basic_parser asks for.
class Builder {
 public:
  using Code = boost::json::error_code;
  using Text = boost::json::string_view;
  // The limit on the document's bytes bounds these too.
  static constexpr std::size_t max_object_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_array_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_key_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_string_size = static_cast<std::size_t>(-1);

  Json take() { return std::move(root_); }

  bool on_document_begin(Code&) { return true; }
  bool on_document_end(Code&) { return true; }
  bool on_object_begin(Code&) { return open(JsonObject()); }
  bool on_object_end(std::size_t, Code&) {
    drop_duplicates(*open_.back().object());
    return close();
  }
  bool on_array_begin(Code&) { return open(JsonArray()); }
  bool on_array_end(std::size_t, Code&) { return close(); }
  bool on_key_part(Text part, std::size_t, Code&) { return gather(part); }
  bool on_key(Text part, std::size_t, Code&) {
    gather(part);
    open_.back().object()->emplace_back(std::move(text_), Json());
    text_.clear();
    return true;
  }
  bool on_string_part(Text part, std::size_t, Code&) { return gather(part); }
  bool on_string(Text part, std::size_t, Code&) {
    gather(part);
    put(std::move(text_));
    text_.clear();
    return true;
  }
  bool on_number_part(Text part, Code&) { return gather(part); }
  bool on_int64(std::int64_t number, Text, Code&) {
    text_.clear();
    return put(number);
  }
  bool on_uint64(std::uint64_t number, Text, Code&) {
    text_.clear();
    if (number <= INT64_MAX) return put(static_cast<std::int64_t>(number));
    return put(static_cast<double>(number));
  }
  bool on_double(double, Text part, Code& error) {
    // The parser's own conversion may be off in the last digit; from_chars rounds correctly.
    gather(part);
    double number = 0;
    const auto [end, failure] = std::from_chars(text_.data(), text_.data() + text_.size(), number);
    if (failure != std::errc() || end != text_.data() + text_.size()) {
      error = boost::json::error::exponent_overflow;
      return false;
    }
    text_.clear();
    return put(number);
  }
  bool on_bool(bool value, Code&) { return put(value); }
  bool on_null(Code&) { return put(nullptr); }
  bool on_comment_part(Text, Code&) { return true; }
  bool on_comment(Text, Code&) { return true; }

 private:
  bool gather(Text part) {
    text_.append(part.data(), part.size());
    return true;
  }
  bool put(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (JsonArray* array = open_.back().array()) {
      array->push_back(std::move(value));
    } else {
      open_.back().object()->back().second = std::move(value);
    }
    return true;
  }
  bool open(Json container) {
    open_.push_back(std::move(container));
    return true;
  }
  bool close() {
    Json done = std::move(open_.back());
    open_.pop_back();
    return put(std::move(done));
  }

  Json root_;
  std::vector<Json> open_;  ///< arrays and objects not yet complete, outermost first
  std::string text_;        ///< of a key, string or number not yet complete
};

void append_number(std::string& out, double number) {
  if (!std::isfinite(number)) {
    out += "null";  // JSON has no word for it
    return;
  }
  std::array<char, 32> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), number).ptr;
  const std::string_view text(buffer.data(), static_cast<std::size_t>(end - buffer.data()));
  out += text;
  // So that it is read back as a double.
  if (text.find_first_of(".e") == std::string_view::npos) out += ".0";
}

struct Appender {
  std::string& out;

  void operator()(std::nullptr_t) const { out += "null"; }
  void operator()(bool value) const { out += value ? "true" : "false"; }
  void operator()(std::int64_t number) const { out += std::to_string(number); }
  void operator()(double number) const { append_number(out, number); }
  void operator()(const std::string& text) const { append_string(out, text); }
  void operator()(const JsonArray& array) const {
    out += '[';
    for (std::size_t i = 0; i < array.size(); ++i) {
      if (i != 0) out += ',';
      append(out, array[i]);
    }
    out += ']';
  }
  void operator()(const JsonObject& object) const {
    out += '{';
    for (std::size_t i = 0; i < object.size(); ++i) {
      if (i != 0) out += ',';
      append_string(out, object[i].first);
      out += ':';
      append(out, object[i].second);
    }
    out += '}';
  }
};

}  // namespace

const Json* Json::find(std::string_view name) const {
  const JsonObject* members = object();
  if (!members) return nullptr;
  const auto found = std::find_if(members->begin(), members->end(),
                                  [name](const auto& member) { return member.first == name; });
  return found == members->end() ? nullptr : &found->second;
}

Result<Json> parse_json(std::string_view text, JsonLimits limits) {
  if (text.size() > limits.max_bytes) {
    return std::unexpected(
        Error::invalid("JSON text of " + std::to_string(text.size()) + " bytes is too long"));
  }
  boost::json::parse_options options;
  options.max_depth = limits.max_depth;
  boost::json::basic_parser<Builder> parser(options);
  Builder::Code error;
  const std::size_t parsed = parser.write_some(false, text.data(), text.size(), error);
  if (!error && parsed != text.size()) error = boost::json::error::extra_data;
  if (error) {
    return std::unexpected(
        Error::invalid("not JSON at byte " + std::to_string(parsed) + ": " + error.message()));
  }
  return parser.handler().take();
}

std::string to_string(const Json& json) {
  std::string out;
  append(out, json);
  return out;
}

void append(std::string& out, const Json& json) { std::visit(Appender{out}, json.value); }

void append_string(std::string& out, std::string_view text) {
  out += '"';
  std::size_t begin = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const char escape = escapes[byte];
    if (escape == 0) continue;
    out.append(text, begin, i - begin);
    begin = i + 1;
    out += '\\';
    out += escape;
    if (escape != 'u') continue;
    out += "00";
    out += hex_digits[byte >> 4];
    out += hex_digits[byte & 15];
  }
  out.append(text, begin, text.size() - begin);
  out += '"';
}

}  // namespace guard::wire
