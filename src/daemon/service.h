// What systemd hears of the daemon while it runs: READY, STATUS, STOPPING, and signs of life for its
// watchdog.
//
// The watchdog is fed by the loop and by nothing else: a loop that is stuck serves no VM and is ended by
// systemd, while a journal or a worker thread that waits for a hung disk is no reason to end a daemon that
// still answers. Without a watchdog there is no timer at all: an idle daemon sleeps.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>

#include "daemon/notify.h"
#include "net/loop.h"

namespace guard::daemon {

/// What STATUS= says, in the words of `xapi-guardctl status`.
struct ServiceView {
  bool journal_read = false;
  std::string_view mode;      ///< of a string literal
  std::string_view upstream;  ///< of a string literal
  std::size_t pending = 0;    ///< entries
  bool operator==(const ServiceView&) const = default;
};

/// "direct, upstream up, nothing pending".
std::string status_text(const ServiceView& view);

/// Thread: the loop thread. The loop and the notifier outlive it; it outlives the loop's last run.
class Service {
 public:
  /// `watchdog`: how soon systemd ends the service when it hears nothing; it hears twice in that time.
  Service(net::Loop& loop, const Notifier& notifier, std::optional<std::chrono::microseconds> watchdog);
  Service(const Service&) = delete;

  /// Feeds the watchdog from now on, if there is one.
  void begin();
  /// Clients can come. READY=1 is sent the first time only.
  void ready();
  /// An orderly stop has begun. The watchdog is fed on; STATUS is not changed any more.
  void stopping();
  /// Sends STATUS= if it says something new: at once, or limits::status_interval after the last time. Cheap
  /// when nothing has changed.
  void changed(const ServiceView& view);

 private:
  void feed();
  void send_status();

  net::Loop& loop_;
  const Notifier& notifier_;
  const std::optional<Time> feed_every_;
  bool ready_ = false;
  bool stopping_ = false;
  ServiceView view_;                 ///< the latest
  std::optional<ServiceView> sent_;  ///< what STATUS says
  Time sent_at_{};
  bool waiting_ = false;  ///< for the end of the interval
};

}  // namespace guard::daemon
