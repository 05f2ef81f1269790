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

/// One key=value pair. In a line the text is bounded, quoted where it is not plain, and everything but
/// printable ASCII is escaped: whoever chose it, it can neither end the line nor move a terminal.
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
  /// Any thread. Never throws and never waits for a sink.
  virtual void log(LogLevel level, std::string_view event, std::initializer_list<Field> fields = {}) = 0;
  virtual bool enabled(LogLevel level) const = 0;
};

/// The text as it stands in a line, without quotes: at most limits::log_field bytes of it, `...` where some
/// are missing.
std::string log_text(std::string_view text);

/// The line of an event without time and level: what every sink shows. At most limits::log_line bytes, what
/// is beyond is cut off and ends with `...`.
std::string log_line(std::string_view event, std::initializer_list<Field> fields);

/// Names as in syslog, and `warn`; nullopt for others.
std::optional<LogLevel> log_level_named(std::string_view name);

/// Where lines go.
struct LogTarget {
  enum class Kind {
    stderr_lines,  ///< `<time> <level> event key=value`
    journal,       ///< journald's native protocol, with fields VM_UUID, SLOT and TASK
    syslog,        ///< RFC 3164 datagrams, facility local5
  };
  Kind kind = Kind::stderr_lines;
  std::string path;  ///< of the socket of journald or syslogd
};

/// A logger that writes. Nothing it does ever waits: where the sink is gone or takes no more, lines are lost,
/// and the first line that goes through again is preceded by `log_lines_lost count=N`.
class LineLogger : public Logger {
 public:
  /// Any thread: lines lost so far.
  virtual std::uint64_t lost() const = 0;
};

/// The socket need not exist yet. `identifier` names the program in the log.
std::unique_ptr<LineLogger> make_logger(LogTarget target, LogLevel level,
                                        std::string_view identifier = "xapi-guard");
/// Lines on standard error.
std::unique_ptr<LineLogger> make_stderr_logger(LogLevel level);
/// For tests: forgets everything.
Logger& null_logger();

}  // namespace guard
