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
  if (verify_until_ && s.durable && cx.shared.updates_allowed() && !doubt_ && !(call_ && call_->late)) {
    verify_readers_.emplace_back(request, slot);
    return;
  }
  if (wants_rest(cx, slot)) {
    if (FetchCall* fetch = fetch_call(cx)) return fetch->rest_readers.push_back(request);
  }
  read_now(cx, request, slot);
}

void Lane::read_now(Context& cx, RequestId request, Slot slot) {
  SlotState& s = at(slot);
  // What is pending comes first (rule 3), and after the end of a session what is retained counts as pending.
  const Entry* entry = s.durable ? &*s.durable : nullptr;
  if (!entry && s.committing) {
    if (s.committing->entry.sequence <= s.delivered) {  // written down for retention: accepted long ago
      return answer_pending(cx, request, *s.committing->entry.value);
    }
    if (cx.shared.stalled) return answer(cx, request, ReadResult::Source::none, {});
    return s.commit_readers.push_back(request);
  }
  if (!entry && s.uncompared()) entry = &s.retained->entry;
  if (entry) {
    if (entry->value) return answer_pending(cx, request, *entry->value);
    if (cx.shared.stalled) return answer(cx, request, ReadResult::Source::none, {});
    s.back_readers.emplace_back(request, entry->sequence);
    cx.out.push_back(ReadBack{owner_, slot, entry->sequence});
    return;
  }
  if (!cx.shared.health.worth_trying()) return answer_known_or_unavailable(cx, request, slot);
  start_fetch(cx, std::pair{request, slot});
}

void Lane::requeue_readers(Context& cx, std::vector<RequestId> readers, Slot slot) {
  for (const RequestId reader : readers) read(cx, reader, slot);
}

/// The upstream had its look at what was older than the socket, or did not take it.
void Lane::stop_verifying(Context& cx) {
  if (!verify_until_ || (call_ && cx.now < *verify_until_)) return;
  verify_until_.reset();
  for (const auto& [request, slot] : std::exchange(verify_readers_, {})) read(cx, request, slot);
}

void Lane::start_fetch(Context& cx, std::optional<std::pair<RequestId, Slot>> reader) {
  if (FetchCall* fetch = fetch_call(cx)) {
    if (reader) fetch->readers.push_back(*reader);
    if (!reader) fetch->for_contents = true;
  } else if (reader) {
    answer_known_or_unavailable(cx, reader->first, reader->second);
  }
}

/// A read that began after everything that happened so far; nullptr: too many are under way.
Lane::FetchCall* Lane::fetch_call(Context& cx) {
  for (FetchCall& fetch : fetches_) {
    if (fetch.generation == generation_) return &fetch;
  }
  if (fetches_.size() >= max_fetches) return nullptr;
  FetchCall fetch;
  fetch.id = ++cx.shared.call;
  fetch.started = cx.now;
  fetch.generation = generation_;
  fetch.overlapped = call_.has_value() || doubt_.has_value();
  cx.out.push_back(Fetch{fetch.id, owner_});
  fetches_.push_back(std::move(fetch));
  return &fetches_.back();
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
  if (good) remember_rest(fetched.contents, fetched.epoch);
  if (good && fetched.epoch != 0 &&
      (cx.shared.alive.epoch != fetched.epoch || cx.shared.alive.at < fetch.started)) {
    cx.shared.alive = {fetched.epoch, fetch.started};
  }
  if (good && held_ && held_->kind == Kind::lane && !has_pending()) clear_held(cx);
  // Rule 4: a read that an update overlapped says nothing about what stands there now.
  if (good && !fetch.overlapped && fetch.generation == generation_ && !doubt_) {
    set_known(cx, fetched.contents, fetched.epoch);
    confirm(cx, fetched.contents, nullptr);
  }
  if (!good) contents_fetch_at_ = std::max(contents_fetch_at_, cx.now + std::chrono::milliseconds(500));
  for (const auto& [request, slot] : fetch.readers) {
    if (at(slot).durable || at(slot).committing || at(slot).uncompared())
      read(cx, request, slot);
    else if (good)
      answer(cx, request, ReadResult::Source::upstream, fetched.contents[slot], fetched.contents.nvram_map);
    else
      answer_known_or_unavailable(cx, request, slot);
  }
  // The value that was pending may stand upstream by now, and this read may have begun before it did.
  for (const RequestId request : fetch.rest_readers) read_now(cx, request, Slot::nvram);
  serve_contents_readers(
      cx, good && fetch.for_contents && fetch.generation == generation_ ? &fetched.contents : nullptr);
}

void Lane::answer_known_or_unavailable(Context& cx, RequestId request, Slot slot) {
  if (known_valid(cx)) {
    return answer(cx, request, ReadResult::Source::known, known_->contents[slot], known_->contents.nvram_map);
  }
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
  for (const auto& [name, value] : contents.nvram_map) known.bytes += name.size() + value.size();
  if (cx.shared.known_bytes + known.bytes > cx.shared.config.known_bytes) return;
  cx.shared.known_bytes += known.bytes;
  known_ = std::move(known);
  known_is_base_ = true;
}

/// These values stand upstream: the base of what is written next, where nothing newer of ours waits.
void Lane::confirm(Context& cx, const Contents& contents, const Call* update) {
  for (std::size_t i = 0; i < slot_count; ++i) {
    SlotState& s = slots_[i];
    if (device_of(slot_at(i)) != owner_.device || (update && update->sent[i])) continue;
    // What is read while an entry waits is no base for it (rule 5); the first base of all is better than
    // none.
    const bool first = !s.history.base_known() && s.journal_clean() && !s.uncompared();
    if (!s.settled() && !first) continue;
    s.history.confirm(contents.slots[i].digest(), cx.shared.history);
  }
}

void Lane::drop_known(Context& cx) {
  if (known_) cx.shared.known_bytes -= known_->bytes;
  known_.reset();
}

}  // namespace guard::core
