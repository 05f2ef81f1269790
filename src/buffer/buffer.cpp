// The public face: checks what the embedder asks for, waits where it is asked to wait, and hands the rest to
// Impl.
#include "guard/buffer.h"

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "base/limits.h"
#include "buffer/buffer_impl.h"

namespace guard {

namespace {

using WhenFull = buffer::Gate::WhenFull;

/// Where a thread waits for one callback. Shared with the callback, which may still be about to let go of it
/// when the thread goes on.
struct Waiting {
  std::mutex mutex;
  std::condition_variable wake;
  bool done = false;
  std::optional<Error> error;
  Value value;

  void finish(std::optional<Error> outcome, Value read = {}) {
    const std::lock_guard lock(mutex);
    error = std::move(outcome);
    value = std::move(read);
    done = true;
    wake.notify_one();
  }
  std::optional<Error> wait() {
    std::unique_lock lock(mutex);
    wake.wait(lock, [this] { return done; });
    return std::move(error);
  }
};

Error no_buffer() { return {Errc::closed, 0, "there is no buffer here: it was moved from"}; }

Error own_thread() { return Error::invalid("waiting on the buffer's own thread would wait for itself"); }

std::optional<Error> check(const BufferOptions& options) {
  const std::chrono::milliseconds none{0};
  if (options.direct_timeout <= none || options.doubt_window < none || options.read_timeout <= none ||
      options.close_timeout < none) {
    return Error::invalid("a time limit is out of range");
  }
  if (options.delivery_concurrency == 0 || options.max_requests == 0 || options.max_request_bytes == 0) {
    return Error::invalid("a bound is 0");
  }
  return std::nullopt;
}

}  // namespace

std::shared_ptr<Buffer::Impl> Buffer::open_impl(const std::string& dir, const Options& options,
                                                Upstream& upstream, Error& error) {
  if (auto wrong = check(options)) {
    error = std::move(*wrong);
    return nullptr;
  }
  UpstreamLimits limits;
  try {
    limits = upstream.limits();
  } catch (...) {  // whatever it is, nobody above this knows it
    error = Error::invalid("limits() of the upstream threw an exception");
    return nullptr;
  }
  if (limits.vtpm_contents == 0) {
    error = Error::invalid("limits().vtpm_contents of the upstream is 0: it takes nothing");
    return nullptr;
  }
  // What does not fit in a record could not be kept.
  limits.vtpm_contents = std::min(limits.vtpm_contents, limits::journal_payload);
  auto impl = std::make_shared<Impl>(options, limits, upstream);
  if (auto failed = impl->start(dir)) {
    error = std::move(*failed);
    return nullptr;
  }
  return impl;
}

Buffer::Buffer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

Buffer::Buffer(Buffer&& other) noexcept = default;

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this == &other) return *this;
  Buffer old(std::move(impl_));  // closed at the end of this function
  impl_ = std::move(other.impl_);
  return *this;
}

Buffer::~Buffer() {
  if (!impl_) return;
  if (impl_->on_own_thread()) {
    std::fputs("guard::Buffer destroyed on its own thread\n", stderr);
    std::abort();
  }
  (void)close();
}

std::optional<Error> Buffer::start_write(Key key, Value value, RawDone done) {
  if (!impl_) return no_buffer();
  return impl_->write(key, std::move(value), std::move(done), WhenFull::refuse);
}

std::optional<Error> Buffer::write_and_wait(Key key, Value value) {
  if (!impl_) return no_buffer();
  if (impl_->on_own_thread()) return own_thread();
  const auto waiting = std::make_shared<Waiting>();
  auto refused = impl_->write(
      key, std::move(value), [waiting](std::optional<Error> error) { waiting->finish(std::move(error)); },
      WhenFull::wait);
  return refused ? refused : waiting->wait();
}

std::optional<Error> Buffer::start_read(Key key, RawReadDone done) {
  if (!impl_) return no_buffer();
  return impl_->read(key, std::move(done), WhenFull::refuse);
}

std::optional<Error> Buffer::read_and_wait(Key key, Value& value) {
  if (!impl_) return no_buffer();
  if (impl_->on_own_thread()) return own_thread();
  const auto waiting = std::make_shared<Waiting>();
  auto refused = impl_->read(
      key,
      [waiting](std::optional<Error> error, Value read) {
        waiting->finish(std::move(error), std::move(read));
      },
      WhenFull::wait);
  if (refused) return refused;
  auto error = waiting->wait();
  value = std::move(waiting->value);
  return error;
}

std::optional<Error> Buffer::start_drain(std::chrono::milliseconds patience, RawDone done) {
  if (!impl_) return no_buffer();
  return impl_->drain(patience, std::move(done), WhenFull::refuse);
}

std::optional<Error> Buffer::drain_and_wait(std::chrono::milliseconds patience) {
  if (!impl_) return no_buffer();
  if (impl_->on_own_thread()) return own_thread();
  const auto waiting = std::make_shared<Waiting>();
  auto refused = impl_->drain(
      patience, [waiting](std::optional<Error> error) { waiting->finish(std::move(error)); }, WhenFull::wait);
  return refused ? refused : waiting->wait();
}

std::vector<PendingEntry> Buffer::pending() const {
  return impl_ ? impl_->pending() : std::vector<PendingEntry>();
}

BufferStatus Buffer::status() const { return impl_ ? impl_->status() : BufferStatus(); }

std::optional<Error> Buffer::close_impl() { return impl_ ? impl_->close() : std::nullopt; }

}  // namespace guard
