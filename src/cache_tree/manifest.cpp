#include "cache_tree/manifest.h"

#include <charconv>
#include <utility>

#include "base/limits.h"
#include "base/text.h"
#include "wire/json.h"

namespace guard::cache_tree {

namespace {

using wire::Json;

std::string hex(const Digest& digest) {
  std::string text;
  for (const std::uint64_t half : {digest.high, digest.low}) {
    for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[half >> shift & 15];
  }
  return text;
}

bool read_hex(std::string_view text, std::uint64_t& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out, 16);
  return error == std::errc() && end == text.data() + text.size();
}

std::string_view text_of(const Json& object, std::string_view member) {
  const Json* found = object.find(member);
  return found != nullptr && found->string() != nullptr ? std::string_view(*found->string())
                                                        : std::string_view();
}

std::optional<std::int64_t> number_of(const Json& object, std::string_view member) {
  const Json* found = object.find(member);
  if (found == nullptr || found->integer() == nullptr) return std::nullopt;
  return *found->integer();
}

std::optional<std::pair<Place, Manifest::File>> read_file(const Json& item) {
  const auto vm = parse_vm(text_of(item, "vm"));
  const auto key = number_of(item, "key");
  const auto timestamp = parse_timestamp(text_of(item, "timestamp"));
  const auto size = number_of(item, "size");
  const std::string_view digest = text_of(item, "digest");
  Manifest::File file;
  if (!vm || !key || *key < 0 || *key > 2 || !timestamp || !size || *size < 0 || digest.size() != 32 ||
      !read_hex(digest.substr(0, 16), file.digest.high) || !read_hex(digest.substr(16), file.digest.low)) {
    return std::nullopt;
  }
  file.size = static_cast<std::uint64_t>(*size);
  return std::pair{Place{*vm, static_cast<Slot>(*key), *timestamp}, file};
}

}  // namespace

bool Manifest::vouches(const Place& place, std::string_view text) const {
  const auto found = files.find(place);
  return found != files.end() && found->second == File{text.size(), digest_of(text)};
}

std::string write_manifest(const Manifest& manifest) {
  wire::JsonArray files;
  for (const auto& [place, file] : manifest.files) {
    files.push_back(wire::JsonObject{{"vm", place.vm.str()},
                                     {"key", static_cast<unsigned>(place.slot)},
                                     {"timestamp", std::to_string(place.timestamp)},
                                     {"size", file.size},
                                     {"digest", hex(file.digest)}});
  }
  return wire::to_string(wire::JsonObject{{"version", 1}, {"files", std::move(files)}}) + "\n";
}

Result<Manifest> read_manifest(std::string_view text) {
  const auto json = wire::parse_json(text, {.max_bytes = limits::manifest_bytes});
  if (!json) return std::unexpected(json.error());
  const Json* files = json->find("files");
  if (number_of(*json, "version") != 1 || files == nullptr || files->array() == nullptr) {
    return std::unexpected(Error::invalid("not an export manifest of version 1"));
  }
  Manifest manifest;
  for (const Json& item : *files->array()) {
    const auto file = read_file(item);
    if (!file) return std::unexpected(Error::invalid("export manifest: malformed file"));
    manifest.files.insert(*file);
  }
  return manifest;
}

}  // namespace guard::cache_tree
