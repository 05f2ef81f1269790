#include "journal/aside.h"

#include <algorithm>
#include <memory>
#include <string_view>

#include "base/limits.h"
#include "base/text.h"

namespace guard::journal {

namespace {

constexpr std::string_view aside_prefix = "journal.set-aside-";

/// nullptr when there is none.
Result<std::unique_ptr<Directory>> open_quarantine(Directory& parent) {
  auto place = parent.open_dir("quarantine", false);
  if (!place && place.error().code == Errc::not_found) return nullptr;
  return place;
}

std::uint64_t size_of(Directory& dir, const std::string& name) {
  auto file = dir.open_for_read(name);
  return file ? (*file)->size().value_or(0) : 0;
}

/// "20261122T221300Z"
std::string compact_utc(std::chrono::system_clock::time_point now) {
  std::string text = rfc3339(now);  // 2026-11-22T22:13:00.000Z
  text.resize(text.find('.'));
  std::erase_if(text, [](char c) { return c == '-' || c == ':'; });
  return text + "Z";
}

}  // namespace

Result<Quarantine> list_quarantine(Directory& journal) {
  auto place = open_quarantine(journal);
  if (!place) return std::unexpected(place.error());
  Quarantine found;
  if (*place == nullptr) return found;
  const auto names = (*place)->list();
  if (!names) return std::unexpected(names.error());
  for (const std::string& name : *names) {
    const std::uint64_t bytes = size_of(**place, name);
    found.bytes += bytes;
    if (found.files.size() < limits::quarantine_listed) {
      found.files.push_back({name, bytes});
    } else {
      ++found.omitted;
    }
  }
  return found;
}

Result<Purged> purge_quarantine(Directory& journal) {
  auto place = open_quarantine(journal);
  if (!place) return std::unexpected(place.error());
  Purged purged;
  if (*place == nullptr) return purged;
  const auto names = (*place)->list();
  if (!names) return std::unexpected(names.error());
  for (const std::string& name : *names) {
    const std::uint64_t bytes = size_of(**place, name);
    if (auto gone = (*place)->unlink(name); gone) {
      ++purged.files;
      purged.bytes += bytes;
    } else if (gone.error().code != Errc::not_found && ++purged.left == 1) {
      purged.first_error = gone.error().message;
    }
  }
  if (auto synced = (*place)->sync(); !synced) return std::unexpected(synced.error());
  return purged;
}

Result<Quarantine> list_quarantines(Directory& state) {
  auto journal = state.open_dir("journal", false);
  if (!journal) return std::unexpected(journal.error());
  auto all = list_quarantine(**journal);
  auto own = list_quarantine(state);
  if (!all || !own) return all ? std::move(own) : std::move(all);
  for (auto& file : own->files) {
    if (all->files.size() < limits::quarantine_listed) {
      all->files.push_back(std::move(file));
    } else {
      ++all->omitted;
    }
  }
  all->omitted += own->omitted;
  all->bytes += own->bytes;
  return all;
}

Result<Purged> purge_quarantines(Directory& state) {
  auto journal = state.open_dir("journal", false);
  if (!journal) return std::unexpected(journal.error());
  auto all = purge_quarantine(**journal);
  const auto own = purge_quarantine(state);
  if (!all || !own) return all ? own : all;
  all->files += own->files;
  all->bytes += own->bytes;
  all->left += own->left;
  if (all->first_error.empty()) all->first_error = own->first_error;
  return all;
}

Result<std::string> set_aside(Directory& state, std::chrono::system_clock::time_point now) {
  const auto names = state.list();
  if (!names) return std::unexpected(names.error());
  const auto taken = [&](const std::string& name) { return std::ranges::binary_search(*names, name); };
  if (!taken("journal")) return std::unexpected(Error{Errc::not_found, 0, "there is no journal"});
  // A rename must not replace one that was set aside in the same second.
  const std::string first = std::string(aside_prefix) + compact_utc(now);
  std::string name = first;
  for (unsigned i = 2; taken(name); ++i) name = first + "-" + std::to_string(i);
  if (auto renamed = state.rename("journal", name); !renamed) return std::unexpected(renamed.error());
  if (auto synced = state.sync(); !synced) return std::unexpected(synced.error());
  return name;
}

Result<std::vector<std::string>> list_set_aside(Directory& state) {
  auto names = state.list();
  if (!names) return names;
  std::erase_if(*names, [](const std::string& name) { return !name.starts_with(aside_prefix); });
  return names;
}

}  // namespace guard::journal
