#include "cli/journal_view.h"

#include <fmt/format.h>

#include <chrono>

#include "base/text.h"
#include "cli/present.h"

namespace guard::cli {

namespace {

using journal::FileView;
using journal::Finding;
using journal::Inspection;
using journal::LiveEntry;
using journal::RecordType;
using journal::RecordView;
using wire::Json;
using wire::JsonArray;
using wire::JsonObject;

std::string_view name_of(RecordType type) {
  switch (type) {
    case RecordType::write:
      return "write";
    case RecordType::contents:
      return "contents";
    case RecordType::alert:
      return "alert";
    case RecordType::removed:
      return "removed";
    case RecordType::released:
      return "released";
    case RecordType::complete:
      return "complete";
  }
  return "unknown";
}

std::string hex(const Digest& digest) { return fmt::format("{:016x}{:016x}", digest.high, digest.low); }

/// Null where no time was recorded.
Json time_json(std::int64_t ms) {
  if (ms == 0) return {};
  return rfc3339(std::chrono::system_clock::time_point(std::chrono::milliseconds(ms)));
}

Json uuid_json(const Uuid& uuid) { return uuid.is_nil() ? Json() : Json(uuid.str()); }

std::string or_dash(const Json& json) { return json.string() != nullptr ? *json.string() : "-"; }

/// Set marks by name, in a fixed order.
std::string marks_of(const RecordView& r) {
  std::string marks;
  const auto add = [&marks](bool set, std::string_view name) {
    if (set) marks += (marks.empty() ? "" : ",") + std::string(name);
  };
  add(r.retained, "retained");
  add(r.suspect, "suspect");
  add(r.alert, "alert");
  add(r.copied, "copied");
  add(r.resumed, "resumed");
  return marks;
}

Json live_json(const LiveEntry& entry) {
  return JsonObject{{"vm", entry.owner.vm.str()},         {"device", guard::name_of(entry.owner.device)},
                    {"slot", guard::name_of(entry.slot)}, {"type", name_of(entry.type)},
                    {"sequence", entry.sequence},         {"bytes", std::uint64_t{entry.size}},
                    {"time", time_json(entry.wall_ms)},   {"digest", hex(entry.digest)},
                    {"vtpm", uuid_json(entry.vtpm)},      {"known", std::uint64_t{entry.known.size()}},
                    {"retained", entry.retained},         {"suspect", entry.suspect}};
}

Json record_json(const RecordView& r) {
  JsonObject json{{"at", r.position}, {"type", name_of(r.type)}};
  if (r.type != RecordType::complete) {
    json.insert(json.end(), {{"vm", r.owner.vm.str()},
                             {"device", guard::name_of(r.owner.device)},
                             {"slot", guard::name_of(r.slot)},
                             {"sequence", r.sequence},
                             {"bytes", std::uint64_t{r.payload_size}},
                             {"time", time_json(r.wall_ms)},
                             {"digest", hex(r.digest)},
                             {"vtpm", uuid_json(r.vtpm)},
                             {"known", std::uint64_t{r.known_count}}});
  }
  json.emplace_back("marks", marks_of(r));
  return json;
}

Json damage_json(const Finding& finding) {
  JsonObject json{{"file", finding.file},
                  {"from", finding.from},
                  {"to", finding.to},
                  {"what", finding.what},
                  {"hides_records", finding.hides_records}};
  if (finding.lost) {
    json.emplace_back("lost", JsonObject{{"vm", finding.lost->owner.vm.str()},
                                         {"slot", guard::name_of(finding.lost->slot)},
                                         {"type", name_of(finding.lost->type)},
                                         {"sequence", finding.lost->sequence}});
  }
  return json;
}

Json file_json(const FileView& file) {
  JsonArray headers;
  for (const auto& copy : file.headers.copies) {
    headers.push_back(copy ? Json(JsonObject{{"generation", copy->generation},
                                             {"highest_sequence", copy->highest_sequence}})
                           : Json());
  }
  return JsonObject{{"name", file.name},
                    {"present", file.present},
                    {"error", file.error ? Json(file.error->message) : Json()},
                    {"bytes", file.size},
                    {"headers", std::move(headers)},
                    {"complete", file.complete},
                    {"torn", file.torn},
                    {"batches", file.batches},
                    {"records", file.records},
                    {"end", file.end}};
}

Json batches_json(const Inspection& found) {
  JsonArray batches;
  for (std::size_t i = 0; i < found.records.size();) {
    JsonArray records;
    const std::uint64_t start = found.records[i].batch_start;
    for (; i < found.records.size() && found.records[i].batch_start == start; ++i) {
      records.push_back(record_json(found.records[i]));
    }
    batches.push_back(JsonObject{{"at", start}, {"records", std::move(records)}});
  }
  return batches;
}

std::string file_text(const FileView& file, bool replayed) {
  if (!file.present) return fmt::format("file {}      missing\n", file.name);
  if (file.error) return fmt::format("file {}      cannot be read: {}\n", file.name, file.error->message);
  std::string out =
      fmt::format("file {}      {}", file.name, human_size(static_cast<std::int64_t>(file.size)));
  if (const auto* best = file.headers.best()) {
    out += fmt::format(", generation {}, {} records in {} batches, next batch at {}{}{}", best->generation,
                       file.records, file.batches, file.end, file.complete ? ", complete" : ", not complete",
                       file.torn ? ", last batch cut off by a crash" : "");
  }
  for (std::size_t i = 0; i < 2; ++i) {
    if (!file.headers.copies[i]) out += fmt::format(", header copy {} NOT GOOD", i + 1);
  }
  return out + (replayed ? "  <- is replayed\n" : "\n");
}

std::string place_text(const Finding& finding) {
  std::string out = finding.from == finding.to
                        ? fmt::format("{}: {}", finding.file, finding.what)
                        : fmt::format("{} {}-{}: {}", finding.file, finding.from, finding.to, finding.what);
  if (finding.lost) {
    out +=
        fmt::format(" ({} {} of {}, sequence {})", name_of(finding.lost->type),
                    guard::name_of(finding.lost->slot), finding.lost->owner.vm.str(), finding.lost->sequence);
  }
  return out;
}

std::string live_text(const LiveEntry& entry) {
  return fmt::format("  {} {:<13} {:>8} {:>10}  {:<24}  {}{}{}\n", entry.owner.vm.str(),
                     guard::name_of(entry.slot), entry.sequence, human_size(entry.size),
                     or_dash(time_json(entry.wall_ms)), name_of(entry.type),
                     entry.retained ? ", retained" : "", entry.suspect ? ", suspect" : "");
}

std::string record_text(const RecordView& r) {
  if (r.type == RecordType::complete) {
    return fmt::format("  {:>10}  {:<8}  {}\n", r.position, name_of(r.type), marks_of(r));
  }
  return fmt::format("  {:>10}  {:<8}  {} {:<13} {:>8} {:>10}  {:<24}  {} {}\n", r.position, name_of(r.type),
                     r.owner.vm.str(), guard::name_of(r.slot), r.sequence, human_size(r.payload_size),
                     or_dash(time_json(r.wall_ms)), hex(r.digest), marks_of(r));
}

std::string records_text(const Inspection& found) {
  std::string out;
  std::uint64_t batch = 0;
  for (const RecordView& r : found.records) {
    if (r.batch_start != batch) out += fmt::format("batch at {}\n", r.batch_start);
    batch = r.batch_start;
    out += record_text(r);
  }
  if (found.omitted != 0) out += fmt::format("and {} records more\n", found.omitted);
  return out.empty() ? out : "\nRecords\n" + out;
}

std::string notes(const JournalLook& look) {
  std::string out;
  if (look.in_use_by) {
    out += fmt::format("in use by process {}: it may be changing while it is read\n", *look.in_use_by);
  }
  if (look.found.changed) out += "it did change while it was read\n";
  return out;
}

}  // namespace

std::string_view state_of(const Inspection& found) {
  if (found.unreadable) return "unreadable";
  if (found.lost) return "lost";
  return found.good() ? "good" : "damaged";
}

wire::Json journal_json(const JournalLook& look) {
  const Inspection& found = look.found;
  JsonArray files, live, damage;
  for (const FileView& file : found.files) files.push_back(file_json(file));
  for (const LiveEntry& entry : found.live) live.push_back(live_json(entry));
  for (const Finding& finding : found.damage) damage.push_back(damage_json(finding));
  Json replayed, generation;
  if (found.replayed) {
    replayed = found.files[*found.replayed].name;
    generation = found.files[*found.replayed].headers.best()->generation;
  }
  JsonObject json{{"directory", look.directory},
                  {"state", state_of(found)},
                  {"error", found.unreadable ? Json(found.unreadable->message) : Json()},
                  {"in_use_by", look.in_use_by ? Json(*look.in_use_by) : Json()},
                  {"changed", found.changed},
                  {"replayed", std::move(replayed)},
                  {"generation", std::move(generation)},
                  {"highest_sequence", found.highest_sequence},
                  {"files", std::move(files)},
                  {"live", std::move(live)},
                  {"damage", std::move(damage)}};
  if (!found.records.empty()) {
    json.emplace_back("batches", batches_json(found));
    json.emplace_back("omitted", found.omitted);
  }
  return json;
}

std::string present_journal(const JournalLook& look) {
  const Inspection& found = look.found;
  std::string out = fmt::format("journal     {}\n", look.directory);
  out += notes(look);
  out += fmt::format("state       {}{}\n", state_of(found),
                     found.unreadable ? ": " + found.unreadable->message : std::string());
  for (std::size_t i = 0; i < 2; ++i) out += file_text(found.files[i], found.replayed == i);
  out += fmt::format("sequence    {} is the highest seen\n", found.highest_sequence);
  out += fmt::format("live        {} of {}\n", found.live.size(),
                     found.replayed ? "the file that is replayed" : "no file: none is replayed");
  if (!found.damage.empty()) {
    out += "\nDamage\n";
    for (const Finding& finding : found.damage) out += "  " + place_text(finding) + "\n";
  }
  if (!found.live.empty()) {
    out += "\nLive entries\n";
    for (const LiveEntry& entry : found.live) out += live_text(entry);
  }
  return out + records_text(found);
}

std::string present_verdict(const JournalLook& look) {
  const Inspection& found = look.found;
  std::string out = notes(look);
  if (found.unreadable) return out + "unreadable: " + found.unreadable->message + "\n";
  for (const Finding& finding : found.damage) out += place_text(finding) + "\n";
  if (!found.replayed) {
    return out + (found.lost ? "lost: no file can be replayed\n" : "good: empty, nothing was ever in it\n");
  }
  const FileView& file = found.files[*found.replayed];
  return out + fmt::format("{}: generation {} in file {}, {} records, {} live entries{}\n", state_of(found),
                           file.headers.best()->generation, file.name, file.records, found.live.size(),
                           file.torn ? "; the last batch was cut off by a crash, which is no damage" : "");
}

}  // namespace guard::cli
