#include "cli/rpc_client.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <system_error>
#include <utility>

#include "base/limits.h"
#include "base/text.h"

namespace guard::cli {

namespace {

/// `pending` with every entry a full journal can hold is a few megabytes.
constexpr std::size_t max_answer = 64 * limits::MiB;

std::unexpected<CallError> unreachable(std::string text) {
  return std::unexpected(CallError{CallError::Kind::unreachable, std::move(text), {}});
}

class Connection {
 public:
  Connection() : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {}
  ~Connection() {
    if (fd_ >= 0) ::close(fd_);
  }
  Connection(const Connection&) = delete;

  /// Empty when connected, else what went wrong.
  std::string open(const std::string& path, std::chrono::milliseconds patience) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path))
      return "cannot connect to " + path + ": the path is too long";
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(patience);
    const timeval limit{seconds.count(), (patience - seconds).count() * 1000};
    if (fd_ < 0 || ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0 ||
        ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0 ||
        ::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) < 0) {
      return "cannot connect to " + path + ": " + describe(errno);
    }
    return {};
  }

  std::string send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return "cannot send the request: " + describe(errno);
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return {};
  }

  /// Appends what arrives until the other side closes.
  std::string receive_all(std::string& out) {
    char buffer[64 * 1024];
    while (out.size() <= max_answer) {
      const ssize_t n = ::recv(fd_, buffer, sizeof(buffer), 0);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return "no answer: " + describe(errno);
      if (n == 0) return {};
      out.append(buffer, static_cast<std::size_t>(n));
    }
    return "the answer is too long";
  }

 private:
  static std::string describe(int error) {
    return error == EAGAIN ? "the daemon did not react in time" : std::generic_category().message(error);
  }
  int fd_;
};

/// The body of a complete answer with status 200; nullopt otherwise.
std::optional<std::string_view> body_of(std::string_view answer) {
  const auto head_end = answer.find("\r\n\r\n");
  if (head_end == answer.npos) return std::nullopt;
  const std::string head = lower(answer.substr(0, head_end + 2));
  if (!head.starts_with("http/1.1 200 ")) return std::nullopt;
  const auto body = answer.substr(head_end + 4);
  if (content_length(head) != body.size()) return std::nullopt;
  return body;
}

/// The text of ["InternalError", TEXT], or the error as it is.
std::string text_of(const wire::Json& error) {
  const auto* parts = error.array();
  if (parts != nullptr && parts->size() == 2 && (*parts)[1].string() != nullptr) return *(*parts)[1].string();
  return wire::to_string(error);
}

}  // namespace

std::optional<std::uint64_t> content_length(std::string_view head) {
  constexpr std::string_view name = "\r\ncontent-length:";
  const auto field = head.find(name);
  if (field == head.npos) return std::nullopt;
  std::string_view text = head.substr(field + name.size());
  text = text.substr(0, text.find("\r\n"));
  while (text.starts_with(' ')) text.remove_prefix(1);
  return parse_decimal(text);
}

std::string request_of(std::string_view method, const wire::JsonObject& named,
                       const wire::JsonArray& unnamed) {
  wire::JsonArray params{wire::Json(named)};
  params.insert(params.end(), unnamed.begin(), unnamed.end());
  return wire::to_string(wire::JsonObject{{"method", method}, {"params", std::move(params)}, {"id", 1}});
}

std::expected<wire::Json, CallError> result_of(std::string_view answer) {
  const auto json = wire::parse_json(answer, {.max_depth = 16, .max_bytes = max_answer});
  const wire::Json* result = json ? json->find("result") : nullptr;
  const wire::Json* error = json ? json->find("error") : nullptr;
  if (result == nullptr || error == nullptr) return unreachable("the answer is not one of this daemon's");
  if (!error->is_null()) return std::unexpected(CallError{CallError::Kind::refused, text_of(*error), *error});
  return *result;
}

std::expected<wire::Json, CallError> send_to(const std::string& socket_path, const std::string& payload,
                                             std::chrono::milliseconds patience) {
  const std::string request =
      "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
      "Content-Length: " +
      std::to_string(payload.size()) + "\r\n\r\n" + payload;
  Connection connection;
  if (auto trouble = connection.open(socket_path, patience); !trouble.empty()) return unreachable(trouble);
  if (auto trouble = connection.send(request); !trouble.empty()) return unreachable(trouble);
  std::string answer;
  if (auto trouble = connection.receive_all(answer); !trouble.empty()) return unreachable(trouble);
  if (answer.empty()) return unreachable("the daemon closed the connection without an answer");
  const auto text = body_of(answer);
  if (!text) return unreachable("the answer is not one of this daemon's: " + socket_path);
  return result_of(*text);
}

std::expected<wire::Json, CallError> call(const std::string& socket_path, std::string_view method,
                                          const wire::JsonObject& params,
                                          std::chrono::milliseconds patience) {
  return send_to(socket_path, request_of(method, params), patience);
}

}  // namespace guard::cli
