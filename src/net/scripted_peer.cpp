#include "net/scripted_peer.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>

namespace guard::net::testing {

std::string PeerConnection::read_bytes(std::size_t count) {
  while (read_ahead_.size() < count) {
    std::array<char, 65536> buffer{};
    const ssize_t n = ::recv(fd_, buffer.data(), buffer.size(), 0);
    if (n <= 0) break;
    read_ahead_.append(buffer.data(), static_cast<std::size_t>(n));
  }
  std::string bytes = read_ahead_.substr(0, count);
  read_ahead_.erase(0, bytes.size());
  return bytes;
}

std::optional<PeerRequest> PeerConnection::read_request() {
  PeerRequest request;
  while (!request.head.ends_with("\r\n\r\n")) {
    const std::string byte = read_bytes(1);
    if (byte.empty()) return std::nullopt;
    request.head += byte;
  }
  constexpr std::string_view name = "content-length: ";
  const std::size_t at = request.head.find(name);
  if (at == std::string::npos) return std::nullopt;
  const std::size_t length = std::stoul(request.head.substr(at + name.size()));
  request.body = read_bytes(length);
  if (request.body.size() < length) return std::nullopt;
  return request;
}

bool PeerConnection::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

bool PeerConnection::send_in_pieces(std::string_view bytes, std::size_t piece) {
  for (; !bytes.empty(); bytes.remove_prefix(std::min(piece, bytes.size()))) {
    if (!send(bytes.substr(0, piece))) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return true;
}

void PeerConnection::wait_for_close() {
  std::array<char, 65536> buffer{};
  while (::recv(fd_, buffer.data(), buffer.size(), 0) > 0) {
  }
}

void PeerConnection::stop_sending() { ::shutdown(fd_, SHUT_WR); }

ScriptedPeer::ScriptedPeer(std::string path, Script script, int backlog)
    : path_(std::move(path)), script_(std::move(script)) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path_.size() >= sizeof(address.sun_path)) throw std::runtime_error("path too long");
  std::memcpy(address.sun_path, path_.data(), path_.size());
  listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (::bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(listener_, backlog) != 0) {
    throw std::runtime_error("cannot listen at " + path_);
  }
  acceptor_ = std::thread([this] { accept_all(); });
}

ScriptedPeer::~ScriptedPeer() {
  ::unlink(path_.c_str());
  ending_ = true;
  acceptor_.join();
  ::close(listener_);
  {
    const std::lock_guard lock(mutex_);
    for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
  }
  for (std::thread& thread : threads_) thread.join();
}

void ScriptedPeer::accept_all() {
  while (!ending_) {
    pollfd waiting{listener_, POLLIN, 0};
    if (paused_ || ::poll(&waiting, 1, 2) <= 0) {
      if (paused_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) continue;
    const unsigned number = ++accepted_;
    const std::lock_guard lock(mutex_);
    open_.push_back(fd);
    threads_.emplace_back([this, fd, number] { serve(fd, number); });
  }
}

void ScriptedPeer::serve(int fd, unsigned number) {
  PeerConnection connection(fd, number);
  script_(connection);
  const std::lock_guard lock(mutex_);
  open_.remove(fd);
  ::close(fd);
}

std::string xapi_http_answer(std::string_view body) {
  return "HTTP/1.1 200 OK\r\ncontent-length: " + std::to_string(body.size()) +
         "\r\nconnection: keep-alive\r\ncache-control: no-cache, no-store\r\ncontent-type: "
         "application/json\r\n"
         "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Headers: X-Requested-With\r\n\r\n" +
         std::string(body);
}

SocketPath::SocketPath() {
  std::string pattern = (std::filesystem::temp_directory_path() / "guard-test-XXXXXX").string();
  if (!::mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp");
  directory_ = pattern;
  path_ = directory_ + "/xapi";
}

SocketPath::~SocketPath() {
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

bool run_until(Loop& loop, const std::function<bool()>& done, std::chrono::milliseconds limit) {
  // Looks every millisecond: the loop has no other way to say that something has happened.
  struct Watch : std::enable_shared_from_this<Watch> {
    Loop& loop;
    const std::function<bool()>& done;
    Time until;
    bool over = false;
    bool good = false;
    Watch(Loop& the_loop, const std::function<bool()>& the_done, Time the_until)
        : loop(the_loop), done(the_done), until(the_until) {}
    void look() {
      if (over) return;
      good = done();
      over = good || loop.now() >= until;
      if (over) {
        loop.stop();
      } else {
        loop.at(loop.now() + std::chrono::milliseconds(1), [self = shared_from_this()] { self->look(); });
      }
    }
  };
  const auto watch = std::make_shared<Watch>(loop, done, loop.now() + limit);
  loop.post([watch] { watch->look(); });
  loop.run();
  watch->over = true;
  return watch->good;
}

}  // namespace guard::net::testing
