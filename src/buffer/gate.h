// The door between the embedder's threads and the buffer's: bounds what is inside (P8), and closes.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <optional>

#include "guard/result.h"

namespace guard::buffer {

/// Any thread may call.
class Gate {
 public:
  Gate(std::size_t max_requests, std::size_t max_bytes)
      : max_requests_(max_requests), max_bytes_(max_bytes) {}

  enum class WhenFull { refuse, wait };
  /// Lets one request in and runs `hand_over`, which must not block; or says why not: `closed`, `busy`, or
  /// `invalid` when so many bytes never fit. What was handed over before close() ran, runs before it.
  std::optional<Error> enter(std::size_t bytes, WhenFull when_full, const std::function<void()>& hand_over) {
    if (bytes > max_bytes_) return Error::invalid("larger than max_request_bytes");
    std::unique_lock lock(mutex_);
    const auto room = [this, bytes] { return requests_ < max_requests_ && bytes <= max_bytes_ - bytes_; };
    if (when_full == WhenFull::wait) left_.wait(lock, [&] { return closed_ || room(); });
    if (closed_) return Error{Errc::closed, 0, "the buffer is closed"};
    if (!room()) return Error{Errc::busy, 0, "too many requests are under way"};
    ++requests_;
    bytes_ += bytes;
    hand_over();
    return std::nullopt;
  }

  /// A request that was let in has been answered.
  void leave(std::size_t bytes) {
    {
      const std::lock_guard lock(mutex_);
      --requests_;
      bytes_ -= bytes;
    }
    // All of them: the first in line may want more room than there is now.
    left_.notify_all();
  }

  /// Lets nobody in any more and runs `hand_over`. Called once.
  void close(const std::function<void()>& hand_over) {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
      hand_over();
    }
    left_.notify_all();
  }

 private:
  const std::size_t max_requests_;
  const std::size_t max_bytes_;
  std::mutex mutex_;  ///< of everything below; held for a few instructions only
  std::condition_variable left_;
  std::size_t requests_ = 0;
  std::size_t bytes_ = 0;
  bool closed_ = false;
};

}  // namespace guard::buffer
