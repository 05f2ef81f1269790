// What tests of things behind sockets share: a loop on a thread of its own, a listening unix socket in a
// directory of its own, and a client that sees exactly the bytes that come.
#pragma once

#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <future>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/log.h"
#include "net/loop.h"

namespace guard::net::test {

/// Fails a test that would otherwise wait for ever.
inline constexpr std::chrono::seconds patience{10};

class LoopThread {
 public:
  LoopThread() : thread_([this] { loop_.run(); }) {}
  ~LoopThread() {
    loop_.stop();
    thread_.join();
  }
  Loop& loop() { return loop_; }

  /// Runs `work` on the loop thread and returns what it returned.
  template <class Work>
  auto run(Work work) {
    std::packaged_task<decltype(work())()> task(std::move(work));
    auto result = task.get_future();
    loop_.post([&task] { task(); });
    return result.get();
  }

 private:
  Loop loop_;
  std::thread thread_;
};

/// True once `condition` holds; false after `patience`.
template <class Condition>
bool eventually(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

inline sockaddr_un unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  EXPECT_LT(path.size(), sizeof address.sun_path);
  std::memcpy(address.sun_path, path.data(), std::min(path.size(), sizeof address.sun_path - 1));
  return address;
}

/// A socket that listens; whoever takes `release()` closes it.
class ListeningSocket {
 public:
  ListeningSocket() {
    std::string name = std::filesystem::temp_directory_path() / "guard_test.XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    directory_ = name;
    path_ = directory_ + "/socket";
    fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const auto address = unix_address(path_);
    EXPECT_EQ(::bind(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(fd_, 128), 0);
  }
  ~ListeningSocket() {
    if (fd_ >= 0) ::close(fd_);
    std::filesystem::remove_all(directory_);
  }
  ListeningSocket(const ListeningSocket&) = delete;
  const std::string& path() const { return path_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  std::string directory_;
  std::string path_;
  int fd_ = -1;
};

class Client {
 public:
  /// Creates the descriptor; connect() is separate, for tests that run out of descriptors in between.
  Client() : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const timeval limit{patience.count(), 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  }
  explicit Client(const std::string& path) : Client() { EXPECT_TRUE(connect(path)); }
  ~Client() { close(); }
  Client(Client&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Client& operator=(Client&&) = delete;

  bool connect(const std::string& path) {
    const auto address = unix_address(path);
    return ::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  }

  /// Sends everything; false when the other side has closed.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const auto sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR) continue;
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }

  /// Waits until the other side has received everything that was sent.
  bool wait_received() {
    return eventually([this] {
      int unread = 0;
      return ::ioctl(fd_, SIOCOUTQ, &unread) == 0 && unread == 0;
    });
  }

  /// Exactly `count` bytes, or what came before the end; "<timeout>" is appended when nothing came.
  std::string read(std::size_t count) {
    std::string bytes;
    while (bytes.size() < count) {
      char buffer[65536];
      const auto got = ::recv(fd_, buffer, std::min(sizeof buffer, count - bytes.size()), 0);
      if (got > 0) {
        bytes.append(buffer, static_cast<std::size_t>(got));
      } else if (got == 0 || errno == ECONNRESET) {
        return bytes;
      } else if (errno != EINTR) {
        return bytes + "<timeout>";
      }
    }
    return bytes;
  }
  /// Everything up to the end of the connection.
  std::string read_all() { return read(SIZE_MAX); }

  /// True when nothing has arrived and the connection is open.
  bool silent() {
    char byte = 0;
    const auto got = ::recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
  }

  void finish_sending() { ::shutdown(fd_, SHUT_WR); }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  int fd() const { return fd_; }

 private:
  int fd_;
};

/// Keeps what was logged.
class RecordingLogger final : public Logger {
 public:
  void log(LogLevel level, std::string_view event, std::initializer_list<Field> fields) override {
    std::string line = std::to_string(static_cast<int>(level)) + " " + std::string(event);
    for (const Field& field : fields) line += " " + std::string(field.key) + "=" + field.text;
    const std::lock_guard lock(mutex_);
    lines_.push_back(std::move(line));
  }
  bool enabled(LogLevel) const override { return true; }
  /// How many lines contain `text`.
  std::size_t count(std::string_view text) const {
    const std::lock_guard lock(mutex_);
    return static_cast<std::size_t>(std::ranges::count_if(
        lines_, [&](const std::string& line) { return line.find(text) != std::string::npos; }));
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

}  // namespace guard::net::test
