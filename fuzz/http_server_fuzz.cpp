// Feeds bytes to the HTTP server over a real socket. The first byte chooses where the input is split into
// receives and how the handler answers; the rest is what the client sends.
//
// Checked besides the sanitizers: the server answers every request it hands out exactly once and with
// nothing but the replies it was given; a connection ends when the client is done; nothing is handed out
// that is over a limit.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/log.h"
#include "net/http_server.h"
#include "net/loop.h"

namespace {

using guard::net::Reply;
using guard::net::Request;
using guard::net::Responder;

constexpr std::string_view answer = "HTTP/1.1 204 No Content\r\n\r\n";
constexpr std::string_view refusal = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n";
constexpr std::string_view interim = "HTTP/1.1 100 Continue\r\n\r\n";
constexpr std::size_t max_body = 4096;

void require(bool condition) {
  if (!condition) std::abort();
}

/// An address chosen by the kernel, in no file system.
int listen_anywhere(sockaddr_un& address, socklen_t& size) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  address.sun_family = AF_UNIX;
  require(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address.sun_family) == 0);
  size = sizeof address;
  require(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  require(::listen(fd, 8) == 0);
  return fd;
}

/// The server, one for all inputs.
struct World {
  World() {
    guard::net::ServerLimits limits;
    limits.max_body = max_body;
    const int fd = listen_anywhere(address, address_size);
    server.emplace(
        loop, fd, limits, Reply{std::string(refusal), {}, false},
        [this](Request request, Responder respond) { handle(std::move(request), std::move(respond)); },
        guard::null_logger());
  }

  void handle(Request request, Responder respond) {
    ++handled;
    require(request.body.size() <= max_body);
    require(request.has_length || request.body.empty());
    require(!request.method.empty() &&
            request.method.size() + request.path.size() <= guard::limits::max_header);
    switch (behaviour) {
      case 0:
        return respond({std::string(answer), {}, false});
      case 1:
        return loop.post([kept = std::make_shared<Responder>(std::move(respond))] {
          (*kept)({std::string(answer), {}, false});
        });
      case 2:
        return respond({std::string(answer), {}, true});
      default:
        return;  // dropped: the connection ends
    }
  }

  /// Lets the loop do all it can without waiting for a client.
  void turn() {
    for (int i = 0; i < 3; ++i) {
      loop.post([this] { loop.stop(); });
      loop.run();
    }
  }

  guard::net::Loop loop;
  std::optional<guard::net::Server> server;
  sockaddr_un address{};
  socklen_t address_size = 0;
  int behaviour = 0;
  std::size_t handled = 0;
};

void collect(int fd, std::string& received) {
  char buffer[65536];
  for (;;) {
    const auto got = ::recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got <= 0) return;
    received.append(buffer, static_cast<std::size_t>(got));
  }
}

/// Replies in the order in which they may come: interim responses and answers, at last a refusal.
void check(std::string_view received, std::size_t handled, int behaviour) {
  std::size_t answers = 0;
  bool refused = false;
  while (!received.empty()) {
    require(!refused);
    if (received.starts_with(answer)) {
      ++answers;
      received.remove_prefix(answer.size());
    } else if (received.starts_with(interim)) {
      received.remove_prefix(interim.size());
    } else {
      require(received.starts_with(refusal));
      refused = true;
      received.remove_prefix(refusal.size());
    }
  }
  require(behaviour == 3 ? answers == 0 : answers == handled);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static World world;
  if (size < 1) return 0;
  world.behaviour = data[0] & 3;
  world.handled = 0;
  const std::size_t piece = (data[0] >> 2) == 0 ? size : static_cast<std::size_t>(data[0] >> 2);
  std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);

  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  require(::connect(fd, reinterpret_cast<sockaddr*>(&world.address), world.address_size) == 0);
  std::string received;
  // Small pieces are for the first bytes, where they matter; the rest comes at once.
  for (int pieces = 0; !input.empty(); ++pieces) {
    const auto count = pieces < 64 ? std::min(piece, input.size()) : input.size();
    if (::send(fd, input.data(), count, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) break;
    input.remove_prefix(count);
    world.turn();
    collect(fd, received);
  }
  ::shutdown(fd, SHUT_WR);
  for (int turns = 0; world.server->connections() != 0; ++turns) {
    require(turns < 10'000);
    world.turn();
    collect(fd, received);
  }
  collect(fd, received);
  check(received, world.handled, world.behaviour);
  ::close(fd);
  return 0;
}
