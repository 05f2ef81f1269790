#include "upstream/device_store.h"

namespace guard::upstream {

const References* ReferenceCache::find(const Uuid& vm) {
  const auto found = index_.find(vm);
  if (found == index_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return &found->second->second;
}

void ReferenceCache::put(const Uuid& vm, References references) {
  drop(vm);
  if (index_.size() >= capacity_) drop(entries_.back().first);
  entries_.emplace_front(vm, std::move(references));
  index_.emplace(vm, entries_.begin());
}

void ReferenceCache::drop(const Uuid& vm) {
  const auto found = index_.find(vm);
  if (found == index_.end()) return;
  const auto entry = found->second;
  index_.erase(found);
  entries_.erase(entry);
}

}  // namespace guard::upstream
