// What all loggers share: the form of a line.
#include <algorithm>

#include "base/limits.h"
#include "base/log.h"

namespace guard {

namespace {

void append_escaped(std::string& line, std::string_view text) {
  static constexpr char digits[] = "0123456789abcdef";
  for (const char c : text.substr(0, limits::log_field)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      line.push_back('\\');
      line.push_back(c);
    } else if (byte < ' ' || byte >= 0x7f) {
      line += "\\x";
      line.push_back(digits[byte >> 4]);
      line.push_back(digits[byte & 15]);
    } else {
      line.push_back(c);
    }
  }
  if (text.size() > limits::log_field) line += "...";
}

/// Quotes texts with anything but plain characters, so that a line stays one line and can be parsed.
void append_text(std::string& line, std::string_view text) {
  const bool plain =
      !text.empty() && text.size() <= limits::log_field && std::ranges::all_of(text, [](char c) {
        return c > ' ' && c < 0x7f && c != '"' && c != '\\' && c != '=';
      });
  if (plain) {
    line += text;
    return;
  }
  line.push_back('"');
  append_escaped(line, text);
  line.push_back('"');
}

class NullLogger final : public Logger {
 public:
  void log(LogLevel, std::string_view, std::initializer_list<Field>) override {}
  bool enabled(LogLevel) const override { return false; }
};

}  // namespace

std::string log_text(std::string_view text) {
  std::string escaped;
  append_escaped(escaped, text);
  return escaped;
}

std::string log_line(std::string_view event, std::initializer_list<Field> fields) {
  std::string line(event);
  for (const Field& field : fields) {
    line.push_back(' ');
    line += field.key;
    line.push_back('=');
    append_text(line, field.text);
  }
  if (line.size() > limits::log_line) {
    line.resize(limits::log_line - 3);
    line += "...";
  }
  return line;
}

std::string_view name_of(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return "debug";
    case LogLevel::info:
      return "info";
    case LogLevel::notice:
      return "notice";
    case LogLevel::warning:
      return "warning";
    case LogLevel::error:
      return "error";
  }
  return "unknown";
}

std::optional<LogLevel> log_level_named(std::string_view name) {
  if (name == "debug") return LogLevel::debug;
  if (name == "info") return LogLevel::info;
  if (name == "notice") return LogLevel::notice;
  if (name == "warning" || name == "warn") return LogLevel::warning;
  if (name == "err" || name == "error") return LogLevel::error;
  // Nothing here is worse than an error, so the more severe names of syslog show errors too.
  if (name == "crit" || name == "alert" || name == "emerg") return LogLevel::error;
  return std::nullopt;
}

Logger& null_logger() {
  static NullLogger logger;
  return logger;
}

}  // namespace guard
