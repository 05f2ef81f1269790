// The control socket: how operators and monitoring talk to the daemon. HTTP on a unix socket that only the
// daemon's own user can reach (0600): JSON-RPC (commands.h) at POST /, the metrics text at GET /metrics.
//
// Thread: the loop thread only.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/log.h"
#include "control/commands.h"
#include "guard/result.h"
#include "net/http_server.h"
#include "net/loop.h"

namespace guard::control {

struct ControlSocketOptions {
  /// Absolute path; its directory is made (0700) when it is missing.
  std::string path;
  /// Produces the metrics, in the Prometheus text format; called for each GET /metrics.
  std::function<std::string()> metrics;
};

/// The answer to a request for `path`, if that is /metrics: `metrics()` to GET and HEAD, else 405; 404 to
/// anything else.
net::Reply answer_metrics(const net::Request& request, const std::function<std::string()>& metrics);

class ControlSocket {
 public:
  /// Listens and serves. Replaces the socket file of a daemon that has ended. Errors: busy when somebody
  /// answers on that socket, which is not touched; those of create_socket (a plain file in the way is
  /// refused: a mistyped path must not cost a file). Blocks shortly. `loop`, `commands` and `log` must
  /// outlive it.
  static Result<std::unique_ptr<ControlSocket>> open(net::Loop& loop, ControlSocketOptions options,
                                                     Commands& commands, Logger& log);
  /// Closes all connections, without answers to what is under way, and removes the socket file if it is still
  /// ours.
  ~ControlSocket();
  ControlSocket(const ControlSocket&) = delete;

  /// Stops accepting; calls `drained` once every request received was answered (net::Server::drain).
  void drain(std::function<void()> drained);

 private:
  struct Impl;
  explicit ControlSocket(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace guard::control
