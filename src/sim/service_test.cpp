#include "sim/service.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "net/socket_test_support.h"
#include "sim/store_file.h"

namespace guard::sim {
namespace {

using net::test::Client;
using net::test::eventually;
using wire::Json;
using wire::JsonArray;
using wire::JsonObject;

const std::string vm = "3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10";
const std::string other_vm = "00000002-0000-4000-8000-000000000000";
const std::string host = "11111111-2222-4333-8444-555555555555";

std::string post(std::string_view body) {
  return "POST /jsonrpc HTTP/1.1\r\nhost: x\r\ncontent-length: " + std::to_string(body.size()) + "\r\n\r\n" +
         std::string(body);
}

class SimServiceTest : public ::testing::Test {
 protected:
  ~SimServiceTest() override { stop(); }

  void start(ServiceOptions options = {}, Service::Flush flush = {}) {
    thread_.run([&] {
      world_ = std::make_unique<World>(*Uuid::parse(host), 1);
      world_->auto_provision();
      service_ = std::make_unique<Service>(
          thread_.loop(), *world_, options, std::move(flush), [this] { return server_->connections(); },
          null_logger());
      net::ServerLimits limits;
      limits.max_body = limits::xapi_request;
      limits.max_connections = 100;
      server_ = std::make_unique<net::Server>(
          thread_.loop(), socket_.release(), limits, too_large_failure(),
          [this](net::Request request, net::Responder responder) {
            service_->handle(std::move(request), std::move(responder));
          },
          null_logger());
    });
  }
  void stop() {
    thread_.run([this] {
      server_.reset();
      if (service_) service_->flush_now();
      stopped_.push_back(std::move(service_));  // its timers may still be waiting in the loop
    });
  }
  Client connect() { return Client(socket_.path()); }

  /// The answer without its head.
  static std::string body_of(const std::string& answer) {
    const std::size_t blank = answer.find("\r\n\r\n");
    return blank == std::string::npos ? answer : answer.substr(blank + 4);
  }
  /// One answer of a connection that stays open.
  static std::string read_answer(Client& client) {
    std::string answer;
    while (!answer.ends_with("\r\n\r\n")) {
      const std::string byte = client.read(1);
      if (byte.size() != 1) return answer + byte;
      answer += byte;
    }
    constexpr std::string_view name = "content-length: ";
    return answer + client.read(std::stoul(answer.substr(answer.find(name) + name.size())));
  }
  /// Asks on a connection of its own; the whole answer, or "" when there was none.
  std::string ask_raw(std::string_view request) {
    Client client = connect();
    client.send(request);
    client.finish_sending();
    return client.read_all();
  }
  Json ask(std::string_view method, JsonArray params) {
    const std::string request =
        wire::to_string(JsonObject{{"method", method}, {"params", std::move(params)}, {"id", 7}});
    auto json = wire::parse_json(body_of(ask_raw(post(request))));
    return json ? std::move(*json) : Json();
  }
  /// The result of a call that succeeds.
  Json result(std::string_view method, JsonArray params) {
    const Json answer = ask(method, std::move(params));
    const Json* error = answer.find("error");
    EXPECT_TRUE(error && error->is_null()) << method << ' ' << wire::to_string(answer);
    return answer.find("result") ? *answer.find("result") : Json();
  }
  std::string text(std::string_view method, JsonArray params) {
    const Json answer = result(method, std::move(params));
    return answer.string() ? *answer.string() : "";
  }
  std::string error_code(const Json& answer) {
    const Json* error = answer.find("error");
    return error && error->array() ? *(*error->array())[0].string() : "";
  }
  void fault(std::string_view json) { result("sim.set_fault", {wire::parse_json(json).value()}); }
  Json edit(std::string_view json) { return ask("sim.edit", {wire::parse_json(json).value()}); }
  Json dump(JsonObject options = {}) { return result("sim.dump", {Json(std::move(options))}); }

  /// A session and the reference of the VM's vTPM.
  std::pair<std::string, std::string> vtpm(const std::string& of = vm) {
    const std::string session = text("session.login_with_password", {"root", "", "1", "test"});
    const std::string ref = text("VM.get_by_uuid", {session, of});
    return {session, *(*result("VM.get_VTPMs", {session, ref}).array())[0].string()};
  }
  std::string contents() {
    const Json whole = dump({{"vm", vm}});
    const Json& shown = (*whole.find("vms")->array())[0];
    return *(*shown.find("vtpms")->array())[0].find("contents")->string();
  }
  std::size_t hung() { return dump().find("hung")->array()->size(); }

  net::test::ListeningSocket socket_;
  std::unique_ptr<World> world_;
  std::unique_ptr<net::Server> server_;
  std::unique_ptr<Service> service_;
  std::vector<std::unique_ptr<Service>> stopped_;
  net::test::LoopThread thread_;
};

TEST_F(SimServiceTest, AnswersWithTheBytesOfXapi) {
  start();
  const std::string answer =
      ask_raw(post(R"({"method":"session.login_with_password","params":["root","","1","t"],"id":1})"));
  EXPECT_TRUE(
      answer.starts_with("HTTP/1.1 200 OK\r\ncontent-length: 79\r\nconnection: keep-alive\r\n"
                         "cache-control: no-cache, no-store\r\ncontent-type: application/json\r\n"
                         "Access-Control-Allow-Origin: *\r\n"
                         "Access-Control-Allow-Headers: X-Requested-With\r\n\r\n"
                         R"({"result":"OpaqueRef:)"))
      << answer;
  EXPECT_TRUE(answer.ends_with(R"(","error":null,"id":1})"));
  EXPECT_EQ(body_of(ask_raw(post(R"({"method":"VM.get_by_uuid","params":["s","u"],"id":8})"))),
            R"({"result":null,"error":["SESSION_INVALID","s"],"id":8})");
}

TEST_F(SimServiceTest, AnswersAVersion2RequestInItsForm) {
  start();
  EXPECT_EQ(
      body_of(ask_raw(post(R"({"jsonrpc":"2.0","method":"VM.get_by_uuid","params":["s","u"],"id":"x"})"))),
      R"({"jsonrpc":"2.0","error":{"code":1,"message":"SESSION_INVALID","data":["s"]},"id":"x"})");
  EXPECT_TRUE(
      body_of(ask_raw(post(
                  R"({"id":1,"params":["root",""],"method":"session.login_with_password","jsonrpc":"2.0"})")))
          .starts_with(R"({"jsonrpc":"2.0","result":"OpaqueRef:)"));
}

TEST_F(SimServiceTest, SeveralCallsOnOneConnection) {
  start();
  Client client = connect();
  for (int i = 0; i < 3; ++i) {
    client.send(post(R"({"method":"session.login_with_password","params":["root",""],"id":1})"));
    EXPECT_TRUE(read_answer(client).ends_with(R"(","error":null,"id":1})"));
  }
  const Json whole = dump();
  const Json& connections = *whole.find("connections");
  EXPECT_EQ(*connections.find("seen")->integer(), 1);
  EXPECT_EQ(*connections.find("now")->integer(), 2);
  EXPECT_EQ(*whole.find("calls")->find("session.login_with_password")->integer(), 3);
}

TEST_F(SimServiceTest, WhatIsNoCallIsAnHttpFailureAndACloseAsInXapi) {
  start();
  const std::pair<std::string, std::string> cases[] = {
      {"GET / HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 403 Forbidden\r\n"},
      {"GET /jsonrpc HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 403 Forbidden\r\n"},
      {"BREW /jsonrpc HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 501 Method Not Implemented\r\n"},
      {"POST /jsonrpc HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 500 Internal Error\r\n"},
      {post("nonsense"), "HTTP/1.1 500 Internal Error\r\n"},
      {post("[]"), "HTTP/1.1 500 Internal Error\r\n"},
      {post(R"({"params":[]})"), "HTTP/1.1 500 Internal Error\r\n"}};
  for (const auto& [request, head] : cases) {
    Client client = connect();
    client.send(request);
    const std::string answer = client.read_all();  // ends, so the connection was closed
    EXPECT_TRUE(answer.starts_with(head)) << request << answer;
    EXPECT_NE(answer.find("content-type: text/html"), std::string::npos);
  }
}

TEST_F(SimServiceTest, ARequestOf307200BytesIsTakenAndOneByteMoreIsNot) {
  start();
  const auto [session, ref] = vtpm();
  const std::string head = R"({"method":"VTPM.set_contents","params":[")" + session + "\",\"" + ref + "\",\"";
  const std::string tail = "\"],\"id\":1}";
  const std::string fits = head + std::string(307'200 - head.size() - tail.size(), 'A') + tail;
  EXPECT_EQ(body_of(ask_raw(post(fits))), R"({"result":"","error":null,"id":1})");
  const std::string refused = ask_raw(post(" " + fits));
  EXPECT_TRUE(refused.starts_with("HTTP/1.1 500 Internal Error\r\n"));
  EXPECT_NE(refused.find("Client_requested_size_over_limit"), std::string::npos);
}

TEST_F(SimServiceTest, BytesThatAreNotUtf8AreAnInvalidValue) {
  start();
  const auto [session, ref] = vtpm();
  for (const std::string bad :
       {"\xff", "\xc3", "\xe2\x82", "\xed\xa0\x80", "\xc0\xaf", "\xf4\x90\x80\x80", "\xf8"}) {
    EXPECT_EQ(body_of(ask_raw(post(R"({"method":"VTPM.set_contents","params":[")" + session + "\",\"" + ref +
                                   "\",\"a" + bad + "\"],\"id\":1}"))),
              R"({"result":null,"error":["INVALID_VALUE","contents","not UTF-8"],"id":1})");
  }
  EXPECT_EQ(contents(), "");
  EXPECT_EQ(text("VTPM.set_contents", {session, ref, "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"}), "");
  EXPECT_EQ(contents(), "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
}

TEST_F(SimServiceTest, AHungCallTakesEffectWhenItIsReleasedAndIsAnsweredThen) {
  start();
  const auto [session, ref] = vtpm();
  fault(R"({"method":"VTPM.set_contents","kind":"hang","count":1})");
  Client client = connect();
  client.send(
      post(R"({"method":"VTPM.set_contents","params":[")" + session + "\",\"" + ref + R"(","1"],"id":1})"));
  ASSERT_TRUE(eventually([this] { return hung() == 1; }));
  EXPECT_EQ(contents(), "");
  EXPECT_TRUE(client.silent());
  EXPECT_EQ(result("sim.release", {JsonObject{{"action", "apply"}}}), Json(1));
  EXPECT_EQ(contents(), "1");
  EXPECT_EQ(body_of(read_answer(client)), R"({"result":"","error":null,"id":1})");
  EXPECT_EQ(hung(), 0u);
}

TEST_F(SimServiceTest, AHungCallWhoseClientIsGoneStillTakesEffectLateAndAfterANewerOne) {
  start();
  const auto [session, ref] = vtpm();
  fault(R"({"method":"VTPM.set_contents","kind":"hang","count":1})");
  {
    Client client = connect();
    client.send(post(R"({"method":"VTPM.set_contents","params":[")" + session + "\",\"" + ref +
                     R"(","old"],"id":1})"));
    ASSERT_TRUE(eventually([this] { return hung() == 1; }));
  }
  EXPECT_EQ(text("VTPM.set_contents", {session, ref, "new"}), "");
  EXPECT_EQ(result("sim.release", {JsonObject{{"action", "apply"}}}), Json(1));
  EXPECT_EQ(contents(), "old");
  const Json whole = dump({{"vm", vm}});
  const Json& shown = (*(*whole.find("vms")->array())[0].find("vtpms")->array())[0];
  EXPECT_EQ(*shown.find("overlap_max")->integer(), 2);
  EXPECT_EQ(*shown.find("overlap_now")->integer(), 0);
  EXPECT_EQ(*shown.find("history"), result("sim.digest", {JsonArray{"new", "old"}}));
}

TEST_F(SimServiceTest, HungCallsAreReleasedByVmMethodAndCountOrDropped) {
  start();
  const auto [session, ref] = vtpm();
  const auto [other_session, other_ref] = vtpm(other_vm);
  fault(R"({"method":"*","kind":"hang"})");
  std::vector<Client> clients;
  for (const std::string& r : {ref, ref, other_ref}) {
    clients.push_back(connect());
    clients.back().send(
        post(R"({"method":"VTPM.get_contents","params":[")" + session + "\",\"" + r + R"("],"id":1})"));
  }
  clients.push_back(connect());
  clients.back().send(post(R"({"method":"session.logout","params":[")" + other_session + R"("],"id":1})"));
  ASSERT_TRUE(eventually([this] { return hung() == 4; }));
  const auto release = [this](JsonObject argument) {
    return *result("sim.release", {std::move(argument)}).integer();
  };
  EXPECT_EQ(release({{"action", "apply"}, {"vm", other_vm}}), 1);
  EXPECT_EQ(release({{"action", "drop"}, {"method", "session.logout"}}), 1);
  EXPECT_EQ(clients[3].read_all(), "");
  EXPECT_EQ(release({{"action", "apply"}, {"count", 1}}), 1);
  EXPECT_EQ(release({{"action", "drop"}}), 1);
  EXPECT_EQ(clients[1].read_all(), "");
  EXPECT_EQ(body_of(read_answer(clients[0])), R"({"result":"","error":null,"id":1})");
  result("sim.clear_faults", {});
  EXPECT_EQ(error_code(ask("VM.get_by_uuid", {other_session, vm})), "");  // the logout did not happen
}

TEST_F(SimServiceTest, DroppedRepliesTakeEffectAndDroppedRequestsDoNot) {
  start();
  const auto [session, ref] = vtpm();
  const std::string set = R"({"method":"VTPM.set_contents","params":[")" + session + "\",\"" + ref + "\",\"";
  fault(R"({"method":"VTPM.set_contents","kind":"drop_reply","count":1})");
  EXPECT_EQ(ask_raw(post(set + "1\"],\"id\":1}")), "");
  EXPECT_EQ(contents(), "1");
  fault(
      R"({"method":"VTPM.set_contents","kind":"drop_request","count":1,"vm":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"})");
  EXPECT_EQ(ask_raw(post(set + "2\"],\"id\":1}")), "");
  EXPECT_EQ(contents(), "1");
}

TEST_F(SimServiceTest, FailuresOfEveryShape) {
  start();
  const auto [session, ref] = vtpm();
  const std::string get =
      post(R"({"method":"VTPM.get_contents","params":[")" + session + "\",\"" + ref + R"("],"id":9})");
  fault(R"({"method":"*","kind":"http_status","status":503,"count":1})");
  EXPECT_TRUE(ask_raw(get).starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
  fault(R"({"method":"*","kind":"error","error":["INTERNAL_ERROR","x"],"count":1})");
  EXPECT_EQ(body_of(ask_raw(get)), R"({"result":null,"error":["INTERNAL_ERROR","x"],"id":9})");
  fault(R"({"method":"*","kind":"error_v2","error":["HOST_STILL_BOOTING"],"count":1})");
  EXPECT_EQ(body_of(ask_raw(get)), R"({"jsonrpc":"2.0","error":["HOST_STILL_BOOTING"],"id":0})");
  fault(R"({"method":"*","kind":"garbage","count":1})");
  const std::string garbage = ask_raw(get);
  EXPECT_TRUE(garbage.starts_with("HTTP/1.1 200 OK\r\n"));
  EXPECT_FALSE(wire::parse_json(body_of(garbage)));
  EXPECT_EQ(body_of(ask_raw(get)), R"({"result":"","error":null,"id":9})");
}

TEST_F(SimServiceTest, AnErrorCanComeAfterTheEffect) {
  start();
  const auto [session, ref] = vtpm();
  fault(R"({"method":"VTPM.set_contents","kind":"error","error":["INTERNAL_ERROR"],"effect":true})");
  EXPECT_EQ(error_code(ask("VTPM.set_contents", {session, ref, "1"})), "INTERNAL_ERROR");
  EXPECT_EQ(contents(), "1");
}

TEST_F(SimServiceTest, LatencyAndDelaysAreKept) {
  start({.latency = std::chrono::milliseconds(30)});
  const auto begin = std::chrono::steady_clock::now();
  const auto [session, ref] = vtpm();  // three calls
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(90));
  fault(R"({"method":"VTPM.set_contents","kind":"delay","ms":100})");
  const auto middle = std::chrono::steady_clock::now();
  EXPECT_EQ(text("VTPM.set_contents", {session, ref, "1"}), "");
  EXPECT_GE(std::chrono::steady_clock::now() - middle, std::chrono::milliseconds(130));
}

TEST_F(SimServiceTest, SlowUpdatesOfOneVtpmMeetAtTheSecretTable) {
  start({.latency = std::chrono::milliseconds(50)});
  const auto [session, ref] = vtpm();
  std::vector<Client> clients;
  for (const std::string value : {"1", "2"}) {
    clients.push_back(connect());
    clients.back().send(post(R"({"method":"VTPM.set_contents","params":[")" + session + "\",\"" + ref +
                             "\",\"" + value + R"("],"id":1})"));
    clients.back().finish_sending();
  }
  const std::string both = body_of(clients[0].read_all()) + body_of(clients[1].read_all());
  EXPECT_NE(both.find(R"({"result":"")"), std::string::npos) << both;
  EXPECT_NE(both.find(R"(["HANDLE_INVALID","secret","OpaqueRef:)"), std::string::npos) << both;
}

TEST_F(SimServiceTest, TheWorldIsChangedFromOutside) {
  start();
  const std::string named = R"(,"vm":")" + vm + "\"}";
  const auto ok = [this](const std::string& json) { return error_code(edit(json)).empty(); };
  const auto [session, ref] = vtpm();
  EXPECT_TRUE(ok(R"({"action":"set_contents","contents":"x")" + named));
  EXPECT_EQ(contents(), "x");
  EXPECT_TRUE(ok(R"({"action":"set_power_state","power_state":"Halted")" + named));
  EXPECT_TRUE(ok(R"({"action":"set_certificates_state","state":"update_available")" + named));
  EXPECT_TRUE(ok(R"({"action":"set_resident_on","host":"00000000-0000-4000-8000-000000000009")" + named));
  const Json whole = dump({{"vm", vm}});
  const Json& shown = (*whole.find("vms")->array())[0];
  EXPECT_EQ(*shown.find("power_state")->string(), "Halted");
  EXPECT_EQ(*shown.find("certificates_state")->string(), "update_available");
  EXPECT_EQ(*shown.find("resident_on")->string(), "00000000-0000-4000-8000-000000000009");
  EXPECT_TRUE(ok(R"({"action":"set_resident_on")" + named));
  EXPECT_TRUE(
      ok(R"({"action":"replace_vtpm","vtpm":"00000000-0000-4000-8000-00000000000a","contents":"y")" + named));
  EXPECT_EQ(error_code(ask("VTPM.get_contents", {session, ref})), "HANDLE_INVALID");
  EXPECT_EQ(contents(), "y");
  EXPECT_TRUE(ok(R"({"action":"destroy_vtpm")" + named));
  EXPECT_TRUE(ok(R"({"action":"delete_vm")" + named));
  EXPECT_EQ(error_code(ask("VM.get_by_uuid", {session, vm})), "UUID_INVALID");
  EXPECT_TRUE(ok(R"({"action":"create_vm","vtpm":"00000000-0000-4000-8000-00000000000b")" + named));
  EXPECT_EQ(error_code(ask("VM.get_by_uuid", {session, vm})), "");
  EXPECT_TRUE(ok(R"({"action":"end_sessions"})"));
  EXPECT_EQ(error_code(ask("VM.get_by_uuid", {session, vm})), "SESSION_INVALID");
}

TEST_F(SimServiceTest, WrongRequestsForTestsAreRefused) {
  start();
  const auto refused = [this](std::string_view method, JsonArray params) {
    return error_code(ask(method, std::move(params))) == "SIM_REFUSED";
  };
  EXPECT_EQ(error_code(ask("sim.nothing", {})), "MESSAGE_METHOD_UNKNOWN");
  EXPECT_TRUE(refused("sim.dump", {JsonObject{}, 1}));
  EXPECT_TRUE(refused("sim.dump", {JsonObject{{"vm", "x"}}}));
  EXPECT_TRUE(refused("sim.set_fault", {JsonObject{{"kind", "hang"}}}));
  EXPECT_TRUE(refused("sim.clear_faults", {JsonObject{{"id", 12}}}));
  EXPECT_TRUE(refused("sim.clear_faults", {JsonObject{{"id", "x"}}}));
  EXPECT_TRUE(refused("sim.release", {JsonObject{{"action", "maybe"}}}));
  EXPECT_TRUE(refused("sim.release", {JsonObject{{"action", "drop"}, {"vm", 1}}}));
  EXPECT_TRUE(refused("sim.release", {JsonObject{{"action", "drop"}, {"count", "x"}}}));
  EXPECT_TRUE(refused("sim.digest", {}));
  EXPECT_TRUE(refused("sim.digest", {JsonArray{1}}));
  EXPECT_TRUE(refused("sim.flush", {}));  // there is no store
  for (const std::string_view json :
       {R"({})", R"({"action":"delete_vm"})", R"({"action":"delete_vm","vm":"x"})",
        R"({"action":"delete_vm","vm":"00000000-0000-0000-0000-000000000000"})",
        R"({"action":"what","vm":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"})",
        R"({"action":"create_vm","vm":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"})",
        R"({"action":"set_contents","vm":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"})",
        R"({"action":"replace_vtpm","vm":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"})",
        R"({"action":"set_power_state","vm":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"})",
        R"({"action":"set_certificates_state","vm":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"})",
        R"({"action":"set_resident_on","host":1,"vm":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"})"}) {
    EXPECT_EQ(error_code(edit(json)), "SIM_REFUSED") << json;
  }
}

/// With a store in a directory of its own.
class SimStoreTest : public SimServiceTest {
 protected:
  SimStoreTest() {
    std::string name = std::filesystem::temp_directory_path() / "sim_store.XXXXXX";
    directory_ = ::mkdtemp(name.data());
    path_ = directory_ + "/new/store.json";
    file_ = StoreFile::open(path_, null_logger()).value();
  }
  ~SimStoreTest() override {
    stop();
    file_.reset();
    std::filesystem::remove_all(directory_);
  }
  Service::Flush flush() {
    return [this](Json json, bool now) { now ? file_->write_now(json) : file_->write(std::move(json)); };
  }
  std::string stored() {
    std::ifstream in(path_);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void store_value(const std::string& value) {
    const auto [session, ref] = vtpm();
    EXPECT_EQ(text("VTPM.set_contents", {session, ref, value}), "");
  }

  std::string directory_;
  std::string path_;
  std::unique_ptr<StoreFile> file_;
};

TEST_F(SimStoreTest, WhatIsAcceptedReachesTheStoreLater) {
  start({.flush_after = std::chrono::milliseconds(400)}, flush());
  store_value("value");
  EXPECT_EQ(stored().find("value"), std::string::npos);
  EXPECT_TRUE(eventually([this] { return stored().find("\"value\"") != std::string::npos; }));
  EXPECT_EQ(*dump().find("flushes")->integer(), 1);
}

TEST_F(SimStoreTest, WithoutDelayItIsThereBeforeTheAnswer) {
  start({.flush_after = std::chrono::milliseconds(0)}, flush());
  for (const std::string value : {"1st", "2nd", "3rd"}) {
    store_value(value);
    EXPECT_NE(stored().find("\"" + value + "\""), std::string::npos);
  }
}

TEST_F(SimStoreTest, AFlushThatIsAskedForIsDoneBeforeItsAnswer) {
  start({.flush_after = std::chrono::hours(1)}, flush());
  store_value("value");
  EXPECT_EQ(stored(), "");
  EXPECT_EQ(text("sim.flush", {}), "");
  EXPECT_NE(stored().find("\"value\""), std::string::npos);
  EXPECT_TRUE(wire::parse_json(stored()));
}

TEST_F(SimStoreTest, AnOrderlyStopFlushes) {
  start({.flush_after = std::chrono::hours(1)}, flush());
  store_value("value");
  stop();
  EXPECT_NE(stored().find("\"value\""), std::string::npos);
}

TEST(StoreFile, ReadsWhatWasWrittenLastAndNullAtFirst) {
  std::string name = std::filesystem::temp_directory_path() / "sim_store.XXXXXX";
  const std::string directory = ::mkdtemp(name.data());
  {
    auto file = StoreFile::open(directory + "/s", null_logger()).value();
    EXPECT_TRUE(file->read()->is_null());
    for (int i = 0; i < 100; ++i) file->write(i);
    file->write_now("now");
    EXPECT_EQ(file->read().value(), Json("now"));
    file->write("last");
  }
  EXPECT_EQ(StoreFile::open(directory + "/s", null_logger()).value()->read().value(), Json("last"));
  std::ofstream(directory + "/s") << "{broken";
  EXPECT_FALSE(StoreFile::open(directory + "/s", null_logger()).value()->read());
  EXPECT_FALSE(StoreFile::open(directory + "/", null_logger()));
  EXPECT_FALSE(StoreFile::open(directory + "/s/below", null_logger()));
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace guard::sim
