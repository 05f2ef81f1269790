#include "control/metrics_socket.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "base/limits.h"
#include "base/text.h"
#include "control/control_socket.h"
#include "control/socket_birth.h"

namespace guard::control {

namespace {

Result<OwnedFd> listen_on(const LoopbackAddress& address) {
  const int family = address.is_v4 ? AF_INET : AF_INET6;
  OwnedFd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return std::unexpected(Error::system("create a socket", errno));
  // A restart must not wait for the last connection to be forgotten.
  const int on = 1;
  (void)::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const auto* place = address.is_v4 ? reinterpret_cast<const sockaddr*>(&address.v4)
                                    : reinterpret_cast<const sockaddr*>(&address.v6);
  const auto size = static_cast<socklen_t>(address.is_v4 ? sizeof address.v4 : sizeof address.v6);
  if (::bind(fd.get(), place, size) < 0) return std::unexpected(Error::system("bind", errno));
  if (::listen(fd.get(), limits::metrics_backlog) < 0) return std::unexpected(Error::system("listen", errno));
  return fd;
}

}  // namespace

std::optional<LoopbackAddress> LoopbackAddress::parse(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  const auto port = parse_decimal(text.substr(colon + 1));
  if (!port || *port == 0 || *port > 65'535) return std::nullopt;
  const std::string host(text.substr(0, colon));
  LoopbackAddress address;
  if (host == "[::1]") {
    address.v6.sin6_family = AF_INET6;
    address.v6.sin6_addr = in6addr_loopback;
    address.v6.sin6_port = htons(static_cast<std::uint16_t>(*port));
    return address;
  }
  address.is_v4 = true;
  address.v4.sin_family = AF_INET;
  address.v4.sin_port = htons(static_cast<std::uint16_t>(*port));
  if (::inet_pton(AF_INET, host.c_str(), &address.v4.sin_addr) != 1) return std::nullopt;
  if (ntohl(address.v4.sin_addr.s_addr) >> 24 != 127) return std::nullopt;
  return address;
}

Result<std::unique_ptr<MetricsSocket>> MetricsSocket::open(net::Loop& loop, const LoopbackAddress& address,
                                                           std::function<std::string()> metrics,
                                                           Logger& log) {
  auto listener = listen_on(address);
  if (!listener) return std::unexpected(std::move(listener).error());
  net::ServerLimits limits;
  limits.max_body = 0;
  limits.max_connections = limits::metrics_connections;
  limits.idle_deadline = limits::metrics_idle;
  net::Reply too_large{.head = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n", .body = {}};
  std::unique_ptr<MetricsSocket> socket(new MetricsSocket);
  socket->server_ = std::make_unique<net::Server>(
      loop, listener->release(), limits, std::move(too_large),
      [metrics = std::move(metrics)](const net::Request& request, net::Responder responder) {
        responder(answer_metrics(request, metrics));
      },
      log, "metrics");
  return socket;
}

}  // namespace guard::control
