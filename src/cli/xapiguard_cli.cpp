// xapiguard_cli: the debugging tool of the original daemon, with its name, its arguments and its output. One
// command per call of the privileged interface, through the message switch.
//
// Exit status: 0 success, 1 the daemon refused (the original answers 0 then, too), 3 no response, 124 usage.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>

#include "base/limits.h"
#include "cli/exit_status.h"
#include "cli/switch_client.h"
#include "guard/types.h"
#include "wire/json.h"

namespace guard::cli {
namespace {

/// Of its parser of command lines.
constexpr int usage_as_the_original = 124;

struct Arguments {
  std::string switch_socket = "/var/run/message-switch/sock";
  std::string debug;
  std::string uuid;
  std::uint32_t gid = 0;
  std::string path;
  std::string contents;
};

/// The notation in which the original prints values.
std::string notation(const wire::Json& json) {
  if (json.is_null()) return "N";
  if (const std::string* text = json.string()) return "S(" + *text + ")";
  if (const std::int64_t* number = json.integer()) return "I(" + std::to_string(*number) + ")";
  if (const bool* truth = json.boolean()) return *truth ? "B(true)" : "B(false)";
  std::string out = "[";
  if (const wire::JsonArray* items = json.array()) {
    for (const wire::Json& item : *items) out += (out.size() > 1 ? ";" : "") + notation(item);
    return out + "]";
  }
  return "S(" + wire::to_string(json) + ")";
}

/// uuids are JSON values, so they come in quotation marks of their own.
std::string check_uuid(std::string& text) {
  const auto json = wire::parse_json(text);
  const std::string* quoted = json ? json->string() : nullptr;
  const auto uuid = Uuid::parse(quoted != nullptr ? *quoted : text);
  if (!uuid) return "not a uuid: " + text;
  text = uuid->str();
  return {};
}

class Commands {
 public:
  explicit Commands(CLI::App& app) : app_(app) {
    app.require_subcommand(1);
    app.fallthrough();
    app.set_version_flag("--version", "1.0.0");
    app.add_option("--switch", a_.switch_socket, "Socket of the message switch")
        ->type_name("PATH")
        ->capture_default_str();
    for (const char* device : {"vtpm", "varstore"}) {
      const std::string name = device;
      CLI::App* create = command(name + "_create", "Create the socket of a VM's device");
      add_uuid(create, "vm_uuid", "VM whose device it is");
      add_gid_and_path(create);
      add_gid_and_path(command(name + "_destroy", "Remove the socket of a VM's device"));
    }
    add_uuid(command("vtpm_get_contents", "Print what a vTPM holds"), "vtpm_uuid", "The vTPM");
    CLI::App* set = command("vtpm_set_contents", "Replace what a vTPM holds");
    add_uuid(set, "vtpm_uuid", "The vTPM");
    set->add_option("contents", a_.contents, "What it shall hold")->required()->type_name("");
  }

  int run() const {
    const std::string method = app_.get_subcommands().front()->get_name();
    wire::JsonObject named{{"dbg", a_.debug}};
    wire::JsonArray unnamed;
    if (method.ends_with("_create")) named.emplace_back("vm_uuid", a_.uuid);
    if (method.ends_with("_contents")) {
      named.emplace_back("vtpm_uuid", a_.uuid);
    } else {
      named.emplace_back("gid", a_.gid);
      named.emplace_back("path", a_.path);
    }
    if (method == "vtpm_set_contents") unnamed.emplace_back(a_.contents);
    const auto result = call_through_switch(a_.switch_socket, "xapiguard_cli:" + std::to_string(::getpid()),
                                            request_of(method, named, unnamed), limits::caller_patience);
    if (!result && result.error().kind == CallError::Kind::unreachable) {
      std::fprintf(stderr, "xapiguard_cli: %s\n", result.error().text.c_str());
      return unreachable;
    }
    std::printf("%s\n", notation(result ? *result : result.error().error).c_str());
    if (std::fflush(stdout) != 0) return refused;
    return result ? success : refused;
  }

 private:
  CLI::App* command(const std::string& name, const char* help) {
    CLI::App* sub = app_.add_subcommand(name, help);
    sub->add_option("dbg", a_.debug, "Words for the log of the daemon")->required()->type_name("");
    return sub;
  }
  void add_uuid(CLI::App* sub, const char* name, const char* help) {
    sub->add_option(name, a_.uuid, help)->required()->transform(CLI::Validator(check_uuid, "", "uuid"));
  }
  void add_gid_and_path(CLI::App* sub) {
    sub->add_option("gid", a_.gid, "Group that may connect")
        ->required()
        ->check(CLI::Range(std::uint32_t{0}, UINT32_MAX - 1));
    sub->add_option("path", a_.path, "Path of the socket")->required()->type_name("");
  }

  CLI::App& app_;
  Arguments a_;
};

int run(int argc, char** argv) {
  CLI::App app("Calls xapi-guard through the message switch, for debugging.", "xapiguard_cli");
  Commands commands(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? success : usage_as_the_original;
  }
  return commands.run();
}

}  // namespace
}  // namespace guard::cli

int main(int argc, char** argv) { return guard::cli::run(argc, argv); }
