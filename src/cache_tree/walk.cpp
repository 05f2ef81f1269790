#include "cache_tree/walk.h"

#include <span>

#include "base/limits.h"

namespace guard::cache_tree {

using Kind = Directory::Found::Kind;

namespace {

constexpr Slot vtpm_slots[] = {Slot::permall, Slot::savestate, Slot::volatilestate};

/// A disk that failed once may not fail again, and what is not seen here is lost.
template <class Call>
auto twice(Call call) {
  auto result = call();
  if (!result && result.error().code != Errc::not_found) result = call();
  return result;
}

/// Where nobody can tell, it may be one.
bool may_be_directory(Directory& dir, const std::string& name) {
  const auto found = twice([&] { return dir.look_at(name); });
  return !found || found->kind == Kind::directory;
}

Result<std::string> read_once(Directory& dir, std::string_view name, std::size_t limit) {
  auto file = dir.open_for_read(name);
  if (!file) return std::unexpected(file.error());
  const auto size = (*file)->size();
  if (!size) return std::unexpected(size.error());
  if (*size > limit) return std::unexpected(Error::invalid(std::string(name) + ": too large"));
  std::string text(*size, '\0');
  const auto got = (*file)->read_at(0, std::as_writable_bytes(std::span(text)));
  if (!got) return std::unexpected(got.error());
  text.resize(*got);
  return text;
}

/// What a directory holds that is one key's.
Key look_at_key(Directory& dir) {
  Key key;
  const auto names = twice([&] { return dir.list(); });
  if (!names) {
    key.unreadable = true;
    return key;
  }
  for (const std::string& name : *names) {
    const auto timestamp = parse_timestamp(name);
    if (!timestamp) continue;
    // One that cannot even be looked at may be a value.
    const auto found = twice([&] { return dir.look_at(name); });
    if (!found || found->kind == Kind::file) key.timestamps.insert(*timestamp);
  }
  return key;
}

}  // namespace

Result<std::string> read_small(Directory& dir, std::string_view name, std::size_t limit) {
  return twice([&] { return read_once(dir, name, limit); });
}

Result<std::map<std::pair<Uuid, Slot>, Key>> keys_of(Directory& tree) {
  const auto vms = tree.list();
  if (!vms) return std::unexpected(vms.error());
  std::map<std::pair<Uuid, Slot>, Key> keys;
  for (const std::string& name : *vms) {
    const auto vm = parse_vm(name);
    if (!vm || !may_be_directory(tree, name)) continue;
    auto dir = twice([&] { return tree.open_dir(name, false); });
    const auto names = dir ? twice([&] { return (*dir)->list(); }) : Result<std::vector<std::string>>();
    if (!dir || !names) {
      for (const Slot slot : vtpm_slots) keys[{*vm, slot}].unreadable = true;
      continue;
    }
    for (const std::string& key_name : *names) {
      const auto slot = parse_key(key_name);
      if (!slot || !may_be_directory(**dir, key_name)) continue;
      auto key_dir = twice([&] { return (*dir)->open_dir(key_name, false); });
      Key key;
      if (key_dir) {
        key = look_at_key(**key_dir);
      } else {
        key.unreadable = true;
      }
      if (key.unreadable || !key.timestamps.empty()) keys[{*vm, *slot}] = std::move(key);
    }
  }
  return keys;
}

Result<std::unique_ptr<Directory>> open_key(Directory& tree, const Uuid& vm, Slot slot) {
  auto dir = twice([&] { return tree.open_dir(vm.str(), false); });
  if (!dir) return dir;
  return twice([&] { return (*dir)->open_dir(key_of(slot), false); });
}

Judged judge(Directory& dir, const Place& place, const Manifest& manifest) {
  const std::string name = std::to_string(place.timestamp);
  auto text = read_small(dir, name, limits::max_body_vtpm);
  if (!text) return {Value(), "cannot be read: " + text.error().message};
  std::string flaw;
  if (!manifest.vouches(place, *text)) flaw = flaw_of(*text);
  return {Value(std::move(*text)), std::move(flaw)};
}

}  // namespace guard::cache_tree
