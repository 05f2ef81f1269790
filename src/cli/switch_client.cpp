#include "cli/switch_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "base/limits.h"
#include "base/text.h"
#include "guard/result.h"
#include "wire/message_switch.h"

namespace guard::cli {

namespace protocol = wire::message_switch;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::string_view queue = "org.xen.xapi.xapi_depriv";
constexpr milliseconds connect_retry{500};

Error trouble(std::string text) { return {Errc::unavailable, 0, std::move(text)}; }

/// One kept-alive connection; nothing on it lasts longer than until the deadline.
class Connection {
 public:
  explicit Connection(Clock::time_point deadline) : deadline_(deadline) {}
  ~Connection() {
    if (fd_ >= 0) ::close(fd_);
  }
  Connection(const Connection&) = delete;

  Result<> open(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path))
      return std::unexpected(trouble("the path is too long: " + path));
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    while (true) {
      fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
      if (fd_ >= 0 && ::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0)
        return {};
      const int error = errno;
      if (fd_ >= 0) ::close(std::exchange(fd_, -1));
      // It may be starting, or busy.
      if ((error != ENOENT && error != ECONNREFUSED && error != EAGAIN) ||
          Clock::now() + connect_retry > deadline_) {
        return std::unexpected(
            trouble("cannot connect to " + path + ": " + std::generic_category().message(error)));
      }
      std::this_thread::sleep_for(connect_retry);
    }
  }

  /// The body of an answer with status 200.
  Result<std::string> exchange(std::string_view method, std::string_view path, std::string_view body = {}) {
    std::string request(method);
    request.append(" ").append(path).append(" HTTP/1.1\r\n").append(protocol::headers_before_length);
    request.append(std::to_string(body.size())).append(protocol::headers_after_length).append(body);
    if (auto sent = send(request); !sent) return std::unexpected(std::move(sent.error()));
    return receive();
  }

 private:
  Result<> wait(short events) {
    while (true) {
      const auto left = std::chrono::ceil<milliseconds>(deadline_ - Clock::now()).count();
      if (left <= 0) return std::unexpected(Error{Errc::timeout, 0, "no response in time"});
      pollfd item{fd_, events, 0};
      const int ready = ::poll(&item, 1, static_cast<int>(left));
      if (ready > 0) return {};
      if (ready < 0 && errno != EINTR) return std::unexpected(Error::system("poll", errno));
    }
  }

  Result<> send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n > 0) {
        bytes.remove_prefix(static_cast<std::size_t>(n));
      } else if (errno != EAGAIN && errno != EINTR) {
        return std::unexpected(Error::system("send to the switch", errno));
      } else if (auto ready = wait(POLLOUT); !ready) {
        return ready;
      }
    }
    return {};
  }

  Result<> receive_more() {
    char chunk[16 * 1024];
    while (true) {
      const ssize_t n = ::recv(fd_, chunk, sizeof(chunk), 0);
      if (n > 0) {
        input_.append(chunk, static_cast<std::size_t>(n));
        return {};
      }
      if (n == 0) return std::unexpected(trouble("the switch closed the connection"));
      if (errno != EAGAIN && errno != EINTR) {
        return std::unexpected(Error::system("receive from the switch", errno));
      }
      if (auto ready = wait(POLLIN); !ready) return ready;
    }
  }

  Result<std::string> receive() {
    std::size_t head_end = 0;
    while ((head_end = input_.find("\r\n\r\n")) == input_.npos) {
      if (input_.size() > limits::max_header) return std::unexpected(trouble("this is no message switch"));
      if (auto more = receive_more(); !more) return std::unexpected(std::move(more.error()));
    }
    const std::string head = lower(std::string_view(input_).substr(0, head_end + 2));
    const auto length = content_length(head);
    if (!head.starts_with("http/1.1 ") || !length || *length > limits::switch_answer) {
      return std::unexpected(trouble("this is no message switch"));
    }
    const std::size_t end = head_end + 4 + static_cast<std::size_t>(*length);
    while (input_.size() < end) {
      if (auto more = receive_more(); !more) return std::unexpected(std::move(more.error()));
    }
    std::string body = input_.substr(head_end + 4, static_cast<std::size_t>(*length));
    input_.erase(0, end);
    if (!head.starts_with("http/1.1 200 ")) {
      return std::unexpected(trouble("the switch answered " + head.substr(9, 3)));
    }
    return body;
  }

  const Clock::time_point deadline_;
  int fd_ = -1;
  std::string input_;
};

/// A client of the switch: requests on one connection, responses on the other.
class Client {
 public:
  Client(std::string token, Clock::time_point deadline)
      : token_(std::move(token)), deadline_(deadline), requests_(deadline), responses_(deadline) {}

  Result<std::string> call(const std::string& socket_path, const std::string& payload) {
    for (Connection* connection : {&requests_, &responses_}) {
      if (auto opened = connection->open(socket_path); !opened) return std::unexpected(opened.error());
      if (auto in = connection->exchange("GET", protocol::login_path(token_)); !in) return in;
    }
    if (auto made = requests_.exchange("GET", protocol::transient_path(token_)); !made) return made;
    // So that the request has a place even if no daemon was there yet.
    if (auto made = requests_.exchange("GET", protocol::persistent_path(queue)); !made) return made;
    const auto answer = requests_.exchange("POST", protocol::request_path(queue, token_), payload);
    if (!answer) return answer;
    const auto posted = protocol::parse_posted(*answer);
    if (!posted) return std::unexpected(posted.error());
    if (!*posted) return std::unexpected(trouble("the queue was deleted meanwhile"));
    return response_to(**posted);
  }

 private:
  Result<std::string> response_to(const protocol::MessageId& request) {
    std::optional<std::string> from;
    while (true) {
      const auto left = std::chrono::floor<std::chrono::seconds>(deadline_ - Clock::now());
      const auto hold = std::clamp(left, std::chrono::seconds(0), limits::switch_poll);
      const auto answer =
          responses_.exchange("POST", protocol::transfer_path,
                              protocol::transfer_body(from, static_cast<unsigned>(hold.count()), token_));
      if (!answer) return answer;
      auto transfer =
          protocol::parse_transfer(*answer, {.max_depth = 16, .max_bytes = limits::switch_answer});
      if (!transfer) return std::unexpected(transfer.error());
      from = transfer->next;
      for (protocol::Message& message : transfer->messages) {
        if (auto gone = responses_.exchange("GET", protocol::ack_path(message.id)); !gone) return gone;
        if (message.kind == protocol::Message::Kind::response && message.request == request) {
          return std::move(message.payload);
        }
      }
      if (Clock::now() + milliseconds(10) > deadline_) {
        return std::unexpected(Error{Errc::timeout, 0, "no response in time"});
      }
    }
  }

  const std::string token_;
  const Clock::time_point deadline_;
  Connection requests_;
  Connection responses_;
};

}  // namespace

std::expected<wire::Json, CallError> call_through_switch(const std::string& socket_path,
                                                         const std::string& token, const std::string& payload,
                                                         milliseconds patience) {
  Client client(token, Clock::now() + patience);
  const auto response = client.call(socket_path, payload);
  if (!response) {
    std::string text = response.error().message;
    if (response.error().code == Errc::timeout) text += "; the request stays in the message switch";
    return std::unexpected(CallError{CallError::Kind::unreachable, std::move(text), {}});
  }
  return result_of(*response);
}

}  // namespace guard::cli
