// xapi-guardctl: what operators and monitoring ask of the daemon, through its control socket or the message
// switch.
//
// Exit status: 0 success, 1 the daemon refused (or a drain ended with entries left), 2 usage, 3 cannot reach
// the daemon. `status --check`: 0 direct, 1 pending, 2 held, parked or failed, 3 cannot reach the daemon.
// `journal verify`: 0 good, 1 damaged, 3 cannot be read.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <thread>

#include "base/limits.h"
#include "cli/exit_status.h"
#include "cli/export_command.h"
#include "cli/journal_commands.h"
#include "cli/present.h"
#include "cli/rpc_client.h"
#include "cli/switch_client.h"
#include "guard/types.h"

namespace guard::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// How long the daemon may take to react, beyond what a command asks it to wait.
constexpr seconds patience{30};

struct Arguments {
  std::string control_socket = "/run/xapi-guard/control.sock";
  std::string switch_socket;  ///< empty: the control socket
  bool json = false;
  std::string vm;
  std::uint32_t gid = 0;
  std::string path;
  std::string vtpm;
  std::string slot;
  bool force = false;
  bool watch = false;
  bool check = false;
  unsigned interval_seconds = 1;
  unsigned timeout_seconds = static_cast<unsigned>(limits::drain_default.count());
  JournalArguments journal;
  std::string quarantine_directory;
  ExportArguments exported;
};

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }
void print_json(const wire::Json& json) { print(wire::to_string(json) + "\n"); }

using Answer = std::expected<wire::Json, CallError>;

/// Calls the daemon where the caller wants it called. Through the switch nothing is waited for longer than by
/// others.
Answer ask(const Arguments& arguments, std::string_view method, const wire::JsonObject& named,
           milliseconds patience_ms, const wire::JsonArray& unnamed = {}) {
  const std::string request = request_of(method, named, unnamed);
  if (arguments.switch_socket.empty()) return send_to(arguments.control_socket, request, patience_ms);
  return call_through_switch(arguments.switch_socket, "xapi-guardctl:" + std::to_string(::getpid()), request,
                             limits::caller_patience);
}

/// Says what went wrong; the exit status for it.
int report(const Arguments& arguments, const CallError& error) {
  if (arguments.json && error.kind == CallError::Kind::refused) print_json(error.error);
  std::fprintf(stderr, "xapi-guardctl: %s\n", error.text.c_str());
  return error.kind == CallError::Kind::refused ? refused : unreachable;
}

/// The daemon wants absolute, plain paths.
std::string absolute(const std::string& path) {
  return std::filesystem::absolute(path).lexically_normal().string();
}

int create(const char* method, const Arguments& arguments) {
  const auto done = ask(arguments, method,
                        {{"dbg", "xapi-guardctl"},
                         {"vm_uuid", arguments.vm},
                         {"gid", arguments.gid},
                         {"path", absolute(arguments.path)}},
                        patience);
  if (!done) return report(arguments, done.error());
  arguments.json ? print_json(*done) : print("serving " + absolute(arguments.path) + "\n");
  return success;
}

int destroy(const char* method, const Arguments& arguments) {
  const auto done =
      ask(arguments, method,
          {{"dbg", "xapi-guardctl"}, {"gid", arguments.gid}, {"path", absolute(arguments.path)}}, patience);
  if (!done) return report(arguments, done.error());
  arguments.json ? print_json(*done) : print("no longer serving " + absolute(arguments.path) + "\n");
  return success;
}

int vtpm_create(const Arguments& arguments) { return create("vtpm_create", arguments); }
int vtpm_destroy(const Arguments& arguments) { return destroy("vtpm_destroy", arguments); }
int varstore_create(const Arguments& arguments) { return create("varstore_create", arguments); }
int varstore_destroy(const Arguments& arguments) { return destroy("varstore_destroy", arguments); }

int vtpm_get(const Arguments& arguments) {
  const auto contents = ask(arguments, "vtpm_get_contents",
                            {{"dbg", "xapi-guardctl"}, {"vtpm_uuid", arguments.vtpm}}, patience);
  if (!contents) return report(arguments, contents.error());
  if (arguments.json || contents->string() == nullptr) {
    print_json(*contents);
  } else {
    print(*contents->string() + "\n");
  }
  return success;
}

/// The contents of a file, or of standard input, without the line end behind it; nullopt after a message.
std::optional<std::string> read_contents(const std::string& path) {
  std::FILE* file = path == "-" ? stdin : std::fopen(path.c_str(), "re");
  std::string contents;
  char buffer[16 * 1024];
  std::size_t n = 0;
  while (file != nullptr && contents.size() <= limits::max_body_control &&
         (n = std::fread(buffer, 1, sizeof(buffer), file)) > 0) {
    contents.append(buffer, n);
  }
  const bool failed = file == nullptr || std::ferror(file) != 0;
  if (failed) std::fprintf(stderr, "xapi-guardctl: cannot read %s: %s\n", path.c_str(), std::strerror(errno));
  if (file != nullptr && file != stdin) std::fclose(file);
  if (failed) return std::nullopt;
  if (contents.size() > limits::max_body_control) {
    std::fprintf(stderr, "xapi-guardctl: %s is too large\n", path.c_str());
    return std::nullopt;
  }
  if (contents.ends_with('\n')) contents.pop_back();
  return contents;
}

int vtpm_set(const Arguments& arguments) {
  auto contents = read_contents(arguments.path);
  if (!contents) return usage;
  const auto done =
      ask(arguments, "vtpm_set_contents", {{"dbg", "xapi-guardctl"}, {"vtpm_uuid", arguments.vtpm}}, patience,
          {wire::Json(*contents)});
  if (!done) return report(arguments, done.error());
  arguments.json ? print_json(*done) : print("contents set\n");
  return success;
}

/// Shows the status again and again until it is interrupted. A daemon that restarts meanwhile is waited for.
int watch(const Arguments& arguments) {
  const bool terminal = ::isatty(STDOUT_FILENO) == 1 && !arguments.json;
  for (bool first = true;; first = false) {
    const auto status = ask(arguments, "status", {}, patience);
    if (!status && (first || status.error().kind == CallError::Kind::refused)) {
      return report(arguments, status.error());
    }
    if (terminal) print("\x1b[H\x1b[2J");
    if (!terminal && !arguments.json && !first) print("\n");
    if (!status) {
      std::fprintf(stderr, "xapi-guardctl: %s\n", status.error().text.c_str());
    } else {
      arguments.json ? print_json(*status) : print(present_status(*status));
    }
    if (std::fflush(stdout) != 0) return refused;
    std::this_thread::sleep_for(seconds(arguments.interval_seconds));
  }
}

int status(const Arguments& arguments) {
  if (arguments.watch) return watch(arguments);
  const auto status = ask(arguments, "status", {}, patience);
  if (!status) {
    const int code = report(arguments, status.error());
    // For monitoring a refusal says as little about the state as silence does.
    return arguments.check ? unreachable : code;
  }
  if (arguments.json) print_json(*status);
  if (!arguments.check) {
    if (!arguments.json) print(present_status(*status));
    return success;
  }
  const Check check = check_status(*status);
  if (!arguments.json) print(check.line + "\n");
  return check.exit_status;
}

int pending(const Arguments& arguments) {
  const auto entries = ask(arguments, "pending", {}, patience);
  if (!entries) return report(arguments, entries.error());
  arguments.json ? print_json(*entries) : print(present_pending(*entries));
  return success;
}

int drain(const Arguments& arguments) {
  const auto timeout = seconds(arguments.timeout_seconds);
  const auto done = ask(arguments, "drain", {{"timeout_ms", std::int64_t{milliseconds(timeout).count()}}},
                        timeout + patience);
  if (!done) return report(arguments, done.error());
  const wire::Json* drained = done->find("drained");
  const bool all = drained != nullptr && drained->boolean() != nullptr && *drained->boolean();
  if (arguments.json) print_json(*done);
  if (all) {
    if (!arguments.json) print("everything is delivered\n");
    return success;
  }
  const wire::Json* left = done->find("entries");
  std::fprintf(stderr, "xapi-guardctl: not drained within %u s, entries left: %s\n",
               arguments.timeout_seconds, left != nullptr ? wire::to_string(*left).c_str() : "unknown");
  return refused;
}

/// `discard` and `deliver --force`.
int operate(const Arguments& arguments, const char* method, const char* said) {
  wire::JsonObject named{{"vm_uuid", arguments.vm}};
  if (!arguments.slot.empty()) named.emplace_back("slot", arguments.slot);
  const auto done = call(arguments.control_socket, method, std::move(named), patience);
  if (!done) return report(arguments, done.error());
  const wire::Json* entries = done->find("entries");
  const std::string count = entries != nullptr ? wire::to_string(*entries) : "?";
  arguments.json ? print_json(*done) : print(std::string(said) + count + "\n");
  return success;
}

int discard(const Arguments& arguments) { return operate(arguments, "discard", "entries given up: "); }
int deliver(const Arguments& arguments) {
  return operate(arguments, "deliver_force", "entries being delivered: ");
}

/// Accepts what Uuid::parse does and writes it in lower case.
std::string check_uuid(std::string& text) {
  const auto uuid = Uuid::parse(text);
  if (!uuid) return "not a uuid: " + text;
  text = uuid->str();
  return {};
}

using Command = std::function<int(const Arguments&)>;

/// Declares `journal ...` and `quarantine ...`, which work on files, with and without a daemon.
void declare_journal(CLI::App& app, Arguments& a, Command& chosen) {
  CLI::App* group = app.add_subcommand("journal", "Look at a journal as files; set it aside");
  group->require_subcommand(1);
  const auto command = [&](const char* name, const char* help, Command run) {
    CLI::App* sub = group->add_subcommand(name, help);
    sub->callback([&chosen, run] { chosen = run; });
    sub->add_option("DIR", a.journal.directory, "State directory of the daemon, or directory of the journal")
        ->required()
        ->type_name("");
    return sub;
  };
  command("inspect", "Show headers, live entries and damage; changes nothing", [](const Arguments& given) {
    return journal_inspect(given.journal, given.json);
  })->add_flag("--records", a.journal.records, "List every record, not only the live entries");
  command("verify", "Exit status 0 good, 1 damaged, 3 cannot be read; changes nothing",
          [](const Arguments& given) { return journal_verify(given.journal, given.json); });
  command("set-aside", "Move a journal that cannot be read out of the way; what is pending in it is lost",
          [](const Arguments& given) {
            return journal_set_aside(given.journal, given.control_socket, given.json);
          })
      ->add_flag("--force", a.journal.force, "Also one that can be read and holds live entries");

  CLI::App* quarantine = app.add_subcommand("quarantine", "What is kept of damaged ranges of the journal");
  quarantine->require_subcommand(1);
  const auto kept = [&](const char* name, const char* help, auto run) {
    CLI::App* sub = quarantine->add_subcommand(name, help);
    sub->callback([&chosen, run] {
      chosen = [run](const Arguments& given) {
        return run(given.quarantine_directory, given.control_socket, given.json);
      };
    });
    sub->add_option("--dir", a.quarantine_directory,
                    "State or journal directory that no daemon uses, instead of asking the daemon")
        ->type_name("DIR");
  };
  kept("list", "List it, and the journals set aside", quarantine_list);
  kept("purge", "Remove it; journals set aside stay", quarantine_purge);
}

/// Declares `export-cache`, which works on files, without a daemon.
void declare_export(CLI::App& app, Arguments& a, Command& chosen) {
  CLI::App* sub =
      app.add_subcommand("export-cache", "Hand what is pending to the original daemon; this one is stopped");
  sub->callback([&chosen] {
    chosen = [](const Arguments& given) { return export_cache(given.exported, given.json); };
  });
  sub->add_option("DIR", a.exported.directory, "State directory of the original, where the tree goes")
      ->required()
      ->type_name("");
  sub->add_option("--state-dir", a.exported.state_dir, "State directory of this daemon, if it is not DIR")
      ->type_name("DIR");
  sub->add_flag("--lossy", a.exported.lossy, "Also when entries have to be left in the journal");
}

/// Declares what an operator does about entries that do not get through.
template <class Declare>
void declare_operations(Declare command, Arguments& a) {
  const auto about = [&a](CLI::App* sub) {
    sub->add_option("VM_UUID", a.vm, "VM whose entries are meant")
        ->required()
        ->transform(CLI::Validator(check_uuid, "", "uuid"));
    sub->add_option("SLOT", a.slot, "Only this one: permall, savestate or volatilestate")
        ->check(CLI::IsMember({"permall", "savestate", "volatilestate"}))
        ->type_name("");
    return sub;
  };
  about(command("discard", "Give up what is pending or parked of a VM", discard));
  // There is no other way to deliver one VM's entries: what can be delivered is delivered by itself.
  about(command("deliver", "Deliver it, whatever stands in xapi", deliver))
      ->add_flag("--force", a.force, "Overwrite what somebody else has stored; must be given")
      ->required();
}

/// Declares the commands; the one that was named ends up in `chosen`.
void declare(CLI::App& app, Arguments& a, Command& chosen) {
  app.require_subcommand(1);
  app.fallthrough();
  app.set_version_flag("--version", std::string("xapi-guardctl ") + GUARD_VERSION);
  app.add_option("--control-socket", a.control_socket, "Control socket of the daemon")
      ->type_name("PATH")
      ->capture_default_str();
  app.add_option("--switch", a.switch_socket, "Socket of the message switch, to be used instead")
      ->type_name("PATH");
  app.add_flag("--json", a.json, "Print the daemon's answer as JSON");
  const auto command = [&app, &chosen](const char* name, const char* help, int (*run)(const Arguments&)) {
    CLI::App* sub = app.add_subcommand(name, help);
    sub->callback([&chosen, run] { chosen = run; });
    return sub;
  };

  const auto gid_range = CLI::Range(std::uint32_t{0}, UINT32_MAX - 1);
  const auto creating = [&](CLI::App* sub, const char* of_vm) {
    sub->add_option("VM_UUID", a.vm, of_vm)->required()->transform(CLI::Validator(check_uuid, "", "uuid"));
    sub->add_option("GID", a.gid, "Group that may connect")->required()->check(gid_range);
    sub->add_option("PATH", a.path, "Path of the socket; its directory exists")->required()->type_name("");
  };
  const auto destroying = [&](CLI::App* sub) {
    sub->add_option("GID", a.gid, "Group it was created for")->required()->check(gid_range);
    sub->add_option("PATH", a.path, "Path of the socket")->required()->type_name("");
  };
  creating(command("vtpm-create", "Create the socket of a vTPM", vtpm_create),
           "VM whose TPM states are served");
  destroying(command("vtpm-destroy", "Remove the socket of a vTPM", vtpm_destroy));
  creating(command("varstore-create", "Create the socket of a VM's UEFI variables", varstore_create),
           "VM whose UEFI variables are served");
  destroying(command("varstore-destroy", "Remove the socket of a VM's UEFI variables", varstore_destroy));

  const auto of_vtpm = [&a](CLI::App* sub) {
    sub->add_option("VTPM_UUID", a.vtpm, "The vTPM, as xapi calls it")
        ->required()
        ->transform(CLI::Validator(check_uuid, "", "uuid"));
    return sub;
  };
  of_vtpm(command("vtpm-get", "Print what a vTPM holds, everything acknowledged included", vtpm_get));
  of_vtpm(command("vtpm-set", "Replace what a vTPM holds, and whatever is pending for it", vtpm_set))
      ->add_option("FILE", a.path, "Where to read it; - is standard input")
      ->required()
      ->type_name("");

  CLI::App* show = command("status", "Show what the daemon is doing", status);
  auto* watching = show->add_flag("--watch", a.watch, "Again and again, until interrupted");
  show->add_option("--interval", a.interval_seconds, "Seconds between two looks")
      ->needs(watching)
      ->check(CLI::Range(1u, 3600u))
      ->type_name("S")
      ->capture_default_str();
  show->add_flag("--check", a.check, "One line; exit status 0 direct, 1 pending, 2 held, parked or failed")
      ->excludes(watching);

  command("pending", "List the entries not yet delivered", pending);

  const auto most = static_cast<unsigned>(seconds(limits::drain_max).count());
  command("drain", "Deliver everything that is pending, and wait for it", drain)
      ->add_option("--timeout", a.timeout_seconds, "Seconds to wait at most")
      ->check(CLI::Range(0u, most))
      ->type_name("S")
      ->capture_default_str();

  declare_operations(command, a);
  declare_journal(app, a, chosen);
  declare_export(app, a, chosen);
}

int run(int argc, char** argv) {
  CLI::App app("Talks to xapi-guard through its control socket.", "xapi-guardctl");
  Arguments arguments;
  Command chosen;
  declare(app, arguments, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? success : usage;
  }
  if (!arguments.switch_socket.empty() &&
      (app.got_subcommand("journal") || app.got_subcommand("quarantine") ||
       app.got_subcommand("export-cache"))) {
    std::fprintf(stderr, "xapi-guardctl: --switch: this command has nothing to ask there\n");
    return usage;
  }
  const int status_of_command = chosen(arguments);
  if (std::fflush(stdout) != 0 && status_of_command == success) {
    std::perror("xapi-guardctl: standard output");
    return refused;
  }
  return status_of_command;
}

}  // namespace
}  // namespace guard::cli

int main(int argc, char** argv) { return guard::cli::run(argc, argv); }
