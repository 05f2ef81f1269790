// The inside of SimDisk, shared by its two parts: handles and faults (sim_disk.cpp), power cuts
// (sim_disk_cut.cpp).
#pragma once

#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "testing/sim_disk.h"

namespace guard::testing {

using Sector = std::array<std::byte, SimDisk::sector>;

/// The bytes of a file in pages that copies share until one of them is written.
class PagedBytes {
 public:
  std::size_t size() const { return size_; }
  /// New bytes are zeros.
  void resize(std::size_t size);
  void truncate(std::size_t size);
  /// The range must lie within size().
  void read(std::size_t offset, std::span<std::byte> out) const;
  /// Grows as needed.
  void write(std::size_t offset, std::span<const std::byte> bytes);
  /// What lies beyond the end is zeros.
  Sector sector(std::uint64_t number) const;

 private:
  static constexpr std::size_t page_size = 4096;
  using Page = std::array<std::byte, page_size>;
  std::byte* own(std::size_t page);

  std::size_t size_ = 0;
  std::vector<std::shared_ptr<Page>> pages_;  ///< null = zeros
};

struct FileNode {
  PagedBytes cached;                                              ///< what readers see
  PagedBytes durable;                                             ///< what a power cut certainly leaves
  using Versions = std::map<std::uint64_t, std::vector<Sector>>;  ///< by sector number
  Versions dirty;                                                 ///< written since the last sync
  Versions lost;                                                  ///< written, and the sync failed
  std::set<std::uint64_t> unreadable;                             ///< sector numbers

  void write(std::uint64_t offset, std::span<const std::byte> bytes);
  void make_durable(std::uint64_t number, const Sector& bytes);
  void sync();
  /// From now on these sectors count as clean, and may be on the disk or not.
  void sync_failed();
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

struct SimDisk::State {
  explicit State(std::uint64_t seed) : random(seed) {}

  /// Every public function holds it: a test may steer a disk that another thread is using.
  mutable std::recursive_mutex mutex;

  std::minstd_rand random;  ///< small, because disks are copied by the million
  std::shared_ptr<DirNode> root = std::make_shared<DirNode>();
  std::uint64_t epoch = 0;  ///< handles of earlier ones are dead
  std::uint64_t operations = 0;
  std::uint64_t changes = 0;
  std::function<void()> on_change;
  std::uint64_t fail_operation = 0;
  int fail_errno = 0;
  bool fail_for_ever = false;
  FailedWrite failed_write = FailedWrite::some;
  std::uint64_t stop_operation = 0;
  Kind fail_kind = Kind::any;
  bool fail_every = false;
  bool happened = false;
  bool in_place = true;
  std::map<std::string, std::weak_ptr<void>> locks;

  bool stopped() const { return stop_operation != 0 && operations >= stop_operation; }
  /// Counts an operation; the errno with which it is to fail, or 0.
  int next(Kind kind);
  std::uint64_t below(std::uint64_t n) { return random() % n; }
  void changed() {
    ++changes;
    if (on_change) on_change();
  }
  Node find(std::string_view path) const;
};

}  // namespace guard::testing
