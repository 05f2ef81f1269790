// guest-tpm: a real TPM 2.0 whose state lives behind a device socket, and a ledger of what it acknowledged.
//
// Each run is one life of the TPM, from power on to power off. Every run but the first checks what it finds
// against the ledger before it does anything else, so a lost or an old state never goes unnoticed.
// Exit status: 0 all is right; 1 the TPM failed or something is not what was acknowledged; 2 usage, or a
// file of our own could not be read or written.
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>

#include "base/text.h"
#include "crypto.h"
#include "guest.h"
#include "tpm_marshal.h"

namespace guard::tool {

namespace {

constexpr int exit_wrong = 1;
constexpr int exit_usage = 2;
/// libtpms 0.9 stores a state that uses more than 128 KiB of NV memory, but does not start from it again.
constexpr unsigned most_filler_bytes = 112'000;

struct Arguments {
  std::string socket;
  std::string contents;
  std::string ledger;
  std::string saved;
  std::optional<double> give_up_after_s;
  bool no_shutdown = false;
  std::string report = "text";
  InitOptions init;
  WriteOptions write;
};

int complain(const Error& error) {
  std::fprintf(stderr, "guest-tpm: %s\n", error.message.c_str());
  return exit_wrong;
}

int refuse(const std::string& text) {
  std::fprintf(stderr, "guest-tpm: %s\n", text.c_str());
  return exit_usage;
}

/// One life of the TPM with everything it needs.
class Session {
 public:
  Session(const Arguments& arguments, Ledger& ledger)
      : http_({arguments.socket, limit(arguments)}, &ledger), tpm_(http_), ledger_(ledger) {}

  Tpm& tpm() { return tpm_; }
  HttpStoreStats stats() const { return http_.stats(); }

  /// Power on and compare with the ledger.
  Result<> start(const CheckReport& report) {
    if (auto on = tpm_.power_on(); !on) return on;
    if (const auto digest = ledger_.acknowledged_digest(Slot::permall)) {
      report("the permanent state came back as it was stored; now stored: SHA-256 " + digest->substr(0, 16) +
             "...");
    }
    return check_and_settle(tpm_, ledger_, report);
  }

 private:
  static std::optional<std::chrono::milliseconds> limit(const Arguments& arguments) {
    if (!arguments.give_up_after_s) return std::nullopt;
    return std::chrono::milliseconds(std::llround(*arguments.give_up_after_s * 1000));
  }

  HttpStateStore http_;
  Tpm tpm_;
  Ledger& ledger_;
};

void say_nothing(const std::string&) {}
void say_ok(const std::string& text) {
  std::printf("ok    %s\n", text.c_str());
  std::fflush(stdout);
}

/// A check that failed, in the form of say_ok.
int say_wrong(const Error& error) {
  std::printf("WRONG %s\n", error.message.c_str());
  return exit_wrong;
}

double quantile(const std::vector<double>& sorted, double q) {
  if (sorted.empty()) return 0;
  return sorted[std::min(sorted.size() - 1,
                         static_cast<std::size_t>(q * static_cast<double>(sorted.size())))];
}

void report_writes(const Arguments& arguments, HttpStoreStats stats, double seconds, const Ledger& ledger) {
  std::vector<double>& us = stats.put_us;
  std::sort(us.begin(), us.end());
  const double least = us.empty() ? 0 : us.front();
  const double most = us.empty() ? 0 : us.back();
  const auto retries = static_cast<unsigned long long>(stats.retries);
  const auto operations = static_cast<unsigned long long>(arguments.write.count);
  if (arguments.report == "json") {
    std::printf(
        "{\"operations\":%llu,\"seconds\":%.3f,\"last_operation\":%llu,\"counter\":%llu,"
        "\"puts\":{\"count\":%zu,\"min_us\":%.0f,\"p50_us\":%.0f,\"p99_us\":%.0f,\"max_us\":%.0f},"
        "\"retries\":%llu,\"connections\":%u,\"permall_sha256\":\"%s\"}\n",
        operations, seconds, static_cast<unsigned long long>(ledger.last_operation()),
        static_cast<unsigned long long>(ledger.counter()), us.size(), least, quantile(us, 0.5),
        quantile(us, 0.99), most, retries, stats.connects,
        ledger.acknowledged_digest(Slot::permall).value_or("").c_str());
    return;
  }
  std::printf("%llu TPM operations acknowledged in %.2f s; the last is operation %llu, the counter is %llu\n",
              operations, seconds, static_cast<unsigned long long>(ledger.last_operation()),
              static_cast<unsigned long long>(ledger.counter()));
  std::printf(
      "%zu writes of the state: min %.2f ms, p50 %.2f ms, p99 %.2f ms, max %.2f ms; "
      "%llu retried, %u connection%s\n",
      us.size(), least / 1000, quantile(us, 0.5) / 1000, quantile(us, 0.99) / 1000, most / 1000, retries,
      stats.connects, stats.connects == 1 ? "" : "s");
}

int run_init(const Arguments& arguments, Ledger& ledger) {
  if (ledger.identity()) return refuse("this ledger describes a TPM already");
  Session session(arguments, ledger);
  if (auto on = session.tpm().power_on(); !on) return complain(on.error());
  std::printf("%s\n", session.tpm().manufactured() ? "no state there: a new TPM was made" : "found a TPM");
  if (auto made = initialise(session.tpm(), ledger, arguments.init); !made) return complain(made.error());
  if (auto off = session.tpm().shutdown(); !off) return complain(off.error());
  std::printf("NV index %s of %u bytes, counter %s at %llu, signing key %s: defined\n",
              hex_number(nv_handle).c_str(), arguments.init.nv_bytes, hex_number(counter_handle).c_str(),
              static_cast<unsigned long long>(ledger.counter()), hex_number(key_handle).c_str());
  return 0;
}

int run_write(const Arguments& arguments, Ledger& ledger) {
  Session session(arguments, ledger);
  if (auto on = session.start(say_nothing); !on) return complain(on.error());
  const auto start = std::chrono::steady_clock::now();
  const auto written = write_operations(session.tpm(), ledger, arguments.write);
  if (!written)
    return written.error().code == Errc::invalid ? refuse(written.error().message)
                                                 : complain(written.error());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!arguments.no_shutdown) {
    if (auto off = session.tpm().shutdown(); !off) return complain(off.error());
  }
  report_writes(arguments, session.stats(), seconds, ledger);
  return 0;
}

int run_verify(const Arguments& arguments, Ledger& ledger) {
  if (arguments.contents.empty()) {
    Session session(arguments, ledger);
    if (auto on = session.start(say_ok); !on) return say_wrong(on.error());
    auto off = session.tpm().shutdown();
    return off ? 0 : say_wrong(off.error());
  }
  std::ifstream file(arguments.contents, std::ios::binary);
  if (!file) return refuse("cannot read " + arguments.contents);
  std::string text(std::istreambuf_iterator<char>(file), {});
  if (text.ends_with('\n')) text.pop_back();  // the end of a line of text is not part of the contents
  auto store = ContentsStateStore::parse(text, &ledger);
  if (!store) return say_wrong(store.error());
  Tpm tpm(*store);
  if (auto on = tpm.power_on(); !on) return say_wrong(on.error());
  say_ok("the contents hold the permanent state as it was stored");
  const auto right = check(tpm, ledger, say_ok);
  return right ? 0 : say_wrong(right.error());
}

/// Writes a file so that it is whole or absent: what is lost here is a suspended VM.
bool save_file(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".new";
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return false;
  const bool written =
      ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) && ::fsync(fd) == 0;
  ::close(fd);
  return written && ::rename(temporary.c_str(), path.c_str()) == 0;
}

int run_suspend(const Arguments& arguments, Ledger& ledger) {
  Session session(arguments, ledger);
  if (auto on = session.start(say_nothing); !on) return complain(on.error());
  if (auto written = write_operations(session.tpm(), ledger, arguments.write); !written) {
    return complain(written.error());
  }
  const auto state = suspend(session.tpm(), ledger);
  if (!state) return complain(state.error());
  const std::string text = wrap_state(state->permanent) + "\n" + wrap_state(state->volatile_part) + "\n";
  if (!save_file(arguments.saved, text)) return refuse("cannot write " + arguments.saved);
  std::printf("suspended: permanent state %zu bytes, volatile state %zu bytes; PCR %u noted\n",
              state->permanent.size(), state->volatile_part.size(), suspend_pcr);
  return 0;
}

int run_resume(const Arguments& arguments, Ledger& ledger) {
  std::ifstream file(arguments.saved);
  std::string permanent_text, volatile_text;
  if (!(file >> permanent_text >> volatile_text)) return refuse("cannot read " + arguments.saved);
  const auto permanent = unwrap_state(permanent_text);
  const auto volatile_part = unwrap_state(volatile_text);
  if (!permanent || !volatile_part) return refuse(arguments.saved + " does not hold a suspended TPM");
  Session session(arguments, ledger);
  if (auto on = session.tpm().resume({*permanent, *volatile_part}); !on) return say_wrong(on.error());
  say_ok("the TPM goes on from its suspended state");
  if (auto right = check_pcr(session.tpm(), ledger, say_ok); !right) return say_wrong(right.error());
  if (auto right = check_and_settle(session.tpm(), ledger, say_ok); !right) return say_wrong(right.error());
  auto off = session.tpm().shutdown();
  return off ? 0 : say_wrong(off.error());
}

using Run = int (*)(const Arguments&, Ledger&);

/// The options that every sub-command has.
CLI::App* add_command(CLI::App& app, Arguments& arguments, const char* name, const char* help) {
  CLI::App* command = app.add_subcommand(name, help);
  command->add_option("--ledger", arguments.ledger, "File that says what the TPM acknowledged")->required();
  command
      ->add_option("--give-up-after", arguments.give_up_after_s,
                   "End the retries of a storage operation after so many seconds; without it, never")
      ->check(CLI::PositiveNumber);
  return command;
}

void add_write_options(CLI::App& command, Arguments& arguments) {
  command.add_option("--size", arguments.write.bytes, "Bytes of each NV write; default: the whole index")
      ->check(CLI::Range(1, 1024));
  command
      .add_option("--rate", arguments.write.per_second, "Operations per second; default: as fast as it goes")
      ->check(CLI::PositiveNumber);
}

}  // namespace

int main_of_guest_tpm(int argc, char** argv) {
  CLI::App app("A real TPM 2.0 that keeps its state behind a device socket of the guard, as swtpm does");
  app.require_subcommand(1);
  Arguments arguments;
  const auto socket = [&](CLI::App* command) {
    return command->add_option("--socket", arguments.socket, "The device socket");
  };

  CLI::App* init =
      add_command(app, arguments, "init", "Make the TPM if there is none; define counter, NV index, key");
  socket(init)->required();
  init->add_option("--nv-size", arguments.init.nv_bytes, "Bytes of the NV index")
      ->check(CLI::Range(16, 1024));
  init->add_option("--fill", arguments.init.filler_bytes, "Further NV memory to use, for a larger state")
      ->check(CLI::Range(0u, most_filler_bytes));

  CLI::App* write =
      add_command(app, arguments, "write", "By turns write NV memory and increment the counter");
  socket(write)->required();
  write->add_option("--count", arguments.write.count, "How many operations")->required();
  add_write_options(*write, arguments);
  write->add_flag("--no-shutdown", arguments.no_shutdown,
                  "End without TPM2_Shutdown, like a VM that is killed");
  write->add_option("--report", arguments.report, "text or json")->check(CLI::IsMember({"text", "json"}));

  CLI::App* verify =
      add_command(app, arguments, "verify", "Start the TPM again and compare it with the ledger");
  CLI::Option* from_socket = socket(verify);
  verify->add_option("--contents", arguments.contents, "Start it from this copy of what xapi stores instead")
      ->excludes(from_socket);

  CLI::App* suspend_command = add_command(app, arguments, "suspend", "Save the TPM with its volatile state");
  socket(suspend_command)->required();
  suspend_command->add_option("--saved", arguments.saved, "File for the suspended TPM")->required();
  suspend_command->add_option("--count", arguments.write.count, "Operations to do first; default: none");
  add_write_options(*suspend_command, arguments);

  CLI::App* resume = add_command(app, arguments, "resume", "Go on with a suspended TPM and compare it");
  socket(resume)->required();
  resume->add_option("--saved", arguments.saved, "File with the suspended TPM")->required();

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : exit_usage;
  }
  if (verify->parsed() && arguments.socket.empty() == arguments.contents.empty()) {
    return refuse("verify needs --socket or --contents");
  }
  const auto ledger = Ledger::open(arguments.ledger);
  if (!ledger) return refuse(ledger.error().message);
  if (!init->parsed() && !(*ledger)->identity()) return refuse("this ledger knows no TPM: run init first");
  const Run run = init->parsed()              ? run_init
                  : write->parsed()           ? run_write
                  : verify->parsed()          ? run_verify
                  : suspend_command->parsed() ? run_suspend
                                              : run_resume;
  return run(arguments, **ledger);
}

}  // namespace guard::tool

int main(int argc, char** argv) { return guard::tool::main_of_guest_tpm(argc, argv); }
