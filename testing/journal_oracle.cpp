#include "testing/journal_oracle.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace guard::journal {

namespace {

/// More requests than this at once whose fate is open: the scenario is too large to be enumerated.
constexpr std::size_t max_open = 14;

std::uint64_t mix(std::uint64_t hash, std::uint64_t word) {
  hash = (hash ^ word) * 0x9E3779B97F4A7C15;
  return hash ^ (hash >> 32);
}

std::uint64_t mix(std::uint64_t hash, const Uuid& uuid) {
  std::uint64_t words[2];
  std::memcpy(words, uuid.bytes.data(), sizeof words);
  return mix(mix(hash, words[0]), words[1]);
}

std::uint64_t mix(std::uint64_t hash, const Digest& digest) {
  return mix(mix(hash, digest.low), digest.high);
}

void sort(std::vector<LiveEntry>& content) {
  std::sort(content.begin(), content.end(), [](const LiveEntry& a, const LiveEntry& b) {
    return std::pair(a.sequence, a.slot) < std::pair(b.sequence, b.slot);
  });
}

LiveEntry live_of(const Entry& entry, Slot slot, std::string_view value) {
  LiveEntry live;
  live.type = entry.type;
  live.owner = entry.owner;
  live.slot = slot;
  live.sequence = entry.sequence;
  live.vtpm = entry.vtpm;
  live.known = entry.known;
  live.digest = digest_of(value);
  live.size = static_cast<std::uint32_t>(value.size());
  live.wall_ms = entry.wall_ms;
  live.flags = entry.flags;
  return live;
}

bool has(const std::vector<Digest>& all, const Digest& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

std::string text_of(const LiveEntry& live) {
  return "  vm " + std::to_string(live.owner.vm.bytes[15]) + " slot " + std::string(name_of(live.slot)) +
         " sequence " + std::to_string(live.sequence) + " size " + std::to_string(live.size) + " digest " +
         std::to_string(live.digest.low % 10000) + " known " + std::to_string(live.known.size()) +
         (live.type == RecordType::alert ? " alert" : "") + (live.retained ? " retained" : "") +
         (live.suspect ? " suspect" : "") + "\n";
}

}  // namespace

std::uint64_t fingerprint(std::span<const LiveEntry> live) {
  std::uint64_t hash = live.size();
  for (const LiveEntry& entry : live) {
    hash = mix(hash, entry.sequence);
    hash = mix(hash, entry.owner.vm);
    hash = mix(hash, entry.vtpm);
    hash = mix(hash, entry.digest);
    hash = mix(hash, static_cast<std::uint64_t>(entry.wall_ms) ^ std::uint64_t{entry.size} << 32);
    const unsigned bits =
        (entry.retained ? 1u : 0u) | (entry.suspect ? 2u : 0u) | (entry.type == RecordType::alert ? 4u : 0u) |
        static_cast<unsigned>(entry.slot) << 3 | static_cast<unsigned>(entry.owner.device) << 8 |
        static_cast<unsigned>(entry.flags) << 16;
    hash = mix(hash, bits);
  }
  return hash;
}

bool still_holds(std::span<const LiveEntry> earlier, std::span<const LiveEntry> later) {
  if (fingerprint(earlier) != fingerprint(later)) return false;
  for (std::size_t i = 0; i < earlier.size(); ++i) {
    for (const Digest& digest : earlier[i].known) {
      if (!has(later[i].known, digest)) return false;
    }
  }
  return true;
}

void Oracle::submitted(std::span<const Request> batch) {
  for (const Request& request : batch) {
    if (!std::holds_alternative<ReadBack>(request)) asked_.push_back({request, false, generation_});
    if (const auto* removal = std::get_if<Removal>(&request))
      delivered_.push_back({{removal->owner, removal->slot}, removal->delivered});
  }
  settle();
}

void Oracle::answered(std::span<const Request> batch, std::span<const Completion> completions, bool written) {
  std::vector<Asked> kept(asked_.begin(), asked_.end());
  std::size_t of_batch = 0;
  for (const Request& request : batch) of_batch += std::holds_alternative<ReadBack>(request) ? 0 : 1;
  assert(of_batch <= kept.size());
  std::vector<bool> gone(kept.size());
  std::size_t at = kept.size() - of_batch;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (std::holds_alternative<ReadBack>(batch[i])) continue;
    const auto& result = completions[i].result;
    kept[at].certain = result.has_value();
    kept[at].generation = ~std::uint64_t{0};  // generation() follows
    if (!result) {
      const Errc code = result.error().code;
      gone[at] = !written || code == Errc::no_space || code == Errc::invalid;
    } else if (const auto* entry = std::get_if<Entry>(&batch[i])) {
      acknowledged_ = std::max(acknowledged_, entry->sequence);
    }
    ++at;
  }
  asked_.clear();
  for (std::size_t i = 0; i < kept.size(); ++i) {
    if (!gone[i]) asked_.push_back(std::move(kept[i]));
  }
  settle();
}

void Oracle::generation(std::uint64_t now) {
  const auto before = asked_.size();
  std::erase_if(asked_, [now](const Asked& asked) { return !asked.certain && asked.generation < now; });
  for (Asked& asked : asked_) asked.generation = std::min(asked.generation, now);
  generation_ = now;
  if (asked_.size() != before) settle();
}

void Oracle::recovered(const Recovery& found) {
  base_ = found.live;
  asked_.clear();
  if (!found.live.empty()) acknowledged_ = std::max(acknowledged_, found.live.back().sequence);
  settle();
}

std::string Oracle::compare(const Recovery& found) const {
  const std::uint64_t print = fingerprint(found.live);
  const bool allowed = std::any_of(allowed_.begin(), allowed_.end(), [&](const Allowed& one) {
    return one.fingerprint == print && knows_enough(found.live, one.content);
  });
  if (!allowed) return describe(found);
  const Sequence newest = found.live.empty() ? 0 : found.live.back().sequence;
  if (found.highest_sequence < std::max(newest, acknowledged_)) {
    return "sequences would be used again: the highest is " + std::to_string(found.highest_sequence) +
           ", but " + std::to_string(std::max(newest, acknowledged_)) + " was given out\n";
  }
  return {};
}

/// Digests of values delivered may be known to more entries than was asked for (a recovery repeats removals),
/// never to fewer.
bool Oracle::knows_enough(std::span<const LiveEntry> found, const Content& allowed) const {
  for (std::size_t i = 0; i < found.size(); ++i) {
    const LiveEntry& live = found[i];
    for (const Digest& digest : allowed[i].known) {
      if (!has(live.known, digest)) return false;
    }
    for (const Digest& digest : live.known) {
      const std::pair said{SlotOf{live.owner, live.slot}, digest};
      if (!has(allowed[i].known, digest) &&
          std::find(delivered_.begin(), delivered_.end(), said) == delivered_.end())
        return false;
    }
  }
  return true;
}

/// What Index::apply() is to do, said once more in other words.
void Oracle::apply(const Request& request, Content& content) {
  const auto place = [&content](const LiveEntry& live) {
    std::erase_if(content, [&live](const LiveEntry& old) {
      return old.type != RecordType::alert && old.owner == live.owner && old.slot == live.slot;
    });
    content.push_back(live);
  };
  if (const auto* entry = std::get_if<Entry>(&request)) {
    if (entry->type == RecordType::contents) {
      const auto values = *unpack_contents(entry->value.view());
      for (unsigned i = 0; i < 3; ++i) place(live_of(*entry, static_cast<Slot>(i), values[i]));
    } else if (entry->type == RecordType::alert) {
      content.push_back(live_of(*entry, entry->slot, entry->value.view()));
    } else {
      place(live_of(*entry, entry->slot, entry->value.view()));
    }
    return;
  }
  const Removal& removal = std::get<Removal>(request);
  std::erase_if(content, [&removal](const LiveEntry& live) {
    if (live.owner != removal.owner || live.slot != removal.slot) return false;
    if (removal.alert || live.type == RecordType::alert)
      return removal.alert && live.type == RecordType::alert && live.sequence == removal.up_to;
    return !removal.retained && live.sequence <= removal.up_to;
  });
  for (LiveEntry& live : content) {
    const bool concerned = !removal.alert && live.type != RecordType::alert && live.owner == removal.owner &&
                           live.slot == removal.slot;
    if (!concerned) continue;
    if (live.sequence <= removal.up_to)
      live.retained = true;
    else if (removal.delivered != Digest{} &&
             std::find(live.known.begin(), live.known.end(), removal.delivered) == live.known.end())
      live.known.push_back(removal.delivered);
  }
}

/// Computes what is allowed: each subset of what is uncertain, with all that is certain, in order.
void Oracle::settle() {
  std::size_t certain = 0;
  while (certain < asked_.size() && asked_[certain].certain) apply(asked_[certain++].request, base_);
  asked_.erase(asked_.begin(), asked_.begin() + static_cast<std::ptrdiff_t>(certain));
  const auto open = static_cast<std::size_t>(
      std::count_if(asked_.begin(), asked_.end(), [](const Asked& a) { return !a.certain; }));
  assert(open <= max_open);
  allowed_.clear();
  for (std::uint64_t subset = 0; subset < (std::uint64_t{1} << open); ++subset) {
    Content content = base_;
    std::uint64_t bits = subset;
    for (const Asked& asked : asked_) {
      if (asked.certain || (bits & 1) != 0) apply(asked.request, content);
      if (!asked.certain) bits >>= 1;
    }
    sort(content);
    const std::uint64_t print = fingerprint(content);
    allowed_.push_back({print, std::move(content)});
  }
}

std::string Oracle::describe(const Recovery& found) const {
  Content content = base_;
  for (const Asked& asked : asked_) {
    if (asked.certain) apply(asked.request, content);
  }
  sort(content);
  std::string text = "found what cannot be:\n";
  for (const LiveEntry& live : found.live) text += text_of(live);
  text += "acknowledged:\n";
  for (const LiveEntry& live : content) text += text_of(live);
  text += "and perhaps:\n";
  for (const Asked& asked : asked_) {
    if (asked.certain) continue;
    if (const auto* removal = std::get_if<Removal>(&asked.request)) {
      text += "  vm " + std::to_string(removal->owner.vm.bytes[15]) + " slot " +
              std::string(name_of(removal->slot)) + " removed up to " + std::to_string(removal->up_to) +
              (removal->retained ? ", retained\n" : "\n");
    } else {
      const auto& entry = std::get<Entry>(asked.request);
      text += text_of(live_of(entry, entry.slot, entry.value.view()));
    }
  }
  return text;
}

std::vector<Request> with_ends(std::span<const Removal> ends, std::span<const Request> batch) {
  std::vector<Request> all(ends.begin(), ends.end());
  all.insert(all.end(), batch.begin(), batch.end());
  return all;
}

std::vector<Completion> answers_with_ends(Store& store, std::span<const Removal> ends,
                                          std::span<const Completion> answers, bool faulty) {
  std::vector<Completion> all;
  for (const Removal& end : ends) {
    Completion completion;
    const auto read = store.run({ReadBack{end.owner, end.slot, end.up_to}});
    const bool ended = !read.front().result && read.front().result.error().code == Errc::not_found;
    const Errc code = faulty ? Errc::io : Errc::no_space;
    if (!ended) completion.result = std::unexpected(Error{code, 0, "still there"});
    all.push_back(std::move(completion));
  }
  all.insert(all.end(), answers.begin(), answers.end());
  return all;
}

}  // namespace guard::journal
