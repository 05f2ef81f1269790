// The HTTP client inside guest-tpm: one device socket, spoken to as swtpm's HTTP backend does through
// libcurl.
//
// What is imitated, because a server can be wrong about each of them: the exact request bytes, head and body
// in two writes, one connection kept for the whole life, a connection given up after 118 s of idleness or
// when the server closed it, the one extra connection that libcurl opens and closes when the server hangs up
// in the middle of a PUT, and a reply of more than 1 MiB taken for a transport error.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "guard/result.h"

namespace guard::tool {

struct Answer {
  int status = 0;
  std::string body;
};

struct DeviceClientOptions {
  std::string socket_path;
  /// After this the connection is not used again (CURLOPT_MAXAGE_CONN's default).
  std::chrono::seconds max_idle{118};
  /// How long one exchange may take; none = as long as it takes, like swtpm.
  std::optional<std::chrono::milliseconds> exchange_limit;
};

/// Not thread-safe; blocks its thread.
class DeviceClient {
 public:
  explicit DeviceClient(DeviceClientOptions options);
  ~DeviceClient();
  DeviceClient(const DeviceClient&) = delete;

  /// One request and its answer. `body` is sent with PUT only. An error means that no complete answer came:
  /// the request may or may not have taken effect.
  Result<Answer> exchange(std::string_view method, std::string_view resource, std::string_view body = {});

  /// Connections opened so far, those that were only opened and closed included.
  unsigned connects() const { return connects_; }

 private:
  using Deadline = std::optional<std::chrono::steady_clock::time_point>;

  Result<> ensure_connected(Deadline deadline);
  Result<> open(Deadline deadline);
  void close();
  bool hung_up() const;
  Result<> wait_for(short events, Deadline deadline) const;
  Result<> send_all(std::string_view bytes, Deadline deadline);
  Result<std::size_t> receive_some(Deadline deadline);
  Result<Answer> receive_answer(std::string_view method, Deadline deadline);
  Result<> receive_body(std::string_view headers, Answer& answer, Deadline deadline);
  Result<> receive_chunks(Answer& answer, Deadline deadline);
  Result<> fill(std::size_t bytes, Deadline deadline);

  DeviceClientOptions options_;
  int fd_ = -1;
  std::string input_;               ///< received and not yet used
  std::size_t received_bytes_ = 0;  ///< since the request under way was begun
  bool reused_ = false;
  std::chrono::steady_clock::time_point last_use_;
  unsigned connects_ = 0;
};

}  // namespace guard::tool
