// One connection to the message switch, logged in. Its state belongs to the connection, so nothing is ever
// sent over another one: once it is lost, or an answer was not what it should be, the object is done for.
//
// Thread: the loop thread only.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "guard/result.h"
#include "net/http_client.h"
#include "net/loop.h"

namespace guard::control {

class SwitchConnection {
 public:
  /// The body of the answer, which had status 200. Errors: invalid = the answer was too large or no answer;
  /// else unavailable or timeout. After any of them the connection is of no more use.
  using Done = std::function<void(Result<std::string>)>;

  SwitchConnection(net::Loop& loop, std::string socket_path);

  /// Connects and logs in under the session name `token`. Called first, once.
  void log_in(const std::string& token, Done done);

  /// Sends a request such as "GET", "/ack/q/7" and waits for its answer, at most `patience`. Precondition:
  /// none is under way. `done` never comes before the return, and not at all once the object is gone, which
  /// may happen within it.
  void request(std::string_view method, std::string_view path, std::string body,
               std::chrono::milliseconds patience, Done done);

 private:
  void post(std::string line, std::string body, std::chrono::milliseconds patience, bool first, Done done);

  net::Loop& loop_;
  net::HttpClient client_;
};

}  // namespace guard::control
