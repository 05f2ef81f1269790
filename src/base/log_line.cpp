// What all loggers share. Apart from log.cpp, so that a program that embeds the library needs no spdlog.
#include "base/log.h"

namespace guard {

namespace {

/// Quotes texts with anything but plain characters, so that a line stays one line and can be parsed.
void append_text(std::string& line, std::string_view text) {
  bool plain = !text.empty();
  for (const char c : text) {
    if (static_cast<unsigned char>(c) <= ' ' || c == '"' || c == '\\' || c == '=' || c == 0x7f) plain = false;
  }
  if (plain) {
    line += text;
    return;
  }
  line.push_back('"');
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      line.push_back('\\');
      line.push_back(c);
    } else if (byte < ' ' || byte == 0x7f) {
      static constexpr char digits[] = "0123456789abcdef";
      line += "\\x";
      line.push_back(digits[byte >> 4]);
      line.push_back(digits[byte & 15]);
    } else {
      line.push_back(c);
    }
  }
  line.push_back('"');
}

class NullLogger final : public Logger {
 public:
  void log(LogLevel, std::string_view, std::initializer_list<Field>) override {}
  bool enabled(LogLevel) const override { return false; }
};

}  // namespace

std::string log_line(std::string_view event, std::initializer_list<Field> fields) {
  std::string line(event);
  for (const Field& field : fields) {
    line.push_back(' ');
    line += field.key;
    line.push_back('=');
    append_text(line, field.text);
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
