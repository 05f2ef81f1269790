#include "buffer/buffer_impl.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <exception>
#include <system_error>
#include <utility>

#include "base/limits.h"
#include "base/random.h"

namespace guard {

namespace {

using std::chrono::duration_cast;
using std::chrono::milliseconds;

std::int64_t wall_ms() {
  return duration_cast<milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

core::Config config_of(const BufferOptions& options) {
  core::Config config;
  config.direct_timeout = options.direct_timeout;
  config.doubt_window = options.doubt_window;
  config.delivery_concurrency = options.delivery_concurrency;
  config.queue_entries = options.queue_entries;
  config.seed = random_bits();
  return config;
}

Error closed_error() { return {Errc::closed, 0, "the buffer was closed"}; }

std::optional<Error> error_of(WriteStatus status) {
  switch (status) {
    case WriteStatus::accepted:
      return std::nullopt;
    case WriteStatus::too_large:
      return Error::invalid("the upstream does not take this value");
    case WriteStatus::unavailable:
      break;
  }
  return Error{Errc::unavailable, 0, "neither the upstream nor the journal took the value"};
}

std::optional<Error> check(Key key) {
  if (device_of(key.slot) == Device::vtpm && static_cast<std::size_t>(key.slot) < slot_count)
    return std::nullopt;
  return Error::invalid("there is no such slot");
}

}  // namespace

void buffer::LineLogger::log(LogLevel level, std::string_view event, std::initializer_list<Field> fields) {
  if (!enabled(level)) return;
  try {
    sink_(level, log_line(event, fields));
  } catch (...) {
    // There is nobody left to tell.
  }
}

Buffer::Impl::Impl(const Options& options, UpstreamLimits limits, Upstream& upstream)
    : options_(options),
      log_(options.log, options.log_level),
      gate_(options.max_requests, options.max_request_bytes),
      loop_(std::make_shared<buffer::Loop>()),
      upstream_(upstream, limits, loop_, log_),
      lanes_(limits::buffer_lanes) {}

// --- The beginning ----------------------------------------------------------------------------------------

std::optional<Error> Buffer::Impl::start(const std::string& dir) {
  auto store = open_journal(dir);
  if (!store) {
    Error error = std::move(store.error());
    error.message = dir + ": " + error.message;
    return error;
  }
  store_ = std::move(*store);
  return start_thread();
}

Result<std::unique_ptr<journal::Store>> Buffer::Impl::open_journal(const std::string& dir) {
  auto opened = open_directory(dir);
  if (!opened) return std::unexpected(std::move(opened.error()));
  auto lock = (*opened)->lock("lock");
  if (!lock) {
    if (lock.error().code == Errc::busy) lock.error().message = "in use by another buffer or a guard";
    return std::unexpected(std::move(lock.error()));
  }
  auto journal_dir = (*opened)->open_dir("journal", true);
  if (!journal_dir) return std::unexpected(std::move(journal_dir.error()));
  auto store = journal::Store::open(std::move(*journal_dir), {options_.journal_size, options_.journal_max},
                                    random_bits, log_);
  if (!store) return store;
  auto notes = engine::CallNotes::open(dir, engine::identity_of(dir));
  if (!notes) return std::unexpected(std::move(notes.error()));
  notes_ = std::move(*notes);
  lock_ = std::move(*lock);
  (*store)->keep(lock_);  // a call to a disk that hangs may outlive us
  return store;
}

/// The embedder's signals are his threads' affair: ours, the journal's included, block them all.
std::optional<Error> Buffer::Impl::start_thread() {
  std::promise<std::optional<Error>> opened;
  auto outcome = opened.get_future();
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::optional<Error> failed;
  try {
    thread_ = std::thread([this, &opened] { run_thread(opened); });
  } catch (const std::system_error& error) {
    failed = Error::system("start a thread", error.code().value());
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (failed) return failed;
  failed = outcome.get();
  if (failed) thread_.join();
  return failed;
}

void Buffer::Impl::run_thread(std::promise<std::optional<Error>>& opened) {
  loop_->post([this, &opened] {
    try {
      build();
      opened.set_value(std::nullopt);
    } catch (const std::exception& error) {
      opened.set_value(Error{Errc::io, 0, std::string("cannot start: ") + error.what()});
      loop_->stop();
    }
  });
  loop_->run();
  // The journal finishes what it was given, then nothing of ours answers any more.
  lanes_.clear();
  engine_.reset();
  answer_the_rest();
  store_.reset();
  notes_.reset();
  lock_.reset();
}

void Buffer::Impl::build() {
  engine::Host host;
  // The engine does not outlive the loop.
  host.post = [loop = loop_.get()](std::function<void()> work) { loop->post(std::move(work)); };
  host.at = [loop = loop_.get()](Time when, std::function<void()> work) { loop->at(when, std::move(work)); };
  host.now = buffer::Loop::now;
  host.wall_ms = wall_ms;
  engine_ = std::make_unique<engine::Engine>(std::move(host), config_of(options_), upstream_, log_);
  const bool first_start = store_->recovery().created;
  engine_->start(std::move(store_), std::move(notes_), first_start);
}

// --- Requests, on any thread ------------------------------------------------------------------------------

std::optional<Error> Buffer::Impl::write(Key key, Value value, RawDone done, WhenFull when_full) {
  if (auto wrong = check(key)) return wrong;
  const std::size_t bytes = value.size();
  return gate_.enter(bytes, when_full, [&] {
    loop_->post([this, key, value = std::move(value), done = std::move(done)]() mutable {
      begin_write(key, std::move(value), std::move(done));
    });
  });
}

std::optional<Error> Buffer::Impl::read(Key key, RawReadDone done, WhenFull when_full) {
  if (auto wrong = check(key)) return wrong;
  return gate_.enter(0, when_full, [&] {
    loop_->post([this, key, done = std::move(done)]() mutable { begin_read(key, std::move(done)); });
  });
}

std::optional<Error> Buffer::Impl::drain(milliseconds patience, RawDone done, WhenFull when_full) {
  return gate_.enter(0, when_full, [&] {
    loop_->post(
        [this, patience, done = std::move(done)]() mutable { begin_drain(patience, std::move(done)); });
  });
}

/// Runs `function` on the loop's thread and returns what it returned; nothing when the loop has ended.
template <class Answer, class Function>
Answer Buffer::Impl::ask(Function function) {
  if (on_own_thread()) return function();
  auto promise = std::make_shared<std::promise<Answer>>();
  auto answer = promise->get_future();
  loop_->post([promise = std::move(promise), function] { promise->set_value(function()); });
  try {
    return answer.get();
  } catch (const std::future_error&) {
    return Answer{};  // the loop has ended and the work was destroyed
  }
}

std::vector<PendingEntry> Buffer::Impl::pending() {
  return ask<std::vector<PendingEntry>>([this] {
    std::vector<PendingEntry> entries;
    if (!engine_) return entries;
    const Time now = engine_->now();
    for (const core::PendingView& entry : engine_->pending()) {
      const auto age = duration_cast<milliseconds>(now - entry.since);
      entries.push_back(PendingEntry{{entry.owner.vm, entry.slot}, entry.size, age});
    }
    return entries;
  });
}

BufferStatus Buffer::Impl::status() {
  return ask<BufferStatus>([this] {
    using State = BufferStatus::UpstreamState;
    BufferStatus status;
    if (!engine_) return status;
    const core::Snapshot view = engine_->snapshot();
    const Time now = engine_->now();
    const auto age = [now](Time since) { return duration_cast<milliseconds>(now - since); };
    status.upstream = view.upstream == core::Health::State::up     ? State::up
                      : view.upstream == core::Health::State::down ? State::down
                                                                   : State::unknown;
    status.upstream_error = view.upstream_error;
    status.pending_entries = view.pending_entries;
    status.pending_bytes = view.pending_bytes;
    if (view.oldest_since) status.oldest_age = age(*view.oldest_since);
    for (const auto& held : view.held) status.held.push_back({held.owner.vm, held.reason, age(held.since)});
    status.doubt = view.doubt;
    if (const auto journal = engine_->journal_stats()) {
      status.journal_usable = journal->state == journal::State::ok;
      status.journal_reserved = journal->reserved;
      status.journal_live_bytes = journal->live_bytes;
      status.journal_capacity_bytes = journal->capacity_bytes;
      status.journal_corrupt_records = journal->corrupt_records;
    }
    return status;
  });
}

// --- Requests, on the loop's thread -----------------------------------------------------------------------

void Buffer::Impl::begin_write(Key key, Value value, RawDone done) {
  const RequestId id = ++last_request_;
  writes_.emplace(id, Write{value.size(), std::move(done)});
  lanes_.of(*engine_, key.owner).write(key.slot, std::move(value), [this, id](WriteStatus status) {
    finish_write(id, error_of(status));
  });
}

void Buffer::Impl::begin_read(Key key, RawReadDone done) {
  const RequestId id = ++last_request_;
  reads_.emplace(id, Read{engine_->now() + options_.read_timeout, std::move(done)});
  lanes_.of(*engine_, key.owner).read(key.slot, [this, id](ReadResult result) {
    if (result.source != ReadResult::Source::none) return finish_read(id, {}, std::move(result.value));
    finish_read(id, Error{Errc::unavailable, 0, "the upstream cannot be read"}, {});
  });
  watch_reads();
}

void Buffer::Impl::begin_drain(milliseconds patience, RawDone done) {
  const RequestId id = ++last_request_;
  drains_.emplace(id, std::move(done));
  if (stopping_) return finish_drain(id, closed_error());
  if (engine_->snapshot().pending_entries == 0) return finish_drain(id, std::nullopt);
  const Time longest = limits::drain_max;
  const Time deadline = engine_->now() + std::clamp<Time>(patience, Time::zero(), longest);
  engine_->drain(deadline, [this, id](bool drained) {
    if (drained) return finish_drain(id, std::nullopt);
    finish_drain(id, Error{Errc::timeout, 0, "not everything could be delivered"});
  });
}

void Buffer::Impl::finish_write(RequestId id, std::optional<Error> error) {
  auto request = writes_.extract(id);
  if (request.empty()) return;
  gate_.leave(request.mapped().bytes);
  call_back(request.mapped().done, std::move(error));
  continue_stop();
}

void Buffer::Impl::finish_read(RequestId id, std::optional<Error> error, Value value) {
  auto request = reads_.extract(id);
  if (request.empty()) return;  // it was answered at its deadline
  gate_.leave(0);
  call_back(request.mapped().done, std::move(error), std::move(value));
  continue_stop();
}

void Buffer::Impl::finish_drain(RequestId id, std::optional<Error> error) {
  auto request = drains_.extract(id);
  if (request.empty()) return;
  gate_.leave(0);
  call_back(request.mapped(), std::move(error));
}

/// One alarm for the oldest read.
void Buffer::Impl::watch_reads() {
  if (watching_reads_ || reads_.empty()) return;
  watching_reads_ = true;
  loop_->at(reads_.begin()->second.deadline, [this] {
    watching_reads_ = false;
    const Time now = engine_->now();
    while (!reads_.empty() && reads_.begin()->second.deadline <= now) {
      finish_read(reads_.begin()->first, Error{Errc::timeout, 0, "the upstream did not answer"}, {});
    }
    watch_reads();
  });
}

template <class Function, class... Outcome>
void Buffer::Impl::call_back(const Function& done, Outcome... outcome) {
  try {
    done(std::move(outcome)...);
  } catch (const std::exception& error) {
    log_.log(LogLevel::error, "callback_threw", {{"what", error.what()}});
  } catch (...) {
    log_.log(LogLevel::error, "callback_threw", {{"what", "something"}});
  }
}

// --- The end ----------------------------------------------------------------------------------------------

std::optional<Error> Buffer::Impl::close() {
  if (on_own_thread()) return Error::invalid("close() on the buffer's own thread would wait for itself");
  const std::lock_guard lock(close_mutex_);
  if (!thread_.joinable()) return std::nullopt;
  gate_.close([this] { loop_->post([this] { begin_stop(); }); });
  thread_.join();
  if (ended_quiet_) return std::nullopt;
  return Error{Errc::timeout, 0, "closed while an answer was outstanding"};
}

/// Everything that the gate let in has been begun by now. Requests are finished; updates that are not yet
/// sent stay in the journal.
void Buffer::Impl::begin_stop() {
  stopping_ = true;
  upstream_.refuse_updates();
  while (!drains_.empty()) finish_drain(drains_.begin()->first, closed_error());
  loop_->at(engine_->now() + options_.close_timeout, [this] { end_stop(false); });
  continue_stop();
}

void Buffer::Impl::continue_stop() {
  if (!stopping_ || asked_for_quiet_ || !writes_.empty() || !reads_.empty()) return;
  asked_for_quiet_ = true;
  // The alarm of begin_stop() ends the waiting; this one's own must not come first.
  const Time never = engine_->now() + options_.close_timeout + std::chrono::minutes(1);
  engine_->stop(never, [this](bool quiet) { end_stop(quiet); });
}

void Buffer::Impl::end_stop(bool quiet) {
  asked_for_quiet_ = true;
  ended_quiet_ = quiet;
  loop_->stop();
}

void Buffer::Impl::answer_the_rest() {
  while (!writes_.empty()) finish_write(writes_.begin()->first, closed_error());
  while (!reads_.empty()) finish_read(reads_.begin()->first, closed_error(), {});
  while (!drains_.empty()) finish_drain(drains_.begin()->first, closed_error());
}

}  // namespace guard
