// The file in which the simulated xapi keeps its database, written by a thread of its own.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/log.h"
#include "guard/env.h"
#include "guard/result.h"
#include "wire/json.h"

namespace guard::sim {

class StoreFile {
 public:
  /// Opens the directory of `path`, creating it when missing.
  static Result<std::unique_ptr<StoreFile>> open(const std::string& path, Logger& log);
  /// Writes what was handed over last, then ends the thread.
  ~StoreFile();

  /// What the file holds; null when there is none. Errors: io, invalid.
  Result<wire::Json> read();
  /// Replaces the file soon, atomically. Of several calls in quick succession the last counts.
  void write(wire::Json json);
  /// Replaces the file with this, and nothing handed over before will replace it afterwards.
  void write_now(const wire::Json& json);

 private:
  StoreFile(std::unique_ptr<Directory> dir, std::string name, Logger& log);
  void run();
  void replace(const wire::Json& json);

  std::unique_ptr<Directory> dir_;
  std::string name_;
  Logger& log_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<wire::Json> next_;  ///< guarded by mutex_
  bool stop_ = false;               ///< guarded by mutex_
  std::mutex file_mutex_;           ///< held while the file is replaced
  std::thread thread_;
};

}  // namespace guard::sim
