// The bounded delivery queue and the mode: how many pending entries carry their values in memory.
//
//   direct      nothing is pending
//   engaged     the queue carries the values of all pending entries
//   disengaged  more is pending than it may carry; the rest is read back from the journal. Ends only when
//               nothing is pending
// Acknowledging never depends on room in the queue.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace guard::core {

enum class Mode { direct, engaged, disengaged };

constexpr std::string_view name_of(Mode mode) {
  switch (mode) {
    case Mode::direct:
      return "direct";
    case Mode::engaged:
      return "engaged";
    case Mode::disengaged:
      return "disengaged";
  }
  return "unknown";
}

class Queue {
 public:
  Queue(std::size_t max_entries, std::size_t max_bytes) : max_entries_(max_entries), max_bytes_(max_bytes) {}

  /// A new pending entry. True: there is room, and its value stays in memory until `remove`.
  bool add(std::size_t bytes) {
    ++pending_;
    pending_bytes_ += bytes;
    if (queued_ + 1 > max_entries_ || queued_bytes_ + bytes > max_bytes_) {
      overflowed_ = true;
      return false;
    }
    ++queued_;
    queued_bytes_ += bytes;
    return true;
  }
  /// The entry is pending no more; `queued` is what add() returned for it.
  void remove(std::size_t bytes, bool queued) {
    --pending_;
    pending_bytes_ -= bytes;
    if (queued) {
      --queued_;
      queued_bytes_ -= bytes;
    }
    if (pending_ == 0) overflowed_ = false;
  }

  /// An entry takes the place of another one of its slot: what is pending never becomes more or nothing on
  /// the way. Returns as add().
  bool replace(std::size_t old_bytes, bool old_queued, std::size_t bytes) {
    pending_bytes_ -= old_bytes;
    --pending_;
    if (old_queued) {
      --queued_;
      queued_bytes_ -= old_bytes;
    }
    return add(bytes);
  }

  Mode mode() const {
    if (pending_ == 0) return Mode::direct;
    return overflowed_ ? Mode::disengaged : Mode::engaged;
  }
  std::size_t pending() const { return pending_; }
  std::size_t pending_bytes() const { return pending_bytes_; }
  std::size_t queued() const { return queued_; }
  std::size_t queued_bytes() const { return queued_bytes_; }

 private:
  std::size_t max_entries_;
  std::size_t max_bytes_;
  std::size_t pending_ = 0;
  std::size_t pending_bytes_ = 0;
  std::size_t queued_ = 0;
  std::size_t queued_bytes_ = 0;
  bool overflowed_ = false;
};

}  // namespace guard::core
