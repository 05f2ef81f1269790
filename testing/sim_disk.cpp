#include "testing/sim_disk.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <set>

namespace guard::testing {

namespace {

using Sector = std::array<std::byte, SimDisk::sector>;
using Bytes = std::vector<std::byte>;

std::unexpected<Error> fault(int os_errno) {
  return std::unexpected(Error::system("simulated disk", os_errno));
}

struct FileNode {
  Bytes cached;   ///< what readers see
  Bytes durable;  ///< what a power cut leaves
  std::map<std::uint64_t, std::vector<Sector>>
      dirty;                           ///< by sector number: every version since the last sync
  std::set<std::uint64_t> unreadable;  ///< sector numbers

  Sector cached_sector(std::uint64_t number) const {
    Sector bytes{};
    const std::size_t from = number * SimDisk::sector;
    if (from < cached.size()) {
      std::memcpy(bytes.data(), cached.data() + from, std::min(SimDisk::sector, cached.size() - from));
    }
    return bytes;
  }

  void write(std::uint64_t offset, std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    if (cached.size() < offset + bytes.size()) cached.resize(offset + bytes.size());
    std::memcpy(cached.data() + offset, bytes.data(), bytes.size());
    const std::uint64_t last = (offset + bytes.size() - 1) / SimDisk::sector;
    for (std::uint64_t n = offset / SimDisk::sector; n <= last; ++n) {
      dirty[n].push_back(cached_sector(n));
      unreadable.erase(n);
    }
  }

  void make_durable(std::uint64_t number, const Sector& bytes) {
    const std::size_t from = number * SimDisk::sector;
    const std::size_t end = std::min(from + SimDisk::sector, cached.size());
    if (durable.size() < end) durable.resize(end);
    if (from < end) std::memcpy(durable.data() + from, bytes.data(), end - from);
  }

  void sync() {
    for (const auto& [number, versions] : dirty) make_durable(number, versions.back());
    dirty.clear();
  }
};

struct DirNode;
/// A name refers to a file or a directory.
struct Node {
  std::shared_ptr<FileNode> file;
  std::shared_ptr<DirNode> dir;
};
using Names = std::map<std::string, Node, std::less<>>;

/// One creation, renaming or removal; applied whole or not at all.
struct EntryChange {
  std::string from;  ///< name that ceases to exist, or empty
  std::string to;    ///< name that comes to exist, or empty
  Node node;
};

struct DirNode {
  Names cached;
  Names durable;
  std::vector<EntryChange> pending;

  static void apply(Names& names, const EntryChange& change) {
    if (!change.from.empty()) names.erase(change.from);
    if (!change.to.empty()) names[change.to] = change.node;
  }
  void change(EntryChange change) {
    apply(cached, change);
    pending.push_back(std::move(change));
  }
  void sync() {
    for (const auto& change : pending) apply(durable, change);
    pending.clear();
  }
};

bool good_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == name.npos;
}

}  // namespace

struct SimDisk::State {
  explicit State(std::uint64_t seed) : random(seed) {}

  /// Every public function holds it: a test may steer a disk that another thread is using.
  mutable std::recursive_mutex mutex;

  std::mt19937_64 random;
  std::shared_ptr<DirNode> root = std::make_shared<DirNode>();
  std::uint64_t epoch = 0;  ///< handles of earlier ones are dead
  std::uint64_t operations = 0;
  std::uint64_t fail_operation = 0;
  int fail_errno = EIO;
  bool fail_for_ever = false;
  std::uint64_t stop_operation = 0;
  Kind fail_kind = Kind::any;
  bool fail_every = false;
  bool happened = false;
  bool in_place = true;
  std::map<std::string, std::weak_ptr<void>> locks;

  bool stopped() const { return stop_operation != 0 && operations >= stop_operation; }

  /// Counts an operation; the errno with which it is to fail, or 0.
  int next(Kind kind) {
    ++operations;
    if (stopped()) return happened = true, EIO;
    const bool due =
        fail_operation != 0 && (fail_for_ever ? operations >= fail_operation : operations == fail_operation);
    if (due || (fail_every && (fail_kind == Kind::any || kind == fail_kind)))
      return happened = true, fail_errno;
    return 0;
  }

  std::uint64_t below(std::uint64_t n) { return random() % n; }

  Sector garbage() {
    Sector bytes;
    for (auto& byte : bytes) byte = static_cast<std::byte>(random());
    return bytes;
  }

  Node find(std::string_view path) const {
    const DirNode* dir = root.get();
    if (const auto slash = path.find('/'); slash != path.npos) {
      const auto it = dir->cached.find(path.substr(0, slash));
      if (it == dir->cached.end() || !it->second.dir) return {};
      dir = it->second.dir.get();
      path.remove_prefix(slash + 1);
    }
    const auto it = dir->cached.find(path);
    return it == dir->cached.end() ? Node{} : it->second;
  }

  void crash_dir(DirNode& dir, const std::string& path, const std::function<Fate(const Effect&)>& fate);
  void crash_file(FileNode& file, const std::string& path, const std::function<Fate(const Effect&)>& fate);
  static std::size_t unsynced(const DirNode& dir);
};

namespace {

class SimFile final : public File {
 public:
  SimFile(std::shared_ptr<SimDisk::State> disk, std::shared_ptr<FileNode> node, bool writable)
      : disk_(std::move(disk)), node_(std::move(node)), epoch_(disk_->epoch), writable_(writable) {}

  Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> buffer) override {
    const std::lock_guard guard(disk_->mutex);
    if (const int error = next(SimDisk::Kind::read)) return fault(error);
    const auto& bytes = node_->cached;
    if (offset >= bytes.size() || buffer.empty()) return 0;
    const std::size_t size = std::min<std::uint64_t>(buffer.size(), bytes.size() - offset);
    const auto bad = node_->unreadable.lower_bound(offset / SimDisk::sector);
    if (bad != node_->unreadable.end() && *bad <= (offset + size - 1) / SimDisk::sector) return fault(EIO);
    std::memcpy(buffer.data(), bytes.data() + offset, size);
    return size;
  }

  Result<void> write_at(std::uint64_t offset, std::span<const std::span<const std::byte>> parts) override {
    const std::lock_guard guard(disk_->mutex);
    if (!writable_) return fault(EBADF);
    Bytes all;
    for (const auto part : parts) all.insert(all.end(), part.begin(), part.end());
    const int error = next(SimDisk::Kind::write);
    if (epoch_ != disk_->epoch) return fault(EIO);
    if (error != 0) {
      // Even the write in which power fails may have got anywhere; crash() decides what of it is left.
      if (disk_->stopped() && disk_->operations > disk_->stop_operation) return fault(error);
      node_->write(offset, std::span(all).first(disk_->below(all.size() + 1)));
      return fault(error);
    }
    node_->write(offset, all);
    return {};
  }

  Result<void> sync_data() override {
    const std::lock_guard guard(disk_->mutex);
    const int error = next(SimDisk::Kind::sync);
    if (epoch_ != disk_->epoch) return fault(EIO);
    if (error == 0) {
      node_->sync();
      return {};
    }
    if (disk_->stopped()) return fault(error);
    for (const auto& [number, versions] : node_->dirty) {
      if (disk_->below(2) == 0) node_->make_durable(number, versions.back());
    }
    node_->dirty.clear();
    return fault(error);
  }

  Result<void> sync_all() override { return sync_data(); }

  Result<std::uint64_t> size() override {
    const std::lock_guard guard(disk_->mutex);
    if (epoch_ != disk_->epoch) return fault(EIO);
    return node_->cached.size();
  }

 private:
  int next(SimDisk::Kind kind) { return epoch_ == disk_->epoch ? disk_->next(kind) : EIO; }

  std::shared_ptr<SimDisk::State> disk_;
  std::shared_ptr<FileNode> node_;
  std::uint64_t epoch_;
  bool writable_;
};

class SimDirectory final : public Directory {
 public:
  SimDirectory(std::shared_ptr<SimDisk::State> disk, std::shared_ptr<DirNode> node)
      : disk_(std::move(disk)), node_(std::move(node)), epoch_(disk_->epoch) {}

  Result<std::unique_ptr<File>> open_file(std::string_view name, Mode mode) override {
    const std::lock_guard guard(disk_->mutex);
    if (auto ready = begin(name, SimDisk::Kind::any); !ready) return std::unexpected(ready.error());
    const auto it = node_->cached.find(name);
    if (it == node_->cached.end()) {
      if (mode == Mode::open_existing) return fault(ENOENT);
      Node node{std::make_shared<FileNode>(), nullptr};
      node_->change({"", std::string(name), node});
      return std::make_unique<SimFile>(disk_, node.file, true);
    }
    if (mode == Mode::create_new) {
      Error error = Error::system("simulated disk", EEXIST);
      error.code = Errc::busy;
      return std::unexpected(error);
    }
    if (!it->second.file) return std::unexpected(Error::invalid("not a regular file"));
    return std::make_unique<SimFile>(disk_, it->second.file, true);
  }

  Result<std::unique_ptr<File>> open_for_read(std::string_view name) override {
    const std::lock_guard guard(disk_->mutex);
    if (auto ready = begin(name, SimDisk::Kind::any); !ready) return std::unexpected(ready.error());
    const auto it = node_->cached.find(name);
    if (it == node_->cached.end()) return fault(ENOENT);
    if (!it->second.file) return std::unexpected(Error::invalid("not a regular file"));
    return std::make_unique<SimFile>(disk_, it->second.file, false);
  }

  Result<std::unique_ptr<Directory>> open_dir(std::string_view name, bool create) override {
    const std::lock_guard guard(disk_->mutex);
    if (auto ready = begin(name, SimDisk::Kind::any); !ready) return std::unexpected(ready.error());
    auto it = node_->cached.find(name);
    if (it == node_->cached.end()) {
      if (!create) return fault(ENOENT);
      node_->change({"", std::string(name), Node{nullptr, std::make_shared<DirNode>()}});
      it = node_->cached.find(name);
    }
    if (!it->second.dir) return fault(ENOTDIR);
    return std::make_unique<SimDirectory>(disk_, it->second.dir);
  }

  Result<void> rename(std::string_view from, std::string_view to) override {
    const std::lock_guard guard(disk_->mutex);
    if (auto ready = begin(from, SimDisk::Kind::write); !ready) return ready;
    if (!good_name(to)) return std::unexpected(Error::invalid("not a single path component"));
    const auto it = node_->cached.find(from);
    if (it == node_->cached.end()) return fault(ENOENT);
    if (from != to) node_->change({std::string(from), std::string(to), it->second});
    return {};
  }

  Result<void> unlink(std::string_view name) override {
    const std::lock_guard guard(disk_->mutex);
    if (auto ready = begin(name, SimDisk::Kind::write); !ready) return ready;
    const auto it = node_->cached.find(name);
    if (it == node_->cached.end()) return fault(ENOENT);
    if (it->second.dir) return fault(EISDIR);
    node_->change({std::string(name), "", {}});
    return {};
  }

  Result<std::vector<std::string>> list() override {
    const std::lock_guard guard(disk_->mutex);
    if (auto ready = begin("x", SimDisk::Kind::read); !ready) return std::unexpected(ready.error());
    std::vector<std::string> names;
    for (const auto& [name, node] : node_->cached) names.push_back(name);
    return names;
  }

  Result<void> sync() override {
    const std::lock_guard guard(disk_->mutex);
    if (auto ready = begin("x", SimDisk::Kind::sync); !ready) return ready;
    node_->sync();
    return {};
  }

  Result<std::shared_ptr<void>> lock(std::string_view name) override {
    const std::lock_guard guard(disk_->mutex);
    if (auto ready = begin(name, SimDisk::Kind::any); !ready) return std::unexpected(ready.error());
    auto& holder = disk_->locks[std::string(name)];
    if (!holder.expired()) return std::unexpected(Error{Errc::busy, EWOULDBLOCK, "held by another process"});
    if (!node_->cached.contains(name)) {
      node_->change({"", std::string(name), Node{std::make_shared<FileNode>(), nullptr}});
    }
    std::shared_ptr<void> held = std::make_shared<int>(0);
    holder = held;
    return held;
  }

  bool overwrites_in_place() const override {
    const std::lock_guard guard(disk_->mutex);
    return disk_->in_place;
  }

 private:
  Result<void> begin(std::string_view name, SimDisk::Kind kind) {
    if (epoch_ != disk_->epoch) return fault(EIO);
    if (!good_name(name)) return std::unexpected(Error::invalid("not a single path component"));
    if (const int error = disk_->next(kind)) return fault(error);
    return {};
  }

  std::shared_ptr<SimDisk::State> disk_;
  std::shared_ptr<DirNode> node_;
  std::uint64_t epoch_;
};

}  // namespace

void SimDisk::State::crash_file(FileNode& file, const std::string& path,
                                const std::function<Fate(const Effect&)>& fate) {
  for (auto& [number, versions] : file.dirty) {
    switch (fate({Effect::Kind::sector, path, number * sector, versions.size()})) {
      case Fate::dropped: {
        if (versions.size() > 1 && below(2) == 0)
          file.make_durable(number, versions[below(versions.size() - 1)]);
        break;
      }
      case Fate::kept:
        file.make_durable(number, versions.back());
        break;
      case Fate::garbage:
        file.make_durable(number, garbage());
        break;
    }
  }
  file.dirty.clear();
  file.cached = file.durable;
}

void SimDisk::State::crash_dir(DirNode& dir, const std::string& path,
                               const std::function<Fate(const Effect&)>& fate) {
  for (const auto& change : dir.pending) {
    const std::string name = path + (change.to.empty() ? change.from : change.to);
    if (fate({Effect::Kind::entry, name, 0, 1}) == Fate::kept) DirNode::apply(dir.durable, change);
  }
  dir.pending.clear();
  dir.cached = dir.durable;
  std::set<FileNode*> seen;
  for (auto& [name, node] : dir.cached) {
    if (node.dir) crash_dir(*node.dir, path + name + "/", fate);
    if (node.file && seen.insert(node.file.get()).second) crash_file(*node.file, path + name, fate);
  }
}

std::size_t SimDisk::State::unsynced(const DirNode& dir) {
  std::size_t count = dir.pending.size();
  for (const auto& [name, node] : dir.cached) {
    if (node.dir) count += unsynced(*node.dir);
    if (node.file) count += node.file->dirty.size();
  }
  return count;
}

SimDisk::SimDisk(std::uint64_t seed) : state_(std::make_shared<State>(seed)) {}
SimDisk::~SimDisk() { kill(); }

std::unique_ptr<Directory> SimDisk::root() {
  const std::lock_guard guard(state_->mutex);
  return std::make_unique<SimDirectory>(state_, state_->root);
}

std::uint64_t SimDisk::operations() const {
  const std::lock_guard guard(state_->mutex);
  return state_->operations;
}

void SimDisk::fail_at(std::uint64_t operation, int os_errno, bool for_ever) {
  const std::lock_guard guard(state_->mutex);
  state_->fail_operation = operation;
  state_->fail_errno = os_errno;
  state_->fail_for_ever = for_ever;
  state_->happened = false;
}

void SimDisk::fail_all(Kind kind, int os_errno) {
  const std::lock_guard guard(state_->mutex);
  state_->fail_every = true;
  state_->fail_kind = kind;
  state_->fail_errno = os_errno;
}

void SimDisk::heal() {
  const std::lock_guard guard(state_->mutex);
  state_->fail_operation = 0;
  state_->fail_every = false;
  state_->stop_operation = 0;
}

bool SimDisk::fault_happened() const {
  const std::lock_guard guard(state_->mutex);
  return state_->happened;
}

void SimDisk::stop_at(std::uint64_t operation) {
  const std::lock_guard guard(state_->mutex);
  state_->stop_operation = operation;
  state_->happened = false;
}

void SimDisk::set_overwrites_in_place(bool yes) {
  const std::lock_guard guard(state_->mutex);
  state_->in_place = yes;
}

std::size_t SimDisk::unsynced() const {
  const std::lock_guard guard(state_->mutex);
  return State::unsynced(*state_->root);
}

void SimDisk::crash() {
  const std::lock_guard guard(state_->mutex);
  crash([this](const Effect& effect) {
    const auto dice = state_->below(effect.kind == Effect::Kind::sector ? 5 : 4);
    return dice < 2 ? Fate::dropped : dice < 4 ? Fate::kept : Fate::garbage;
  });
}

void SimDisk::crash(const std::function<Fate(const Effect&)>& fate) {
  const std::lock_guard guard(state_->mutex);
  kill();
  heal();
  state_->crash_dir(*state_->root, "", fate);
}

void SimDisk::kill() {
  const std::lock_guard guard(state_->mutex);
  ++state_->epoch;
  state_->locks.clear();
}

bool SimDisk::exists(std::string_view path) const {
  const std::lock_guard guard(state_->mutex);
  const Node node = state_->find(path);
  return node.file || node.dir;
}

std::vector<std::byte> SimDisk::contents(std::string_view path) const {
  const std::lock_guard guard(state_->mutex);
  const Node node = state_->find(path);
  assert(node.file);
  return node.file->cached;
}

std::vector<std::string> SimDisk::list(std::string_view directory) const {
  const std::lock_guard guard(state_->mutex);
  std::vector<std::string> names;
  const Node node = state_->find(directory);
  if (!node.dir) return names;
  for (const auto& [name, entry] : node.dir->cached) names.push_back(name);
  return names;
}

void SimDisk::damage(std::string_view path, std::uint64_t offset, std::span<const std::byte> bytes) {
  const std::lock_guard guard(state_->mutex);
  const Node node = state_->find(path);
  assert(node.file && offset + bytes.size() <= node.file->cached.size());
  std::copy(bytes.begin(), bytes.end(), node.file->cached.begin() + static_cast<std::ptrdiff_t>(offset));
  node.file->durable.resize(node.file->cached.size());
  std::copy(bytes.begin(), bytes.end(), node.file->durable.begin() + static_cast<std::ptrdiff_t>(offset));
}

void SimDisk::make_unreadable(std::string_view path, std::uint64_t offset) {
  const std::lock_guard guard(state_->mutex);
  const Node node = state_->find(path);
  assert(node.file);
  node.file->unreadable.insert(offset / sector);
}

void SimDisk::remove(std::string_view path) {
  const std::lock_guard guard(state_->mutex);
  assert(path.find('/') == path.npos);
  state_->root->cached.erase(std::string(path));
  state_->root->durable.erase(std::string(path));
}

}  // namespace guard::testing
