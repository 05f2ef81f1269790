#include "cli/journal_commands.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <expected>

#include "cli/exit_status.h"
#include "cli/journal_place.h"
#include "cli/journal_view.h"
#include "cli/lock_holder.h"
#include "cli/present.h"
#include "cli/rpc_client.h"
#include "guard/env.h"
#include "journal/aside.h"

namespace guard::cli {

namespace {

using wire::Json;
using wire::JsonArray;
using wire::JsonObject;

/// How long the daemon may take: it removes up to limits::quarantine_bytes of small files.
constexpr std::chrono::seconds patience{60};

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

int cannot_read(const Error& error) {
  std::fprintf(stderr, "xapi-guardctl: %s\n", error.message.c_str());
  return unreachable;
}

Result<JournalLook> look_at(const JournalArguments& arguments) {
  const auto place = find_journal(arguments.directory);
  if (!place) return std::unexpected(place.error());
  auto dir = open_existing_directory(place->journal);
  if (!dir) return std::unexpected(dir.error());
  JournalLook look;
  look.directory = place->journal;
  if (!place->state_dir.empty()) look.in_use_by = lock_holder(place->state_dir + "/lock");
  auto found = journal::inspect(**dir, {.records = arguments.records, .in_use = look.in_use_by.has_value()});
  if (!found) return std::unexpected(found.error());
  look.found = std::move(*found);
  return look;
}

int refuse(const std::string& text) {
  std::fprintf(stderr, "xapi-guardctl: %s\n", text.c_str());
  return refused;
}

int fail(const CallError& error) {
  std::fprintf(stderr, "xapi-guardctl: %s\n", error.text.c_str());
  return error.kind == CallError::Kind::refused ? refused : unreachable;
}

/// What was done, and what follows from it.
int report_set_aside(const std::string& path, const std::optional<JournalLook>& look, bool json) {
  const bool known = look && !look->found.unreadable;
  if (json) {
    print(wire::to_string(JsonObject{
              {"set_aside", path}, {"live", known ? Json(std::uint64_t{look->found.live.size()}) : Json()}}) +
          "\n");
    return success;
  }
  const std::string entries = known ? fmt::format("The {} live entries in it", look->found.live.size())
                                    : "Whatever was pending in it";
  print(fmt::format(
      "set aside: {}\n"
      "The guard goes on with an empty journal: a daemon that waited for this one within a few seconds, any\n"
      "other when it starts.\n"
      "{} will not be delivered. A VM whose newest state was there finds what xapi\n"
      "has, which may be older; it may have to be recovered (BitLocker asks for its recovery key).\n"
      "Nothing was deleted. `xapi-guardctl journal inspect {}` shows what can be read of\n"
      "it. Do not put it back once VMs have written again: it would undo what they wrote. It holds secrets\n"
      "of guests; delete it when it is no longer needed.\n",
      path, entries, path));
  return success;
}

/// The daemon that holds the lock of the state directory does it, because only it knows whether it uses the
/// journal.
int set_aside_by_daemon(const std::string& state_dir, const std::string& control_socket, bool json) {
  const auto done =
      call(control_socket, "journal_set_aside", {{"dbg", "xapi-guardctl"}, {"dir", state_dir}}, patience);
  if (!done && done.error().kind == CallError::Kind::unreachable) {
    std::fprintf(stderr, "xapi-guardctl: a daemon uses %s, and cannot be asked: %s\n", state_dir.c_str(),
                 done.error().text.c_str());
    return unreachable;
  }
  if (!done) return fail(done.error());
  const Json* path = done->find("set_aside");
  if (path == nullptr || path->string() == nullptr) return refuse("the answer is not one of this daemon's");
  return report_set_aside(*path->string(), std::nullopt, json);
}

Json json_of(const journal::Quarantine& found, const std::vector<std::string>& set_aside) {
  JsonArray files, names;
  for (const auto& file : found.files) {
    files.push_back(JsonObject{{"name", file.name}, {"bytes", file.bytes}});
  }
  for (const std::string& name : set_aside) names.emplace_back(name);
  return JsonObject{{"files", std::move(files)},
                    {"omitted", found.omitted},
                    {"bytes", found.bytes},
                    {"set_aside", std::move(names)}};
}

Result<Json> list_offline(const std::string& directory) {
  const auto place = find_journal(directory);
  if (!place) return std::unexpected(place.error());
  const bool whole = !place->state_dir.empty();
  auto dir = open_existing_directory(whole ? place->state_dir : place->journal);
  if (!dir) return std::unexpected(dir.error());
  const auto found = whole ? journal::list_quarantines(**dir) : journal::list_quarantine(**dir);
  if (!found) return std::unexpected(found.error());
  std::vector<std::string> set_aside;
  if (whole) set_aside = journal::list_set_aside(**dir).value_or(set_aside);
  return json_of(*found, set_aside);
}

Result<Json> purge_offline(const std::string& directory) {
  const auto place = find_journal(directory);
  if (!place) return std::unexpected(place.error());
  const bool whole = !place->state_dir.empty();
  LockedState locked;
  if (whole) {
    auto taken = lock_state(place->state_dir);
    if (!taken) return std::unexpected(taken.error());
    locked = std::move(*taken);
  }
  auto dir = open_existing_directory(place->journal);
  if (!dir) return std::unexpected(dir.error());
  const auto purged = whole ? journal::purge_quarantines(*locked.state) : journal::purge_quarantine(**dir);
  if (!purged) return std::unexpected(purged.error());
  return JsonObject{{"files", purged->files},
                    {"bytes", purged->bytes},
                    {"left", purged->left},
                    {"error", purged->left == 0 ? Json() : Json(purged->first_error)}};
}

}  // namespace

int journal_inspect(const JournalArguments& arguments, bool json) {
  const auto look = look_at(arguments);
  if (!look) return cannot_read(look.error());
  print(json ? wire::to_string(journal_json(*look)) + "\n" : present_journal(*look));
  return look->found.unreadable ? cannot_read(*look->found.unreadable) : success;
}

int journal_verify(const JournalArguments& arguments, bool json) {
  const auto look = look_at(arguments);
  if (!look) return cannot_read(look.error());
  print(json ? wire::to_string(journal_json(*look)) + "\n" : present_verdict(*look));
  if (look->found.unreadable) return cannot_read(*look->found.unreadable);
  return look->found.good() ? success : refused;
}

int journal_set_aside(const JournalArguments& arguments, const std::string& control_socket, bool json) {
  const auto place = find_journal(arguments.directory);
  if (!place) return cannot_read(place.error());
  if (place->state_dir.empty()) return refuse(place->journal + " is not the journal of a state directory");
  const auto locked = lock_state(place->state_dir);
  if (!locked && locked.error().code == Errc::busy) {
    return set_aside_by_daemon(place->state_dir, control_socket, json);
  }
  if (!locked) return cannot_read(locked.error());
  std::optional<JournalLook> look;
  if (auto seen = look_at(arguments)) look = std::move(*seen);
  if (look && !look->found.unreadable && !look->found.live.empty() && !arguments.force) {
    return refuse(fmt::format(
        "the journal can be read and holds {} live entries, which a daemon would deliver; --force sets it "
        "aside all the same",
        look->found.live.size()));
  }
  const auto name = journal::set_aside(*locked->state, std::chrono::system_clock::now());
  if (!name) return cannot_read(name.error());
  return report_set_aside(place->state_dir + "/" + *name, look, json);
}

int quarantine_list(const std::string& directory, const std::string& control_socket, bool json) {
  Json found;
  if (directory.empty()) {
    auto answer = call(control_socket, "quarantine_list", {}, patience);
    if (!answer) return fail(answer.error());
    found = std::move(*answer);
  } else {
    auto seen = list_offline(directory);
    if (!seen) return cannot_read(seen.error());
    found = std::move(*seen);
  }
  print(json ? wire::to_string(found) + "\n" : present_quarantine(found));
  return success;
}

int quarantine_purge(const std::string& directory, const std::string& control_socket, bool json) {
  Json purged;
  if (directory.empty()) {
    auto answer = call(control_socket, "quarantine_purge", {}, patience);
    if (!answer) return fail(answer.error());
    purged = std::move(*answer);
  } else {
    auto done = purge_offline(directory);
    if (!done && done.error().code == Errc::busy) {
      return refuse("a daemon uses " + directory + ": leave out --dir, and it will do it");
    }
    if (!done) return cannot_read(done.error());
    purged = std::move(*done);
  }
  print(json ? wire::to_string(purged) + "\n" : present_purge(purged));
  const Json* left = purged.find("left");
  return left != nullptr && *left == Json(0) ? success : refused;
}

}  // namespace guard::cli
