#include "net/loop.h"

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <csignal>
#include <optional>
#include <utility>
#include <vector>

#include "net/deadlines.h"

namespace guard::net {

namespace asio = boost::asio;

namespace {

/// Work for a certain time; `order` keeps works of the same time in the order in which they were asked for.
struct Appointment {
  Time when;
  std::uint64_t order;
  std::function<void()> work;
};

/// For a heap whose front is the earliest.
bool later(const Appointment& a, const Appointment& b) {
  return a.when != b.when ? a.when > b.when : a.order > b.order;
}

}  // namespace

struct Loop::Impl {
  // One thread runs the context, so the descriptors need no locks; posting from other threads does.
  asio::io_context context{BOOST_ASIO_CONCURRENCY_HINT_UNSAFE_IO};
  asio::executor_work_guard<asio::io_context::executor_type> work{context.get_executor()};
  asio::steady_timer timer{context};
  std::optional<asio::signal_set> signals;
  std::function<void()> on_signal;
  Time armed = Time::max();  ///< what `timer` waits for
  std::vector<Appointment> appointments;
  std::uint64_t next_order = 0;
  Deadlines deadlines{[this] { arm(); }};

  static Time now() { return std::chrono::steady_clock::now().time_since_epoch(); }

  void arm() {
    const Time first = appointments.empty() ? Time::max() : appointments.front().when;
    const Time next = std::min(first, deadlines.next());
    if (next >= armed) return;
    armed = next;
    timer.expires_at(asio::steady_timer::time_point(next));
    timer.async_wait([this](boost::system::error_code error) {
      if (error) return;  // set anew, to an earlier time
      armed = Time::max();
      wake();
    });
  }

  void wake() {
    const Time when = now();
    deadlines.expire(when);
    // What is asked for meanwhile waits for the next round, so that nothing can keep the loop in here.
    const std::uint64_t end = next_order;
    while (!appointments.empty() && appointments.front().when <= when && appointments.front().order < end) {
      std::pop_heap(appointments.begin(), appointments.end(), later);
      const auto work_now = std::move(appointments.back().work);
      appointments.pop_back();
      work_now();
    }
    arm();
  }

  void wait_for_signal() {
    signals->async_wait([this](boost::system::error_code error, int) {
      if (error) return;
      wait_for_signal();
      on_signal();
    });
  }
};

Loop::Loop() : impl_(std::make_unique<Impl>()) {}
Loop::~Loop() = default;

void Loop::run() {
  impl_->context.run();
  impl_->context.restart();
}

void Loop::stop() { impl_->context.stop(); }

void Loop::post(std::function<void()> work) { asio::post(impl_->context, std::move(work)); }

void Loop::at(Time when, std::function<void()> work) {
  impl_->appointments.push_back({when, impl_->next_order++, std::move(work)});
  std::push_heap(impl_->appointments.begin(), impl_->appointments.end(), later);
  impl_->arm();
}

void Loop::on_terminate(std::function<void()> handler) {
  impl_->on_signal = std::move(handler);
  if (impl_->signals) return;
  impl_->signals.emplace(impl_->context, SIGTERM, SIGINT);
  impl_->wait_for_signal();
}

Time Loop::now() const { return Impl::now(); }

Deadlines& Loop::deadlines() { return impl_->deadlines; }

asio::io_context& Loop::context() { return impl_->context; }

}  // namespace guard::net
