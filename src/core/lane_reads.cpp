// The lane and reads, and what is known of the upstream. See lane.h.
#include "core/lane.h"

#include <algorithm>
#include <utility>

namespace guard::core {

using Kind = Outcome::Kind;

namespace {

/// How many reads of one lane may be under way at once: a second one is needed when an update overlapped the
/// first, more when those hang.
constexpr std::size_t max_fetches = 4;

}  // namespace

void Lane::read(Context& cx, RequestId request, Slot slot) {
  SlotState& s = at(slot);
  if (s.durable) {
    if (s.durable->value) return answer(cx, request, ReadResult::Source::pending, *s.durable->value);
    s.back_readers.emplace_back(request, s.durable->sequence);
    cx.out.push_back(ReadBack{owner_, slot, s.durable->sequence});
    return;
  }
  if (s.committing) return s.commit_readers.push_back(request);
  if (!cx.shared.health.worth_trying()) return answer_known_or_unavailable(cx, request, slot);
  start_fetch(cx, request, slot);
}

void Lane::requeue_readers(Context& cx, std::vector<RequestId> readers, Slot slot) {
  for (const RequestId reader : readers) read(cx, reader, slot);
}

void Lane::start_fetch(Context& cx, RequestId request, Slot slot) {
  for (FetchCall& fetch : fetches_) {
    if (fetch.generation == generation_) return fetch.readers.emplace_back(request, slot), void();
  }
  if (fetches_.size() >= max_fetches) return answer_known_or_unavailable(cx, request, slot);
  FetchCall fetch;
  fetch.id = ++cx.shared.call;
  fetch.generation = generation_;
  fetch.overlapped = call_.has_value() || doubt_.has_value();
  fetch.readers.emplace_back(request, slot);
  cx.out.push_back(Fetch{fetch.id, owner_});
  fetches_.push_back(std::move(fetch));
}

void Lane::fetch_done(Context& cx, const FetchDone& event) {
  const auto found =
      std::find_if(fetches_.begin(), fetches_.end(), [&](const FetchCall& f) { return f.id == event.call; });
  if (found == fetches_.end()) return invariant(cx, "answer to no fetch");
  FetchCall fetch = std::move(*found);
  fetches_.erase(found);
  const Fetched& fetched = event.fetched;
  if (fetched.upstream_suspect) cx.shared.health.suspect(fetched.reason, cx.now, cx.shared.random, cx.out);
  if (fetched.kind == Kind::lane) note_failure(cx, Kind::lane, fetched.reason);
  const bool good = fetched.kind == Kind::delivered;
  if (good && held_ && held_->kind == Kind::lane && !has_pending()) clear_held(cx);
  // Rule 4: a read that an update overlapped says nothing about what stands there now.
  if (good && !fetch.overlapped && fetch.generation == generation_ && !doubt_) {
    set_known(cx, fetched.contents, fetched.epoch);
    for (std::size_t i = 0; i < slot_count; ++i) {
      if (device_of(slot_at(i)) == owner_.device && slots_[i].none()) {
        learn(slot_at(i), fetched.contents.slots[i].digest());
      }
    }
  }
  for (const auto& [request, slot] : fetch.readers) {
    if (at(slot).durable || at(slot).committing)
      read(cx, request, slot);
    else if (good)
      answer(cx, request, ReadResult::Source::upstream, fetched.contents[slot]);
    else
      answer_known_or_unavailable(cx, request, slot);
  }
}

void Lane::answer_known_or_unavailable(Context& cx, RequestId request, Slot slot) {
  if (known_valid(cx)) return answer(cx, request, ReadResult::Source::known, known_->contents[slot]);
  answer(cx, request, ReadResult::Source::none, {});
}

// --- What is known ----------------------------------------------------------------------------------------

bool Lane::known_valid(const Context& cx) const { return known_ && known_->epoch > cx.shared.ended_epoch; }

void Lane::set_known(Context& cx, const Contents& contents, Epoch epoch) {
  drop_known(cx);
  vtpm_ = contents.vtpm;
  if (epoch == 0 || epoch <= cx.shared.ended_epoch || doubt_ || !socket_open_) return;
  Known known{contents, epoch, 0};
  for (const Value& value : contents.slots) known.bytes += value.size();
  if (cx.shared.known_bytes + known.bytes > cx.shared.config.known_bytes) return;
  cx.shared.known_bytes += known.bytes;
  known_ = std::move(known);
  known_is_base_ = true;
}

void Lane::drop_known(Context& cx) {
  if (known_) cx.shared.known_bytes -= known_->bytes;
  known_.reset();
}

/// The upstream is known to hold this value, and nothing newer of ours is on its way.
void Lane::learn(Slot slot, Digest digest) {
  SlotState& s = at(slot);
  s.history.assign(1, digest);
  s.base_known = true;
}

/// This value may come to stand upstream from now on.
void Lane::attempt(Slot slot, Digest digest) {
  SlotState& s = at(slot);
  if (std::find(s.history.begin(), s.history.end(), digest) != s.history.end()) return;
  // The base stays; the oldest attempt makes room.
  if (s.history.size() >= limits::known_digests) s.history.erase(s.history.begin() + 1);
  s.history.push_back(digest);
}

}  // namespace guard::core
