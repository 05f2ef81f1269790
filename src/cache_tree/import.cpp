#include "cache_tree/import.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "cache_tree/sweep.h"
#include "cache_tree/walk.h"

namespace guard::cache_tree {

using Kind = Directory::Found::Kind;
using journal::LiveEntry;

namespace {

class Import {
 public:
  Import(Directory& state, journal::Store& store, const ImportOptions& options, Logger& log)
      : state_(state), store_(store), options_(options), log_(log) {}

  Result<Imported> run() {
    result_.recovery = store_.recovery();
    sequence_ = result_.recovery.highest_sequence;
    for (const LiveEntry& live : store_.recovery().live) {
      const bool pending = live.type != journal::RecordType::alert && !live.retained;
      if (pending) pending_[{live.owner, live.slot}] = &live;
    }
    auto names = state_.list();
    if (!names) return std::unexpected(names.error());
    read_manifest_file(*names);
    for (const std::string& name : *names) {
      // Of an import that was cut short. What was imported of it is not known any more; none of it is again.
      if (name.starts_with(swept_name)) add(sweep(state_, name, {}, Removal::now, log_));
    }
    if (std::ranges::binary_search(*names, tree_name)) {
      result_.found = true;
      if (auto done = take_over(*names); !done) return std::unexpected(done.error());
    }
    retire_manifest(*names);
    report();
    return std::move(result_);
  }

 private:
  using SlotOf = std::pair<Owner, Slot>;

  Result<> take_over(const std::vector<std::string>& names) {
    const auto found = state_.look_at(tree_name);
    if (!found) return std::unexpected(found.error());
    if (found->kind != Kind::directory) {
      add(sweep(state_, std::string(tree_name), {}, Removal::now, log_));
      return {};
    }
    if (found->uid != options_.own_uid) {
      log_.log(LogLevel::warning, "cache_tree_of_another_user", {{"uid", found->uid}});
    }
    auto tree = state_.open_dir(tree_name, false);
    if (!tree) return std::unexpected(tree.error());
    if (auto done = import_values(**tree); !done) return done;
    if (auto done = distrust_the_rest(); !done) return done;
    adopt();
    tree->reset();
    // All of it is durable, or older than what is. From here on nothing of it can come back.
    const std::string name = free_name(swept_name, names);
    if (auto renamed = state_.rename(tree_name, name); !renamed) return renamed;
    if (auto synced = state_.sync(); !synced) return synced;
    clear(name, free_name(done_name, names));
    return {};
  }

  /// What is junk in the tree is moved now; the rest can be removed while requests are served.
  void clear(const std::string& name, const std::string& done) {
    Swept swept = sweep(state_, name, imported_, Removal::later, log_);
    if (swept.left == 0) {
      // Not that it matters when this fails: then the next start sets aside what it finds.
      (void)(state_.rename(name, done) && state_.sync());
    } else {
      swept.left = sweep(state_, name, imported_, Removal::now, null_logger()).left;
    }
    add(swept);
  }

  /// The newest value of each key, oldest first.
  Result<> import_values(Directory& tree) {
    const auto keys = keys_of(tree);
    if (!keys) return std::unexpected(keys.error());
    std::vector<std::pair<std::uint64_t, std::pair<Uuid, Slot>>> order;
    for (const auto& [slot, key] : *keys) {
      order.emplace_back(key.timestamps.empty() ? 0 : *key.timestamps.rbegin(), slot);
    }
    std::ranges::sort(order);
    for (const auto& [timestamp, slot] : order) {
      const Place place{slot.first, slot.second, timestamp};
      Judged judged{Value(), "in a directory that cannot be listed"};
      if (!keys->at(slot).unreadable) judged = judge_in(tree, place);
      if (auto done = import(place, std::move(judged)); !done) return done;
    }
    return flush();
  }

  Judged judge_in(Directory& tree, const Place& place) {
    const auto unreadable = [](const Error& error) {
      return Judged{Value(), "cannot be read: " + error.message};
    };
    auto key = open_key(tree, place.vm, place.slot);
    if (!key) return unreadable(key.error());
    return judge(**key, place, manifest_);
  }

  Result<> import(const Place& place, Judged judged) {
    journal::Entry entry;
    entry.owner = {place.vm, Device::vtpm};
    entry.slot = place.slot;
    entry.wall_ms = options_.wall_ms;
    if (judged.flaw.empty()) {
      entry.value = std::move(judged.value);
      imported_[{place.vm, place.slot}] = place.timestamp;
    } else {
      entry.flags = journal::flag_lost;
      ++result_.lost;
      if (told_++ < limits::log_lines_per_event) {
        log_.log(LogLevel::error, "cache_tree_value_lost",
                 {{"vm", place.vm}, {"slot", place.slot}, {"file", place.str()}, {"reason", judged.flaw}});
      }
    }
    // An import that a crash cut off, or what was journaled here and exported: it keeps its base.
    const LiveEntry* live = pending(entry.owner, entry.slot);
    constexpr auto lost = journal::flag_lost;
    if (live != nullptr && (live->flags & lost) == (entry.flags & lost) && live->size == entry.value.size() &&
        live->digest == entry.value.digest()) {
      confirmed_.insert({entry.owner, entry.slot});
      ++result_.confirmed;
      return {};
    }
    if (judged.flaw.empty()) ++result_.entries;
    return commit(std::move(entry));
  }

  const LiveEntry* pending(const Owner& owner, Slot slot) const {
    const auto found = pending_.find({owner, slot});
    return found == pending_.end() ? nullptr : found->second;
  }

  /// The original ran since these were written and may have brought newer values to the upstream. Those that
  /// know what they are based on are checked against it as always; of the others, delivered over anything so
  /// far, only the value itself is known to be no conflict from now on, also after the next restart.
  Result<> distrust_the_rest() {
    for (const LiveEntry& live : store_.recovery().live) {
      const bool checked = !live.known.empty() && (live.flags & journal::flag_over_anything) == 0;
      if (live.type == journal::RecordType::alert || live.retained || checked ||
          (live.flags & journal::flag_lost) != 0 || confirmed_.contains({live.owner, live.slot}) ||
          replaced_.contains({live.owner, live.slot})) {
        continue;
      }
      auto read = std::move(store_.run({journal::ReadBack{live.owner, live.slot, live.sequence}}).front());
      if (!read.result && read.result.error().code != Errc::corrupt) {
        return std::unexpected(read.result.error());
      }
      if (!read.result) continue;  // it can never be delivered
      journal::Entry entry;
      entry.owner = live.owner;
      entry.slot = live.slot;
      entry.vtpm = live.vtpm;
      entry.known = live.known;
      if (entry.known.empty()) entry.known.push_back(live.digest);
      entry.wall_ms = live.wall_ms;
      entry.flags = live.flags & ~journal::flag_over_anything & 0xff;
      entry.value = std::move(read.value);
      ++result_.distrusted;
      if (auto done = commit(std::move(entry)); !done) return done;
    }
    return flush();
  }

  Result<> commit(journal::Entry entry) {
    entry.sequence = ++sequence_;
    replaced_.insert({entry.owner, entry.slot});
    batch_bytes_ += entry.value.size();
    batch_.push_back(std::move(entry));
    return batch_bytes_ < limits::import_batch ? Result<>() : flush();
  }

  Result<> flush() {
    if (batch_.empty()) return {};
    batch_bytes_ = 0;
    std::vector<journal::Request> requests;
    for (const journal::Entry& entry : batch_) requests.emplace_back(entry);
    for (const journal::Completion& done : store_.run(std::move(requests))) {
      if (!done.result) return std::unexpected(done.result.error());
    }
    for (const journal::Entry& entry : std::exchange(batch_, {})) durable_.push_back(live_of(entry));
    return {};
  }

  /// What is durable now stands in the place of what the journal held of its slot.
  void adopt() {
    auto& recovery = result_.recovery;
    std::erase_if(recovery.live, [&](const LiveEntry& live) {
      return live.type != journal::RecordType::alert && replaced_.contains({live.owner, live.slot});
    });
    recovery.live.insert(recovery.live.end(), durable_.begin(), durable_.end());
    recovery.highest_sequence = sequence_;
  }

  static LiveEntry live_of(const journal::Entry& entry) {
    LiveEntry live;
    live.owner = entry.owner;
    live.slot = entry.slot;
    live.sequence = entry.sequence;
    live.vtpm = entry.vtpm;
    live.known = entry.known;
    live.digest = entry.value.digest();
    live.size = static_cast<std::uint32_t>(entry.value.size());
    live.wall_ms = entry.wall_ms;
    live.flags = entry.flags;
    return live;
  }

  static std::string free_name(std::string_view first, const std::vector<std::string>& names) {
    std::string name(first);
    // One of that name may have been cleared just now; its name is as good as another.
    for (unsigned i = 2; std::ranges::binary_search(names, name); ++i) {
      name = std::string(first) + "." + std::to_string(i);
    }
    return name;
  }

  void read_manifest_file(const std::vector<std::string>& names) {
    if (!std::ranges::binary_search(names, manifest_name)) return;
    const auto text = read_small(state_, manifest_name, limits::manifest_bytes);
    auto manifest = text ? read_manifest(*text) : Result<Manifest>(std::unexpected(text.error()));
    if (manifest) {
      manifest_ = std::move(*manifest);
      manifest_good_ = true;
    } else {
      log_.log(LogLevel::warning, "export_manifest_unusable", {{"error", manifest.error().message}});
    }
  }

  /// What it vouches for was imported; about other files it says nothing.
  void retire_manifest(const std::vector<std::string>& names) {
    if (!std::ranges::binary_search(names, manifest_name)) return;
    if (!manifest_good_) return add(sweep(state_, std::string(manifest_name), {}, Removal::now, log_));
    if (!state_.unlink(manifest_name) || !state_.sync()) ++swept_.left;
  }

  void add(const Swept& swept) {
    swept_.removed += swept.removed;
    swept_.set_aside += swept.set_aside;
    swept_.left += swept.left;
  }

  void report() {
    if (!result_.found && swept_.removed + swept_.set_aside + swept_.left == 0) return;
    log_.log(result_.lost + swept_.left == 0 ? LogLevel::notice : LogLevel::error, "cache_tree_imported",
             {{"entries", result_.entries},
              {"already_journaled", result_.confirmed},
              {"lost", result_.lost},
              {"distrusted", result_.distrusted},
              {"files_removed", swept_.removed},
              {"files_set_aside", swept_.set_aside},
              {"files_left", swept_.left}});
  }

  Directory& state_;
  journal::Store& store_;
  const ImportOptions& options_;
  Logger& log_;
  Imported result_;
  Manifest manifest_;
  bool manifest_good_ = false;
  Sequence sequence_ = 0;
  std::vector<journal::Entry> batch_;
  std::size_t batch_bytes_ = 0;
  std::vector<LiveEntry> durable_;
  ImportedKeys imported_;
  std::map<SlotOf, const LiveEntry*> pending_;  ///< of the journal
  std::set<SlotOf> confirmed_;
  std::set<SlotOf> replaced_;
  Swept swept_;
  std::size_t told_ = 0;
};

}  // namespace

Result<Imported> import_tree(Directory& state, journal::Store& store, const ImportOptions& options,
                             Logger& log) {
  return Import(state, store, options, log).run();
}

}  // namespace guard::cache_tree
