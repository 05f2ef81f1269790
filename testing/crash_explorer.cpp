#include "testing/crash_explorer.h"

#include <algorithm>
#include <cassert>
#include <charconv>
#include <random>
#include <unordered_set>

#include "base/log.h"

namespace guard::journal {

using testing::SimDisk;

namespace {

/// The owner of the writes that prove that a recovered journal takes new ones; no scenario uses it. While a
/// recovery is explored there may be such a write already, so that there it is another one.
Owner stranger(bool explored) {
  Owner owner;
  owner.vm.bytes.fill(explored ? 0xE1 : 0xE0);
  return owner;
}

std::function<std::uint64_t()> salts(std::uint64_t seed) {
  return [seed]() mutable {
    seed = (seed + 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9;
    return seed ^ seed >> 31;
  };
}

/// How many outcomes all effects have together, at most `limit` + 1.
std::size_t outcomes(const std::vector<SimDisk::Effect>& effects, bool with_garbage, std::size_t limit) {
  std::size_t product = 1;
  for (const auto& effect : effects) {
    const bool sector = effect.kind == SimDisk::Effect::Kind::sector;
    product *= effect.distinct.size() + (with_garbage && sector ? 1 : 0);
    if (product > limit) return limit + 1;
  }
  return product;
}

std::uint16_t outcome(const SimDisk::Effect& effect, std::size_t number) {
  return number < effect.distinct.size() ? effect.distinct[number] : SimDisk::garbage;
}

std::uint64_t hash_of(std::span<const std::uint16_t> choices) {
  std::uint64_t hash = choices.size();
  for (const auto choice : choices) hash = (hash ^ choice) * 0x9E3779B97F4A7C15 + (hash >> 29);
  return hash;
}

}  // namespace

CrashExplorer::CrashExplorer(Settings settings) : settings_(std::move(settings)) {}

bool CrashExplorer::wanted(const std::string& run) const {
  return failure_.empty() &&
         (settings_.replay.empty() || settings_.replay.starts_with(settings_.name + run + "/"));
}

void CrashExplorer::begin(const std::string& run, bool faulty) {
  outer_ = faulty ? settings_.faulty_outer : settings_.outer;
  inner_ = faulty ? settings_.faulty_inner : settings_.inner;
  levels_.assign(1, {settings_.name + run + "/"});
}

void CrashExplorer::point(const SimDisk& disk, const Oracle& oracle, bool faulty) {
  ++levels_.back().point;
  const bool replaying = !settings_.replay.empty();
  if (!failure_.empty() || (replaying && !settings_.replay.starts_with(here()))) return;
  ++points_;
  if (levels_.size() == 1) levels_.back().damage_allowed = faulty;
  const Effects effects = disk.effects();
  if (replaying) return replay_point(disk, oracle, effects, faulty);
  // A kill costs as much as many power cuts, because the recovery after it is explored; and the points of a
  // run with a fault are much like those without.
  const bool kill = !faulty || levels_.back().point % 8 == 1;  // the first, too
  if (levels_.size() == 1 && kill) visit_kill(disk, oracle, faulty);
  visit_all(disk, oracle, effects);
}

std::string CrashExplorer::here() const {
  return levels_.back().address + std::to_string(levels_.back().point) + ":";
}

std::string CrashExplorer::address_of(const Choices& choices) const {
  std::string address = here();
  for (const auto choice : choices) {
    if (address.back() != ':') address += '.';
    address += choice == SimDisk::garbage ? "g" : std::to_string(choice);
  }
  return address + "/";
}

void CrashExplorer::replay_point(const SimDisk& disk, const Oracle& oracle, const Effects& effects,
                                 bool faulty) {
  std::string_view rest = std::string_view(settings_.replay).substr(here().size());
  if (rest.starts_with("k/")) return visit_kill(disk, oracle, faulty);
  const auto end = rest.find('/');
  const bool deeper = end != rest.npos && end + 1 < rest.size();
  Choices choices;
  for (rest = rest.substr(0, end); !rest.empty();) {
    const std::string_view word = rest.substr(0, rest.find('.'));
    std::uint16_t number = SimDisk::garbage;
    if (word != "g") std::from_chars(word.data(), word.data() + word.size(), number);
    choices.push_back(number);
    rest.remove_prefix(std::min(rest.size(), word.size() + 1));
  }
  if (choices.size() != effects.size()) {
    failure_ = "there is no such state: " + std::to_string(effects.size()) + " effects are to be decided\n";
    return;
  }
  ++states_;
  const std::string problem = cut(disk, oracle, choices, deeper);
  if (!problem.empty() && failure_.empty()) fail(disk, oracle, effects, choices, problem);
}

/// Every subset, if they are few enough; garbage as a third fate, if those are few enough too.
void CrashExplorer::visit_all(const SimDisk& disk, const Oracle& oracle, const Effects& effects) {
  const Budget& budget = levels_.size() == 1 ? outer_ : inner_;
  const auto one = [&](const Choices& choices) { visit(disk, oracle, effects, choices); };
  const auto all = [&](bool with_garbage) {
    Choices choices(effects.size(), 0);
    std::vector<std::size_t> digits(effects.size(), 0);
    for (;;) {
      one(choices);
      std::size_t i = 0;
      for (; i < effects.size(); ++i) {
        const bool sector = effects[i].kind == SimDisk::Effect::Kind::sector;
        digits[i] = (digits[i] + 1) % (effects[i].distinct.size() + (with_garbage && sector ? 1 : 0));
        choices[i] = outcome(effects[i], digits[i]);
        if (digits[i] != 0) break;
      }
      if (i == effects.size() || !failure_.empty()) return;
    }
  };
  if (outcomes(effects, true, budget.exhaustive) <= budget.exhaustive) return all(true);
  if (outcomes(effects, false, budget.exhaustive) <= budget.exhaustive)
    all(false);
  else
    visit_samples(effects, budget, false, one);
  visit_samples(effects, budget, true, one);
}

/// The regular ones are: all of it up to a point, nothing but one, all but one.
void CrashExplorer::visit_samples(const Effects& effects, const Budget& budget, bool with_garbage,
                                  const std::function<void(const Choices&)>& visit) {
  std::minstd_rand random(static_cast<unsigned>(settings_.seed + levels_.back().point * 7919));
  std::unordered_set<std::uint64_t> seen;
  const auto once = [&](const Choices& choices) {
    if (failure_.empty() && seen.insert(hash_of(choices)).second) visit(choices);
  };
  Choices kept;
  for (const auto& effect : effects) kept.push_back(effect.newest);
  const std::size_t stride = 1 + 6 * effects.size() / std::max<std::size_t>(budget.samples, 1);
  const bool regular = !with_garbage;
  if (regular) {
    once(kept);
    once(Choices(effects.size(), 0));
  }
  for (std::size_t i = random() % stride; regular && i < effects.size(); i += stride) {
    Choices choices(effects.size(), 0);
    std::copy_n(kept.begin(), i, choices.begin());
    once(choices);
    choices = kept;
    choices[i] = 0;
    once(choices);
    choices.assign(effects.size(), 0);
    choices[i] = kept[i];
    once(choices);
  }
  for (std::size_t n = 0; seen.size() < budget.samples && n < 2 * budget.samples; ++n) {
    Choices choices;
    const unsigned bias = random() % 4;  // mostly kept, mostly dropped, or even
    for (const auto& effect : effects) {
      const bool sector = effect.kind == SimDisk::Effect::Kind::sector;
      if (with_garbage && sector && random() % 6 == 0)
        choices.push_back(SimDisk::garbage);
      else if (bias == 0 && random() % 8 != 0)
        choices.push_back(effect.newest);
      else if (bias == 1 && random() % 8 != 0)
        choices.push_back(0);
      else
        choices.push_back(effect.distinct[random() % effect.distinct.size()]);
    }
    once(choices);
  }
}

void CrashExplorer::visit(const SimDisk& disk, const Oracle& oracle, const Effects& effects,
                          const Choices& choices) {
  ++states_;
  const bool explored = levels_.size() == 1 && settings_.every != 0 && states_ % settings_.every == 0;
  const std::string problem = cut(disk, oracle, choices, explored);
  if (!problem.empty() && failure_.empty()) fail(disk, oracle, effects, choices, problem);
}

/// The disk after a power cut, recovered.
std::string CrashExplorer::cut(const SimDisk& disk, const Oracle& oracle, const Choices& choices,
                               bool explored) {
  const std::uint64_t hash = hash_of(choices);
  const auto left = disk.after_power_cut(choices, hash);
  if (!explored) return recover(*left, oracle, hash, false);
  levels_.push_back({address_of(choices), levels_.back().damage_allowed});
  auto problem = recover(*left, oracle, hash, true);
  levels_.pop_back();
  return problem;
}

/// kill -9 while the power stays, recovery, and then a power cut at any point of it.
void CrashExplorer::visit_kill(const SimDisk& disk, const Oracle& oracle, bool faulty) {
  ++states_;
  const auto left = disk.after_kill();
  levels_.push_back({here() + "k/", faulty});
  const std::string problem = recover(*left, oracle, levels_.size(), true);
  if (!problem.empty() && failure_.empty()) failure_ = problem + "address: " + levels_.back().address + "\n";
  levels_.pop_back();
}

/// Recovers, and tries what a recovered journal must be able to do. Empty = all is well.
std::string CrashExplorer::recover(SimDisk& disk, const Oracle& oracle, std::uint64_t salt, bool explored) {
  const bool damage_allowed = levels_.back().damage_allowed;
  if (explored) disk.set_on_change([&] { point(disk, oracle, damage_allowed); });
  const std::uint64_t before = disk.changes();
  const auto opened = Store::open(disk.root(), settings_.options, salts(salt), null_logger());
  disk.set_on_change(nullptr);
  if (!opened) return "the journal cannot be opened: " + opened.error().message + "\n";
  Store& store = **opened;
  const Recovery& found = store.recovery();
  if (found.corrupt_records != 0 && !damage_allowed) return "the trace of a crash was taken for damage\n";
  if (damage_allowed) {
    damaged_ += found.corrupt_records != 0 ? 1 : 0;
    Recovery sure = found;
    for (LiveEntry& live : sure.live) live.suspect = false;
    if (auto wrong = oracle.compare(sure); !wrong.empty() || found.corrupt_records != 0) return wrong;
  } else if (auto wrong = oracle.compare(found); !wrong.empty()) {
    return wrong;
  }
  if (disk.changes() != before || disk.unsynced() != 0) {
    if (auto wrong = recover_again(disk, found.live); !wrong.empty())
      return "what a recovery has shown does not outlive a power cut\n" + wrong;
  }
  if (!explored) return go_on(disk, store, nullptr);

  Oracle known = oracle;
  known.recovered(found);
  const auto look = [&] { point(disk, known, damage_allowed); };
  look();
  disk.set_on_change(look);
  while (store.idle_work()) {
  }
  auto problem = go_on(disk, store, &known);
  disk.set_on_change(nullptr);
  return problem;
}

/// A further power cut takes all that is not synced, and must leave exactly this.
std::string CrashExplorer::recover_again(const SimDisk& disk, const std::vector<LiveEntry>& expected) {
  Sequence highest = 0;
  for (const LiveEntry& entry : expected) highest = std::max(highest, entry.sequence);
  const auto left = disk.after_power_cut();
  const auto opened = Store::open(left->root(), settings_.options, salts(highest), null_logger());
  if (!opened) return "the journal cannot be opened again: " + opened.error().message + "\n";
  const Recovery& found = (*opened)->recovery();
  if (found.corrupt_records != 0 && !levels_.back().damage_allowed)
    return "the trace of a crash was taken for damage by the second recovery\n";
  if (found.highest_sequence < highest) return "the highest sequence goes back\n";
  std::vector<LiveEntry> before = expected;
  std::vector<LiveEntry> live = found.live;
  if (levels_.back().damage_allowed) {
    for (LiveEntry& entry : before) entry.suspect = false;
    for (LiveEntry& entry : live) entry.suspect = false;
  }
  if (still_holds(before, live)) return {};
  return "the second recovery found " + std::to_string(found.live.size()) + " entries instead of " +
         std::to_string(expected.size()) + ", or others\n";
}

/// Reads everything back and commits one more write; or, where the journal is full, a removal.
/// The ends of retentions that the journal may decide on itself.
std::vector<Removal> CrashExplorer::may_end(std::span<const LiveEntry> live) const {
  std::vector<Removal> ends;
  for (const LiveEntry& entry : live) {
    if (settings_.gives_up && entry.retained)
      ends.push_back(Removal{entry.owner, entry.slot, entry.sequence, entry.digest, false, false});
  }
  return ends;
}

std::string CrashExplorer::go_on(SimDisk& disk, Store& store, Oracle* known) {
  std::vector<LiveEntry> live = store.recovery().live;
  const auto commit = [&](const Request& request) {
    std::vector<Request> batch{request};
    for (const LiveEntry& entry : live) batch.emplace_back(ReadBack{entry.owner, entry.slot, entry.sequence});
    const std::vector<Removal> ends = may_end(live);
    if (known != nullptr) known->submitted(with_ends(ends, batch));
    auto completions = store.run(batch);
    if (known != nullptr) {
      known->answered(with_ends(ends, batch), answers_with_ends(store, ends, completions, false), true);
      known->generation(store.stats().generation);
      point(disk, *known, levels_.back().damage_allowed);
    }
    return completions;
  };
  Entry entry;
  entry.owner = stranger(known != nullptr);
  entry.sequence = store.recovery().highest_sequence + 1;
  entry.value = Value("a write after recovery");
  auto completions = commit(entry);
  std::vector<LiveEntry> kept;
  for (std::size_t i = 0; i < live.size(); ++i) {
    const Completion& read = completions[i + 1];
    const bool given_up = settings_.gives_up && live[i].retained && completions[0].result && !read.result &&
                          read.result.error().code == Errc::not_found;
    if (given_up) continue;
    kept.push_back(live[i]);
    if (!read.result || read.value.size() != live[i].size || digest_of(read.value.view()) != live[i].digest)
      return "sequence " + std::to_string(live[i].sequence) + " cannot be read back\n";
  }
  if (live.size() - kept.size() != store.stats().retained_given_up)
    return "not as many retained entries are gone as were given up\n";
  live = std::move(kept);
  if (completions[0].result) {
    LiveEntry added;
    added.owner = entry.owner;
    added.sequence = entry.sequence;
    added.digest = entry.value.digest();
    added.size = static_cast<std::uint32_t>(entry.value.size());
    live.push_back(added);
  } else if (completions[0].result.error().code == Errc::no_space && !live.empty()) {
    const LiveEntry first = live.front();
    Removal removal{first.owner,  first.slot, first.sequence,
                    first.digest, false,      first.type == RecordType::alert};
    live.erase(live.begin());
    if (!commit(removal)[0].result) return "a full journal does not take a removal\n";
  } else {
    return "no write is accepted after recovery: " + completions[0].result.error().message + "\n";
  }
  auto wrong = recover_again(disk, live);
  return wrong.empty() ? wrong : "a power cut after the first write after recovery\n" + wrong;
}

/// Remembers the state, with as few effects lost as show the same.
void CrashExplorer::fail(const SimDisk& disk, const Oracle& oracle, const Effects& effects, Choices choices,
                         std::string problem) {
  for (bool shrunk = true; shrunk;) {
    shrunk = false;
    for (std::size_t i = 0; i < effects.size(); ++i) {
      for (const std::uint16_t simpler : {effects[i].newest, std::uint16_t{0}}) {
        if (choices[i] == simpler || choices[i] == effects[i].newest) continue;
        if (simpler == 0 && choices[i] != SimDisk::garbage) continue;
        Choices fewer = choices;
        fewer[i] = simpler;
        auto same = cut(disk, oracle, fewer, false);
        if (same.empty()) continue;
        choices = fewer;
        problem = same;
        shrunk = true;
      }
    }
  }
  failure_ = problem;
  for (std::size_t i = 0; i < effects.size(); ++i) {
    if (choices[i] == effects[i].newest) continue;
    failure_ += "  not kept: " + effects[i].path + " at " + std::to_string(effects[i].offset) +
                (choices[i] == SimDisk::garbage ? ": garbage\n" : "\n");
  }
  failure_ += "address: " + address_of(choices) + "\n";
}

}  // namespace guard::journal
