// How many lines a VM may put into the log: a VM in trouble, or one that makes trouble, must neither hide the
// lines of the others nor fill the disk.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <unordered_map>

#include "base/log.h"
#include "guard/env.h"

namespace guard {

/// Passes lines on, at most limits::log_lines_per_vm in a second of each VM (the field `vm`), and
/// limits::log_lines_of_host of those that name none. When a second is over in which more came, one line
/// `log_lines_suppressed vm=UUID suppressed=N`. Lines of level debug pass always.
///
/// Sleeps while nothing is suppressed: `wake_at(when)`, called on any thread, asks for flush() at or after
/// `when`.
class LogLimit final : public Logger {
 public:
  LogLimit(Logger& out, std::function<Time()> now, std::function<void(Time)> wake_at);

  void log(LogLevel level, std::string_view event, std::initializer_list<Field> fields = {}) override;
  bool enabled(LogLevel level) const override { return out_.enabled(level); }

  /// Any thread: says what was suppressed in seconds that are over; with `all` in those that are not, too.
  void flush(bool all = false);
  /// Any thread: lines suppressed so far.
  std::uint64_t suppressed() const;

 private:
  struct Second {
    Time began{};
    unsigned lines = 0;
    std::uint64_t suppressed = 0;
  };

  bool admit(const std::string& vm, Time now);
  void say(const std::string& vm, const Second& second);
  void forget_old(Time now);

  Logger& out_;
  const std::function<Time()> now_;
  const std::function<void(Time)> wake_at_;
  mutable std::mutex mutex_;
  std::unordered_map<std::string, Second> vms_;  ///< by the text of `vm`; the empty one is the host
  std::uint64_t suppressed_ = 0;
};

}  // namespace guard
