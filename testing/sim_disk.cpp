#include "testing/sim_disk.h"

#include <algorithm>
#include <cassert>
#include <cerrno>

#include "testing/sim_disk_state.h"

namespace guard::testing {

namespace {

std::unexpected<Error> fault(int os_errno) {
  return std::unexpected(Error::system("simulated disk", os_errno));
}

bool good_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == name.npos;
}

class SimFile final : public File {
 public:
  SimFile(std::shared_ptr<SimDisk::State> disk, std::shared_ptr<FileNode> node, bool writable)
      : disk_(std::move(disk)), node_(std::move(node)), epoch_(disk_->epoch), writable_(writable) {}

  Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> buffer) override {
    const std::lock_guard guard(disk_->mutex);
    if (const int error = next(SimDisk::Kind::read)) return fault(error);
    const PagedBytes& bytes = node_->cached;
    if (offset >= bytes.size() || buffer.empty()) return 0;
    const std::size_t size = std::min<std::uint64_t>(buffer.size(), bytes.size() - offset);
    const auto bad = node_->unreadable.lower_bound(offset / SimDisk::sector);
    if (bad != node_->unreadable.end() && *bad <= (offset + size - 1) / SimDisk::sector) return fault(EIO);
    bytes.read(offset, buffer.first(size));
    return size;
  }

  Result<void> write_at(std::uint64_t offset, std::span<const std::span<const std::byte>> parts) override {
    const std::lock_guard guard(disk_->mutex);
    if (!writable_) return fault(EBADF);
    const int error = next(SimDisk::Kind::write);
    if (epoch_ != disk_->epoch) return fault(EIO);
    std::size_t total = 0;
    for (const auto part : parts) total += part.size();
    std::size_t left = total;
    if (error != 0) {
      // Even the write in which power fails may have got anywhere; crash() decides what of it is left.
      if (disk_->stopped() && disk_->operations > disk_->stop_operation) return fault(error);
      left = failed_part(total);
    }
    std::vector<std::byte> all;
    all.reserve(left);
    for (const auto part : parts) {
      const auto piece = part.first(std::min(part.size(), left - all.size()));
      all.insert(all.end(), piece.begin(), piece.end());
    }
    node_->write(offset, all);
    disk_->changed();
    if (error != 0) return fault(error);
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
    node_->sync_failed();
    disk_->changed();
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

  std::size_t failed_part(std::size_t total) {
    if (disk_->failed_write == SimDisk::FailedWrite::nothing) return 0;
    if (disk_->failed_write == SimDisk::FailedWrite::everything) return total;
    return disk_->below(total + 1);
  }

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
      change({"", std::string(name), node});
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
      change({"", std::string(name), Node{nullptr, std::make_shared<DirNode>()}});
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
    if (from != to) change({std::string(from), std::string(to), it->second});
    return {};
  }

  Result<void> unlink(std::string_view name) override {
    const std::lock_guard guard(disk_->mutex);
    if (auto ready = begin(name, SimDisk::Kind::write); !ready) return ready;
    const auto it = node_->cached.find(name);
    if (it == node_->cached.end()) return fault(ENOENT);
    if (it->second.dir) return fault(EISDIR);
    change({std::string(name), "", {}});
    return {};
  }

  Result<void> remove_dir(std::string_view name) override {
    const std::lock_guard guard(disk_->mutex);
    if (auto ready = begin(name, SimDisk::Kind::write); !ready) return ready;
    const auto it = node_->cached.find(name);
    if (it == node_->cached.end()) return fault(ENOENT);
    if (!it->second.dir) return fault(ENOTDIR);
    if (!it->second.dir->cached.empty()) {
      Error error = Error::system("simulated disk", ENOTEMPTY);
      error.code = Errc::busy;
      return std::unexpected(error);
    }
    change({std::string(name), "", {}});
    return {};
  }

  Result<void> link(std::string_view name, Directory& to, std::string_view to_name) override {
    const std::lock_guard guard(disk_->mutex);
    if (auto ready = begin(name, SimDisk::Kind::write); !ready) return ready;
    auto* target = dynamic_cast<SimDirectory*>(&to);
    if (!good_name(to_name) || target == nullptr || target->disk_ != disk_) {
      return std::unexpected(Error::invalid("link: not a name in a directory of this disk"));
    }
    const auto it = node_->cached.find(name);
    if (it == node_->cached.end()) return fault(ENOENT);
    if (it->second.dir) return fault(EPERM);
    if (target->node_->cached.contains(to_name)) {
      Error error = Error::system("simulated disk", EEXIST);
      error.code = Errc::busy;
      return std::unexpected(error);
    }
    target->change({"", std::string(to_name), it->second});
    return {};
  }

  /// There are no links to names, and no owners.
  Result<Found> look_at(std::string_view name) override {
    const std::lock_guard guard(disk_->mutex);
    if (auto ready = begin(name, SimDisk::Kind::read); !ready) return std::unexpected(ready.error());
    const auto it = node_->cached.find(name);
    if (it == node_->cached.end()) return fault(ENOENT);
    if (it->second.dir) return Found{Found::Kind::directory, 0, 0, 0700};
    return Found{Found::Kind::file, it->second.file->cached.size(), 0, 0600};
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
      change({"", std::string(name), Node{std::make_shared<FileNode>(), nullptr}});
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
  void change(EntryChange change) {
    node_->change(std::move(change));
    disk_->changed();
  }

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

void PagedBytes::resize(std::size_t size) {
  assert(size >= size_);
  size_ = size;
  pages_.resize((size + page_size - 1) / page_size);
}

void PagedBytes::truncate(std::size_t size) {
  if (size >= size_) return;
  pages_.resize((size + page_size - 1) / page_size);
  size_ = size;
  if (size % page_size == 0 || !pages_.back()) return;
  std::byte* page = own(size / page_size);
  std::memset(page + size % page_size, 0, page_size - size % page_size);
}

void PagedBytes::read(std::size_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const std::size_t within = offset % page_size;
    const std::size_t length = std::min(out.size(), page_size - within);
    if (const auto& page = pages_[offset / page_size])
      std::memcpy(out.data(), page->data() + within, length);
    else
      std::memset(out.data(), 0, length);
    out = out.subspan(length);
    offset += length;
  }
}

void PagedBytes::write(std::size_t offset, std::span<const std::byte> bytes) {
  if (offset + bytes.size() > size_) resize(offset + bytes.size());
  while (!bytes.empty()) {
    const std::size_t within = offset % page_size;
    const std::size_t length = std::min(bytes.size(), page_size - within);
    std::memcpy(own(offset / page_size) + within, bytes.data(), length);
    bytes = bytes.subspan(length);
    offset += length;
  }
}

Sector PagedBytes::sector(std::uint64_t number) const {
  Sector bytes{};
  const std::size_t from = number * bytes.size();
  if (from < size_) read(from, std::span(bytes).first(std::min(bytes.size(), size_ - from)));
  return bytes;
}

std::byte* PagedBytes::own(std::size_t page) {
  auto& shared = pages_[page];
  if (!shared)
    shared = std::make_shared<Page>();
  else if (shared.use_count() > 1)
    shared = std::make_shared<Page>(*shared);
  return shared->data();
}

void FileNode::write(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  cached.write(offset, bytes);
  const std::uint64_t last = (offset + bytes.size() - 1) / SimDisk::sector;
  for (std::uint64_t n = offset / SimDisk::sector; n <= last; ++n) {
    dirty[n].push_back(cached.sector(n));
    if (!unreadable.empty()) unreadable.erase(n);
  }
}

void FileNode::make_durable(std::uint64_t number, const Sector& bytes) {
  const std::size_t from = number * SimDisk::sector;
  const std::size_t end = std::min(from + SimDisk::sector, cached.size());
  if (from < end) durable.write(from, std::span<const std::byte>(bytes).first(end - from));
}

void FileNode::sync() {
  for (const auto& [number, versions] : dirty) {
    make_durable(number, versions.back());
    if (!lost.empty()) lost.erase(number);
  }
  dirty.clear();
}

void FileNode::sync_failed() {
  for (auto& [number, versions] : dirty) {
    auto& all = lost[number];
    all.insert(all.end(), versions.begin(), versions.end());
  }
  dirty.clear();
}

int SimDisk::State::next(Kind kind) {
  ++operations;
  if (stopped()) return happened = true, EIO;
  const bool due =
      fail_operation != 0 && (fail_for_ever ? operations >= fail_operation : operations == fail_operation);
  if (due || (fail_every && (fail_kind == Kind::any || kind == fail_kind)))
    return happened = true, fail_errno;
  return 0;
}

Node SimDisk::State::find(std::string_view path) const {
  const DirNode* dir = root.get();
  for (auto slash = path.find('/'); slash != path.npos; slash = path.find('/')) {
    const auto it = dir->cached.find(path.substr(0, slash));
    if (it == dir->cached.end() || !it->second.dir) return {};
    dir = it->second.dir.get();
    path.remove_prefix(slash + 1);
  }
  const auto it = dir->cached.find(path);
  return it == dir->cached.end() ? Node{} : it->second;
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

void SimDisk::set_failed_write(FailedWrite what) {
  const std::lock_guard guard(state_->mutex);
  state_->failed_write = what;
}

std::uint64_t SimDisk::changes() const {
  const std::lock_guard guard(state_->mutex);
  return state_->changes;
}

void SimDisk::set_on_change(std::function<void()> on_change) {
  const std::lock_guard guard(state_->mutex);
  state_->on_change = std::move(on_change);
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
  std::vector<std::byte> bytes(node.file->cached.size());
  node.file->cached.read(0, bytes);
  return bytes;
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
  node.file->cached.write(offset, bytes);
  if (node.file->durable.size() < node.file->cached.size())
    node.file->durable.resize(node.file->cached.size());
  node.file->durable.write(offset, bytes);
}

void SimDisk::make_unreadable(std::string_view path, std::uint64_t offset) {
  const std::lock_guard guard(state_->mutex);
  const Node node = state_->find(path);
  assert(node.file);
  node.file->unreadable.insert(offset / sector);
}

void SimDisk::make_readable(std::string_view path, std::uint64_t offset) {
  const std::lock_guard guard(state_->mutex);
  const Node node = state_->find(path);
  assert(node.file);
  node.file->unreadable.erase(offset / sector);
}

void SimDisk::remove(std::string_view path) {
  const std::lock_guard guard(state_->mutex);
  assert(path.find('/') == path.npos);
  state_->root->cached.erase(std::string(path));
  state_->root->durable.erase(std::string(path));
}

void SimDisk::truncate(std::string_view path, std::uint64_t size) {
  const std::lock_guard guard(state_->mutex);
  const Node node = state_->find(path);
  assert(node.file && node.file->dirty.empty() && node.file->lost.empty());
  node.file->cached.truncate(size);
  node.file->durable = node.file->cached;
}

}  // namespace guard::testing
