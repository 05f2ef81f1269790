// Throughput of the bare HTTP server: every PUT is answered 204 at once, nothing is stored. What is left is
// the cost of sockets, parsing and the loop, and so the ceiling for everything built on it.
//
// http_bench [clients [body bytes [seconds]]]; one request in flight per client, all clients on one thread
// of this process, head and body in one write. Prints one line.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "base/log.h"
#include "net/http_server.h"
#include "net/loop.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::string_view no_content = "HTTP/1.1 204 No Content\r\n\r\n";

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) fail("path");
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

int listen_at(const std::string& path) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const auto address = address_of(path);
  if (fd < 0 || ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(fd, 1024) != 0) {
    fail("listen");
  }
  return fd;
}

struct Client {
  int fd = -1;
  std::size_t reply_bytes = 0;
  Clock::time_point sent;
};

/// Sends a whole request; the socket buffer of an idle connection holds it.
void send_request(Client& client, const std::string& request) {
  client.reply_bytes = 0;
  client.sent = Clock::now();
  std::size_t done = 0;
  while (done < request.size()) {
    const auto sent = ::send(client.fd, request.data() + done, request.size() - done, MSG_NOSIGNAL);
    if (sent <= 0) fail("send");
    done += static_cast<std::size_t>(sent);
  }
}

/// Drives all clients until `end`; returns the latencies in microseconds.
std::vector<double> drive(const std::string& path, std::size_t count, const std::string& request,
                          Clock::time_point end) {
  const int poll = ::epoll_create1(EPOLL_CLOEXEC);
  std::vector<Client> clients(count);
  const auto address = address_of(path);
  for (std::size_t i = 0; i < count; ++i) {
    clients[i].fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (::connect(clients[i].fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      fail("connect");
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = i;
    if (::epoll_ctl(poll, EPOLL_CTL_ADD, clients[i].fd, &event) != 0) fail("epoll_ctl");
    send_request(clients[i], request);
  }
  std::vector<double> latencies;
  latencies.reserve(1 << 20);
  std::vector<epoll_event> events(count);
  for (auto now = Clock::now(); now < end; now = Clock::now()) {
    const int ready = ::epoll_wait(poll, events.data(), static_cast<int>(count), 1000);
    for (int i = 0; i < ready; ++i) {
      Client& client = clients[events[static_cast<std::size_t>(i)].data.u64];
      char reply[256];
      const auto bytes = ::recv(client.fd, reply, sizeof reply, 0);
      if (bytes <= 0) fail("recv");
      client.reply_bytes += static_cast<std::size_t>(bytes);
      if (client.reply_bytes < no_content.size()) continue;
      latencies.push_back(std::chrono::duration<double, std::micro>(Clock::now() - client.sent).count());
      send_request(client, request);
    }
  }
  for (const Client& client : clients) ::close(client.fd);
  ::close(poll);
  return latencies;
}

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t count = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 64;
  const std::size_t body = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 8192;
  const double seconds = argc > 3 ? std::strtod(argv[3], nullptr) : 5;
  if (count == 0 || count > 4096 || body > guard::limits::max_body_vtpm || !(seconds > 0)) {
    std::fprintf(stderr, "usage: http_bench [clients [body bytes [seconds]]]\n");
    return 2;
  }
  char directory[] = "/tmp/http_bench.XXXXXX";
  if (::mkdtemp(directory) == nullptr) fail("mkdtemp");
  const std::string path = std::string(directory) + "/socket";

  guard::net::Loop loop;
  guard::net::ServerLimits limits;
  limits.max_connections = static_cast<unsigned>(count);
  std::size_t received = 0;
  guard::net::Server server(
      loop, listen_at(path), limits,
      {"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n", {}, true},
      [&](guard::net::Request request, guard::net::Responder respond) {
        received += guard::Value(std::move(request.body)).size();
        respond({std::string(no_content), {}, false});
      },
      guard::null_logger());

  const std::string request =
      "PUT /tpm2-00.permall HTTP/1.1\r\nHost: xapi-depriv-socket\r\nAccept: */*\r\n"
      "Content-Type: application/octet-stream\r\nContent-Length: " +
      std::to_string(body) + "\r\n\r\n" + std::string(body, 'A');
  std::vector<double> latencies;
  const auto start = Clock::now();
  std::thread driver([&] {
    const auto length = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    latencies = drive(path, count, request, start + length);
    loop.stop();
  });
  const double cpu_before = cpu_seconds();
  loop.run();
  const double cpu = cpu_seconds() - cpu_before;
  const double elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  driver.join();
  ::unlink(path.c_str());
  ::rmdir(directory);

  if (latencies.empty() || received < latencies.size() * body) {
    std::fprintf(stderr, "http_bench: bytes are missing\n");
    return 1;
  }
  std::sort(latencies.begin(), latencies.end());
  const auto n = latencies.size();
  std::printf(
      "clients=%zu body=%zu requests_per_second=%.0f p50_us=%.0f p99_us=%.0f max_us=%.0f "
      "server_cpu_us=%.2f\n",
      count, body, static_cast<double>(n) / elapsed, latencies[n / 2], latencies[n * 99 / 100],
      latencies[n - 1], 1e6 * cpu / static_cast<double>(n));
  return 0;
}
