// Sinks of the log. Each sends whole lines, and none ever waits: a log that is full or gone must not stop a
// VM.
#include "base/log.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <mutex>
#include <optional>

#include "base/limits.h"
#include "base/text.h"

namespace guard {

namespace {

/// The facility of the original daemon, and its number in syslog.
constexpr int facility_local5 = 21;

int priority_of(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return 7;
    case LogLevel::info:
      return 6;
    case LogLevel::notice:
      return 5;
    case LogLevel::warning:
      return 4;
    case LogLevel::error:
      return 3;
  }
  return 3;
}

/// One line for a sink; the texts live as long as the call.
struct Line {
  LogLevel level;
  std::string text;    ///< event and fields
  std::string fields;  ///< for journald: `NAME=value\n` of the fields that it indexes
};

class Sink {
 public:
  virtual ~Sink() = default;
  /// False: the line is lost.
  virtual bool write(const Line& line) = 0;
};

class StderrSink final : public Sink {
 public:
  StderrSink() {
    struct stat st{};
    regular_ = ::fstat(STDERR_FILENO, &st) == 0 && S_ISREG(st.st_mode);
    socket_ = S_ISSOCK(st.st_mode);
  }
  bool write(const Line& line) override {
    std::string text = rfc3339(std::chrono::system_clock::now());
    text += ' ';
    text += name_of(line.level);
    text += ' ';
    text += line.text;
    text += '\n';
    if (socket_) {
      return ::send(STDERR_FILENO, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL) ==
             static_cast<ssize_t>(text.size());
    }
    // The description may be shared with other programs, so that O_NONBLOCK is not ours to set. A pipe that
    // is writable takes PIPE_BUF bytes at once, which is more than a line has.
    if (!regular_) {
      pollfd ready{STDERR_FILENO, POLLOUT, 0};
      if (::poll(&ready, 1, 0) != 1 || (ready.revents & POLLOUT) == 0) return false;
    }
    return ::write(STDERR_FILENO, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  }

 private:
  bool regular_ = false;
  bool socket_ = false;
};

/// Datagrams to a path. Not connected: whoever binds the path anew gets the next line.
class DatagramSocket {
 public:
  explicit DatagramSocket(const std::string& path)
      : fd_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    address_.sun_family = AF_UNIX;
    fits_ = path.size() < sizeof address_.sun_path;
    if (fits_) std::memcpy(address_.sun_path, path.c_str(), path.size() + 1);
  }
  ~DatagramSocket() {
    if (fd_ >= 0) ::close(fd_);
  }
  DatagramSocket(const DatagramSocket&) = delete;
  bool send(std::string_view datagram) {
    return fits_ && ::sendto(fd_, datagram.data(), datagram.size(), MSG_DONTWAIT | MSG_NOSIGNAL,
                             reinterpret_cast<const sockaddr*>(&address_),
                             sizeof address_) == static_cast<ssize_t>(datagram.size());
  }

 private:
  int fd_;
  sockaddr_un address_{};
  bool fits_ = false;
};

/// journald's native protocol (systemd, "Native Journal Protocol"): one datagram of NAME=value lines. Lines
/// are escaped, so that no value holds a line feed and none needs the binary form.
class JournalSink final : public Sink {
 public:
  JournalSink(const std::string& path, std::string_view identifier)
      : socket_(path),
        head_("SYSLOG_FACILITY=" + std::to_string(facility_local5) +
              "\nSYSLOG_IDENTIFIER=" + std::string(identifier) + "\n") {}
  bool write(const Line& line) override {
    std::string datagram =
        "MESSAGE=" + line.text + "\nPRIORITY=" + std::to_string(priority_of(line.level)) + "\n";
    datagram += head_;
    datagram += line.fields;
    return socket_.send(datagram);
  }

 private:
  DatagramSocket socket_;
  const std::string head_;
};

/// RFC 3164, in the form in which local programs speak to /dev/log: without the name of the host.
class SyslogSink final : public Sink {
 public:
  SyslogSink(const std::string& path, std::string_view identifier)
      : socket_(path), tag_(std::string(identifier) + "[" + std::to_string(::getpid()) + "]: ") {}
  bool write(const Line& line) override {
    return socket_.send("<" + std::to_string(facility_local5 * 8 + priority_of(line.level)) + ">" + time() +
                        tag_ + line.text);
  }

 private:
  /// `Nov  3 07:05:09 `, local time as the protocol has it.
  static std::string time() {
    static constexpr std::array<const char*, 12> months{"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    const std::time_t now = std::time(nullptr);
    std::tm parts{};
    ::localtime_r(&now, &parts);
    const auto two = [](int number, char fill) {
      std::string text = std::to_string(number);
      return text.size() < 2 ? fill + text : text;
    };
    return std::string(months[static_cast<std::size_t>(parts.tm_mon)]) + ' ' + two(parts.tm_mday, ' ') + ' ' +
           two(parts.tm_hour, '0') + ':' + two(parts.tm_min, '0') + ':' + two(parts.tm_sec, '0') + ' ';
  }

  DatagramSocket socket_;
  const std::string tag_;
};

class SinkLogger final : public LineLogger {
 public:
  SinkLogger(std::unique_ptr<Sink> sink, LogLevel level) : sink_(std::move(sink)), level_(level) {}

  void log(LogLevel level, std::string_view event, std::initializer_list<Field> fields) override {
    if (!enabled(level)) return;
    const Line line{level, log_line(event, fields), indexed(fields)};
    const std::lock_guard lock(mutex_);
    if (unsaid_ > 0 &&
        sink_->write({LogLevel::warning, log_line("log_lines_lost", {{"count", unsaid_}}), {}})) {
      unsaid_ = 0;
    }
    // While it cannot be said that some are missing, none gets through: the order would be wrong.
    if (unsaid_ > 0 || !sink_->write(line)) {
      ++unsaid_;
      ++lost_;
    }
  }
  bool enabled(LogLevel level) const override { return level >= level_; }
  std::uint64_t lost() const override { return lost_; }

 private:
  static std::string indexed(std::initializer_list<Field> fields) {
    std::string text;
    for (const Field& field : fields) {
      const std::string_view name = field.key == "vm"     ? "VM_UUID"
                                    : field.key == "slot" ? "SLOT"
                                    : field.key == "task" ? "TASK"
                                                          : "";
      if (name.empty() || field.text.empty()) continue;
      text.append(name).append("=").append(log_text(field.text)).append("\n");
    }
    return text;
  }

  std::mutex mutex_;
  const std::unique_ptr<Sink> sink_;
  const LogLevel level_;
  std::uint64_t unsaid_ = 0;  ///< lost since the log last said so
  std::atomic<std::uint64_t> lost_{0};
};

}  // namespace

std::unique_ptr<LineLogger> make_logger(LogTarget target, LogLevel level, std::string_view identifier) {
  std::unique_ptr<Sink> sink;
  switch (target.kind) {
    case LogTarget::Kind::stderr_lines:
      sink = std::make_unique<StderrSink>();
      break;
    case LogTarget::Kind::journal:
      sink = std::make_unique<JournalSink>(target.path, identifier);
      break;
    case LogTarget::Kind::syslog:
      sink = std::make_unique<SyslogSink>(target.path, identifier);
      break;
  }
  return std::make_unique<SinkLogger>(std::move(sink), level);
}

std::unique_ptr<LineLogger> make_stderr_logger(LogLevel level) { return make_logger({}, level); }

}  // namespace guard
