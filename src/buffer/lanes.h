// The lanes that are kept open, so that what is known of an owner outlives the request: the last ones used.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <unordered_map>
#include <utility>

#include "engine/engine.h"
#include "guard/types.h"

namespace guard::buffer {

/// Thread: the buffer's own. Must be empty before the engine ends.
class Lanes {
 public:
  explicit Lanes(std::size_t capacity) : capacity_(capacity) {}

  /// Good until the next call. Not to be called from within the engine.
  LaneAccess& of(engine::Engine& engine, const Uuid& owner) {
    const auto found = index_.find(owner);
    if (found != index_.end()) {
      recent_.splice(recent_.begin(), recent_, found->second);
      return *recent_.front().second;
    }
    if (recent_.size() >= capacity_) {
      // Requests under way in it go on; what it knew is read again when it is needed.
      index_.erase(recent_.back().first);
      recent_.pop_back();
    }
    recent_.emplace_front(owner, engine.open_lane(Owner{owner, Device::vtpm}));
    index_.emplace(owner, recent_.begin());
    return *recent_.front().second;
  }
  void clear() {
    index_.clear();
    recent_.clear();
  }

 private:
  using Recent = std::list<std::pair<Uuid, std::unique_ptr<LaneAccess>>>;
  const std::size_t capacity_;
  Recent recent_;  ///< the last one used in front
  std::unordered_map<Uuid, Recent::iterator> index_;
};

}  // namespace guard::buffer
