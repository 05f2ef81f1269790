#include "daemon/systemd_store.h"

namespace guard::daemon {

void SystemdStore::keep(const std::string& name, int fd) {
  const auto sent = notifier_.send("FDSTORE=1\nFDNAME=" + name, fd);
  if (sent) {
    failing_ = false;
    return;
  }
  if (failing_.exchange(true)) return;
  log_.log(LogLevel::warning, "descriptor_not_stored", {{"error", sent.error().message}});
}

/// Lost, it costs nothing: the socket was shut down and is dropped for that, or is closed by the next start.
void SystemdStore::forget(const std::string& name) {
  (void)notifier_.send("FDSTOREREMOVE=1\nFDNAME=" + name);
}

}  // namespace guard::daemon
