#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace guard {

namespace {

spdlog::level::level_enum level_of(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
    case LogLevel::notice:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

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

class SpdLogger final : public Logger {
 public:
  SpdLogger(std::shared_ptr<spdlog::logger> logger, LogLevel level)
      : logger_(std::move(logger)), level_(level) {
    logger_->set_level(spdlog::level::debug);
    logger_->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
    logger_->flush_on(spdlog::level::debug);
  }
  void log(LogLevel level, std::string_view event, std::initializer_list<Field> fields) override {
    if (!enabled(level)) return;
    std::string line(event);
    for (const Field& field : fields) {
      line.push_back(' ');
      line += field.key;
      line.push_back('=');
      append_text(line, field.text);
    }
    logger_->log(level_of(level), spdlog::string_view_t(line.data(), line.size()));
  }
  bool enabled(LogLevel level) const override { return level >= level_; }

 private:
  std::shared_ptr<spdlog::logger> logger_;
  LogLevel level_;
};

class NullLogger final : public Logger {
 public:
  void log(LogLevel, std::string_view, std::initializer_list<Field>) override {}
  bool enabled(LogLevel) const override { return false; }
};

}  // namespace

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

std::unique_ptr<Logger> make_stderr_logger(LogLevel level) {
  auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  return std::make_unique<SpdLogger>(std::make_shared<spdlog::logger>("xapi-guard", std::move(sink)), level);
}

Logger& null_logger() {
  static NullLogger logger;
  return logger;
}

}  // namespace guard
