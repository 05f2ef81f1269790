#include "cli/present.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

namespace guard::cli {

namespace {

using wire::Json;

/// The member reached through `names`, or nullptr.
const Json* at(const Json& json, std::initializer_list<std::string_view> names) {
  const Json* found = &json;
  for (const auto name : names) {
    if (found != nullptr) found = found->find(name);
  }
  return found;
}

double number(const Json* json) {
  if (json == nullptr) return 0;
  if (const auto* integer = json->integer()) return static_cast<double>(*integer);
  if (const auto* real = std::get_if<double>(&json->value)) return *real;
  return 0;
}

std::int64_t integer(const Json* json) {
  return json != nullptr && json->integer() != nullptr ? *json->integer() : 0;
}

std::string printable(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = '?';
  }
  return text;
}

std::string text(const Json* json) {
  if (json == nullptr || json->is_null()) return "-";
  if (json->string() != nullptr) return json->string()->empty() ? "-" : printable(*json->string());
  return printable(wire::to_string(*json));
}

std::size_t count(const Json* json) {
  return json != nullptr && json->array() != nullptr ? json->array()->size() : 0;
}

/// "1 entry", "2 entries".
std::string counted(std::int64_t n, std::string_view one, std::string_view many) {
  return fmt::format("{} {}", n, n == 1 ? one : many);
}

/// Rows with columns of equal width, each line indented by two; the first row is the heading.
std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line = " ";
    for (std::size_t i = 0; i < row.size(); ++i) line += fmt::format(" {:<{}} ", row[i], widths[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

/// A titled table of an array of objects; empty when there is nothing to show.
struct Column {
  std::string_view heading;
  std::string_view member;
};
std::string section(std::string_view title, const Json* rows, std::initializer_list<Column> columns) {
  if (count(rows) == 0) return {};
  std::vector<std::vector<std::string>> cells(1);
  for (const Column& column : columns) cells[0].emplace_back(column.heading);
  for (const Json& row : *rows->array()) {
    auto& line = cells.emplace_back();
    for (const Column& column : columns) line.push_back(text(row.find(column.member)));
  }
  return fmt::format("\n{}\n{}", title, table(cells));
}

std::string pending_text(const Json& status) {
  const auto entries = integer(at(status, {"pending", "entries"}));
  if (entries == 0) return "nothing";
  return fmt::format("{} of {}, {}, the oldest for {}", counted(entries, "entry", "entries"),
                     counted(integer(at(status, {"pending", "vms"})), "VM", "VMs"),
                     human_size(integer(at(status, {"pending", "bytes"}))),
                     human_duration(number(at(status, {"pending", "oldest_seconds"}))));
}

std::string journal_text(const Json& status) {
  if (const std::string state = text(at(status, {"journal", "state"})); state == "unread") {
    return "CANNOT BE READ: " + text(at(status, {"journal", "error"}));
  }
  std::string out = fmt::format("{}, {} live of {}, generation {}", text(at(status, {"journal", "state"})),
                                human_size(integer(at(status, {"journal", "live_bytes"}))),
                                human_size(integer(at(status, {"journal", "capacity_bytes"}))),
                                text(at(status, {"journal", "generation"})));
  const Json* reserved = at(status, {"journal", "reserved"});
  if (reserved != nullptr && reserved->boolean() != nullptr && !*reserved->boolean()) {
    out += ", space NOT reserved";
  }
  if (const auto corrupt = integer(at(status, {"journal", "corrupt_records"})); corrupt > 0) {
    out += fmt::format(", {}", counted(corrupt, "corrupt record", "corrupt records"));
  }
  return out;
}

std::string counters_text(const Json* counters) {
  if (counters == nullptr || counters->object() == nullptr || counters->object()->empty()) return {};
  std::vector<std::vector<std::string>> rows;
  for (const auto& [name, value] : *counters->object()) rows.push_back({printable(name), text(&value)});
  return "\nCounters since the daemon started\n" + table(rows);
}

}  // namespace

std::string human_size(std::int64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double size = static_cast<double>(bytes);
  std::string_view unit;
  for (const std::string_view next : {"KiB", "MiB", "GiB", "TiB"}) {
    unit = next;
    size /= 1024;
    if (size < 1023.95) break;
  }
  return fmt::format("{:.1f} {}", size, unit);
}

std::string human_duration(double seconds) {
  if (seconds < 9.95) return fmt::format("{:.1f} s", std::max(seconds, 0.0));
  const auto s = static_cast<std::int64_t>(std::min(std::round(seconds), 1e15));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {} s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{} h {} min", s / 3600, s % 3600 / 60);
  return fmt::format("{} d {} h", s / 86400, s % 86400 / 3600);
}

std::string present_status(const Json& status) {
  std::string out = fmt::format("xapi-guard {}\n\n", text(at(status, {"version"})));
  const auto line = [&out](std::string_view name, const std::string& value) {
    out += fmt::format("{:<11} {}\n", name, value);
  };
  line("mode", text(at(status, {"mode"})));
  line("upstream",
       fmt::format("{} since {} ({})", text(at(status, {"upstream", "state"})),
                   text(at(status, {"upstream", "since"})), text(at(status, {"upstream", "uri"}))));
  const auto error = text(at(status, {"upstream", "last_error"}));
  if (error != "-" && text(at(status, {"upstream", "state"})) != "up") line("", "last error: " + error);
  line("pending", pending_text(status));
  line("held", std::to_string(count(at(status, {"held"}))));
  line("parked", std::to_string(count(at(status, {"parked"}))));
  line("in doubt", text(at(status, {"doubt"})));
  const auto retained = integer(at(status, {"retained", "entries"}));
  const auto uncompared = integer(at(status, {"retained", "uncompared"}));
  line("retained",
       fmt::format("{}{}", counted(retained, "value", "values"),
                   uncompared > 0 ? fmt::format(", {} to be compared with xapi", uncompared) : ""));
  line("buffering", text(at(status, {"buffering"})));
  line("journal", journal_text(status));
  line("quarantine", human_size(integer(at(status, {"quarantine_bytes"}))));
  line("sockets", std::to_string(count(at(status, {"sockets"}))));
  line("switch", text(at(status, {"switch", "state"})));
  const Json* unsaved = at(status, {"resume_file", "unsaved"});
  if (unsaved && unsaved->boolean() && *unsaved->boolean())
    line("resume file", "NOT SAVED: a restart would miss the latest change");
  if (const auto not_served = integer(at(status, {"resume_file", "not_served"})); not_served > 0)
    line("resume file", fmt::format("{} listed but not served", not_served));
  const auto trouble = {Column{"VM", "vm"}, Column{"SLOT", "slot"}, Column{"SINCE", "since"},
                        Column{"REASON", "reason"}};
  out += section("Held", at(status, {"held"}), trouble);
  out += section("Parked", at(status, {"parked"}), trouble);
  out += section("Sockets", at(status, {"sockets"}),
                 {{"SERVICE", "service"}, {"VM", "vm"}, {"GID", "gid"}, {"PATH", "path"}});
  return out + counters_text(at(status, {"counters"}));
}

std::string present_pending(const Json& pending) {
  if (count(&pending) == 0) return "nothing is pending\n";
  std::vector<std::vector<std::string>> rows{{"VM", "SLOT", "SEQUENCE", "SIZE", "AGE", "STATE", "REASON"}};
  for (const Json& entry : *pending.array()) {
    rows.push_back({text(entry.find("vm")), text(entry.find("slot")), text(entry.find("sequence")),
                    human_size(integer(entry.find("bytes"))),
                    human_duration(number(entry.find("age_seconds"))), text(entry.find("state")),
                    text(entry.find("reason"))});
  }
  return table(rows);
}

std::string present_quarantine(const Json& quarantine) {
  std::string out;
  const Json* files = quarantine.find("files");
  if (count(files) != 0) {
    std::vector<std::vector<std::string>> rows{{"FILE", "SIZE"}};
    for (const Json& file : *files->array()) {
      rows.push_back({text(file.find("name")), human_size(integer(file.find("bytes")))});
    }
    out += table(rows);
  }
  const auto omitted = integer(quarantine.find("omitted"));
  if (omitted > 0) out += fmt::format("  and {} more\n", omitted);
  const auto all = static_cast<std::int64_t>(count(files)) + omitted;
  out += all == 0 ? "the quarantine is empty\n"
                  : fmt::format("{}, {}\n", counted(all, "file", "files"),
                                human_size(integer(quarantine.find("bytes"))));
  const Json* set_aside = quarantine.find("set_aside");
  if (count(set_aside) == 0) return out;
  out += "\nJournals set aside\n";
  for (const Json& name : *set_aside->array()) out += "  " + text(&name) + "\n";
  return out;
}

std::string present_purge(const Json& purged) {
  std::string out =
      fmt::format("{} removed, {} freed\n", counted(integer(purged.find("files")), "file", "files"),
                  human_size(integer(purged.find("bytes"))));
  if (const auto left = integer(purged.find("left")); left > 0) {
    out += fmt::format("{} could not be removed: {}\n", left, text(purged.find("error")));
  }
  return out;
}

Check check_status(const Json& status) {
  const Json* mode = at(status, {"mode"});
  const Json* journal = at(status, {"journal", "state"});
  if (mode == nullptr || mode->string() == nullptr || journal == nullptr || at(status, {"held"}) == nullptr ||
      at(status, {"parked"}) == nullptr) {
    return {3, "UNKNOWN: the answer is not a status"};
  }
  const auto held = count(at(status, {"held"}));
  const auto parked = count(at(status, {"parked"}));
  if (held > 0 || parked > 0 || text(journal) != "ok") {
    return {2, fmt::format("CRITICAL: {} held, {} parked, journal {}", held, parked, text(journal))};
  }
  if (*mode->string() != "direct" || integer(at(status, {"pending", "entries"})) > 0) {
    return {1, fmt::format("WARNING: {}, pending: {}, upstream {}", text(mode), pending_text(status),
                           text(at(status, {"upstream", "state"})))};
  }
  return {0, "OK: direct"};
}

}  // namespace guard::cli
