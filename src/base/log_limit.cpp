#include "base/log_limit.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"

namespace guard {

namespace {
constexpr Time one_second = std::chrono::seconds(1);
}

LogLimit::LogLimit(Logger& out, std::function<Time()> now, std::function<void(Time)> wake_at)
    : out_(out), now_(std::move(now)), wake_at_(std::move(wake_at)) {}

void LogLimit::log(LogLevel level, std::string_view event, std::initializer_list<Field> fields) {
  if (!enabled(level)) return;
  if (level == LogLevel::debug) return out_.log(level, event, fields);
  const auto* vm = std::ranges::find(fields, "vm", &Field::key);
  const std::lock_guard lock(mutex_);
  const bool known = vm != fields.end() && Uuid::parse(vm->text).has_value();
  if (admit(known ? vm->text : std::string(), now_())) out_.log(level, event, fields);
}

bool LogLimit::admit(const std::string& vm, Time now) {
  auto found = vms_.find(vm);
  if (found == vms_.end()) {
    if (vms_.size() >= limits::log_vms) forget_old(now);
    if (vms_.size() >= limits::log_vms && !vm.empty()) return admit({}, now);
    found = vms_.emplace(vm, Second{now, 0, 0}).first;
  }
  Second& second = found->second;
  if (now - second.began >= one_second) {
    say(vm, second);
    second = {now, 0, 0};
  }
  const unsigned most = vm.empty() ? limits::log_lines_of_host : limits::log_lines_per_vm;
  if (second.lines < most) {
    ++second.lines;
    return true;
  }
  if (second.suppressed++ == 0) wake_at_(second.began + one_second);
  ++suppressed_;
  return false;
}

void LogLimit::say(const std::string& vm, const Second& second) {
  if (second.suppressed == 0) return;
  if (vm.empty()) {
    out_.log(LogLevel::warning, "log_lines_suppressed", {{"suppressed", second.suppressed}});
  } else {
    out_.log(LogLevel::warning, "log_lines_suppressed", {{"vm", vm}, {"suppressed", second.suppressed}});
  }
}

void LogLimit::forget_old(Time now) {
  std::erase_if(vms_, [&](const auto& item) {
    if (now - item.second.began < one_second) return false;
    say(item.first, item.second);
    return true;
  });
}

void LogLimit::flush(bool all) {
  const std::lock_guard lock(mutex_);
  if (all) {
    for (const auto& [vm, second] : vms_) say(vm, second);
    vms_.clear();
  }
  forget_old(now_());
}

std::uint64_t LogLimit::suppressed() const {
  const std::lock_guard lock(mutex_);
  return suppressed_;
}

}  // namespace guard
