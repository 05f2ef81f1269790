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
  /// lock(), then recovers the journal. May be called again after a failure, not after success.
  Result<std::unique_ptr<journal::Store>> open_journal();

  /// Runs `work` on the directory of the journal, which is not created.
  template <class Work>
  auto with_journal(Work work) -> decltype(work(std::declval<Directory&>())) {
    auto dir = journal_dir();
    if (!dir) return std::unexpected(std::move(dir.error()));
    return work(**dir);
  }

  /// Moves a journal that could not be opened so far out of the way (journal::set_aside). `directory` must be
  /// this state directory: who asks may have meant another one. Returns the full new name. Errors: busy once
  /// the journal was opened, invalid for another directory.
  Result<std::string> set_journal_aside(const std::string& directory,
                                        std::chrono::system_clock::time_point now);
  /// Names of the journals set aside.
  Result<std::vector<std::string>> list_set_aside();

 private:
  Result<std::unique_ptr<Directory>> journal_dir();

  std::string path_;
  journal::Options options_;
  Logger& log_;
  std::unique_ptr<Directory> dir_;
  std::shared_ptr<void> lock_;
  bool opened_ = false;
};

}  // namespace guard::daemon
