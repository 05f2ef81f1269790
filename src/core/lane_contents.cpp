// The lane and the control plane: vtpm_set_contents and vtpm_get_contents (P11). See lane.h.
#include <algorithm>
#include <utility>

#include "core/lane.h"

namespace guard::core {

namespace {

constexpr std::size_t vtpm_slots = 3;
/// How soon a contents call looks again at an upstream that did not answer.
constexpr Time look_again = std::chrono::milliseconds(500);

std::size_t size_of(const std::array<Value, vtpm_slots>& values) {
  std::size_t total = vtpm_slots - 1;  // the separators
  for (const Value& value : values) total += value.size();
  return total;
}

}  // namespace

// --- Writing ----------------------------------------------------------------------------------------------

void Lane::set_contents(Context& cx, ContentsSet& event) {
  const auto refuse = [&](WriteStatus status) {
    cx.out.push_back(AnswerContents{event.request, status, {}});
  };
  if (size_of(event.values) > cx.shared.config.upstream.vtpm_contents) return refuse(WriteStatus::too_large);
  const std::size_t waiting = contents_next_ ? contents_next_->requests.size() : 0;
  if (refuses_writes(cx) || waiting >= limits::contents_calls) return refuse(WriteStatus::unavailable);
  ContentsWrite write;
  write.sequence = ++cx.shared.sequence;
  write.values = std::move(event.values);
  write.vtpm = event.vtpm;
  write.deadline = cx.now + Time(limits::contents_patience);
  if (contents_next_) {
    write.requests = std::move(contents_next_->requests);
    write.writers = std::move(contents_next_->writers);
    write.to_disk = contents_next_->to_disk;
    write.deadline = contents_next_->deadline;  // of those who wait longest
  }
  write.requests.push_back(event.request);
  // It supersedes what was received before it and was not handed to anybody yet.
  for (SlotState& s : slots_) {
    if (!s.next) continue;
    write.writers.insert(write.writers.end(), s.next->writers.begin(), s.next->writers.end());
    s.next.reset();
  }
  contents_next_ = std::move(write);
  advance(cx);
}

/// Rule 9: only when the journal holds nothing of the lane, not even retained.
bool Lane::contents_may_go_direct(const Context& cx) const {
  return may_go_direct(cx) && !contents_next_->to_disk &&
         std::all_of(slots_.begin(), slots_.end(),
                     [](const SlotState& s) { return !s.removal && !s.parked && s.kept == 0; });
}

/// Hands the contents over as soon as everything received before them was handed over and answered.
void Lane::start_contents(Context& cx) {
  const auto refuse = [&] {
    answer_contents(cx, *contents_next_, WriteStatus::unavailable, false);
    contents_next_.reset();
  };
  if (cx.shared.stalled) return refuse();
  const bool direct_under_way = call_ && call_->kind == Call::Kind::direct && !call_->late;
  const bool committing =
      std::any_of(slots_.begin(), slots_.end(), [](const SlotState& s) { return s.committing.has_value(); });
  if (direct_under_way || committing) return;
  if (!contents_may_go_direct(cx)) return cx.shared.buffering ? commit_contents(cx) : refuse();
  Call call;
  call.kind = Call::Kind::direct;
  call.contents = true;
  call.started = cx.now;
  for (std::size_t i = 0; i < vtpm_slots; ++i) {
    call.sent[i] = Waiting{entry_of(*contents_next_, i, cx.now), {}};
    prepare(cx, slots_[i], call.sent[i]->entry);
  }
  contents_sent_ = std::exchange(contents_next_, std::nullopt);
  call_ = std::move(call);
  send_direct(cx);
}

Entry Lane::entry_of(const ContentsWrite& write, std::size_t i, Time now) {
  Entry entry;
  entry.sequence = write.sequence;
  entry.value = write.values[i];
  entry.size = write.values[i].size();
  entry.vtpm = write.vtpm;
  entry.since = now;
  entry.over_anything = true;
  return entry;
}

void Lane::commit_contents(Context& cx) {
  std::size_t bytes = 0;
  for (const Value& value : contents_next_->values) bytes += value.size();
  if (!reserve_commit(cx, bytes)) return;
  contents_committing_ = std::exchange(contents_next_, std::nullopt);
  for (std::size_t i = 0; i < vtpm_slots; ++i) {
    slots_[i].committing = Waiting{entry_of(*contents_committing_, i, cx.now), {}};
    prepare(cx, slots_[i], slots_[i].committing->entry);
  }
  cx.out.push_back(Commit{owner_,
                          Slot::permall,
                          contents_committing_->sequence,
                          slots_[0].committing->entry.vtpm,
                          contents_known(),
                          {},
                          contents_committing_->values,
                          true});
}

/// What was known of each slot, in one list: it tells an upstream that went back after the delivery, also
/// after a restart. Empty when a slot has no base.
std::vector<Digest> Lane::contents_known() const {
  std::vector<Digest> known;
  for (std::size_t i = 0; i < vtpm_slots; ++i) {
    const History& history = slots_[i].history;
    if (!history.base_known()) return {};
    const std::vector<Digest> own = history.until(history.end(), limits::known_digests / vtpm_slots);
    known.insert(known.end(), own.begin(), own.end());
  }
  return known;
}

/// Answers everybody who waits for these contents.
void Lane::answer_contents(Context& cx, ContentsWrite& write, WriteStatus status, bool journaled) {
  answer(cx, write.writers, status, journaled);
  for (const RequestId request : std::exchange(write.requests, {})) {
    cx.out.push_back(AnswerContents{request, status, {}});
  }
}

bool Lane::remembers_vtpm(const Uuid& vtpm) const {
  const auto names = [&vtpm](const auto& entry) { return entry && entry->vtpm == vtpm; };
  const auto carries = [&vtpm](const auto& waiting) { return waiting && waiting->entry.vtpm == vtpm; };
  return vtpm_ == vtpm || names(contents_next_) ||
         std::any_of(slots_.begin(), slots_.end(), [&](const SlotState& s) {
           return names(s.durable) || carries(s.next) || carries(s.committing) || carries(s.retained);
         });
}

// --- Reading ----------------------------------------------------------------------------------------------

void Lane::get_contents(Context& cx, RequestId request) {
  if (contents_readers_.size() >= limits::contents_calls) {
    cx.out.push_back(AnswerContents{request, WriteStatus::unavailable, {}});
    return;
  }
  ContentsReader reader;
  reader.request = request;
  reader.deadline = cx.now + Time(limits::contents_patience);
  reader.up_to = cx.shared.sequence;
  contents_readers_.push_back(std::move(reader));
  contents_look_at_ = contents_fetch_at_ = cx.now;
  serve_contents_readers(cx);
}

void Lane::serve_contents_readers(Context& cx, const Contents* fetched) {
  if (contents_readers_.empty()) return;
  std::vector<ContentsReader> readers = std::move(contents_readers_);
  contents_readers_.clear();
  std::erase_if(readers, [&](ContentsReader& reader) { return serve(cx, reader, fetched); });
  contents_readers_.insert(contents_readers_.begin(), std::make_move_iterator(readers.begin()),
                           std::make_move_iterator(readers.end()));
  if (!contents_readers_.empty() && contents_look_at_ <= cx.now) contents_look_at_ = cx.now + look_again;
}

/// A barrier: what was received before it, and calls under way, come first. Then everything is brought
/// upstream and read from there; where that does not work, what is pending is laid over what is known.
/// Returns true when the reader was answered.
bool Lane::serve(Context& cx, ContentsReader& reader, const Contents* fetched) {
  if (reader.deadline <= cx.now) {
    cx.out.push_back(AnswerContents{reader.request, WriteStatus::unavailable, {}});
    return true;
  }
  for (const SlotState& s : slots_) {
    if (s.next && s.next->entry.sequence <= reader.up_to) return false;
    if (s.committing && s.committing->entry.sequence <= reader.up_to) return false;
  }
  if (contents_next_ && contents_next_->sequence <= reader.up_to) return false;
  if (call_ && !call_->late) return false;
  const bool up = cx.shared.updates_allowed();
  if (up && place() != 0 && !in_doubt() && !held_ && reader.deliveries == 0) {
    retry_at_ = cx.now;  // the courier takes it from here
    return false;
  }
  if (up && !fetched) {
    if (contents_fetch_at_ <= cx.now) {
      contents_fetch_at_ = cx.now + look_again;
      start_fetch(cx, std::nullopt);
    }
    return false;
  }
  if (!fetched && known_valid(cx)) fetched = &known_->contents;
  return overlay(cx, reader, fetched);
}

/// Lays what is pending over `base`; false when something is not at hand yet.
bool Lane::overlay(Context& cx, ContentsReader& reader, const Contents* base) {
  AnswerContents answer{reader.request, WriteStatus::accepted, {}};
  bool complete = true;
  for (std::size_t i = 0; i < vtpm_slots; ++i) {
    SlotState& s = slots_[i];
    Entry* entry = s.durable ? &*s.durable : s.uncompared() ? &s.retained->entry : nullptr;
    auto& loaded = reader.loaded[i];
    if (!entry && base) {
      answer.contents[i] = base->slots[i];
    } else if (!entry) {
      complete = false;
    } else if (entry->value) {
      answer.contents[i] = *entry->value;
    } else if (loaded && loaded->first == entry->sequence) {
      answer.contents[i] = loaded->second;
    } else {
      complete = false;
      if (std::exchange(reader.asked[i], entry->sequence) == entry->sequence) continue;
      cx.out.push_back(ReadBack{owner_, slot_at(i), entry->sequence});
    }
  }
  if (!complete) return false;
  for (std::size_t i = 0; i < vtpm_slots; ++i) {
    if (!slots_[i].durable || slots_[i].durable->over_anything) continue;
    Entry& entry = *slots_[i].durable;
    entry.handed_over = true;
    // The caller was told this value over that base: with no other one known, that is the one. What was sent
    // before and may come to stand there late is our own (rule 5).
    if (!base || entry.known_end != 0 || !entry.known.empty()) continue;
    const History& history = slots_[i].history;
    entry.known = history.until(history.end(), limits::known_digests - 1);
    entry.known.insert(entry.known.begin(), base->slots[i].digest());
  }
  cx.out.push_back(std::move(answer));
  return true;
}

}  // namespace guard::core
