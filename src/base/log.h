// One line per event: `event key=value ...`. The logger is an object handed down from main; libraries below
// the daemon log nothing, except through it. Guest bytes (guard::Value) cannot be logged: no Field takes
// them.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>

#include "guard/log_level.h"
#include "guard/types.h"

namespace guard {

/// One key=value pair; the text is quoted when it contains spaces, and control characters are escaped.
struct Field {
  std::string_view key;
  std::string text;

  Field(std::string_view k, std::string_view v) : key(k), text(v) {}
  Field(std::string_view k, const char* v) : key(k), text(v) {}
  Field(std::string_view k, const std::string& v) : key(k), text(v) {}
  Field(std::string_view k, const Uuid& v) : key(k), text(v.str()) {}
  Field(std::string_view k, Slot v) : key(k), text(name_of(v)) {}
  template <class Number>
    requires std::is_arithmetic_v<Number>
  Field(std::string_view k, Number v) : key(k), text(std::to_string(v)) {}
  Field(std::string_view k, const Value&) = delete;
};

class Logger {
 public:
  virtual ~Logger() = default;
  /// Any thread. Never throws, never blocks on anything but the log's own sink.
  virtual void log(LogLevel level, std::string_view event, std::initializer_list<Field> fields = {}) = 0;
  virtual bool enabled(LogLevel level) const = 0;
};

/// The line of an event without time and level: what every sink shows.
std::string log_line(std::string_view event, std::initializer_list<Field> fields);

/// Names as in syslog, and `warn`; nullopt for others.
std::optional<LogLevel> log_level_named(std::string_view name);

/// Lines on standard error, `<time> <level> event key=value`.
std::unique_ptr<Logger> make_stderr_logger(LogLevel level);
/// For tests: forgets everything.
Logger& null_logger();

}  // namespace guard
