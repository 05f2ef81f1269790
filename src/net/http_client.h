// An HTTP/1.1 client for one unix socket: one call at a time, one kept-alive connection.
//
// What it knows better than a general client is how far a request got: whoever sends updates has to tell
// "certainly not done" from "may have been done". A request whose last byte the kernel has not taken cannot
// have been acted upon, because its length is announced in its head.
//
// Thread: the loop thread only. No Boost type appears here.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/limits.h"
#include "guard/env.h"
#include "guard/result.h"
#include "net/loop.h"

namespace guard::net {

struct HttpCall {
  std::string body;
  /// The connection must stand and the kernel must have taken the whole request by then.
  Time send_by{};
  /// The answer must be complete by then; none = for as long as the connection lasts.
  std::optional<Time> answer_by;
  /// Doing it twice does no harm (a look-up or a read), so it may be sent again when a kept-alive connection
  /// turns out to have been closed.
  bool repeatable = false;
  /// Method and target, such as "GET /login/7"; empty = POST to Options::target.
  std::string line = {};
  /// Send it over the connection that stands, or not at all: where a connection has a state of its own.
  /// Without one the result is Errc::unavailable.
  bool same_connection = false;
};

struct HttpAnswer {
  unsigned status = 0;
  std::string body;
};

/// How much of the request the kernel had taken when the call ended.
enum class Sent { nothing, part, everything };

struct HttpResult {
  /// Errors: unavailable = could not connect, or the connection was lost; timeout = a deadline of the call
  /// passed; invalid = what came was not an HTTP answer within the limits.
  Result<HttpAnswer> answer;
  Sent sent = Sent::nothing;
  bool connected = false;  ///< a connection stood at some time during the call
  unsigned connects = 0;   ///< connections opened for this call
};

class HttpClient {
 public:
  struct Options {
    std::string socket_path;
    std::string target = "/jsonrpc";
    /// What stands before and behind the length of the body, each header with its end of line.
    std::string headers_before_length =
        "host: localhost\r\nuser-agent: xapi-guard\r\nconnection: keep-alive\r\n"
        "content-type: application/json\r\ncontent-length: ";
    std::string headers_after_length = "\r\n\r\n";
    std::size_t max_header = limits::max_header;
    std::size_t max_body = limits::xapi_response;
  };

  HttpClient(Loop& loop, Options options);
  /// Closes the connection; a call under way ends without its callback.
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;

  /// Sends one request and reports its end, exactly once and never before post() has returned. The
  /// connection is opened when there is none. On a connection kept from an earlier call that was closed
  /// meanwhile, the request is sent once more over a new one, if it certainly was not acted upon or is
  /// repeatable. A listening socket whose backlog is full is tried again until `send_by`.
  /// Precondition: no call is under way. The callback may post the next one or destroy the client.
  void post(HttpCall call, std::function<void(HttpResult)> done);

  bool busy() const;
  /// A connection stands; it is noticed when the other side closes it while idle.
  bool connected() const;
  /// Closes an idle connection. Precondition: no call is under way.
  void disconnect();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace guard::net
