// The worker thread: everything that blocks and is not the journal (saving the resume file, births of
// sockets).
#pragma once

#include <functional>
#include <memory>

namespace guard::daemon {

class Worker {
 public:
  /// `post` runs work on the loop thread.
  explicit Worker(std::function<void(std::function<void()>)> post);
  /// Finishes the work under way, drops what was not begun, and ends the thread.
  ~Worker();
  Worker(const Worker&) = delete;

  /// Loop thread: runs `work` on the worker thread, in order, then `then` on the loop thread. Bounded by its
  /// callers: each operation of the control plane has at most one work under way.
  void run(std::function<void()> work, std::function<void()> then);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace guard::daemon
