// The state directory: locked by one daemon at a time, home of the journal.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/log.h"
#include "guard/env.h"
#include "journal/journal.h"

namespace guard::daemon {

/// Every call blocks. One thread at a time.
class StateDir {
 public:
  StateDir(std::string path, journal::Options options, Logger& log)
      : path_(std::move(path)), options_(options), log_(log) {}

  /// Opens (creating it if missing) and locks the directory, once; Errc::busy when another process holds the
  /// lock. May be called again after a failure.
  Result<> lock();
  /// Whether another daemon used this directory as its own since we did: it left a cache tree. lock() was
  /// called.
  bool has_cache_tree();

  /// Removes a piece of what is left of an imported cache tree; true when there is more. After
  /// open_journal().
  bool clear_cache_tree();

  struct Opened {
    std::unique_ptr<journal::Store> store;
    journal::Recovery recovery;  ///< what to go on with: of the journal, and what was imported
  };
  /// lock(), then recovers the journal and imports the cache tree of the original daemon. May be called again
  /// after a failure, not after success.
  Result<Opened> open_journal();

  /// lock(), then runs `work` on the directory.
  template <class Work>
  auto with_state(Work work) -> decltype(work(std::declval<Directory&>())) {
    if (auto locked = lock(); !locked) return std::unexpected(std::move(locked.error()));
    return work(*dir_);
  }

  /// Moves a journal that could not be opened so far out of the way (journal::set_aside). `directory` must be
  /// this state directory: who asks may have meant another one. Returns the full new name. Errors: busy once
  /// the journal was opened, invalid for another directory.
  Result<std::string> set_journal_aside(const std::string& directory,
                                        std::chrono::system_clock::time_point now);
  /// Names of the journals set aside.
  Result<std::vector<std::string>> list_set_aside();

 private:
  std::string path_;
  journal::Options options_;
  Logger& log_;
  std::unique_ptr<Directory> dir_;
  std::shared_ptr<void> lock_;
  bool opened_ = false;
};

}  // namespace guard::daemon
