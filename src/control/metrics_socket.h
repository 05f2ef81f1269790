// Metrics over TCP, for monitoring that cannot read unix sockets: GET /metrics and nothing else, on a
// loopback address. Whoever may run programs on the host can read them: they name no VM and hold no state of
// one.
//
// Thread: the loop thread only.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <netinet/in.h>

#include "base/log.h"
#include "guard/result.h"
#include "net/http_server.h"
#include "net/loop.h"

namespace guard::control {

/// Where to listen. `text` is `127.x.y.z:PORT` or `[::1]:PORT`; anything else, and port 0, is nullopt.
struct LoopbackAddress {
  sockaddr_in6 v6{};  ///< family AF_INET6, unless `is_v4`
  sockaddr_in v4{};
  bool is_v4 = false;

  static std::optional<LoopbackAddress> parse(std::string_view text);
};

class MetricsSocket {
 public:
  /// Listens and serves. `metrics` produces the text for each request. Errors: those of bind(2). `loop` and
  /// `log` outlive it.
  static Result<std::unique_ptr<MetricsSocket>> open(net::Loop& loop, const LoopbackAddress& address,
                                                     std::function<std::string()> metrics, Logger& log);
  MetricsSocket(const MetricsSocket&) = delete;

 private:
  MetricsSocket() = default;
  std::unique_ptr<net::Server> server_;
};

}  // namespace guard::control
