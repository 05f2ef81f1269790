// The note of updates under way: which lanes have an update at the upstream without an answer, and the
// digests of its values. It survives the end of this process at any instruction, so that the next one knows
// which lanes are in doubt (P2). A file mapped into memory: a note costs a few stores and no system call.
//
// It is meant for a directory in memory (tmpfs). It does not survive a power cut on purpose: a file of an
// earlier run of the machine says nothing about this one.
//
// Layout: units of 128 bytes. The first is the header; every other is free (its last 8 bytes are zero) or a
// note whose last 8 bytes are a checksum of the rest. These 8 bytes are stored last and at once, so that a
// process killed between two stores leaves the unit as it was before, or whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "core/events.h"
#include "guard/result.h"
#include "guard/types.h"

namespace guard::engine {

/// Thread: one at a time; the engine uses it on the loop thread.
class CallNotes {
 public:
  using Values = std::vector<core::NotedValue>;

  /// What the file said when it was opened.
  struct Found {
    /// Nobody knows what was under way: the file was missing, damaged, of another run of the machine or of
    /// another store, or had no room for all notes. `why` says which.
    bool unknown = false;
    std::string why;
    std::vector<std::pair<Owner, Values>> calls;  ///< one per owner; none when the file could not tell
  };

  static constexpr std::string_view file_name = "calls-under-way";

  /// Opens or makes the file in `directory`, which is made (0700) when it is missing, and locks it for as
  /// long as this object lives. What was noted in it stays noted. `identity` tells whose it is: see
  /// identity_of(). Whatever is in the way and is no regular file of this user is unlinked; links are never
  /// followed. `units` is how many notes fit. Errors: busy when another process holds it; else of the
  /// operating system.
  static Result<std::unique_ptr<CallNotes>> open(const std::string& directory, const std::string& identity,
                                                 std::size_t units = limits::call_notes);
  ~CallNotes();
  CallNotes(const CallNotes&) = delete;

  const Found& found() const { return found_; }

  /// From now on an update of these values (at most one per slot) may take effect. Replaces what was noted
  /// for this owner. When there is no room the whole file says "unknown" until the owner is erased.
  void note(Owner owner, const Values& values);
  /// Nothing of this owner is under way any more.
  void erase(Owner owner);
  /// Somebody else used the store since the last process noted anything, so that nobody knows what is under
  /// way: as if the file had said so, and from now on it does. Before the engine looks at found().
  void doubt_all(std::string why);
  /// What was unknown when the file was opened can have no effect any more, or never could.
  void forget_unknown();

 private:
  struct Unit;
  struct Header;
  struct Mapping;

  explicit CallNotes(std::unique_ptr<Mapping> mapping);
  void read(const std::string& identity);
  void start_afresh(const std::string& identity, std::string why);
  void release(Owner owner);
  void store_unknown();

  std::unique_ptr<Mapping> mapping_;
  Found found_;
  std::map<Owner, std::vector<std::size_t>> used_;  ///< units by owner
  std::vector<std::size_t> free_;
  std::set<Owner> no_room_;
  bool unknown_ = false;  ///< found_.unknown, not yet forgotten
};

/// For CallNotes::open: this run of the machine, and the store in the directory `state_dir`.
std::string identity_of(std::string_view state_dir);

}  // namespace guard::engine
