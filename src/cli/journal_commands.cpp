#include "cli/journal_commands.h"

#include <cstdio>
#include <expected>

#include "cli/exit_status.h"
#include "cli/journal_place.h"
#include "cli/journal_view.h"
#include "cli/lock_holder.h"
#include "guard/env.h"

namespace guard::cli {

namespace {

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

}  // namespace guard::cli
