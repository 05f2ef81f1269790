// systemd's descriptor store (sd_notify(3), FDSTORE=1): it keeps duplicates of our listening sockets and
// passes them to the next process. Versions before 233 know no names and no removal; all versions drop a
// descriptor when its socket hangs up, which is why sockets are shut down when they go away for good.
#pragma once

#include <atomic>
#include <string>

#include "base/log.h"
#include "control/descriptor_store.h"
#include "daemon/notify.h"

namespace guard::daemon {

class SystemdStore final : public control::DescriptorStore {
 public:
  /// Both outlive it.
  SystemdStore(const Notifier& notifier, Logger& log) : notifier_(notifier), log_(log) {}

  void keep(const std::string& name, int fd) override;
  void forget(const std::string& name) override;

 private:
  const Notifier& notifier_;
  Logger& log_;
  std::atomic<bool> failing_ = false;  ///< said once per trouble
};

}  // namespace guard::daemon
