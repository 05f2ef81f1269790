#include "wire/resume_file.h"

#include <algorithm>
#include <optional>

#include "base/limits.h"
#include "base/text.h"
#include "wire/json.h"

namespace guard::wire {

namespace {

/// Names are compared without regard to case; of several spellings the last in the object counts.
const Json* find_any_case(const JsonObject& members, std::string_view name) {
  const auto found = std::find_if(members.rbegin(), members.rend(),
                                  [name](const auto& member) { return lower(member.first) == name; });
  return found == members.rend() ? nullptr : &found->second;
}

std::optional<Device> read_service(const Json* json) {
  if (!json || !json->string()) return std::nullopt;
  const std::string name = lower(*json->string());
  if (name == "swtpm") return Device::vtpm;
  if (name == "varstored") return Device::uefi;
  return std::nullopt;
}

std::optional<std::uint32_t> read_gid(const Json* json) {
  std::optional<std::uint64_t> number;
  if (json && json->string()) number = parse_decimal(*json->string());
  if (json && json->integer() && *json->integer() >= 0) number = static_cast<std::uint64_t>(*json->integer());
  // The largest value means "no group" to the kernel.
  if (!number || *number >= UINT32_MAX) return std::nullopt;
  return static_cast<std::uint32_t>(*number);
}

std::optional<std::string> read_path(const Json* json) {
  if (!json || !json->string()) return std::nullopt;
  const std::string& path = *json->string();
  if (path.empty() || path.front() != '/' || path.find('\0') != std::string::npos) return std::nullopt;
  return path;
}

std::optional<Uuid> read_uuid(const Json* json) {
  if (!json || !json->string()) return std::nullopt;
  return Uuid::parse(*json->string());
}

void skip(ResumeFile& file, std::string_view why) {
  ++file.skipped;
  if (file.problem.empty()) file.problem = why;
}

/// Adds the entry that `json` is, or counts it as skipped.
void add_entry(ResumeFile& file, const Json& json) {
  const JsonObject* members = json.object();
  if (!members) return skip(file, "an entry is not an object");
  const auto device = read_service(find_any_case(*members, "typ"));
  if (!device) return skip(file, "an entry has no known service");
  const auto gid = read_gid(find_any_case(*members, "gid"));
  if (!gid) return skip(file, "an entry has no valid gid");
  auto path = read_path(find_any_case(*members, "path"));
  if (!path) return skip(file, "an entry has no absolute path");
  const auto vm = read_uuid(find_any_case(*members, "vm_uuid"));
  if (!vm) return skip(file, "an entry has no valid VM uuid");
  file.entries.push_back({*device, *gid, std::move(*path), *vm});
}

/// Length of the object that begins at the start of `text`, braces within strings not counted; 0 when it
/// does not end within the text.
std::size_t object_length(std::string_view text) {
  std::size_t depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{') {
      ++depth;
    } else if (c == '}' && --depth == 0) {
      return i + 1;
    }
  }
  return 0;
}

/// Picks every whole entry out of a text that is not JSON as a whole. After damage nobody knows whether a
/// brace is inside a string, so each one is tried as the start of an object.
void salvage(ResumeFile& file, std::string_view text) {
  std::size_t work = 0;
  std::size_t at = text.find('{');
  while (at != std::string_view::npos && work < limits::resume_salvage_work) {
    const std::string_view candidate = text.substr(at, limits::resume_entry);
    const std::size_t length = object_length(candidate);
    work += length == 0 ? candidate.size() : length;
    const auto json = length == 0 ? std::unexpected(Error::invalid("an entry is not whole"))
                                  : parse_json(candidate.substr(0, length));
    if (json) {
      add_entry(file, *json);
    } else {
      skip(file, "an entry is not whole");
    }
    at = text.find('{', at + (json ? length : 1));
  }
}

std::string_view service_name(Device device) { return device == Device::vtpm ? "Swtpm" : "Varstored"; }

}  // namespace

ResumeFile read_resume_file(std::string_view text) {
  ResumeFile file;
  const auto json = parse_json(text);
  if (json && json->array()) {
    for (const Json& entry : *json->array()) add_entry(file, entry);
    return file;
  }
  file.damaged = true;
  file.problem = json ? "the resume file is not a JSON array" : json.error().message;
  salvage(file, text);
  return file;
}

std::string write_resume_file(std::span<const ResumeEntry> entries) {
  JsonArray array;
  array.reserve(entries.size());
  for (const ResumeEntry& entry : entries) {
    array.push_back(JsonObject{{"typ", service_name(entry.device)},
                               {"gid", std::int64_t{entry.gid}},
                               {"path", entry.path},
                               {"vm_uuid", entry.vm.str()}});
  }
  return to_string(Json(std::move(array)));
}

}  // namespace guard::wire
