// Which values of one slot stood upstream, or may have come to stand there: what tells an upstream that went
// back (P13) from a value of somebody else (P14). Pure.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/limits.h"
#include "guard/types.h"

namespace guard::core {

/// How many digests all histories hold together; bounds their memory (limits::history_digests).
struct HistoryBudget {
  std::size_t used = 0;
};

/// Values in the order in which they came up, named by their digests. Positions count from 1 and are never
/// used again, so that an entry need only remember where it began.
class History {
 public:
  /// The upstream was seen to hold this value: what follows has a base.
  void confirm(Digest digest, HistoryBudget& budget) {
    base_known_ = true;
    push(digest, budget);
  }
  /// This value of ours came to stand upstream; `known` is what it was delivered over, if that is known.
  void arrived(Digest digest, const std::vector<Digest>& known, HistoryBudget& budget) {
    if (!base_known_) {
      for (const Digest& before : known) push(before, budget);
    }
    confirm(digest, budget);
  }
  /// This value may come to stand upstream from now on.
  void attempt(Digest digest, HistoryBudget& budget) { push(digest, budget); }
  /// It turned out that this value, the newest, was never sent.
  void retract(Digest digest, HistoryBudget& budget) {
    if (digests_.empty() || digests_.back() != digest) return;
    digests_.pop_back();
    --budget.used;
  }
  /// What a recovered entry was based on.
  void recover(const std::vector<Digest>& known, HistoryBudget& budget) {
    for (const Digest& digest : known) confirm(digest, budget);
  }
  /// Gives its part of the budget back.
  void clear(HistoryBudget& budget) {
    budget.used -= digests_.size();
    begin_ += digests_.size();
    digests_.clear();
    base_known_ = false;
  }

  bool base_known() const { return base_known_; }
  bool empty() const { return digests_.empty(); }
  /// The position after the newest value.
  std::uint64_t end() const { return begin_ + digests_.size(); }
  /// The values before position `end`, oldest first, as far as they are still remembered; of more than
  /// `most` the oldest, which is the base, and the newest.
  std::vector<Digest> until(std::uint64_t end, std::size_t most) const {
    const std::size_t count =
        end > begin_ ? static_cast<std::size_t>(std::min(end, this->end()) - begin_) : 0;
    if (count <= most) return {digests_.begin(), digests_.begin() + static_cast<std::ptrdiff_t>(count)};
    std::vector<Digest> some{digests_.front()};
    some.insert(some.end(), digests_.begin() + static_cast<std::ptrdiff_t>(count - most + 1),
                digests_.begin() + static_cast<std::ptrdiff_t>(count));
    return some;
  }

 private:
  void push(Digest digest, HistoryBudget& budget) {
    // One that is among the newest anyway need not push others out. An older one comes up anew: it may stand
    // there now, and of a long history only the newest travel with a record.
    const auto recent =
        digests_.end() - static_cast<std::ptrdiff_t>(std::min(digests_.size(), limits::known_digests / 2));
    if (std::find(recent, digests_.end(), digest) != digests_.end()) return;
    const std::size_t most =
        budget.used < limits::history_digests ? limits::history_slot : limits::known_digests;
    // Half of it goes at once, so that forgetting costs next to nothing per value.
    if (digests_.size() >= most) forget(digests_.size() - most / 2, budget);
    digests_.push_back(digest);
    ++budget.used;
  }
  void forget(std::size_t count, HistoryBudget& budget) {
    digests_.erase(digests_.begin(), digests_.begin() + static_cast<std::ptrdiff_t>(count));
    begin_ += count;
    budget.used -= count;
  }

  std::vector<Digest> digests_;
  std::uint64_t begin_ = 1;
  bool base_known_ = false;
};

}  // namespace guard::core
