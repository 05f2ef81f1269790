#include "cli/export_command.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>

#include "base/log.h"
#include "base/random.h"
#include "cache_tree/export.h"
#include "cache_tree/parked.h"
#include "cli/exit_status.h"
#include "cli/journal_place.h"
#include "guard/env.h"
#include "journal/journal.h"
#include "wire/json.h"

namespace guard::cli {

namespace {

using wire::Json;
using wire::JsonArray;
using wire::JsonObject;

int fail(int status, const std::string& text) {
  std::fprintf(stderr, "xapi-guardctl: %s\n", text.c_str());
  return status;
}

/// CLOCK_MONOTONIC, which the original's timestamps are of.
std::uint64_t monotonic_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::nanoseconds(now).count());
}

Result<cache_tree::Exported> run(const ExportArguments& arguments, LockedState& locked) {
  auto journal_dir = locked.state->open_dir("journal", false);
  if (!journal_dir) return std::unexpected(journal_dir.error());
  cache_tree::ExportOptions options;
  options.lossy = arguments.lossy;
  options.now_ns = monotonic_ns();
  auto parked = cache_tree::load_parked(*locked.state);
  if (!parked) return std::unexpected(parked.error());
  options.parked = std::move(*parked);
  const auto log = make_stderr_logger(LogLevel::warning);
  auto store = journal::Store::open(std::move(*journal_dir), {}, random_bits, *log);
  if (!store) return std::unexpected(store.error());
  auto target = open_directory(arguments.directory);
  if (!target) return std::unexpected(target.error());
  return cache_tree::export_tree(**target, **store, options);
}

Json json_of(const cache_tree::Exported& done, const std::string& directory) {
  JsonArray obstacles;
  for (const cache_tree::Obstacle& obstacle : done.obstacles) {
    const std::string_view what = obstacle.alert ? std::string_view("alert") : name_of(obstacle.slot);
    obstacles.push_back(
        JsonObject{{"vm", obstacle.owner.vm.str()}, {"slot", what}, {"reason", obstacle.reason}});
  }
  return JsonObject{{"done", done.done},
                    {"directory", directory},
                    {"entries", std::uint64_t{done.entries}},
                    {"not_exported", std::move(obstacles)}};
}

void present(const cache_tree::Exported& done, const std::string& directory) {
  for (const cache_tree::Obstacle& obstacle : done.obstacles) {
    const std::string_view what = obstacle.alert ? std::string_view("alert") : name_of(obstacle.slot);
    fmt::print("not exported: {} {}: {}\n", obstacle.owner.vm.str(), what, obstacle.reason);
  }
  if (done.done) fmt::print("exported to {}: {} entries\n", directory, done.entries);
}

}  // namespace

int export_cache(const ExportArguments& arguments, bool json) {
  const std::string state_dir = arguments.state_dir.empty() ? arguments.directory : arguments.state_dir;
  // Before a lock is made in a directory that is something else.
  auto place = open_existing_directory(state_dir);
  if (!place) return fail(unreachable, place.error().message);
  if (!(*place)->look_at("journal")) return fail(unreachable, "there is no journal in " + state_dir);
  auto locked = lock_state(state_dir);
  if (!locked && locked.error().code == Errc::busy) {
    return fail(refused, "a daemon uses " + state_dir + ": stop it first");
  }
  if (!locked) return fail(unreachable, locked.error().message);
  const auto done = run(arguments, *locked);
  if (!done) {
    return fail(unreachable, done.error().message + "; nothing is lost: repeat it when the cause is gone");
  }
  if (json) {
    fmt::print("{}\n", wire::to_string(json_of(*done, arguments.directory)));
  } else {
    present(*done, arguments.directory);
  }
  if (done->done) return success;
  return fail(refused,
              fmt::format("nothing was exported, because {} entries would be left behind; deliver or "
                          "discard them first, or leave them in the journal with --lossy",
                          done->obstacles.size()));
}

}  // namespace guard::cli
