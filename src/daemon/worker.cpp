#include "daemon/worker.h"

#include <pthread.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

namespace guard::daemon {

struct Worker::Impl {
  struct Job {
    std::function<void()> work;
    std::function<void()> then;
  };

  std::function<void(std::function<void()>)> post;
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<Job> jobs;
  bool stop = false;
  std::thread thread;

  void loop() {
    pthread_setname_np(pthread_self(), "guard-worker");
    for (;;) {
      Job job;
      {
        std::unique_lock lock(mutex);
        wake.wait(lock, [this] { return stop || !jobs.empty(); });
        if (stop) return;
        job = std::move(jobs.front());
        jobs.pop_front();
      }
      job.work();
      post(std::move(job.then));
    }
  }
};

Worker::Worker(std::function<void(std::function<void()>)> post) : impl_(std::make_unique<Impl>()) {
  impl_->post = std::move(post);
  impl_->thread = std::thread([impl = impl_.get()] { impl->loop(); });
}

Worker::~Worker() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->wake.notify_one();
  impl_->thread.join();
}

void Worker::run(std::function<void()> work, std::function<void()> then) {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->jobs.push_back({std::move(work), std::move(then)});
  }
  impl_->wake.notify_one();
}

}  // namespace guard::daemon
