#include "bench/load.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace guard::bench {

namespace {

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "bench: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

int connect_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) die("path too long: " + path);
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) die(path);
  return fd;
}

struct Client {
  int fd = -1;
  std::string path;
  std::string body;
  std::uint64_t number = 0;
  double sent = 0;
  bool waiting = false;
  std::string answer;
};

/// Head and body in one write: what the kernel does with two is not what is measured here.
void send_put(Client& client, const std::string& state) {
  // A running number in the body, so that no two values are the same.
  const std::string digits = std::to_string(client.number++);
  std::copy(digits.begin(), digits.end(), client.body.begin());
  const std::string head =
      "PUT /tpm2-00." + state + " HTTP/1.1\r\nHost: xapi-depriv-socket\r\nAccept: */*\r\n" +
      "Content-Type: application/octet-stream\r\nContent-Length: " + std::to_string(client.body.size()) +
      "\r\n\r\n";
  std::array<iovec, 2> parts{iovec{const_cast<char*>(head.data()), head.size()},
                             iovec{client.body.data(), client.body.size()}};
  std::size_t left = head.size() + client.body.size();
  client.sent = now_seconds();
  client.waiting = true;
  client.answer.clear();
  auto* part = parts.data();
  int count = 2;
  while (left > 0) {
    ssize_t written = ::writev(client.fd, part, count);
    if (written < 0) return;  // noticed when reading
    left -= static_cast<std::size_t>(written);
    while (count > 0 && static_cast<std::size_t>(written) >= part->iov_len) {
      written -= static_cast<ssize_t>(part->iov_len);
      ++part, --count;
    }
    if (count > 0)
      part->iov_base = static_cast<char*>(part->iov_base) + written,
      part->iov_len -= static_cast<std::size_t>(written);
  }
}

enum class Answer { partial, good, bad, closed };

Answer read_answer(Client& client) {
  std::array<char, 4096> buffer;
  const ssize_t got = ::recv(client.fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (got < 0 && errno == EAGAIN) return Answer::partial;
  if (got <= 0) return Answer::closed;
  client.answer.append(buffer.data(), static_cast<std::size_t>(got));
  const auto end = client.answer.find("\r\n\r\n");
  if (end == std::string::npos) return Answer::partial;
  if (client.answer.compare(0, 12, "HTTP/1.1 204") == 0) return Answer::good;
  const auto length = client.answer.find("content-length: ");
  const std::size_t body = length < end ? std::strtoul(client.answer.c_str() + length + 16, nullptr, 10) : 0;
  return client.answer.size() < end + 4 + body ? Answer::partial : Answer::bad;
}

class Load {
 public:
  Load(const std::vector<std::string>& sockets, std::size_t body_bytes)
      : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
    for (const std::string& path : sockets) {
      Client client;
      client.path = path;
      client.body.assign(body_bytes, 'A');
      clients_.push_back(std::move(client));
    }
    for (std::size_t i = 0; i < clients_.size(); ++i) open(i);
  }
  ~Load() {
    for (const Client& client : clients_) ::close(client.fd);
    ::close(epoll_);
  }

  /// Sends to all, and again as answers come until `until`; then waits for the rest.
  LoadResult run(const std::string& state, double until) {
    LoadResult result;
    const double start = now_seconds();
    std::size_t waiting = clients_.size();
    for (Client& client : clients_) send_put(client, state);
    std::array<epoll_event, 128> events;
    while (waiting > 0 && now_seconds() < until + 5) {
      const int ready = ::epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), 1000);
      for (int i = 0; i < ready; ++i) {
        const std::size_t index = events[static_cast<std::size_t>(i)].data.u64;
        Client& client = clients_[index];
        const Answer answer = read_answer(client);
        if (answer == Answer::partial || !client.waiting) continue;
        client.waiting = false;
        const double now = now_seconds();
        if (answer == Answer::good)
          result.latencies.push_back(now - client.sent);
        else
          ++result.failures;
        if (answer == Answer::closed) open(index);
        if (now < until)
          send_put(client, state);
        else
          --waiting;
      }
    }
    result.failures += waiting;
    result.seconds = now_seconds() - start;
    return result;
  }

 private:
  void open(std::size_t index) {
    Client& client = clients_[index];
    if (client.fd >= 0) ::close(client.fd);
    client.fd = connect_to(client.path);
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = index;
    if (::epoll_ctl(epoll_, EPOLL_CTL_ADD, client.fd, &event) != 0) die("epoll_ctl");
  }

  int epoll_;
  std::vector<Client> clients_;
};

}  // namespace

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Percentiles percentiles(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  const auto at = [&](double share) {
    return samples[static_cast<std::size_t>(share * static_cast<double>(samples.size() - 1))];
  };
  return {at(0.5), at(0.99), samples.back()};
}

LoadResult put_load(const std::vector<std::string>& sockets, std::size_t body_bytes, double seconds) {
  Load load(sockets, body_bytes);
  return load.run("permall", now_seconds() + seconds);
}

void put_once(const std::vector<std::string>& sockets, const std::string& state, std::size_t body_bytes) {
  Load load(sockets, body_bytes);
  const LoadResult result = load.run(state, now_seconds());
  if (result.failures != 0) die("a write was not acknowledged");
}

std::vector<int> connect_all(const std::vector<std::string>& sockets) {
  std::vector<int> connections;
  for (const std::string& path : sockets) connections.push_back(connect_to(path));
  return connections;
}

void close_all(const std::vector<int>& connections) {
  for (const int fd : connections) ::close(fd);
}

}  // namespace guard::bench
