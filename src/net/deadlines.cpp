#include "net/deadlines.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace guard::net {

/// First to expire stands first.
class Deadlines::List {
 public:
  explicit List(Time each) : length(each) {}
  const Time length;
  Item* first = nullptr;
  Item* last = nullptr;
};

Deadlines::Item::~Item() { Deadlines::stop(*this); }

Deadlines::Deadlines(std::function<void()> wake_earlier) : wake_earlier_(std::move(wake_earlier)) {}

Deadlines::~Deadlines() {
  for (auto& [length, list] : lists_) {
    while (list->first != nullptr) stop(*list->first);
  }
}

Deadlines::List& Deadlines::list(std::chrono::milliseconds length) {
  assert(length > length.zero());
  auto& list = lists_[length];
  if (!list) list = std::make_unique<List>(length);
  return *list;
}

void Deadlines::start(List& list, Item& item, Time now) {
  stop(item);
  item.list_ = &list;
  item.expires_ = now + list.length;
  item.before_ = list.last;
  (list.last != nullptr ? list.last->after_ : list.first) = &item;
  list.last = &item;
  if (item.expires_ < next_) {
    next_ = item.expires_;
    wake_earlier_();
  }
}

void Deadlines::stop(Item& item) {
  List* const list = std::exchange(item.list_, nullptr);
  if (list == nullptr) return;
  (item.before_ != nullptr ? item.before_->after_ : list->first) = item.after_;
  (item.after_ != nullptr ? item.after_->before_ : list->last) = item.before_;
  item.before_ = nullptr;
  item.after_ = nullptr;
}

void Deadlines::expire(Time now) {
  // Whatever on_deadline() starts is asked for at the end, all at once.
  next_ = Time::min();
  for (auto& [length, list] : lists_) {
    // Ends, because what on_deadline() starts expires later than `now`.
    while (list->first != nullptr && list->first->expires_ <= now) {
      Item& item = *list->first;
      stop(item);
      item.on_deadline();
    }
  }
  next_ = Time::max();
  for (const auto& [length, list] : lists_) {
    if (list->first != nullptr) next_ = std::min(next_, list->first->expires_);
  }
  if (next_ != Time::max()) wake_earlier_();
}

}  // namespace guard::net
