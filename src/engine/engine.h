// The shell around the core: turns requests, journal completions and upstream answers into events, and
// carries out the actions. Everything that the disk cache is, without sockets, HTTP or a particular upstream.
//
// Thread: one, the loop thread of the host; only the journal runs on a thread of its own.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/log.h"
#include "core/core.h"
#include "guard/lane.h"
#include "guard/upstream.h"
#include "journal/journal.h"

namespace guard::engine {

/// What the engine needs of the program around it.
struct Host {
  /// Any thread: runs the work on the loop thread, in order.
  std::function<void(std::function<void()>)> post;
  /// Loop thread: runs the work at or shortly after a moment of `now`.
  std::function<void(Time, std::function<void()>)> at;
  std::function<Time()> now;
  /// Milliseconds since 1970, for people only.
  std::function<std::int64_t()> wall_ms;
};

class Engine final : public UpstreamEvents {
 public:
  /// `config.upstream` is taken from `upstream.limits()`. The upstream and the logger outlive the engine.
  Engine(Host host, core::Config config, Upstream& upstream, Logger& log);
  ~Engine() override;
  Engine(const Engine&) = delete;

  /// Loads what recovery found and starts the journal thread. Until then every request is answered
  /// `unavailable`: an unread journal makes every lane unknown (P4). Called once.
  void start(std::unique_ptr<journal::Store> store);
  bool started() const { return journal_ != nullptr; }

  /// Access to one lane for one device socket; while it lives, the lane counts as served. Several may exist
  /// for one owner. Must not outlive the engine; callbacks not yet invoked when it ends are dropped.
  std::unique_ptr<LaneAccess> open_lane(Owner owner);

  /// Forgets back-offs, then calls `done(true)` once nothing is pending, or `done(false)` at `deadline`.
  void drain(Time deadline, std::function<void(bool)> done);
  /// Calls `done` once no update is under way, or at `deadline`: what an orderly stop waits for.
  void when_quiet(Time deadline, std::function<void()> done);

  core::Snapshot snapshot() const { return core_.snapshot(); }
  std::vector<core::PendingView> pending() const { return core_.pending(); }
  /// Figures of the journal; nullopt before start().
  std::optional<journal::Stats> journal_stats() const;
  Time now() const { return host_.now(); }

  // UpstreamEvents
  void session_ended(Epoch epoch) override;
  void sign_of_life() override;

 private:
  class Access;
  struct Waiter {
    Time deadline{};
    bool for_quiet = false;
    std::function<void(bool)> done;
  };
  using WriteDone = std::function<void(WriteStatus)>;
  using ReadDone = std::function<void(ReadResult)>;

  void write(Owner owner, Slot slot, Value value, WriteDone done);
  void read(Owner owner, Slot slot, ReadDone done);
  void feed(core::Event event);
  void carry_out(core::Actions& actions);
  void completed(std::vector<journal::Completion> completions);
  void check_waiters();
  void arm();
  void report(const core::Report& report);

  void act(core::AnswerWrite& action);
  void act(core::AnswerRead& action);
  void act(core::Commit& action);
  void act(core::Remove& action);
  void act(core::ReadBack& action);
  void act(core::Deliver& action);
  void act(core::Fetch& action);
  void act(core::Probe& action);
  void act(core::Report& action) { report(action); }

  Host host_;
  Upstream& upstream_;
  Logger& log_;
  core::Core core_;
  std::shared_ptr<Engine*> self_;  ///< what callbacks hold: null once the engine is gone
  std::unordered_map<core::RequestId, WriteDone> writes_;
  std::unordered_map<core::RequestId, ReadDone> reads_;
  core::RequestId last_request_ = 0;
  std::unordered_map<Owner, unsigned> open_;
  std::deque<core::Event> events_;
  bool feeding_ = false;
  core::Actions actions_;
  std::vector<journal::Request> journal_requests_;
  std::vector<Waiter> waiters_;
  std::optional<Time> armed_;
  std::unique_ptr<journal::Journal> journal_;  ///< last: its thread ends before anything it calls into
};

}  // namespace guard::engine
