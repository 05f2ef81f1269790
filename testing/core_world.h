// A world around the pure core, for tests: a disk, an upstream and clients, each as simple as can be, and an
// oracle that checks the promises at every step. What happens next is a list of moves; a test picks one.
//
// Every write carries the text "w<N>", N counting up, so that any two values of a slot can be put in order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/core.h"

namespace guard::testing {

using namespace guard::core;

inline std::uint64_t order_of(const Value& value) {
  return value.empty() ? 0 : std::strtoull(value.view().data() + 1, nullptr, 10);
}

struct Move {
  enum class Kind {
    write,
    read,
    commit_ok,
    commit_full,
    commit_fail,
    removal_ok,
    removal_fail,
    load_ok,
    load_damaged,
    load_fail,
    delivered,
    transient,
    suspect,
    stale,
    lane,
    payload,
    conflict,
    lost_applied,
    lost_pending,
    late_effect,
    fetch_ok,
    fetch_old,
    fetch_fail,
    probe_ok,
    probe_fail,
    session_end,
    flush,
    rollback,
    time,
    crash,
  };
  Kind kind = Kind::time;
  Owner owner;
  Slot slot = Slot::permall;
  std::size_t index = 0;
};

inline const char* name_of(Move::Kind kind) {
  static constexpr const char* names[] = {"write",
                                          "read",
                                          "commit durable",
                                          "journal full",
                                          "commit failed",
                                          "removal durable",
                                          "removal failed",
                                          "value read",
                                          "value damaged",
                                          "value unreadable",
                                          "delivered",
                                          "transient",
                                          "transient, upstream suspect",
                                          "stale",
                                          "lane refused",
                                          "payload refused",
                                          "conflict",
                                          "answer lost, applied",
                                          "answer lost, not yet applied",
                                          "late effect",
                                          "fetched",
                                          "fetched as it was at the start",
                                          "fetch failed",
                                          "probe answered",
                                          "probe failed",
                                          "session ended",
                                          "upstream flushes",
                                          "upstream restarts, what it had not flushed is lost",
                                          "time passes",
                                          "crash"};
  return names[static_cast<std::size_t>(kind)];
}

class World {
 public:
  using Key = std::pair<Owner, Slot>;

  World(Config config, std::vector<Owner> owners, std::vector<Slot> slots)
      : core(with_limits(config)), config_(config), owners_(std::move(owners)), slots_(std::move(slots)) {
    for (const Owner& owner : owners_) step(SocketOpened{owner});
  }

  static Config with_limits(Config config) {
    config.upstream.vtpm_contents = 1 << 20;
    config.upstream.nvram = 1 << 20;
    return config;
  }

  /// Everything that can happen now.
  std::vector<Move> moves(bool with_crash) const {
    using K = Move::Kind;
    std::vector<Move> all;
    for (const Owner& owner : owners_) {
      for (const Slot slot : slots_) {
        if (device_of(slot) != owner.device) continue;
        all.push_back({K::write, owner, slot, 0});
        all.push_back({K::read, owner, slot, 0});
      }
    }
    for (std::size_t i = 0; i < commits.size(); ++i) {
      all.push_back({K::commit_ok, {}, {}, i});
      all.push_back({K::commit_full, {}, {}, i});
      all.push_back({K::commit_fail, {}, {}, i});
    }
    for (std::size_t i = 0; i < removals.size(); ++i) {
      all.push_back({K::removal_ok, {}, {}, i});
      all.push_back({K::removal_fail, {}, {}, i});
    }
    for (std::size_t i = 0; i < loads.size(); ++i) {
      all.push_back({K::load_ok, {}, {}, i});
      all.push_back({K::load_damaged, {}, {}, i});
      all.push_back({K::load_fail, {}, {}, i});
    }
    for (std::size_t i = 0; i < delivers.size(); ++i) {
      for (const K kind : {K::delivered, K::transient, K::suspect, K::stale, K::lane, K::payload, K::conflict,
                           K::lost_applied, K::lost_pending}) {
        all.push_back({kind, {}, {}, i});
      }
    }
    for (std::size_t i = 0; i < late.size(); ++i) all.push_back({K::late_effect, {}, {}, i});
    for (std::size_t i = 0; i < fetches.size(); ++i) {
      all.push_back({K::fetch_ok, {}, {}, i});
      all.push_back({K::fetch_old, {}, {}, i});
      all.push_back({K::fetch_fail, {}, {}, i});
    }
    if (probing) {
      all.push_back({K::probe_ok, {}, {}, 0});
      all.push_back({K::probe_fail, {}, {}, 0});
    }
    all.push_back({K::session_end, {}, {}, 0});
    const bool loses = config_.retain > Time{};  // else nothing that was accepted is ever lost
    if (loses && unflushed_ > 0) all.push_back({K::flush, {}, {}, 0});
    // As many values as an entry remembers; that more are forgotten is for others to test.
    if (loses && unflushed_ > 0 && unflushed_ < limits::known_digests - 4)
      all.push_back({K::rollback, {}, {}, 0});
    if (core.next_wake()) all.push_back({K::time, {}, {}, 0});
    if (with_crash) all.push_back({K::crash, {}, {}, 0});
    return all;
  }

  void apply(const Move& move, Random& random) {
    using K = Move::Kind;
    now += std::chrono::microseconds(10);
    switch (move.kind) {
      case K::write:
        return write(move.owner, move.slot);
      case K::read:
        return read(move.owner, move.slot);
      case K::commit_ok:
      case K::commit_full:
      case K::commit_fail:
        return commit(move.index, move.kind);
      case K::removal_ok:
      case K::removal_fail:
        return remove(move.index, move.kind == K::removal_ok);
      case K::load_ok:
      case K::load_damaged:
      case K::load_fail:
        return load(move.index, move.kind);
      case K::late_effect:
        put(late[move.index].call.delivery);
        late.erase(late.begin() + static_cast<std::ptrdiff_t>(move.index));
        return check();
      case K::fetch_ok:
      case K::fetch_old:
      case K::fetch_fail:
        return fetch(move.index, move.kind);
      case K::probe_ok:
      case K::probe_fail:
        probing = false;
        return step(ProbeDone{move.kind == K::probe_ok, "no answer", epoch});
      case K::session_end:
        return end_session();
      case K::flush:
        return flush();
      case K::rollback:
        return roll_back();
      case K::time:
        now = std::max(now, *core.next_wake());
        return step(Tick{});
      case K::crash:
        return crash(random);
      default:
        return deliver(move.index, move.kind);
    }
  }

  /// Lets everything go well until nothing is left to do; afterwards every request must be answered and
  /// every slot upstream must hold what was acknowledged last or something newer.
  void settle(Random& random) {
    using K = Move::Kind;
    for (int rounds = 0; rounds < 100'000; ++rounds) {
      Move move{K::time, {}, {}, 0};
      if (!commits.empty())
        move.kind = K::commit_ok;
      else if (!removals.empty())
        move.kind = K::removal_ok;
      else if (!loads.empty())
        move.kind = K::load_ok;
      else if (!delivers.empty())
        move.kind = K::delivered;
      else if (!fetches.empty())
        move.kind = K::fetch_ok;
      else if (probing)
        move.kind = K::probe_ok;
      else if (!core.next_wake())
        return at_rest();
      apply(move, random);
      if (trace) trace(move);
    }
    fail("never comes to rest");
  }

  std::vector<std::string> failures;       ///< broken promises, in words
  std::function<void(const Move&)> trace;  ///< of the way to rest
  Core core;
  Time now{std::chrono::hours(1)};
  std::vector<Commit> commits;
  std::vector<Remove> removals;
  std::vector<core::ReadBack> loads;
  std::vector<Deliver> delivers;
  struct Late {
    Deliver call;
    Time until{};
  };
  struct Reading {
    Fetch call;
    Contents at_start;
    Epoch epoch = 0;
  };
  std::vector<Late> late;  ///< answers lost; may still take effect within the doubt window, in this session
  std::vector<Reading> fetches;
  bool probing = false;
  std::map<Owner, Contents> upstream;
  Epoch epoch = 1;
  std::string last_actions;  ///< of the last step, for the table

  /// What the disk holds of a slot, for people.
  std::string on_disk(const Key& key) {
    std::string text;
    for (const auto& [sequence, entry] : disk_[key]) {
      text += " " + std::to_string(sequence) + "=" + std::string(entry.value.view()) +
              (entry.retained  ? " retained"
               : entry.durable ? " durable"
                               : " perhaps");
    }
    return text.empty() ? " nothing" : text;
  }

 private:
  struct DiskEntry {
    Value value;
    std::vector<Digest> known;
    UpdateFlag update = UpdateFlag::unspecified;
    bool durable = false;
    bool retained = false;
  };
  struct Asked {
    Key key;
    bool is_read = false;
    std::uint64_t order = 0;  ///< of the write
    std::uint64_t floor = 0;  ///< of a read: what had been acknowledged when it came
  };

  void fail(const std::string& what) { failures.push_back(what); }

  /// Every third write of UEFI variables each.
  static UpdateFlag flag_of(Slot slot, std::uint64_t order) {
    if (slot != Slot::nvram) return UpdateFlag::unspecified;
    return static_cast<UpdateFlag>(order % 3);
  }

  /// The flag of a value that is sent is its own, or, if that is `no`, one of an older value.
  void check_flag(const SlotWrite& write) {
    const UpdateFlag own = flag_of(write.slot, order_of(write.value));
    if (write.slot == Slot::nvram && own != UpdateFlag::no && write.update != own) {
      fail("a value was sent with another flag than its own");
    }
  }

  void write(Owner owner, Slot slot) {
    const std::uint64_t order = ++writes_;
    asked_[++requests_] = Asked{{owner, slot}, false, order, 0};
    step(WriteArrived{requests_, owner, slot, Value("w" + std::to_string(order)), flag_of(slot, order)});
  }

  void read(Owner owner, Slot slot) {
    asked_[++requests_] = Asked{{owner, slot}, true, 0, acknowledged_[{owner, slot}]};
    step(ReadArrived{requests_, owner, slot});
  }

  void commit(std::size_t index, Move::Kind kind) {
    const Commit done = commits[index];
    commits.erase(commits.begin() + static_cast<std::ptrdiff_t>(index));
    auto& entries = disk_[{done.owner, done.slot}];
    CommitDone::Result result = CommitDone::Result::failed;
    if (kind == Move::Kind::commit_ok) {
      result = CommitDone::Result::durable;
      entries[done.sequence].durable = true;
      // A newer durable record ends the older ones at replay.
      entries.erase(entries.begin(), entries.find(done.sequence));
    } else if (kind == Move::Kind::commit_full) {
      result = CommitDone::Result::full;
      entries.erase(done.sequence);
    }
    step(CommitDone{done.owner, done.slot, done.sequence, result});
  }

  void remove(std::size_t index, bool ok) {
    const Remove done = removals[index];
    removals.erase(removals.begin() + static_cast<std::ptrdiff_t>(index));
    if (ok) {
      auto& entries = disk_[{done.owner, done.slot}];
      const auto end = entries.upper_bound(done.up_to);
      const auto kept = entries.find(done.up_to);
      if (done.retained && kept != entries.end() && kept->second.durable) {
        entries.erase(entries.begin(), kept);
        kept->second.retained = true;
      } else {
        entries.erase(entries.begin(), end);
      }
    }
    step(RemovalDone{done.owner, done.slot, done.up_to, ok});
  }

  void load(std::size_t index, Move::Kind kind) {
    const core::ReadBack wanted = loads[index];
    loads.erase(loads.begin() + static_cast<std::ptrdiff_t>(index));
    const auto& entries = disk_[{wanted.owner, wanted.slot}];
    const auto found = entries.find(wanted.sequence);
    ValueRead read{wanted.owner, wanted.slot, wanted.sequence, std::nullopt, ValueRead::Trouble::none};
    if (kind == Move::Kind::load_fail) {
      read.trouble = ValueRead::Trouble::failed;
    } else if (found == entries.end()) {
      read.trouble = ValueRead::Trouble::gone;
    } else if (kind == Move::Kind::load_damaged) {
      read.trouble = ValueRead::Trouble::damaged;
    } else {
      read.value = found->second.value;
    }
    step(std::move(read));
  }

  /// The update takes effect upstream.
  void put(const Delivery& delivery) {
    for (const SlotWrite& write : delivery.writes) {
      Value& standing = upstream[delivery.owner][write.slot];
      if (order_of(write.value) < order_of(standing)) {
        fail("P2: an older value was written over a newer one: " + std::string(standing.view()) + " by " +
             std::string(write.value.view()) + " of vm " + std::to_string(delivery.owner.vm.bytes[15]));
      }
      if (!(standing == write.value)) ++unflushed_;
      standing = write.value;
    }
  }

  /// P14. Nobody else writes in this world, so a conflict is a mistake; unless a value stands there that is
  /// newer than what is delivered, one that was never acknowledged.
  bool conflicts(const Delivery& delivery) {
    const Contents& standing = upstream[delivery.owner];
    if (delivery.base || std::ranges::all_of(standing.slots, &Value::empty)) return false;
    for (const SlotWrite& write : delivery.writes) {
      if (write.known.empty() || standing[write.slot] == write.value) continue;
      const Digest found = standing[write.slot].digest();
      if (std::ranges::find(write.known, found) != write.known.end()) continue;
      if (order_of(standing[write.slot]) > order_of(write.value)) return true;
      // An own value from before the guard last began: its records remember few values, and none from before
      // their slot had a base. It is set aside then, in sight, not lost.
      if (order_of(standing[write.slot]) < first_since_crash_) return true;
      fail("P14: a value of our own is foreign: " + std::string(standing[write.slot].view()) + " under " +
           std::string(write.value.view()) + ", " + std::to_string(write.known.size()) +
           " known:" + orders_of(write.known));
    }
    return false;
  }

  /// For people.
  std::string orders_of(const std::vector<Digest>& known) const {
    std::string text;
    for (const Digest& digest : known) {
      std::uint64_t order = writes_;
      while (order > 0 && Value("w" + std::to_string(order)).digest() != digest) --order;
      text += order == 0 ? " nothing" : " w" + std::to_string(order);
    }
    return text;
  }

  void deliver(std::size_t index, Move::Kind kind) {
    using K = Move::Kind;
    const Deliver call = delivers[index];
    delivers.erase(delivers.begin() + static_cast<std::ptrdiff_t>(index));
    Outcome outcome;
    outcome.epoch = epoch;
    outcome.reason = name_of(kind);
    const bool reaches = kind == K::delivered || kind == K::lost_applied || kind == K::lost_pending;
    if (reaches && conflicts(call.delivery)) {
      // Found before the update is sent.
      outcome.found = upstream[call.delivery.owner];
      outcome.kind = Outcome::Kind::conflict;
      return step(DeliverDone{call.delivery.owner, call.call, std::move(outcome)});
    }
    switch (kind) {
      case K::delivered:
        if (!call.delivery.base) outcome.found = upstream[call.delivery.owner];
        put(call.delivery);
        outcome.kind = Outcome::Kind::delivered;
        outcome.contents = upstream[call.delivery.owner];
        break;
      case K::suspect:
        outcome.upstream_suspect = true;
        [[fallthrough]];
      case K::transient:
        outcome.kind = Outcome::Kind::transient;
        break;
      case K::stale:
        outcome.kind = Outcome::Kind::stale;
        break;
      case K::lane:
        outcome.kind = Outcome::Kind::lane;
        break;
      case K::payload:
        outcome.kind = Outcome::Kind::payload;
        break;
      case K::conflict:
        outcome.kind = Outcome::Kind::conflict;
        break;
      case K::lost_applied:
        if (!call.delivery.base) outcome.found = upstream[call.delivery.owner];
        put(call.delivery);
        outcome.kind = Outcome::Kind::unknown;
        break;
      default:
        if (!call.delivery.base) outcome.found = upstream[call.delivery.owner];
        late.push_back({call, now + config_.doubt_window});
        outcome.kind = Outcome::Kind::unknown;
        break;
    }
    step(DeliverDone{call.delivery.owner, call.call, std::move(outcome)});
  }

  void fetch(std::size_t index, Move::Kind kind) {
    const bool ok = kind != Move::Kind::fetch_fail;
    const Reading reading = fetches[index];
    const Fetch& wanted = reading.call;
    fetches.erase(fetches.begin() + static_cast<std::ptrdiff_t>(index));
    Fetched fetched;
    fetched.kind = ok ? Outcome::Kind::delivered : Outcome::Kind::transient;
    fetched.epoch = kind == Move::Kind::fetch_old ? reading.epoch : epoch;
    if (ok) fetched.contents = kind == Move::Kind::fetch_old ? reading.at_start : upstream[wanted.owner];
    step(FetchDone{wanted.owner, wanted.call, std::move(fetched)});
  }

  void end_session() {
    // The upstream restarted: nothing of the old session can take effect any more.
    late.clear();
    const Epoch ended = epoch++;
    step(SessionEnded{ended});
  }

  void flush() {
    flushed_ = upstream;
    unflushed_ = 0;
    flushed_at_ = now;
  }

  /// The upstream lost what it had not flushed. What the guard accepted before its own last crash and held in
  /// memory alone is lost with it.
  void roll_back() {
    upstream = flushed_;
    unflushed_ = 0;
    rolled_back_ = true;
    for (const Owner& owner : owners_) excuse(owner, false);
    for (auto& [key, order] : acknowledged_) {
      if (order >= first_since_crash_ && order > unprotected_[key]) continue;
      const std::uint64_t best = best_copy(key);
      if (best >= order) continue;
      order = best;
      for (auto& [id, asked] : asked_) {
        if (asked.key == key) asked.floor = std::min(asked.floor, best);
      }
    }
    end_session();
  }

  std::uint64_t best_copy(const Key& key) {
    std::uint64_t best = order_of(upstream[key.first][key.second]);
    for (const auto& [sequence, entry] : disk_[key]) {
      if (entry.durable) best = std::max(best, order_of(entry.value));
    }
    const Lane* lane = core.lane(key.first);
    const Retained* retained = lane == nullptr ? nullptr : lane->retained(key.second);
    if (retained != nullptr && retained->entry.value) {
      best = std::max(best, order_of(*retained->entry.value));
    }
    return best;
  }

  /// kill -9 or a power cut: what was not durable is there or not; the memory is gone. Updates under way may
  /// still take effect.
  void crash(Random& random) {
    for (const Commit& lost : commits) drop_at_random({lost.owner, lost.slot}, lost.sequence, random);
    for (auto& [key, entries] : disk_) {
      while (entries.size() > 1) entries.erase(entries.begin());
      for (auto& [sequence, entry] : entries) entry.durable = true;
    }
    for (const Deliver& call : delivers) {
      if (!conflicts(call.delivery)) late.push_back({call, {}});
    }
    for (Late& call : late) call.until = now + config_.doubt_window;
    commits.clear(), removals.clear(), loads.clear(), delivers.clear(), fetches.clear();
    first_since_crash_ = writes_ + 1;
    probing = false;
    asked_.clear();
    core = Core(with_limits(config_));
    ++epoch;
    Sequence highest = 0;
    for (const auto& [key, entries] : disk_) {
      for (const auto& [sequence, entry] : entries) {
        highest = std::max(highest, sequence);
        RecoveredEntry found;
        found.slot = key.second;
        found.sequence = sequence;
        found.size = entry.value.size();
        found.digest = entry.value.digest();
        found.known = entry.known;
        found.update = entry.update;
        found.since = now;
        found.retained = entry.retained;
        core.recover(key.first, found, now);
      }
    }
    core.recover_sequence(std::max(highest, sequences_));
    // The upstream and the guard crashed, one after the other: what was direct may be lost.
    if (rolled_back_) {
      for (auto& [key, order] : acknowledged_) order = std::min(order, best_copy(key));
    }
    for (const auto& [owner, values] : notes_) core.recover_doubt(owner, values, now);
    for (const Owner& owner : owners_) step(SocketOpened{owner});
  }

  void drop_at_random(Key key, Sequence sequence, Random& random) {
    if (random.next() % 2 == 0) disk_[key].erase(sequence);
  }

  void step(Event event) {
    // It never takes longer than five minutes over it.
    if (now - flushed_at_ >= std::chrono::minutes(5)) flush();
    Actions actions;
    core.step(std::move(event), now, actions);
    last_actions.clear();
    // What the doubt window is for: after it nothing late comes any more.
    std::erase_if(late, [this](const Late& call) { return call.until <= now; });
    for (Action& action : actions) std::visit([this](auto& a) { absorb(a); }, action);
    check();
  }

  void note(const std::string& text) { last_actions += (last_actions.empty() ? "" : ", ") + text; }

  void absorb(AnswerWrite& answer) {
    const auto found = asked_.find(answer.request);
    if (found == asked_.end()) return fail("a request was answered twice");
    const Asked asked = found->second;
    asked_.erase(found);
    static constexpr const char* words[] = {"answer accepted", "answer too large", "answer unavailable"};
    note(words[static_cast<int>(answer.status)]);
    if (answer.status != WriteStatus::accepted) return;
    std::uint64_t& acknowledged = acknowledged_[asked.key];
    acknowledged = std::max(acknowledged, asked.order);
  }

  void absorb(AnswerRead& answer) {
    const auto found = asked_.find(answer.request);
    if (found == asked_.end()) return fail("a request was answered twice");
    const Asked asked = found->second;
    asked_.erase(found);
    static constexpr const char* words[] = {"read unavailable", "read pending", "read upstream",
                                            "read known"};
    note(words[static_cast<int>(answer.result.source)]);
    if (answer.result.source == ReadResult::Source::none) return;
    if (order_of(answer.result.value) < asked.floor) {
      fail(answer.result.value.empty() ? "P4: absence was invented"
                                       : "P3: a read returned less than was acknowledged");
    }
  }

  void absorb(Commit& action) {
    note("commit");
    sequences_ = std::max(sequences_, action.sequence);
    disk_[{action.owner, action.slot}][action.sequence] =
        DiskEntry{action.value, action.known, action.update, false};
    commits.push_back(action);
  }
  void absorb(Remove& action) { note("remove"), removals.push_back(action); }
  void absorb(core::ReadBack& action) { note("read back"), loads.push_back(action); }
  void absorb(Fetch& action) { note("fetch"), fetches.push_back({action, upstream[action.owner], epoch}); }
  void absorb(AnswerContents&) { fail("nobody asked for contents"); }
  void absorb(AnswerAlert&) { fail("nobody sent an alert"); }
  void absorb(RaiseAlert&) { fail("nobody sent an alert"); }
  void absorb(Done&) { fail("no operator asked for anything"); }
  void absorb(Note& action) { notes_[action.owner] = action.values; }
  void absorb(Unnote& action) {
    for (const Deliver& other : delivers) {
      if (other.delivery.owner == action.owner) fail("an update under way is noted no more");
    }
    for (const Late& other : late) {
      if (other.call.delivery.owner == action.owner) fail("a doubtful update is noted no more");
    }
    notes_.erase(action.owner);
  }
  void absorb(Probe&) {
    note("probe");
    if (probing) fail("two probes at once");
    probing = true;
  }

  void absorb(Deliver& action) {
    const Owner owner = action.delivery.owner;
    bool journaled = false;
    for (const Deliver& other : delivers) {
      if (other.delivery.owner == owner) fail("two updates of one lane at once");
    }
    for (const Late& other : late) {
      if (other.call.delivery.owner == owner) fail("P2: an update was sent while the lane is in doubt");
    }
    const auto& noted = notes_[owner];
    for (const SlotWrite& write : action.delivery.writes) {
      check_flag(write);
      sequences_ = std::max(sequences_, write.sequence);
      for (const auto& [sequence, entry] : disk_[{owner, write.slot}]) {
        if (sequence == write.sequence && entry.durable) journaled = true;
      }
      const Retained* retained = core.lane(owner)->retained(write.slot);
      if (retained != nullptr && retained->entry.sequence == write.sequence) journaled = true;
      if (std::ranges::none_of(noted, [&write](const NotedValue& value) {
            return value.slot == write.slot && value.digest == write.value.digest() &&
                   value.sequence >= write.sequence;
          })) {
        fail("an update was sent that is not noted");
      }
    }
    note(journaled ? "push delivery" : action.delivery.base ? "push direct, merged" : "push direct");
    if (!journaled) {
      // Rule 1: direct only when the journal holds nothing of the lane, not even possibly; and of the slots
      // that are written nothing retained either.
      for (const auto& [key, entries] : disk_) {
        if (key.first != owner) continue;
        const bool written = std::ranges::any_of(
            action.delivery.writes, [&](const SlotWrite& write) { return write.slot == key.second; });
        for (const auto& [sequence, entry] : entries) {
          const Entry* parked = core.lane(owner)->parked(key.second);
          const bool aside = entry.retained || (parked != nullptr && parked->sequence == sequence);
          if (written || !aside) fail("direct while the journal may hold an entry of the lane");
        }
      }
    }
    if (action.delivery.base) {
      for (const Slot slot : slots_) {
        if (!((*action.delivery.base)[slot] == upstream[owner][slot]))
          fail("merged into contents that do not stand upstream");
      }
    }
    delivers.push_back(action);
  }

  void absorb(Report& action) {
    if (action.what == Report::What::invariant) fail("invariant: " + action.text);
    if (action.what == Report::What::lane_parked || action.what == Report::What::suspended) {
      excuse(*action.owner, false);
    }
    if (action.what == Report::What::retention_lost) excuse(*action.owner, true);
    static constexpr const char* words[] = {"report down",
                                            "report up",
                                            "report held",
                                            "report released",
                                            "report parked",
                                            "report elsewhere",
                                            "report went back",
                                            "report suspended",
                                            "report retention lost",
                                            "report alerts",
                                            "report alert lost",
                                            "report stalled",
                                            "report doubt",
                                            "report journal trouble",
                                            "report journal well",
                                            "report held long",
                                            "report pending long",
                                            "report message created",
                                            "report message dropped",
                                            "report message unconfirmed",
                                            "report mode",
                                            "invariant"};
    static_assert(std::size(words) == static_cast<std::size_t>(Report::What::invariant) + 1);
    note(words[static_cast<int>(action.what)]);
  }

  bool set_aside(const Key& key) const {
    const Lane* lane = core.lane(key.first);
    if (lane == nullptr) return false;
    const Retained* retained = lane->retained(key.second);
    return lane->parked(key.second) != nullptr ||
           (retained != nullptr && retained->state == Retained::State::suspended);
  }

  /// A conflict set entries of this lane aside: reads show what stands upstream from now on. Or the only copy
  /// of what the upstream lost was damaged on the disk.
  void excuse(const Owner& owner, bool all) {
    for (auto& [key, order] : acknowledged_) {
      if (key.first != owner || (!all && !set_aside(key))) continue;
      if (all && core.lane(owner)->pending(key.second) != nullptr) continue;
      if (all) unprotected_[key] = order;
      if (all) std::erase_if(disk_[key], [](const auto& item) { return item.second.retained; });
      order = std::min(order, order_of(upstream[owner][key.second]));
      for (auto& [id, asked] : asked_) {
        if (asked.key == key) asked.floor = std::min(asked.floor, order);
      }
    }
  }

  /// What must hold at every moment, whatever happens next.
  void check() {
    for (const Owner& owner : owners_) {
      const Lane* lane = core.lane(owner);
      for (const Slot slot : slots_) {
        const Entry* parked = lane == nullptr ? nullptr : lane->parked(slot);
        if (parked == nullptr) continue;
        const auto& entries = disk_[{owner, slot}];
        if (!entries.contains(parked->sequence)) fail("P7: a parked entry is not in the journal any more");
      }
    }
    for (const auto& [key, order] : acknowledged_) {
      if (best_copy(key) < order) {
        fail("P1: an acknowledged write of " + std::string(name_of(key.second)) +
             " is neither durable nor upstream: w" + std::to_string(order) + "; on the disk" + on_disk(key));
      }
    }
    for (const auto& [key, entries] : disk_) {
      if (entries.empty()) continue;
      // After a power cut the newest that survived would be delivered: never over something newer.
      for (const auto& [sequence, entry] : entries) {
        const bool superseded = std::any_of(entries.begin(), entries.end(), [&](const auto& e) {
          return e.second.durable && e.first > sequence;
        });
        // A value written down for retention is delivered only after its P14 check.
        const Lane* lane = core.lane(key.first);
        const Retained* retained = lane == nullptr ? nullptr : lane->retained(key.second);
        const Entry* parked = lane == nullptr ? nullptr : lane->parked(key.second);
        if (entry.retained || (retained != nullptr && retained->entry.sequence == sequence)) continue;
        if (parked != nullptr && parked->sequence == sequence) continue;
        if (superseded) continue;
        const Value& standing = upstream[key.first][key.second];
        // One that nobody acknowledged may come to stand there late; it is not known to what is older.
        const auto acknowledged = acknowledged_.find(key);
        const bool unacknowledged =
            acknowledged == acknowledged_.end() || acknowledged->second < order_of(standing);
        const auto& known = entry.known;
        if (unacknowledged && !known.empty() && std::ranges::find(known, standing.digest()) == known.end())
          continue;
        if (order_of(entry.value) < order_of(standing)) {
          fail("P2: a power cut now would bring an older value back");
        }
      }
    }
  }

  void at_rest() {
    if (!asked_.empty()) fail("a request was never answered");
    if (core.pending_entries() != 0) fail("something is pending at rest");
    for (const auto& [key, order] : acknowledged_) {
      if (order_of(upstream[key.first][key.second]) < order) fail("P1: an acknowledged write never arrived");
    }
  }

  Config config_;
  std::vector<Owner> owners_;
  std::vector<Slot> slots_;
  std::map<Key, std::map<Sequence, DiskEntry>> disk_;
  std::map<RequestId, Asked> asked_;
  std::map<Key, std::uint64_t> acknowledged_;
  std::map<Owner, std::vector<NotedValue>> notes_;
  std::map<Owner, Contents> flushed_;
  Time flushed_at_{std::chrono::hours(1)};
  bool rolled_back_ = false;
  unsigned unflushed_ = 0;  ///< changes since the upstream flushed
  std::uint64_t first_since_crash_ = 0;
  std::map<Key, std::uint64_t> unprotected_;  ///< what damage to the disk left to the upstream alone
  std::uint64_t writes_ = 0;
  RequestId requests_ = 0;
  Sequence sequences_ = 0;
};

}  // namespace guard::testing
