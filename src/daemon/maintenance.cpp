#include "daemon/maintenance.h"

#include <chrono>
#include <memory>
#include <utility>

#include "journal/aside.h"
#include "wire/json.h"

namespace guard::daemon {

namespace {

using wire::Json;
using wire::JsonArray;
using wire::JsonObject;

struct Found {
  Result<journal::Quarantine> quarantine;
  std::vector<std::string> set_aside;
};

Json json_of(const Found& found) {
  JsonArray files, set_aside;
  for (const auto& file : found.quarantine->files) {
    files.push_back(JsonObject{{"name", file.name}, {"bytes", file.bytes}});
  }
  for (const std::string& name : found.set_aside) set_aside.emplace_back(name);
  return JsonObject{{"files", std::move(files)},
                    {"omitted", found.quarantine->omitted},
                    {"bytes", found.quarantine->bytes},
                    {"set_aside", std::move(set_aside)}};
}

}  // namespace

void Maintenance::quarantine_list(Done done) {
  auto found = std::make_shared<Found>();
  worker_.run(
      [this, found] {
        found->quarantine = state_dir_.with_state(journal::list_quarantines);
        found->set_aside = state_dir_.list_set_aside().value_or(std::vector<std::string>());
      },
      [this, found, added = added_now_, done = std::move(done)] {
        if (!found->quarantine) return done(std::unexpected(found->quarantine.error()));
        measured(found->quarantine->bytes, added);
        done(json_of(*found));
      });
}

void Maintenance::quarantine_purge(Done done) {
  struct Outcome {
    Result<journal::Purged> purged;
    Result<journal::Quarantine> rest;
  };
  auto outcome = std::make_shared<Outcome>();
  worker_.run(
      [this, outcome] {
        outcome->purged = state_dir_.with_state(journal::purge_quarantines);
        outcome->rest = state_dir_.with_state(journal::list_quarantines);
      },
      [this, outcome, added = added_now_, done = std::move(done)] {
        if (outcome->rest) measured(outcome->rest->bytes, added);
        const auto& purged = outcome->purged;
        if (!purged) return done(std::unexpected(purged.error()));
        log_.log(LogLevel::notice, "quarantine_purged", {{"files", purged->files}, {"bytes", purged->bytes}});
        done(JsonObject{{"files", purged->files},
                        {"bytes", purged->bytes},
                        {"left", purged->left},
                        {"error", purged->left == 0 ? Json() : Json(purged->first_error)}});
      });
}

void Maintenance::set_journal_aside(const std::string& directory, Done done) {
  auto outcome = std::make_shared<Result<std::string>>();
  worker_.run(
      [this, outcome, directory] {
        *outcome = state_dir_.set_journal_aside(directory, std::chrono::system_clock::now());
      },
      [this, outcome, done = std::move(done)] {
        if (!*outcome) return done(std::unexpected(outcome->error()));
        log_.log(LogLevel::warning, "journal_set_aside", {{"to", **outcome}});
        bytes_ = 0;
        done(JsonObject{{"set_aside", **outcome}});
      });
}

std::uint64_t Maintenance::quarantine_bytes(std::uint64_t added) {
  added_now_ = added;
  if (!looked_ || added_now_ != added_then_) look();
  return bytes_ + (looked_ ? added_now_ - added_then_ : 0);
}

void Maintenance::measured(std::uint64_t bytes, std::uint64_t added) {
  looked_ = true;
  bytes_ = bytes;
  added_then_ = added;
}

void Maintenance::look_first() {
  if (const auto found = state_dir_.with_state(journal::list_quarantines)) measured(found->bytes, 0);
}

void Maintenance::look() {
  if (std::exchange(looking_, true)) return;
  auto found = std::make_shared<Result<journal::Quarantine>>();
  worker_.run([this, found] { *found = state_dir_.with_state(journal::list_quarantines); },
              [this, found, added = added_now_] {
                looking_ = false;
                if (*found) measured((*found)->bytes, added);
              });
}

}  // namespace guard::daemon
