// The fixture of the tests of the HTTP server: a server on a thread of its own.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <list>
#include <optional>
#include <string>
#include <utility>

#include "net/http_server.h"
#include "net/socket_test_support.h"

namespace guard::net::test {

inline const std::string too_large_text =
    "HTTP/1.1 413 Content Too Large\r\ncontent-length: 9\r\n\r\nToo large";

inline Reply too_large() {
  const auto body = too_large_text.find("Too large");
  return {too_large_text.substr(0, body), Value(too_large_text.substr(body)), false};
}

inline std::string ok(const std::string& body) {
  return "HTTP/1.1 200 OK\r\ncontent-length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

inline Reply ok_reply(const std::string& body) {
  const std::string text = ok(body);
  return {text.substr(0, text.size() - body.size()), Value(body), false};
}

/// What the server made of a request, as text that comes back byte for byte.
inline std::string described(const Request& request) {
  return request.method + " " + request.path + (request.has_length ? " [" : " no length [") + request.body +
         "]";
}

inline std::string put(const std::string& body, const std::string& fields = {}) {
  return "PUT /a HTTP/1.1\r\nHost: x\r\n" + fields + "Content-Length: " + std::to_string(body.size()) +
         "\r\n\r\n" + body;
}

inline std::string get(const std::string& path) { return "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n"; }

/// A server on a thread of its own. By default it describes each request at once; after hold() requests
/// wait until answer() or drop().
class HttpServer : public testing::Test {
 protected:
  ~HttpServer() override {
    thread_.run([this] {
      held_.clear();
      server_.reset();
    });
  }

  void start(ServerLimits limits = {}) {
    thread_.run([&] {
      server_.emplace(
          thread_.loop(), socket_.release(), limits, too_large(),
          [this](Request request, Responder respond) { handle(std::move(request), std::move(respond)); },
          log_, "the socket");
    });
  }

  void handle(Request request, Responder respond) {
    ++handled_;
    if (hold_) {
      held_.emplace_back(std::move(request), std::move(respond));
    } else {
      respond(ok_reply(described(request)));
    }
  }

  void hold() {
    thread_.run([this] { hold_ = true; });
  }
  bool wait_held(std::size_t count) {
    return eventually([&] { return thread_.run([&] { return held_.size(); }) == count; });
  }
  void answer(std::size_t which = 0) {
    thread_.run([&] {
      const auto at = std::next(held_.begin(), static_cast<std::ptrdiff_t>(which));
      auto [request, respond] = std::move(*at);
      held_.erase(at);
      respond(ok_reply(described(request)));
    });
  }
  void drop() {
    thread_.run([this] { held_.pop_front(); });
  }
  unsigned connections() {
    return thread_.run([this] { return server_->connections(); });
  }
  bool wait_connections(unsigned count) {
    return eventually([&] { return connections() == count; });
  }
  const std::string& path() const { return socket_.path(); }

  ListeningSocket socket_;
  RecordingLogger log_;
  LoopThread thread_;
  std::atomic<int> handled_ = 0;
  bool hold_ = false;
  std::list<std::pair<Request, Responder>> held_;
  std::optional<Server> server_;
};

}  // namespace guard::net::test
