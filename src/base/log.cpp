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
    const std::string line = log_line(event, fields);
    logger_->log(level_of(level), spdlog::string_view_t(line.data(), line.size()));
  }
  bool enabled(LogLevel level) const override { return level >= level_; }

 private:
  std::shared_ptr<spdlog::logger> logger_;
  LogLevel level_;
};

}  // namespace

std::unique_ptr<Logger> make_stderr_logger(LogLevel level) {
  auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  return std::make_unique<SpdLogger>(std::make_shared<spdlog::logger>("xapi-guard", std::move(sink)), level);
}

}  // namespace guard
