#include "cache_tree/parked.h"

#include <utility>

#include "base/limits.h"
#include "base/text.h"
#include "cache_tree/walk.h"
#include "wire/json.h"

namespace guard::cache_tree {

Result<> save_parked(Directory& state, const std::set<Sequence>& sequences) {
  if (sequences.empty()) {
    const auto gone = state.unlink(parked_name);
    if (!gone && gone.error().code != Errc::not_found) return gone;
    return gone ? state.sync() : Result<>();
  }
  wire::JsonArray list;
  for (const Sequence sequence : sequences) list.emplace_back(std::to_string(sequence));
  return replace_file(
      state, parked_name,
      wire::to_string(wire::JsonObject{{"version", 1}, {"sequences", std::move(list)}}) + "\n");
}

Result<std::set<Sequence>> load_parked(Directory& state) {
  std::set<Sequence> sequences;
  const auto text = read_small(state, parked_name, limits::manifest_bytes);
  if (!text && text.error().code == Errc::not_found) return sequences;
  if (!text) return std::unexpected(text.error());
  const auto malformed = [] { return std::unexpected(Error::invalid("parked.json: not what was written")); };
  const auto json = wire::parse_json(*text, {.max_bytes = limits::manifest_bytes});
  const wire::Json* version = json ? json->find("version") : nullptr;
  const wire::Json* list = json ? json->find("sequences") : nullptr;
  if (version == nullptr || *version != wire::Json(1) || list == nullptr || list->array() == nullptr) {
    return malformed();
  }
  for (const wire::Json& item : *list->array()) {
    const auto sequence = item.string() != nullptr ? parse_decimal(*item.string()) : std::nullopt;
    if (!sequence) return malformed();
    sequences.insert(*sequence);
  }
  return sequences;
}

}  // namespace guard::cache_tree
