#include "daemon/service.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"

namespace guard::daemon {

namespace {

std::optional<Time> half_of(std::optional<std::chrono::microseconds> watchdog) {
  if (!watchdog) return std::nullopt;
  // A loop that does nothing but send signs of life would be of no use.
  return std::max<Time>(std::chrono::duration_cast<Time>(*watchdog / 2), std::chrono::milliseconds(1));
}

}  // namespace

std::string status_text(const ServiceView& view) {
  if (!view.journal_read) return "the journal has not been read yet";
  std::string text(view.mode);
  text.append(", upstream ").append(view.upstream).append(", ");
  if (view.pending == 0) return text + "nothing pending";
  return text + std::to_string(view.pending) + (view.pending == 1 ? " entry" : " entries") + " pending";
}

Service::Service(net::Loop& loop, const Notifier& notifier, std::optional<std::chrono::microseconds> watchdog)
    : loop_(loop), notifier_(notifier), feed_every_(half_of(watchdog)) {}

void Service::begin() {
  if (feed_every_ && notifier_.connected()) feed();
}

void Service::feed() {
  (void)notifier_.send_now("WATCHDOG=1");
  loop_.at(loop_.now() + *feed_every_, [this] { feed(); });
}

void Service::ready() {
  if (std::exchange(ready_, true)) return;
  sent_ = view_;
  sent_at_ = loop_.now();
  (void)notifier_.send("READY=1\nSTATUS=" + status_text(view_));
}

void Service::stopping() {
  stopping_ = true;
  (void)notifier_.send("STOPPING=1\nSTATUS=stopping: " + status_text(view_));
}

void Service::changed(const ServiceView& view) {
  if (view == view_) return;
  view_ = view;
  if (waiting_ || !ready_ || stopping_ || !notifier_.connected()) return;
  const Time next = sent_at_ + Time(limits::status_interval);
  if (loop_.now() >= next) return send_status();
  waiting_ = true;
  loop_.at(next, [this] {
    waiting_ = false;
    if (!stopping_) send_status();
  });
}

void Service::send_status() {
  if (sent_ == view_) return;
  // What cannot be sent now is sent with the next change; the interval keeps a receiver that hangs from being
  // tried at each one.
  sent_at_ = loop_.now();
  if (notifier_.send_now("STATUS=" + status_text(view_))) sent_ = view_;
}

}  // namespace guard::daemon
