#include "device_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

#include "base/text.h"

namespace guard::tool {

namespace {

using Clock = std::chrono::steady_clock;

/// A larger reply is a transport error to swtpm's backend.
constexpr std::size_t max_answer_body = 1'048'576;
constexpr std::size_t max_answer_head = 65'536;

std::unexpected<Error> broken(std::string text) {
  return std::unexpected(Error{Errc::unavailable, 0, std::move(text)});
}

std::string request_head(std::string_view method, std::string_view resource, std::size_t body_bytes) {
  std::string head;
  head.append(method).append(" /").append(resource);
  head += " HTTP/1.1\r\nHost: xapi-depriv-socket\r\nAccept: */*\r\n";
  if (method == "PUT") {
    head +=
        "Content-Type: application/octet-stream\r\nContent-Length: " + std::to_string(body_bytes) + "\r\n";
  }
  return head + "\r\n";
}

/// The value of a header, or nullopt; `headers` are lines that each end in CR LF.
std::optional<std::string> header_value(std::string_view headers, std::string_view name) {
  while (!headers.empty()) {
    const auto end = headers.find("\r\n");
    const std::string_view line = headers.substr(0, end);
    headers = end == std::string_view::npos ? std::string_view() : headers.substr(end + 2);
    const auto colon = line.find(':');
    if (colon == std::string_view::npos || lower(line.substr(0, colon)) != name) continue;
    const auto first = line.find_first_not_of(" \t", colon + 1);
    if (first == std::string_view::npos) return std::string();
    const auto last = line.find_last_not_of(" \t");
    return std::string(line.substr(first, last + 1 - first));
  }
  return std::nullopt;
}

std::optional<int> status_of(std::string_view head) {
  if (!head.starts_with("HTTP/1.") || head.size() < 12 || head[8] != ' ') return std::nullopt;
  int status = 0;
  const auto [end, error] = std::from_chars(head.data() + 9, head.data() + 12, status);
  if (error != std::errc() || end != head.data() + 12) return std::nullopt;
  return status;
}

}  // namespace

DeviceClient::DeviceClient(DeviceClientOptions options) : options_(std::move(options)) {}

DeviceClient::~DeviceClient() { close(); }

Result<Answer> DeviceClient::exchange(std::string_view method, std::string_view resource,
                                      std::string_view body) {
  Deadline deadline;
  if (options_.exchange_limit) deadline = Clock::now() + *options_.exchange_limit;
  const bool has_body = method == "PUT";
  for (;;) {
    if (auto connected = ensure_connected(deadline); !connected) return std::unexpected(connected.error());
    const bool was_reused = std::exchange(reused_, true);
    received_bytes_ = 0;
    auto sent = send_all(request_head(method, resource, body.size()), deadline);
    if (sent && has_body) sent = send_all(body, deadline);
    // Even when sending failed, an answer may be there already (413, or a 503 before the body was read).
    auto answer = receive_answer(method, deadline);
    if (answer) {
      last_use_ = Clock::now();
      if (!sent) close();  // the rest of the request was never read: the connection is of no more use
      return answer;
    }
    const bool nothing_came = received_bytes_ == 0;
    close();
    if (!was_reused || !nothing_came || answer.error().code == Errc::timeout) return answer;
    // libcurl takes a used connection that ends without a byte for one that the server had given up, and
    // opens another; a body it cannot rewind, so that a PUT ends there.
    if (has_body) {
      if (open(deadline)) close();
      return answer;
    }
  }
}

Result<> DeviceClient::ensure_connected(Deadline deadline) {
  if (fd_ >= 0 && (hung_up() || Clock::now() - last_use_ > options_.max_idle)) close();
  return fd_ >= 0 ? Result<>() : open(deadline);
}

Result<> DeviceClient::open(Deadline deadline) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (options_.socket_path.size() >= sizeof(address.sun_path)) {
    return std::unexpected(Error::invalid("the path of the socket is too long"));
  }
  std::memcpy(address.sun_path, options_.socket_path.data(), options_.socket_path.size());
  fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd_ < 0) return broken(std::string("socket: ") + std::strerror(errno));
  if (deadline) {
    // A full backlog makes connect wait, for at most this long.
    const auto left =
        std::max(std::chrono::milliseconds(1),
                 std::chrono::duration_cast<std::chrono::milliseconds>(*deadline - Clock::now()));
    const timeval limit{left.count() / 1000, left.count() % 1000 * 1000};
    ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  }
  if (::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const int error = errno;
    close();
    return broken(std::string("connect: ") + std::strerror(error));
  }
  ++connects_;
  reused_ = false;
  last_use_ = Clock::now();
  return {};
}

void DeviceClient::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
  input_.clear();
}

/// True when the server has closed the idle connection, or sent something nobody asked for.
bool DeviceClient::hung_up() const {
  pollfd entry{fd_, POLLIN, 0};
  return ::poll(&entry, 1, 0) != 0;
}

Result<> DeviceClient::wait_for(short events, Deadline deadline) const {
  for (;;) {
    int timeout = -1;
    if (deadline) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline - Clock::now());
      timeout = static_cast<int>(std::max<std::int64_t>(0, left.count()));
    }
    pollfd entry{fd_, events, 0};
    const int ready = ::poll(&entry, 1, timeout);
    if (ready > 0) return {};
    if (ready == 0) return std::unexpected(Error{Errc::timeout, 0, "no answer in time"});
    if (errno != EINTR) return broken(std::string("poll: ") + std::strerror(errno));
  }
}

Result<> DeviceClient::send_all(std::string_view bytes, Deadline deadline) {
  while (!bytes.empty()) {
    const auto sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN) {
      if (auto ready = wait_for(POLLOUT, deadline); !ready) return ready;
    } else if (errno != EINTR) {
      return broken(std::string("send: ") + std::strerror(errno));
    }
  }
  return {};
}

/// Appends what has arrived to the input; 0 = the server closed.
Result<std::size_t> DeviceClient::receive_some(Deadline deadline) {
  for (;;) {
    if (auto ready = wait_for(POLLIN, deadline); !ready) return std::unexpected(ready.error());
    char buffer[65536];
    const auto received = ::recv(fd_, buffer, sizeof buffer, 0);
    if (received >= 0) {
      input_.append(buffer, static_cast<std::size_t>(received));
      received_bytes_ += static_cast<std::size_t>(received);
      return static_cast<std::size_t>(received);
    }
    if (errno != EINTR) return broken(std::string("recv: ") + std::strerror(errno));
  }
}

/// Receives until the input holds at least so many bytes.
Result<> DeviceClient::fill(std::size_t bytes, Deadline deadline) {
  while (input_.size() < bytes) {
    auto received = receive_some(deadline);
    if (!received) return std::unexpected(received.error());
    if (*received == 0) return broken("the connection ended in the middle of an answer");
  }
  return {};
}

Result<Answer> DeviceClient::receive_answer(std::string_view method, Deadline deadline) {
  for (;;) {
    std::size_t end;
    while ((end = input_.find("\r\n\r\n")) == std::string::npos) {
      if (input_.size() > max_answer_head) return broken("the head of an answer is too long");
      auto received = receive_some(deadline);
      if (!received) return std::unexpected(received.error());
      if (*received == 0) return broken("the connection ended without an answer");
    }
    const std::string head = input_.substr(0, end + 2);
    const auto status = status_of(head);
    if (!status) return broken("what came is not an HTTP answer");
    input_.erase(0, end + 4);
    if (*status >= 100 && *status < 200 && *status != 101) continue;  // an interim answer

    Answer answer{*status, {}};
    const std::string headers = head.substr(head.find("\r\n") + 2);
    if (method != "HEAD" && *status != 204 && *status != 304) {
      if (auto got = receive_body(headers, answer, deadline); !got) return std::unexpected(got.error());
    }
    const bool ends = header_value(headers, "connection").value_or("") == "close" || head[7] == '0';
    if (ends) close();
    return answer;
  }
}

Result<> DeviceClient::receive_body(std::string_view headers, Answer& answer, Deadline deadline) {
  if (lower(header_value(headers, "transfer-encoding").value_or("")) == "chunked") {
    return receive_chunks(answer, deadline);
  }
  if (const auto length_text = header_value(headers, "content-length")) {
    const auto length = parse_decimal(*length_text);
    if (!length || *length > max_answer_body) return broken("an answer without a usable length");
    if (auto filled = fill(*length, deadline); !filled) return filled;
    answer.body = input_.substr(0, *length);
    input_.erase(0, *length);
    return {};
  }
  for (;;) {  // the body ends where the connection ends
    auto received = receive_some(deadline);
    if (!received) return std::unexpected(received.error());
    if (input_.size() > max_answer_body) return broken("an answer without end");
    if (*received == 0) break;
  }
  answer.body = std::move(input_);
  close();
  return {};
}

Result<> DeviceClient::receive_chunks(Answer& answer, Deadline deadline) {
  for (;;) {
    std::size_t line_end;
    while ((line_end = input_.find("\r\n")) == std::string::npos) {
      if (auto more = fill(input_.size() + 1, deadline); !more) return more;
    }
    std::size_t size = 0;
    const auto [end, error] = std::from_chars(input_.data(), input_.data() + line_end, size, 16);
    if (error != std::errc() || answer.body.size() + size > max_answer_body) return broken("a bad chunk");
    input_.erase(0, line_end + 2);
    if (auto filled = fill(size + 2, deadline); !filled) return filled;
    answer.body.append(input_, 0, size);
    input_.erase(0, size + 2);
    if (size == 0) return {};
  }
}

}  // namespace guard::tool
