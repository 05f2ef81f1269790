#include "control/switch_connection.h"

#include <utility>

#include "base/limits.h"
#include "wire/message_switch.h"

namespace guard::control {

namespace protocol = wire::message_switch;

SwitchConnection::SwitchConnection(net::Loop& loop, std::string socket_path)
    : loop_(loop),
      client_(loop, {.socket_path = std::move(socket_path),
                     .target = {},
                     .headers_before_length = std::string(protocol::headers_before_length),
                     .headers_after_length = std::string(protocol::headers_after_length),
                     .max_body = limits::switch_answer}) {}

void SwitchConnection::log_in(const std::string& token, Done done) {
  post("GET " + protocol::login_path(token), {}, limits::switch_patience, true, std::move(done));
}

void SwitchConnection::request(std::string_view method, std::string_view path, std::string body,
                               std::chrono::milliseconds patience, Done done) {
  post(std::string(method).append(" ").append(path), std::move(body), patience, false, std::move(done));
}

void SwitchConnection::post(std::string line, std::string body, std::chrono::milliseconds patience,
                            bool first, Done done) {
  const Time now = loop_.now();
  net::HttpCall call;
  call.body = std::move(body);
  call.send_by = now + Time(limits::switch_patience);
  call.answer_by = now + Time(patience);
  call.line = std::move(line);
  call.same_connection = !first;
  client_.post(std::move(call), [done = std::move(done)](net::HttpResult result) {
    if (!result.answer) return done(std::unexpected(std::move(result.answer.error())));
    if (result.answer->status != 200) {
      // 404 "Please log in." among them.
      return done(std::unexpected(
          Error{Errc::unavailable, 0, "the switch answered " + std::to_string(result.answer->status)}));
    }
    done(std::move(result.answer->body));
  });
}

}  // namespace guard::control
