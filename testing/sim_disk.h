// A disk in memory that forgets what was not synced, and fails when told to.
//
// What it may do is what a power cut may do to a real one: each 512-byte sector written since the last sync
// of its file is afterwards what it was, any version written since, or garbage; each creation, renaming or
// removal since the last sync of its directory has happened or not. After a failed sync the cache shows the
// new bytes and calls them clean, while each of them may be on the disk or not, whatever later syncs say,
// until it is written again and synced; the power cut decides. Everything follows from the seed and the
// sequence of calls. Any thread may call any function.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "guard/env.h"

namespace guard::testing {

class SimDisk {
 public:
  static constexpr std::size_t sector = 512;

  explicit SimDisk(std::uint64_t seed);
  ~SimDisk();
  SimDisk(const SimDisk&) = delete;

  /// A handle on the root directory. Handles opened before a crash or kill fail with EIO for ever.
  std::unique_ptr<Directory> root();

  // --- Faults. Operations (each call of File and Directory but size() and overwrites_in_place()) are counted
  // from 1.
  std::uint64_t operations() const;
  /// The operation with this number fails with `os_errno`; with `for_ever` so do all after it, until heal().
  /// A failed write has written any part, or what set_failed_write() says; a failed sync has synced any
  /// sectors.
  void fail_at(std::uint64_t operation, int os_errno, bool for_ever = false);
  enum class Kind { any, read, write, sync };
  /// Every operation of this kind fails with `os_errno` until heal(); `any` means all of them.
  void fail_all(Kind kind, int os_errno);
  enum class FailedWrite { some, nothing, everything };
  void set_failed_write(FailedWrite what);
  void heal();
  bool fault_happened() const;
  /// From this operation on nothing reaches the disk any more: it and all after it fail. For power cuts in
  /// the middle of something; crash() then decides what is left.
  void stop_at(std::uint64_t operation);
  /// As on file systems that copy on write.
  void set_overwrites_in_place(bool yes);

  // --- The end of a process, or of power.
  enum class Fate { dropped, kept, garbage };
  /// One thing that was done and not synced. `versions` = how often a sector was written since its last sync:
  /// `kept` means the newest, `dropped` any of the older ones or what stood there before.
  struct Effect {
    enum class Kind { sector, entry } kind = Kind::sector;
    std::string path;
    std::uint64_t offset = 0;  ///< of the sector in its file
    std::size_t versions = 1;
    bool lost = false;  ///< a sync of it failed
    /// The versions that differ: 0 = as if it had not been done, n = after the n-th time.
    std::vector<std::uint16_t> distinct;
    std::uint16_t newest = 0;  ///< the one of them that all of it being kept leaves
  };
  /// How many effects the next power cut has to decide about.
  std::size_t unsynced() const;
  /// Power cut: decides each effect from the seed. Heals all faults but unreadable sectors.
  void crash();
  /// The same, deciding by `fate`; directory entries cannot be garbage.
  void crash(const std::function<Fate(const Effect&)>& fate);
  /// kill -9: what was written stays visible, synced or not; locks are released.
  void kill();

  // --- Enumeration: other disks on which the end came now, while this one goes on.
  static constexpr std::uint16_t garbage = 0xFFFF;
  /// Everything the next power cut has to decide about, in an order that only changes together with the disk.
  std::vector<Effect> effects() const;
  /// The disk after a power cut. `choices` has one number per effect: a version, or `garbage`.
  std::unique_ptr<SimDisk> after_power_cut(std::span<const std::uint16_t> choices,
                                           std::uint64_t garbage_seed) const;
  /// The same, with nothing left of what was not synced.
  std::unique_ptr<SimDisk> after_power_cut() const;
  /// The disk after kill -9 of everybody who used it.
  std::unique_ptr<SimDisk> after_kill() const;
  /// Counts what changes the set of effects: writes, changed names, failed syncs.
  std::uint64_t changes() const;
  /// Called after each of these, in the middle of the operation, on its thread. The disk may be looked at and
  /// copied, not used. Copies do not have it.
  void set_on_change(std::function<void()> on_change);

  // --- Looking at the disk and damaging it, past all handles. Paths are names of
  // directories and one of a file, with slashes between them.
  bool exists(std::string_view path) const;
  std::vector<std::byte> contents(std::string_view path) const;
  std::vector<std::string> list(std::string_view directory) const;
  /// Overwrites durable bytes.
  void damage(std::string_view path, std::uint64_t offset, std::span<const std::byte> bytes);
  /// Reads that touch this sector fail with EIO until it is written.
  void make_unreadable(std::string_view path, std::uint64_t offset);
  void make_readable(std::string_view path, std::uint64_t offset);
  void remove(std::string_view path);
  /// The file ends here now, durably.
  void truncate(std::string_view path, std::uint64_t size);

  struct State;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace guard::testing
