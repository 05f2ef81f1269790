#include "upstream/timer.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <utility>

namespace guard::upstream {

struct Timer::Impl {
  explicit Impl(net::Loop& the_loop) : loop(the_loop), timer(the_loop.context()) {}
  net::Loop& loop;
  boost::asio::steady_timer timer;
  std::function<void()> work;
  /// Goes up at each setting and cancelling: a handler that was already on its way when that happened sees
  /// that it is late.
  std::uint64_t round = 0;
};

Timer::Timer(net::Loop& loop) : impl_(std::make_shared<Impl>(loop)) {}

Timer::~Timer() { cancel(); }

void Timer::set(Time when, std::function<void()> work) {
  impl_->work = std::move(work);
  impl_->timer.expires_after(when - impl_->loop.now());
  impl_->timer.async_wait([impl = impl_, round = ++impl_->round](const boost::system::error_code& error) {
    if (error || impl->round != round) return;
    std::exchange(impl->work, nullptr)();
  });
}

void Timer::cancel() {
  ++impl_->round;
  if (!impl_->work) return;
  impl_->work = nullptr;
  impl_->timer.cancel();
}

bool Timer::is_set() const { return static_cast<bool>(impl_->work); }

}  // namespace guard::upstream
