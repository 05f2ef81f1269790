#include "cache_tree/export.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "base/limits.h"
#include "cache_tree/walk.h"

namespace guard::cache_tree {

using journal::LiveEntry;

namespace {

/// Opens a directory of the tree, making it durably when it is missing.
Result<std::unique_ptr<Directory>> open_or_make(Directory& parent, std::string_view name) {
  auto dir = parent.open_dir(name, true);
  if (!dir) return dir;
  // Also one that was there: an export that was cut short may have made it.
  if (auto synced = parent.sync(); !synced) return std::unexpected(synced.error());
  return dir;
}

class Export {
 public:
  Export(Directory& target, journal::Store& store, const ExportOptions& options)
      : target_(target), store_(store), options_(options) {}

  Result<Exported> run() {
    if (auto good = read_earlier_manifest(); !good) return std::unexpected(good.error());
    if (auto good = read_standing(); !good) return std::unexpected(good.error());
    for (const LiveEntry& live : store_.recovery().live) {
      if (live.retained) continue;
      if (auto good = plan(live); !good) return std::unexpected(good.error());
    }
    if (!result_.obstacles.empty() && !options_.lossy) return std::move(result_);
    result_.done = true;
    if (auto written = write_tree(); !written) return std::unexpected(written.error());
    if (auto removed = remove_from_journal(); !removed) return std::unexpected(removed.error());
    result_.entries = planned_.size();
    return std::move(result_);
  }

 private:
  struct Planned {
    const LiveEntry* live = nullptr;
    Place place;
    bool written = false;  ///< by an export that was cut short
  };

  Result<> read_earlier_manifest() {
    const auto text = read_small(target_, manifest_name, limits::manifest_bytes);
    if (!text && text.error().code == Errc::not_found) return {};
    if (!text) return std::unexpected(text.error());
    auto manifest = read_manifest(*text);
    if (!manifest) return std::unexpected(manifest.error());
    manifest_ = std::move(*manifest);
    return {};
  }

  Result<> read_standing() {
    auto tree = target_.open_dir(tree_name, false);
    if (!tree && tree.error().code == Errc::not_found) return {};
    if (!tree) return std::unexpected(tree.error());
    auto keys = keys_of(**tree);
    if (!keys) return std::unexpected(keys.error());
    standing_ = std::move(*keys);
    return {};
  }

  Result<> plan(const LiveEntry& live) {
    auto value = read(live);
    if (!value && value.error().code != Errc::corrupt) return std::unexpected(value.error());
    std::string reason = value ? flaw_in(live) : "its value cannot be read";
    Planned planned{&live, {live.owner.vm, live.slot, 0}, false};
    if (reason.empty()) reason = place(planned, *value);
    if (reason.empty()) {
      planned_.push_back(planned);
    } else {
      const bool alert = live.type == journal::RecordType::alert;
      result_.obstacles.push_back({live.owner, live.slot, alert, std::move(reason)});
    }
    return {};
  }

  std::string flaw_in(const LiveEntry& live) const {
    if (live.type == journal::RecordType::alert) return "the original keeps no alerts";
    if (live.owner.device != Device::vtpm) return "the original keeps no UEFI variables";
    if ((live.flags & journal::flag_lost) != 0) return "its value is lost";
    if (live.suspect) return "a newer one may have been lost to damage of the journal";
    if (options_.parked.contains(live.sequence)) return "somebody else's value stands in xapi";
    return {};
  }

  /// Finds its timestamp, or why it can have none.
  std::string place(Planned& planned, const Value& value) {
    const auto standing = standing_.find({planned.place.vm, planned.place.slot});
    // Entries come in the order of their acknowledgement; the original pushes the oldest first.
    const auto count = store_.recovery().live.size();
    planned.place.timestamp = std::max<std::uint64_t>(options_.now_ns, count) - count + planned_.size();
    if (standing == standing_.end()) return {};
    if (standing->second.unreadable) return "the tree has something there that cannot be read";
    planned.place.timestamp = *standing->second.timestamps.rbegin();
    if (!stands(planned.place, value)) return "the tree holds another state there";
    planned.written = true;
    return {};
  }

  bool stands(const Place& place, const Value& value) {
    if (!manifest_.vouches(place, value.view())) return false;
    auto tree = target_.open_dir(tree_name, false);
    if (!tree) return false;
    auto key = open_key(**tree, place.vm, place.slot);
    if (!key) return false;
    const auto text = read_small(**key, std::to_string(place.timestamp), limits::journal_payload);
    return text && *text == value.view();
  }

  Result<Value> read(const LiveEntry& live) {
    auto done = std::move(store_.run({journal::ReadBack{live.owner, live.slot, live.sequence}}).front());
    if (!done.result) return std::unexpected(std::move(done.result.error()));
    return std::move(done.value);
  }

  /// The manifest first: an empty file without it would be a state that is lost.
  Result<> write_tree() {
    for (const Planned& planned : planned_) {
      manifest_.files[planned.place] = {planned.live->size, planned.live->digest};
    }
    const std::string text = write_manifest(manifest_);
    if (text.size() > limits::manifest_bytes) return std::unexpected(Error::invalid("manifest: too large"));
    if (auto replaced = replace_file(target_, manifest_name, text); !replaced) return replaced;
    if (planned_.empty()) return {};
    auto tree = open_or_make(target_, tree_name);
    if (!tree) return std::unexpected(tree.error());
    for (const Planned& planned : planned_) {
      if (auto written = write(**tree, planned); !written) return written;
    }
    return {};
  }

  Result<> write(Directory& tree, const Planned& planned) {
    auto vm = open_or_make(tree, planned.place.vm.str());
    if (!vm) return std::unexpected(vm.error());
    auto key = open_or_make(**vm, key_of(planned.place.slot));
    if (!key) return std::unexpected(key.error());
    const std::string name = std::to_string(planned.place.timestamp);
    if (planned.written) return keep(**key, name);
    const auto value = read(*planned.live);
    if (!value) return std::unexpected(value.error());
    return replace_file(**key, name, value->view());
  }

  /// It has its name already; whether that is durable nobody knows.
  static Result<> keep(Directory& key, const std::string& name) {
    auto file = key.open_file(name, Directory::Mode::open_existing);
    if (!file) return std::unexpected(file.error());
    if (auto synced = (*file)->sync_all(); !synced) return synced;
    return key.sync();
  }

  /// And what is only retained: the original writes on, and nobody will compare.
  Result<> remove_from_journal() {
    std::set<const LiveEntry*> exported;
    for (const Planned& planned : planned_) exported.insert(planned.live);
    std::vector<journal::Request> requests;
    for (const LiveEntry& live : store_.recovery().live) {
      if (exported.contains(&live) || live.retained) {
        requests.emplace_back(journal::Removal{live.owner, live.slot, live.sequence, {}, false, false});
      }
    }
    if (requests.empty()) return {};
    for (const journal::Completion& done : store_.run(std::move(requests))) {
      if (!done.result) return std::unexpected(done.result.error());
    }
    store_.seal();
    return {};
  }

  Directory& target_;
  journal::Store& store_;
  const ExportOptions& options_;
  Exported result_;
  Manifest manifest_;
  std::map<std::pair<Uuid, Slot>, Key> standing_;
  std::vector<Planned> planned_;
};

}  // namespace

Result<Exported> export_tree(Directory& target, journal::Store& store, const ExportOptions& options) {
  return Export(target, store, options).run();
}

}  // namespace guard::cache_tree
