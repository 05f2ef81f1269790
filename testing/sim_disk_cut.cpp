// What a power cut may leave of a simulated disk: effects, and disks on which each was decided.
#include <algorithm>
#include <cassert>
#include <unordered_map>

#include "testing/sim_disk_state.h"

namespace guard::testing {

namespace {

/// Meets everything a power cut decides about, always in the same order: in each directory first its changed
/// entries, then its files, then its directories, by name.
template <class OnEntry, class OnSector>
class Walk {
 public:
  Walk(OnEntry on_entry, OnSector on_sector) : on_entry_(on_entry), on_sector_(on_sector) {}

  void directory(const DirNode& dir, const std::string& path) {
    for (const EntryChange& change : dir.pending) on_entry_(change, path);
    std::vector<std::pair<const std::string*, const Node*>> nodes;
    const auto meet = [&nodes](const std::string& name, const Node& node) {
      const auto same = [&node](const auto& seen) {
        return seen.second->file == node.file && seen.second->dir == node.dir;
      };
      if ((node.file || node.dir) && std::none_of(nodes.begin(), nodes.end(), same))
        nodes.emplace_back(&name, &node);
    };
    for (const auto& [name, node] : dir.durable) meet(name, node);
    for (const EntryChange& change : dir.pending) meet(change.to, change.node);
    for (const auto& [name, node] : nodes) {
      if (node->file) file(*node->file, path, *name);
    }
    for (const auto& [name, node] : nodes) {
      if (node->dir) directory(*node->dir, path + *name + "/");
    }
  }

 private:
  void file(const FileNode& file, const std::string& path, const std::string& name) {
    auto lost = file.lost.begin();
    auto dirty = file.dirty.begin();
    static const std::vector<Sector> none;
    while (lost != file.lost.end() || dirty != file.dirty.end()) {
      const bool has_lost =
          lost != file.lost.end() && (dirty == file.dirty.end() || lost->first <= dirty->first);
      const bool has_dirty =
          dirty != file.dirty.end() && (lost == file.lost.end() || dirty->first <= lost->first);
      const std::uint64_t number = has_lost ? lost->first : dirty->first;
      on_sector_(file, number, has_lost ? (lost++)->second : none, has_dirty ? (dirty++)->second : none, path,
                 name);
    }
  }

  OnEntry on_entry_;
  OnSector on_sector_;
};

const Sector& version_of(const std::vector<Sector>& lost, const std::vector<Sector>& dirty,
                         std::size_t number) {
  return number <= lost.size() ? lost[number - 1] : dirty[number - lost.size() - 1];
}

Sector garbage(std::uint64_t seed) {
  Sector bytes;
  for (std::size_t i = 0; i < bytes.size(); i += 8) {
    seed = (seed + 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9;  // no zeros, no header
    const std::uint64_t word = seed ^ (seed >> 29);
    std::memcpy(bytes.data() + i, &word, sizeof word);
  }
  return bytes;
}

/// Which versions of a sector differ: 0 (what stands there) first, each of the others once.
void distinct_versions(const FileNode& file, std::uint64_t number, const std::vector<Sector>& lost,
                       const std::vector<Sector>& dirty, SimDisk::Effect& effect) {
  const Sector before = file.durable.sector(number);
  const bool exists = number * SimDisk::sector < file.durable.size();
  effect.versions = lost.size() + dirty.size();
  effect.distinct.assign(1, 0);
  for (std::size_t i = 1; i <= effect.versions; ++i) {
    const Sector& version = version_of(lost, dirty, i);
    const auto same = [&](std::uint16_t earlier) {
      return earlier == 0 ? exists && version == before : version == version_of(lost, dirty, earlier);
    };
    const auto found = std::find_if(effect.distinct.begin(), effect.distinct.end(), same);
    effect.newest = found == effect.distinct.end() ? static_cast<std::uint16_t>(i) : *found;
    if (found == effect.distinct.end()) effect.distinct.push_back(effect.newest);
  }
}

/// A copy of a tree on which the choices are made.
class Cutter {
 public:
  Cutter(const DirNode& root, std::span<const std::uint16_t> choices, std::uint64_t garbage_seed)
      : choices_(choices), garbage_seed_(garbage_seed) {
    const auto on_entry = [this](const EntryChange& change, const std::string&) {
      if (next() != 0) kept_.push_back(&change);
    };
    const auto on_sector = [this](const FileNode& file, std::uint64_t number, const std::vector<Sector>& lost,
                                  const std::vector<Sector>& dirty, const std::string&, const std::string&) {
      const std::uint16_t choice = next();
      if (choice == 0) return;
      assert(choice == SimDisk::garbage || choice <= lost.size() + dirty.size());
      FileNode& copy = *file_copy(file);
      const std::size_t before = copy.durable.size();
      const Sector bytes = choice == SimDisk::garbage ? garbage(garbage_seed_ ^ (number * 0x94D049BB133111EB))
                                                      : version_of(lost, dirty, choice);
      const std::size_t from = number * SimDisk::sector;
      const std::size_t end = std::min(from + SimDisk::sector, std::max(before, file.cached.size()));
      copy.durable.write(from, std::span<const std::byte>(bytes).first(end - from));
    };
    Walk(on_entry, on_sector).directory(root, "");
    assert(used_ == choices_.size());
  }

  std::shared_ptr<DirNode> dir_copy(const DirNode& dir) {
    auto& copy = dirs_[&dir];
    if (copy) return copy;
    copy = std::make_shared<DirNode>();
    const auto result = copy;
    for (const auto& [name, node] : dir.durable) result->durable.emplace(name, node_copy(node));
    for (const EntryChange& change : dir.pending) {
      if (std::find(kept_.begin(), kept_.end(), &change) != kept_.end())
        DirNode::apply(result->durable, {change.from, change.to, node_copy(change.node)});
    }
    result->cached = result->durable;
    return result;
  }

 private:
  std::uint16_t next() {
    assert(used_ < choices_.size());
    return choices_[used_++];
  }

  std::shared_ptr<FileNode> file_copy(const FileNode& file) {
    for (const auto& [from, copy] : files_) {
      if (from == &file) return copy;
    }
    auto copy = std::make_shared<FileNode>();
    copy->durable = file.durable;
    copy->unreadable = file.unreadable;
    files_.emplace_back(&file, copy);
    return copy;
  }

  Node node_copy(const Node& node) {
    if (node.dir) return {nullptr, dir_copy(*node.dir)};
    if (!node.file) return {};
    auto copy = file_copy(*node.file);
    copy->cached = copy->durable;  // every sector is decided by now
    return {copy, nullptr};
  }

  std::span<const std::uint16_t> choices_;
  std::uint64_t garbage_seed_;
  std::size_t used_ = 0;
  std::vector<const EntryChange*> kept_;
  std::vector<std::pair<const FileNode*, std::shared_ptr<FileNode>>> files_;
  std::unordered_map<const DirNode*, std::shared_ptr<DirNode>> dirs_;
};

}  // namespace

std::vector<SimDisk::Effect> SimDisk::effects() const {
  const std::lock_guard guard(state_->mutex);
  std::vector<Effect> all;
  const auto on_entry = [&all](const EntryChange& change, const std::string& path) {
    Effect effect;
    effect.kind = Effect::Kind::entry;
    effect.path = path + (change.to.empty() ? change.from : change.to);
    effect.distinct = {0, 1};
    effect.newest = 1;
    all.push_back(std::move(effect));
  };
  const auto on_sector = [&all](const FileNode& file, std::uint64_t number, const std::vector<Sector>& lost,
                                const std::vector<Sector>& dirty, const std::string& path,
                                const std::string& name) {
    Effect effect;
    effect.kind = Effect::Kind::sector;
    effect.path = path + name;
    effect.offset = number * sector;
    effect.lost = !lost.empty();
    distinct_versions(file, number, lost, dirty, effect);
    all.push_back(std::move(effect));
  };
  Walk(on_entry, on_sector).directory(*state_->root, "");
  return all;
}

std::unique_ptr<SimDisk> SimDisk::after_power_cut(std::span<const std::uint16_t> choices,
                                                  std::uint64_t garbage_seed) const {
  const std::lock_guard guard(state_->mutex);
  auto disk = std::make_unique<SimDisk>(garbage_seed);
  disk->state_->root = Cutter(*state_->root, choices, garbage_seed).dir_copy(*state_->root);
  disk->state_->in_place = state_->in_place;
  return disk;
}

std::unique_ptr<SimDisk> SimDisk::after_power_cut() const {
  return after_power_cut(std::vector<std::uint16_t>(unsynced()), 0);
}

namespace {

std::shared_ptr<DirNode> copy_of(const DirNode& dir,
                                 std::map<const FileNode*, std::shared_ptr<FileNode>>& files,
                                 std::map<const DirNode*, std::shared_ptr<DirNode>>& dirs) {
  if (const auto known = dirs.find(&dir); known != dirs.end()) return known->second;
  auto copy = dirs[&dir] = std::make_shared<DirNode>();
  const auto node_copy = [&](const Node& node) -> Node {
    if (node.dir) return {nullptr, copy_of(*node.dir, files, dirs)};
    if (!node.file) return {};
    auto& file = files[node.file.get()];
    if (!file) file = std::make_shared<FileNode>(*node.file);
    return {file, nullptr};
  };
  for (const auto& [name, node] : dir.cached) copy->cached.emplace(name, node_copy(node));
  for (const auto& [name, node] : dir.durable) copy->durable.emplace(name, node_copy(node));
  for (const EntryChange& change : dir.pending)
    copy->pending.push_back({change.from, change.to, node_copy(change.node)});
  return copy;
}

}  // namespace

std::unique_ptr<SimDisk> SimDisk::after_kill() const {
  const std::lock_guard guard(state_->mutex);
  auto disk = std::make_unique<SimDisk>(1);
  std::map<const FileNode*, std::shared_ptr<FileNode>> files;
  std::map<const DirNode*, std::shared_ptr<DirNode>> dirs;
  disk->state_->root = copy_of(*state_->root, files, dirs);
  disk->state_->in_place = state_->in_place;
  return disk;
}

std::size_t SimDisk::unsynced() const {
  const std::lock_guard guard(state_->mutex);
  std::size_t count = 0;
  const auto count_one = [&count](const auto&...) { ++count; };
  Walk(count_one, count_one).directory(*state_->root, "");
  return count;
}

void SimDisk::crash() {
  crash([this](const Effect& effect) {
    const auto dice = state_->below(effect.kind == Effect::Kind::sector ? 5 : 4);
    return dice < 2 ? Fate::dropped : dice < 4 ? Fate::kept : Fate::garbage;
  });
}

void SimDisk::crash(const std::function<Fate(const Effect&)>& fate) {
  const std::lock_guard guard(state_->mutex);
  kill();
  heal();
  std::vector<std::uint16_t> choices;
  for (const Effect& effect : effects()) {
    const Fate decided = fate(effect);
    const bool is_entry = effect.kind == Effect::Kind::entry;
    if (decided == Fate::kept)
      choices.push_back(effect.newest);
    else if (decided == Fate::garbage && !is_entry)
      choices.push_back(garbage);
    else if (effect.versions > 1 && !effect.lost && state_->below(2) == 0)
      choices.push_back(static_cast<std::uint16_t>(1 + state_->below(effect.versions - 1)));
    else
      choices.push_back(0);
  }
  const std::uint64_t garbage_seed = state_->below(~std::uint64_t{0});
  state_->root = Cutter(*state_->root, choices, garbage_seed).dir_copy(*state_->root);
}

}  // namespace guard::testing
