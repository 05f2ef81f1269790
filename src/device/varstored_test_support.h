// The socket of a VM's varstored with a lane behind it that is only a map in memory, and the bytes of its
// clients.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "device/varstored_rpc.h"
#include "net/socket_test_support.h"

namespace guard::device::test {

/// The edge of what is tested: a lane that is only a map in memory.
class MapUefi final : public UefiAccess {
 public:
  using Kind = UefiOutcome::Kind;
  enum class Mood { answers, holds };

  void get_nvram(std::function<void(NvramResult)> done) override {
    // A lane that cannot answer must not be believed, whatever it gives.
    say("get", [this, done = std::move(done)] { done({outcome, entries}); });
  }
  void set_nvram(Value value, UpdateFlag update, std::function<void(UefiOutcome)> done) override {
    const std::string flag = update == UpdateFlag::yes ? "yes" : update == UpdateFlag::no ? "no" : "-";
    say("set(" + std::string(value.view().substr(0, 40)) + "," + flag + ")",
        [this, value, done = std::move(done)] {
          if (outcome.kind == Kind::done) entries = {{"EFI-variables", value}};
          done(outcome);
        });
  }
  void get_secureboot_state(std::function<void(SecurebootResult)> done) override {
    say("state", [this, done = std::move(done)] { done({outcome, "update_available"}); });
  }
  void alert(std::int64_t priority, Value body, std::function<void(UefiOutcome)> done) override {
    say("alert(" + std::to_string(priority) + "," + std::string(body.view().substr(0, 60)) + ")",
        [this, done = std::move(done)] { done(outcome); });
  }

  UefiOutcome outcome{Kind::done, {}};
  Mood mood = Mood::answers;
  std::vector<std::pair<std::string, Value>> entries;
  std::string calls;  ///< what was asked for
  std::list<std::function<void()>> held;

 private:
  void say(const std::string& call, std::function<void()> end) {
    calls += call + " ";
    if (mood == Mood::holds) {
      held.push_back(std::move(end));
    } else {
      end();
    }
  }
};

// --- Bytes ------------------------------------------------------------------------------------------------

/// The request with the head that varstored sends.
inline std::string post(const std::string& body) {
  return "POST / HTTP/1.1\r\nHost: _var_lib_xcp_xapi\r\nAccept-Encoding: identity\r\n"
         "User-Agent: varstored/0.1\r\nConnection: close\r\nContent-Type: text/xml\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}
/// The call with parameters as varstored writes them: `values` are the insides of value elements.
inline std::string call(const std::string& method, const std::vector<std::string>& values) {
  std::string body = "<?xml version='1.0'?><methodCall><methodName>" + method + "</methodName><params>";
  for (const std::string& value : values) body += "<param><value>" + value + "</value></param>";
  return body + "</params></methodCall>";
}
inline std::string str(const std::string& text) { return "<string>" + text + "</string>"; }
inline std::string set_call(const std::string& value) {
  return call("VM.set_NVRAM_EFI_variables", {str("DUMMYSESSION"), str("DUMMYVM"), str(value)});
}
inline std::string get_call() { return call("VM.get_NVRAM", {str("DUMMYSESSION"), str("DUMMYVM")}); }

inline std::string http_200(const std::string& body) {
  return "HTTP/1.1 200 OK\r\ncontent-length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}
inline std::string success(const std::string& value) {
  return http_200(
      "<?xml "
      "version=\"1.0\"?><methodResponse><params><param><value><struct><member><name>Status</name><value>"
      "Success</value></member><member><name>Value</name>" +
      value + "</member></struct></value></param></params></methodResponse>");
}
inline std::string failure(const std::string& text) {
  return http_200(
      "<?xml "
      "version=\"1.0\"?><methodResponse><params><param><value><struct><member><name>Status</name><value>"
      "Failure</value></member><member><name>ErrorDescription</name><value><array><data><value>Internal_error"
      "</value><value>" +
      text + "</value></data></array></value></member></struct></value></param></params></methodResponse>");
}
inline const std::string not_allowed =
    "HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 248\r\n\r\n"
    "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct><member><name>Status</name><value>"
    "Failure</value></member><member><name>ErrorDescription</name><value>Not "
    "allowed</value></member></struct>"
    "</value></param></params></methodResponse>";
inline const std::string done = success("<value><nil/></value>");

class VarstoredTest : public testing::Test {
 protected:
  VarstoredTest() { serve({}); }
  ~VarstoredTest() override {
    thread_.run([this] { server_.reset(); });
  }

  /// Serves the socket anew with other times.
  void serve(VarstoredOptions options, net::ServerLimits limits = varstored_limits()) {
    options.vm = *Uuid::parse("3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10");
    thread_.run([&] {
      const int fd = ::dup(server_ ? server_->listening_fd() : socket_.release());
      server_.reset();
      server_.emplace(thread_.loop(), fd, limits, varstored_too_large(),
                      make_varstored_handler(access_, thread_.loop(), options, stats_, log_), log_, "vm");
    });
  }

  /// Exactly this answer to these bytes, then the end of the connection, without an end from the client.
  void expect(const std::string& bytes, const std::string& answer) {
    net::test::Client client(socket_.path());
    client.send(bytes);
    EXPECT_EQ(client.read_all(), answer) << bytes.substr(0, 800);
  }
  template <class Change>
  void with_lane(Change change) {
    thread_.run([&] { change(access_); });
  }
  void outcome(UefiOutcome value) {
    with_lane([&](MapUefi& lane) { lane.outcome = std::move(value); });
  }
  std::string calls() {
    return thread_.run([this] { return std::exchange(access_.calls, {}); });
  }
  std::size_t held() {
    return thread_.run([this] { return access_.held.size(); });
  }
  void let_go() {
    thread_.run([this] {
      const auto end = std::move(access_.held.front());
      access_.held.pop_front();
      end();
    });
  }
  VarstoredStats stats() {
    return thread_.run([this] { return stats_; });
  }

  net::test::ListeningSocket socket_;
  MapUefi access_;
  VarstoredStats stats_;
  net::test::RecordingLogger log_;
  net::test::LoopThread thread_;
  std::optional<net::Server> server_;
};

}  // namespace guard::device::test
