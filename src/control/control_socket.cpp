#include "control/control_socket.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/limits.h"
#include "control/socket_birth.h"
#include "guard/env.h"

namespace guard::control {

namespace {

/// The socket file is left behind when a daemon is killed; whether somebody listens, only connecting tells.
Result<void> check_nobody_answers(const std::string& path) {
  const OwnedFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return std::unexpected(Error::system("create a socket", errno));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) < 0) {
    if (errno == ENOENT || errno == ECONNREFUSED) return {};
    // A full backlog (EAGAIN) or a socket of another type (EPROTOTYPE) is somebody's all the same.
    if (errno != EAGAIN && errno != EPROTOTYPE)
      return std::unexpected(Error::system("connect to " + path, errno));
  }
  return std::unexpected(Error{Errc::busy, 0, "another process listens on " + path});
}

net::Reply reply(std::string_view status, std::string_view type, std::string body,
                 std::string_view more = {}) {
  std::string head = "HTTP/1.1 ";
  head.append(status).append("\r\nContent-Type: ").append(type).append("\r\n").append(more);
  head.append("Content-Length: ").append(std::to_string(body.size())).append("\r\n\r\n");
  return {.head = std::move(head), .body = Value(std::move(body)), .close = false};
}

net::Reply text_reply(std::string_view status, std::string body, std::string_view more = {}) {
  return reply(status, "text/plain; charset=utf-8", std::move(body), more);
}

}  // namespace

struct ControlSocket::Impl {
  Impl(ControlSocketOptions o, Commands& c, Logger& l) : options(std::move(o)), commands(c), log(l) {}

  ControlSocketOptions options;
  Commands& commands;
  Logger& log;
  FileId file;
  std::unique_ptr<net::Server> server;

  void handle(const net::Request& request, net::Responder responder) {
    if (request.path == "/") {
      if (request.method != "POST") {
        return responder(text_reply("405 Method Not Allowed", "POST only\n", "Allow: POST\r\n"));
      }
      // Shared because a std::function must be copyable; it is called once.
      auto shared = std::make_shared<net::Responder>(std::move(responder));
      return commands.handle(request.body, [shared](std::string answer) {
        (*shared)(reply("200 OK", "application/json", std::move(answer)));
      });
    }
    responder(answer_metrics(request, options.metrics));
  }
};

net::Reply answer_metrics(const net::Request& request, const std::function<std::string()>& metrics) {
  if (request.path != "/metrics") return text_reply("404 Not Found", "not found\n");
  if (request.method != "GET" && request.method != "HEAD") {
    return text_reply("405 Method Not Allowed", "GET only\n", "Allow: GET, HEAD\r\n");
  }
  return reply("200 OK", "text/plain; version=0.0.4; charset=utf-8", metrics());
}

Result<std::unique_ptr<ControlSocket>> ControlSocket::open(net::Loop& loop, ControlSocketOptions options,
                                                           Commands& commands, Logger& log) {
  const std::string path = options.path;
  if (auto good = check_socket_path(path); !good) return std::unexpected(std::move(good).error());
  if (auto nobody = check_nobody_answers(path); !nobody) return std::unexpected(std::move(nobody).error());
  if (auto directory = open_directory(path.substr(0, path.rfind('/') + 1)); !directory) {
    return std::unexpected(std::move(directory).error());
  }
  auto born = create_socket({.path = path, .gid = {}, .mode = 0600, .replace_files = false});
  if (!born) return std::unexpected(std::move(born).error());
  auto impl = std::make_unique<Impl>(std::move(options), commands, log);
  impl->file = born->file;
  net::ServerLimits limits;
  limits.max_body = limits::max_body_control;
  limits.max_connections = limits::control_connections;
  impl->server = std::make_unique<net::Server>(
      loop, born->listener.release(), limits, text_reply("413 Content Too Large", "too large\n"),
      [raw = impl.get()](const net::Request& request, net::Responder responder) {
        raw->handle(request, std::move(responder));
      },
      log, "control");
  return std::unique_ptr<ControlSocket>(new ControlSocket(std::move(impl)));
}

ControlSocket::ControlSocket(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

ControlSocket::~ControlSocket() {
  impl_->server.reset();
  // Another daemon may have taken the path over; its file is not touched.
  if (auto removed = remove_socket(impl_->options.path, impl_->file); !removed) {
    impl_->log.log(LogLevel::warning, "control_socket_left", {{"error", removed.error().message}});
  }
}

void ControlSocket::drain(std::function<void()> drained) { impl_->server->drain(std::move(drained)); }

}  // namespace guard::control
