#include "control/commands.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/limits.h"
#include "control/test_daemon.h"
#include "control/test_dir.h"

namespace guard::control {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::string_view ok = R"({"result":null,"error":null,"id":0})";

std::string internal_error(std::string_view text) {
  return R"({"result":null,"error":["InternalError",")" + std::string(text) + R"("],"id":0})";
}

class CommandsTest : public ::testing::Test {
 protected:
  /// The one answer to a request.
  std::string ask(std::string_view payload) {
    std::vector<std::string> answers;
    daemon.commands.handle(payload, [&](std::string answer) { answers.push_back(std::move(answer)); });
    return answers.size() == 1 ? answers[0] : std::to_string(answers.size()) + " answers";
  }
  std::string call(const std::string& method, const std::string& params) {
    return ask(R"({"method":")" + method + R"(","params":[)" + params + R"(],"id":17})");
  }
  std::string quoted(const std::string& name) const { return '"' + (dir / name) + '"'; }

  TestDir dir{memory};
  TestDaemon daemon{dir};
  const std::string gid = std::to_string(test_gid());
};

TEST_F(CommandsTest, ServesCreateAndDestroyAsTheOriginalClientsSendThem) {
  const std::string create =
      R"({"method":"vtpm_create","params":[{"path":)" + quoted("s") + R"(,"gid":)" + gid +
      R"(,"vm_uuid":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10","dbg":"VM.start R:1a2b3c"}],"id":17})";
  EXPECT_EQ(ask(create), ok);
  ASSERT_EQ(daemon.registry.sockets().size(), 1u);
  EXPECT_EQ(daemon.registry.sockets()[0].vm.str(), "3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10");
  EXPECT_EQ(ask(create), internal_error("Path " + dir / "s" + " is already in use"));
  const std::string destroy = R"({"method":"vtpm_destroy","params":[{"path":)" + quoted("s") + R"(,"gid":)" +
                              gid + R"(,"dbg":"stop domid 4"}],"id":21})";
  EXPECT_EQ(ask(destroy), ok);
  EXPECT_EQ(ask(destroy), ok) << "an unknown path is success";
  EXPECT_TRUE(daemon.registry.sockets().empty());
}

TEST_F(CommandsTest, IsAsLenientAsTheOriginal) {
  // Members in any order, unknown ones, gid as text, upper case and trailing garbage in the uuid, tracing
  // data in dbg, a text id, unnamed parameters too many, white space.
  EXPECT_EQ(ask(R"( {"id":"x","extra":{},"params":[{"dbg":"a\nb","color":7,"gid":")" + gid +
                R"(","vm_uuid":"3F1C0E5A-8F5B-4C0E-9D2B-6A1E5B7C9D10 and more","path":)" + quoted("s") +
                R"(},"unnamed"],"method":"vtpm_create"} )"),
            ok);
  ASSERT_EQ(daemon.registry.sockets().size(), 1u);
  EXPECT_EQ(daemon.registry.sockets()[0].vm.str(), "3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10");
  EXPECT_EQ(daemon.registry.sockets()[0].gid, test_gid());
  // Version 2, with params as the object itself or as a list; the answer is version 1.
  const std::string named = R"({"dbg":"","gid":)" + gid + R"(,"path":)" + quoted("s") + "}";
  EXPECT_EQ(ask(R"({"jsonrpc":"2.0","method":"vtpm_destroy","params":)" + named + R"(,"id":1})"), ok);
  EXPECT_EQ(ask(R"({"jsonrpc":"2.0","method":"vtpm_destroy","params":[)" + named + R"(],"id":1})"), ok);
  EXPECT_TRUE(daemon.registry.sockets().empty());
}

TEST_F(CommandsTest, CreatesAndDestroysTheSocketsOfBothDevices) {
  const std::string uuid = R"("vm_uuid":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10")";
  const auto with_path = [&](const std::string& name) {
    return R"({"dbg":"","gid":)" + gid + R"(,"path":)" + quoted(name) + "," + uuid + "}";
  };
  EXPECT_EQ(call("varstore_create", with_path("u")), ok);
  EXPECT_EQ(call("vtpm_create", with_path("v")), ok);
  ASSERT_EQ(daemon.registry.sockets().size(), 2u);
  EXPECT_EQ(daemon.registry.sockets()[0].device, Device::uefi);
  EXPECT_EQ(daemon.registry.sockets()[1].device, Device::vtpm);
  // The socket of another device is not this caller's.
  EXPECT_EQ(call("vtpm_destroy", with_path("u")), ok);
  EXPECT_EQ(daemon.registry.sockets().size(), 2u);
  EXPECT_EQ(call("varstore_destroy", with_path("u")), ok);
  EXPECT_EQ(call("varstore_destroy", with_path("u")), ok) << "unknown is a success";
  ASSERT_EQ(daemon.registry.sockets().size(), 1u);
  EXPECT_NE(call("varstore_create", with_path("v")).find("already in use"), std::string::npos);
  EXPECT_EQ(daemon.log.count("command_failed method=varstore_create"), 1u);
}

TEST_F(CommandsTest, NamesTheFirstMissingParameterInTheOrderOfDeclaration) {
  const auto missing = [](std::string_view name) {
    return internal_error(R"(Idl.MarshalError(\"Expecting named argument ')" + std::string(name) + R"('\"))");
  };
  const std::string uuid = R"("vm_uuid":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10")";
  for (const char* method : {"vtpm_create", "varstore_create"}) {
    EXPECT_EQ(call(method, "{}"), missing("dbg"));
    EXPECT_EQ(call(method, R"({"dbg":""})"), missing("vm_uuid"));
    EXPECT_EQ(call(method, R"({"dbg":"",)" + uuid + "}"), missing("gid"));
    EXPECT_EQ(call(method, R"({"dbg":"","gid":1,)" + uuid + "}"), missing("path"));
  }
  for (const char* method : {"vtpm_destroy", "varstore_destroy"}) {
    EXPECT_EQ(call(method, "{}"), missing("dbg"));
    EXPECT_EQ(call(method, R"({"dbg":""})"), missing("gid"));
    EXPECT_EQ(call(method, R"({"dbg":"","gid":1})"), missing("path"));
  }
  for (const char* method : {"vtpm_get_contents", "vtpm_set_contents"}) {
    EXPECT_EQ(call(method, "{}"), missing("dbg"));
    EXPECT_EQ(call(method, R"({"dbg":""})"), missing("vtpm_uuid"));
  }
  EXPECT_EQ(call("vtpm_set_contents", R"({"dbg":"","vtpm_uuid":"7c9e6679-7425-40de-944b-e07fc1f90ae7"})"),
            internal_error(R"(Idl.MarshalError(\"Incorrect number of arguments\"))"));
  const std::string no_dict = internal_error(
      R"(Idl.MarshalError(\"Marshalling error: Expecting dict as first argument when named parameters exist\"))");
  EXPECT_EQ(call("vtpm_create", ""), no_dict);
  EXPECT_EQ(call("vtpm_create", R"("dbg")"), no_dict);
}

TEST_F(CommandsTest, RefusesParametersOfTheWrongKind) {
  const auto destroy = [&](const std::string& gid_json, const std::string& path_json) {
    return call("vtpm_destroy", R"({"dbg":"","gid":)" + gid_json + R"(,"path":)" + path_json + "}");
  };
  const std::string bad_gid = internal_error(R"(Idl.MarshalError(\"Expected int for argument 'gid'\"))");
  for (const char* bad : {"-1", "1.5", "4294967295", "99999999999999999999", "null", "[1]", R"("")",
                          R"("0x10")", R"("-1")", R"("1 ")", R"("4294967295")", "true"}) {
    EXPECT_EQ(destroy(bad, R"("/a")"), bad_gid) << bad;
  }
  for (const char* good : {"0", "4294967294", R"("0")", R"("4294967294")"}) {
    EXPECT_EQ(destroy(good, R"("/a")"), ok) << good;
  }
  EXPECT_EQ(destroy("1", "1"),
            internal_error(R"(Idl.MarshalError(\"Expected string for argument 'path'\"))"));
  EXPECT_EQ(call("vtpm_destroy", R"({"dbg":7,"gid":1,"path":"/a"})"),
            internal_error(R"(Idl.MarshalError(\"Expected string for argument 'dbg'\"))"));
  const auto create = [&](const std::string& uuid) {
    return call("vtpm_create", R"({"dbg":"","vm_uuid":)" + uuid + R"(,"gid":1,"path":"/a"})");
  };
  EXPECT_EQ(create(R"("x")"), internal_error(R"(Idl.MarshalError(\"typ_of_vm_uuid: not a valid UUID: x\"))"));
  EXPECT_EQ(create(R"("")"), internal_error(R"(Idl.MarshalError(\"typ_of_vm_uuid: not a valid UUID: \"))"));
  EXPECT_EQ(create("17"), internal_error(R"(Idl.MarshalError(\"Expected string for argument 'vm_uuid'\"))"));
  EXPECT_EQ(call("vtpm_set_contents", R"({"dbg":"","vtpm_uuid":"7c9e6679-7425-40de-944b-e07fc1f90ae7"},1)"),
            internal_error(R"(Idl.MarshalError(\"Expected string for the unnamed argument\"))"));
}

TEST_F(CommandsTest, RefusesUnknownMethodsAndWhatIsNoRequest) {
  EXPECT_EQ(call("foo", ""), internal_error(R"(Idl.UnknownMethod(\"foo\"))"));
  EXPECT_EQ(call("", ""), internal_error(R"(Idl.UnknownMethod(\"\"))"));
  const auto malformed = [](std::string_view text) {
    return internal_error(R"(Jsonrpc.Malformed_method_request(\")" + std::string(text) + R"(\"))");
  };
  EXPECT_EQ(ask("[]"), malformed("Invalid request body"));
  EXPECT_EQ(ask("{}"), malformed("Required field method is missing"));
  EXPECT_EQ(ask(R"({"method":1,"params":[],"id":1})"), malformed("Invalid field 'method' in request body"));
  EXPECT_EQ(ask(R"({"method":"status","id":1})"), malformed("Required field params is missing"));
  EXPECT_EQ(ask(R"({"method":"status","params":{},"id":1})"),
            malformed("Invalid field 'params' in request body"));
  EXPECT_EQ(ask(R"({"jsonrpc":"2.0","method":"status","params":1,"id":1})"),
            malformed("Invalid field 'params' in request body"));
  EXPECT_EQ(ask(R"({"jsonrpc":"3.0","method":"status","params":[],"id":1})"),
            malformed("Invalid field 'jsonrpc' in request body"));
  for (const char* id : {"null", "true", "1.5", "[]"}) {
    EXPECT_EQ(ask(R"({"method":"status","params":[],"id":)" + std::string(id) + "}"),
              malformed("Invalid field 'id' in request body"));
  }
  EXPECT_EQ(ask(R"({"method":"status","params":[]})"), malformed("Invalid field 'id' in request body"));
  for (const char* text : {"", "{", "no json", "{}{}", "\xff"}) {
    const std::string answer = ask(text);
    EXPECT_TRUE(answer.starts_with(R"({"result":null,"error":["InternalError","Cannot parse the request: )"))
        << answer;
    EXPECT_TRUE(answer.ends_with(R"("],"id":0})")) << answer;
  }
}

TEST_F(CommandsTest, EscapesAndBoundsWhatItEchoes) {
  EXPECT_EQ(call("a\\\"b\\\\c\\n\\u0001\xc3\xa9", ""),
            internal_error(R"(Idl.UnknownMethod(\"a\\\"b\\\\c\\n\\001\\195\\169\"))"));
  EXPECT_EQ(call(std::string(100'000, 'm'), ""),
            internal_error(R"(Idl.UnknownMethod(\")" + std::string(limits::echoed_text, 'm') + R"(\"))"));
  EXPECT_TRUE(daemon.log.lines.back().size() < 300);
}

TEST_F(CommandsTest, GivesOneWellFormedAnswerToEveryPrefixAndEveryDamagedByteOfARequest) {
  const std::string request =
      R"({"method":"vtpm_destroy","params":[{"path":"/nowhere/s","gid":"7","dbg":"a\\nb"}],"id":1})";
  ASSERT_EQ(ask(request), ok);
  const auto expect_answer = [&](const std::string& text) {
    const auto answer = wire::parse_json(ask(text));
    ASSERT_TRUE(answer) << text;
    ASSERT_TRUE(answer->find("result")->is_null()) << text;
    ASSERT_EQ(*answer->find("id"), wire::Json(0)) << text;
  };
  for (std::size_t length = 0; length < request.size(); ++length) expect_answer(request.substr(0, length));
  for (std::size_t i = 0; i < request.size(); ++i) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string damaged = request;
      damaged[i] = static_cast<char>(byte);
      expect_answer(damaged);
    }
  }
}

TEST_F(CommandsTest, PassesCallsForContentsOnAndLogsTheirFailures) {
  const std::string vtpm = R"({"dbg":"VM.start","vtpm_uuid":"7C9E6679-7425-40de-944b-e07fc1f90ae7"})";
  daemon.operations.answer = wire::Json("aGVsbG8gdHBtCg==  dm9sYXRpbGU=");
  EXPECT_EQ(call("vtpm_get_contents", vtpm),
            R"({"result":"aGVsbG8gdHBtCg==  dm9sYXRpbGU=","error":null,"id":0})");
  daemon.operations.answer = wire::Json(nullptr);
  EXPECT_EQ(call("vtpm_set_contents", vtpm + R"(,"aGVsbG8gdHBtCg==")"), ok);
  EXPECT_EQ(daemon.operations.asked,
            (std::vector<std::string>{"get_contents 7c9e6679-7425-40de-944b-e07fc1f90ae7",
                                      "set_contents 7c9e6679-7425-40de-944b-e07fc1f90ae7 aGVsbG8gdHBtCg=="}));
  daemon.operations.answer = std::unexpected(Error{Errc::unavailable, 0, "not in time"});
  EXPECT_EQ(call("vtpm_get_contents", vtpm), internal_error("not in time"));
  EXPECT_EQ(
      daemon.log.lines.back(),
      "command_failed method=vtpm_get_contents vtpm=7c9e6679-7425-40de-944b-e07fc1f90ae7 error=not in time "
      "task=VM.start");
}

TEST_F(CommandsTest, PassesTheCallsOfOperatorsOn) {
  daemon.operations.answer = wire::Json(wire::JsonObject{{"mode", "direct"}});
  EXPECT_EQ(call("status", ""), R"({"result":{"mode":"direct"},"error":null,"id":0})");
  EXPECT_EQ(call("status", "{}"), R"({"result":{"mode":"direct"},"error":null,"id":0})");
  EXPECT_EQ(ask(R"({"jsonrpc":"2.0","method":"status","id":1})"),
            R"({"result":{"mode":"direct"},"error":null,"id":0})");
  daemon.operations.answer = wire::Json(wire::JsonArray{});
  EXPECT_EQ(call("pending", ""), R"({"result":[],"error":null,"id":0})");
  EXPECT_EQ(call("drain", R"({"timeout_ms":1500})"), R"({"result":[],"error":null,"id":0})");
  EXPECT_EQ(call("drain", ""), R"({"result":[],"error":null,"id":0})");
  EXPECT_EQ(call("drain", R"({"timeout_ms":9223372036854775807})"), R"({"result":[],"error":null,"id":0})");
  EXPECT_EQ(call("quarantine_list", ""), R"({"result":[],"error":null,"id":0})");
  EXPECT_EQ(call("quarantine_purge", ""), R"({"result":[],"error":null,"id":0})");
  EXPECT_EQ(call("journal_set_aside", R"({"dir":"/s"})"), R"({"result":[],"error":null,"id":0})");
  EXPECT_EQ(daemon.operations.asked,
            (std::vector<std::string>{"status", "status", "status", "pending", "drain 1500", "drain 60000",
                                      "drain 3600000", "quarantine_list", "quarantine_purge",
                                      "set_journal_aside /s"}));
  EXPECT_EQ(call("journal_set_aside", "{}"),
            internal_error(R"(Idl.MarshalError(\"Expecting named argument 'dir'\"))"));
  for (const char* bad : {"-1", "1.5", R"("1")", "null"}) {
    EXPECT_EQ(call("drain", R"({"timeout_ms":)" + std::string(bad) + "}"),
              internal_error(R"(Idl.MarshalError(\"Expected int for argument 'timeout_ms'\"))"));
  }
  daemon.operations.answer = std::unexpected(Error{Errc::closed, 0, "shutting \"down\""});
  EXPECT_EQ(call("status", ""), internal_error(R"(shutting \"down\")"));
}

TEST_F(CommandsTest, GivesEntriesUpAndDeliversThemByForce) {
  const std::string vm = R"("vm_uuid":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10")";
  daemon.operations.answer = wire::Json(wire::JsonObject{{"entries", 2}});
  const std::string two = R"({"result":{"entries":2},"error":null,"id":0})";
  EXPECT_EQ(call("discard", "{" + vm + "}"), two);
  EXPECT_EQ(call("deliver_force", "{" + vm + R"(,"slot":"permall"})"), two);
  EXPECT_EQ(daemon.operations.asked,
            (std::vector<std::string>{"discard 3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10",
                                      "deliver_force 3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10 permall"}));
  for (const char* method : {"discard", "deliver_force"}) {
    EXPECT_EQ(call(method, "{}"),
              internal_error(R"(Idl.MarshalError(\"Expecting named argument 'vm_uuid'\"))"));
    EXPECT_EQ(call(method, "{" + vm + R"(,"slot":"all"})"),
              internal_error(R"(Idl.MarshalError(\"not a slot: all\"))"));
    EXPECT_EQ(call(method, "{" + vm + R"(,"slot":1})"),
              internal_error(R"(Idl.MarshalError(\"Expected string for argument 'slot'\"))"));
  }
  EXPECT_EQ(daemon.operations.asked.size(), 2u) << "what is not understood is not done";
  daemon.operations.answer = std::unexpected(Error{Errc::not_found, 0, "nothing is pending"});
  EXPECT_EQ(call("discard", "{" + vm + "}"), internal_error("nothing is pending"));
}

TEST_F(CommandsTest, KeepsTheOrderOfOnePathWhileItsWorkerIsSlow) {
  daemon.hold = true;
  std::vector<std::string> answers;
  const auto send = [&](const std::string& method, const std::string& name, const std::string& uuid) {
    const std::string vm = uuid.empty() ? "" : R"(,"vm_uuid":")" + uuid + '"';
    daemon.commands.handle(R"({"method":")" + method + R"(","params":[{"dbg":"","gid":)" + gid + vm +
                               R"(,"path":)" + quoted(name) + R"(}],"id":1})",
                           [&answers, method, name](const std::string& answer) {
                             answers.push_back(method + " " + name + (answer == ok ? "" : " " + answer));
                           });
  };
  send("vtpm_create", "slow", "3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10");
  send("vtpm_destroy", "slow", "");
  send("vtpm_create", "slow", "321e3a5e-b32b-4b26-be1c-c20c902c3cff");
  send("vtpm_create", "other", "3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10");
  send("vtpm_destroy", "nothing", "");
  EXPECT_EQ(answers, std::vector<std::string>{"vtpm_destroy nothing"});
  daemon.work_newest_first();
  EXPECT_EQ(answers, (std::vector<std::string>{"vtpm_destroy nothing", "vtpm_create other",
                                               "vtpm_create slow", "vtpm_destroy slow", "vtpm_create slow"}));
  ASSERT_EQ(daemon.registry.sockets().size(), 2u);
  EXPECT_EQ(daemon.registry.sockets()[1].vm.str(), "321e3a5e-b32b-4b26-be1c-c20c902c3cff");
}

TEST_F(CommandsTest, RefusesOverTheSwitchWhatHasLainThereForTooLong) {
  const auto ask_late = [&](const std::string& method, const std::string& params, Caller caller) {
    std::string answer;
    caller.transport = Caller::Transport::message_switch;
    daemon.commands.execute(
        parse_request(R"({"method":")" + method + R"(","params":[)" + params + R"(],"id":1})"), caller,
        [&answer](std::string text) { answer = std::move(text); });
    return answer;
  };
  const auto lasting = [](std::optional<milliseconds> at_most, milliseconds at_least) {
    return Caller{.waited_at_most = at_most, .waited_at_least = at_least};
  };
  const std::string vtpm = R"({"dbg":"","vtpm_uuid":"7c9e6679-7425-40de-944b-e07fc1f90ae7"})";
  const std::string set_refused = internal_error(
      "The request has waited too long, or nobody knows how long: the vTPM may hold a newer state");
  const std::string refused = internal_error("The request has waited for longer than its caller does");
  EXPECT_EQ(ask_late("vtpm_set_contents", vtpm + R"(,"x")", lasting({}, {})), set_refused);
  EXPECT_EQ(ask_late("vtpm_set_contents", vtpm + R"(,"x")", lasting(milliseconds(2001), {})), set_refused);
  EXPECT_NE(ask_late("vtpm_set_contents", vtpm + R"(,"x")", lasting(milliseconds(2000), {})), set_refused);
  EXPECT_EQ(ask_late("vtpm_get_contents", vtpm, lasting({}, milliseconds(20'001))), refused);
  EXPECT_NE(ask_late("vtpm_get_contents", vtpm, lasting({}, milliseconds(20'000))), refused);
  const std::string create = R"({"dbg":"","vm_uuid":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10","gid":)" + gid +
                             R"(,"path":)" + quoted("s") + "}";
  EXPECT_EQ(ask_late("vtpm_create", create, lasting({}, milliseconds(20'001))), refused);
  EXPECT_TRUE(daemon.registry.sockets().empty());
  EXPECT_EQ(ask_late("vtpm_create", create, lasting({}, {})), ok) << "nobody knows: it may be waited for";
  // A destroy is right however late it comes.
  const std::string destroy = R"({"dbg":"","gid":)" + gid + R"(,"path":)" + quoted("s") + "}";
  EXPECT_EQ(ask_late("vtpm_destroy", destroy, lasting({}, seconds(1000))), ok);
  EXPECT_TRUE(daemon.registry.sockets().empty());
}

TEST_F(CommandsTest, ServesOperatorsOnTheControlSocketOnly) {
  daemon.operations.answer = wire::Json(wire::JsonObject{});
  const Caller caller{.transport = Caller::Transport::message_switch, .waited_at_most = milliseconds(0)};
  const auto ask_there = [&](const std::string& method, const std::string& params) {
    std::string answer;
    daemon.commands.execute(
        parse_request(R"({"method":")" + method + R"(","params":[)" + params + R"(],"id":1})"), caller,
        [&answer](std::string text) { answer = std::move(text); });
    return answer;
  };
  const std::string refused = internal_error("This call is served on the control socket only");
  EXPECT_EQ(ask_there("drain", ""), refused);
  EXPECT_EQ(ask_there("quarantine_purge", ""), refused);
  EXPECT_EQ(ask_there("journal_set_aside", R"({"dir":"/s"})"), refused);
  EXPECT_EQ(ask_there("status", ""), R"({"result":{},"error":null,"id":0})");
  EXPECT_EQ(ask_there("pending", ""), R"({"result":{},"error":null,"id":0})");
  EXPECT_EQ(daemon.operations.asked, (std::vector<std::string>{"status", "pending"}));
}

TEST_F(CommandsTest, LogsTheFirstLineOfTheCallersWordsWithAFailure) {
  EXPECT_NE(
      call(
          "vtpm_create",
          R"({"dbg":"VM.start R:1\nsecret trace","gid":1,"path":"relative","vm_uuid":"3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"})"),
      ok);
  EXPECT_EQ(
      daemon.log.lines.back(),
      "command_failed method=vtpm_create path=relative error=socket path is not absolute task=VM.start R:1");
}

}  // namespace
}  // namespace guard::control
