// What a Buffer is inside. Requests come in through the gate, are posted to the loop, and from there on all
// state belongs to the loop's thread: tables of what has not been answered, lanes, engine.
#pragma once

#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/log.h"
#include "buffer/foreign_upstream.h"
#include "buffer/gate.h"
#include "buffer/lanes.h"
#include "buffer/loop.h"
#include "engine/engine.h"
#include "guard/buffer.h"
#include "guard/env.h"

namespace guard {

namespace buffer {

/// Lines for the embedder, who may throw.
class LineLogger final : public Logger {
 public:
  using Sink = std::function<void(LogLevel, std::string_view)>;
  LineLogger(Sink sink, LogLevel level) : sink_(std::move(sink)), level_(level) {}
  void log(LogLevel level, std::string_view event, std::initializer_list<Field> fields) override;
  bool enabled(LogLevel level) const override { return sink_ && level >= level_; }

 private:
  const Sink sink_;
  const LogLevel level_;
};

}  // namespace buffer

class Buffer::Impl {
 public:
  using WhenFull = buffer::Gate::WhenFull;
  Impl(const Options& options, UpstreamLimits limits, Upstream& upstream);
  /// After close(), or when start() failed.
  ~Impl() = default;
  Impl(const Impl&) = delete;

  /// Locks the directory, recovers the journal, starts the thread. Called once, before anything else.
  std::optional<Error> start(const std::string& dir);

  // Any thread.
  std::optional<Error> write(Key key, Value value, RawDone done, WhenFull when_full);
  std::optional<Error> read(Key key, RawReadDone done, WhenFull when_full);
  std::optional<Error> drain(std::chrono::milliseconds patience, RawDone done, WhenFull when_full);
  std::vector<PendingEntry> pending();
  BufferStatus status();
  std::optional<Error> close();
  bool on_own_thread() const { return loop_->on_this_thread(); }

 private:
  using RequestId = std::uint64_t;
  struct Write {
    std::size_t bytes = 0;
    RawDone done;
  };
  struct Read {
    Time deadline{};
    RawReadDone done;
  };

  Result<std::unique_ptr<journal::Store>> open_journal(const std::string& dir);
  std::optional<Error> start_thread();
  void run_thread(std::promise<std::optional<Error>>& opened);
  void build();
  template <class Answer, class Function>
  Answer ask(Function function);

  void begin_write(Key key, Value value, RawDone done);
  void begin_read(Key key, RawReadDone done);
  void begin_drain(std::chrono::milliseconds patience, RawDone done);
  void finish_write(RequestId id, std::optional<Error> error);
  void finish_read(RequestId id, std::optional<Error> error, Value value);
  void finish_drain(RequestId id, std::optional<Error> error);
  void watch_reads();
  /// Calls back; nothing that a callback throws gets further.
  template <class Function, class... Outcome>
  void call_back(const Function& done, Outcome... outcome);

  void begin_stop();
  void continue_stop();
  void end_stop(bool quiet);
  void answer_the_rest();

  const Options options_;
  buffer::LineLogger log_;
  buffer::Gate gate_;
  std::shared_ptr<buffer::Loop> loop_;

  // Of the thread that opens, then of the loop's.
  std::shared_ptr<void> lock_;
  std::unique_ptr<journal::Store> store_;
  std::unique_ptr<engine::CallNotes> notes_;

  // Of the loop's thread.
  buffer::ForeignUpstream upstream_;
  std::unique_ptr<engine::Engine> engine_;
  buffer::Lanes lanes_;
  std::unordered_map<RequestId, Write> writes_;
  std::map<RequestId, Read> reads_;  ///< in the order of their deadlines, too
  std::unordered_map<RequestId, RawDone> drains_;
  RequestId last_request_ = 0;
  bool watching_reads_ = false;
  bool stopping_ = false;
  bool asked_for_quiet_ = false;
  bool ended_quiet_ = false;

  std::mutex close_mutex_;  ///< who closes first, waits for the thread; the others wait for him
  std::thread thread_;
};

}  // namespace guard
