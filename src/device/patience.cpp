#include "device/patience.h"

#include <algorithm>
#include <utility>

namespace guard::device {

namespace {

using Kind = UefiOutcome::Kind;

/// One question until it is answered and its last attempt has ended.
struct Task final : net::Deadlines::Item, std::enable_shared_from_this<Task> {
  Patience::Question question;
  Time arrived{};
  bool attempting = false;
  bool waiting = false;
  bool overdue = false;  ///< came when there was no time left, and its attempt does not end
  bool answered = false;
  std::string reason = "no answer in time";  ///< of the last attempt
  std::function<void(Task&)> due;

  void on_deadline() override {
    const auto self = shared_from_this();
    due(*this);
  }
};
using TaskPtr = std::shared_ptr<Task>;

}  // namespace

struct Patience::Impl : std::enable_shared_from_this<Patience::Impl> {
  Impl(net::Loop& l, Times t) : loop(l), times(t) {}

  net::Loop& loop;
  const Times times;
  std::vector<TaskPtr> open;    ///< without an answer
  std::deque<TaskPtr> ordered;  ///< the first is being attempted or waits for its next attempt
  std::optional<Time> period;   ///< when the last one began
  bool closed = false;

  void start(Task& task, std::chrono::milliseconds length) {
    net::Deadlines& deadlines = loop.deadlines();
    deadlines.start(deadlines.list(length), task, loop.now());
  }

  void ask(Question question) {
    const auto task = std::make_shared<Task>();
    task->question = std::move(question);
    task->arrived = loop.now();
    task->due = [this](Task& due_task) { due(due_task); };
    open.push_back(task);
    start(*task, times.grace);
    if (!task->question.in_order) return attempt(task);
    ordered.push_back(task);
    if (ordered.size() == 1) attempt(task);
  }

  void attempt(const TaskPtr& task) {
    task->attempting = true;
    // A copy, because an answer that comes at once ends the question.
    const Attempt run = task->question.attempt;
    run([weak = weak_from_this(), task](UefiOutcome outcome, std::string body) {
      const auto self = weak.lock();
      if (self && !self->closed) self->attempted(task, std::move(outcome), std::move(body));
    });
  }

  void attempted(const TaskPtr& task, UefiOutcome outcome, std::string body) {
    task->attempting = false;
    if (!task->answered) {
      if (outcome.kind != Kind::unavailable) {
        answer(task, std::move(outcome), std::move(body));
      } else {
        if (!outcome.reason.empty()) task->reason = std::move(outcome.reason);
        if (!task->waiting) wait(task);
        if (!task->answered) return start(*task, times.retry);
      }
    }
    if (!closed) advance(task);
  }

  /// The question is answered and nothing of it is under way: the next in order begins.
  void advance(const TaskPtr& task) {
    if (ordered.empty() || ordered.front() != task) return;
    ordered.pop_front();
    // One that was given up before its turn is never attempted: its client was told that it failed.
    while (!ordered.empty() && ordered.front()->answered) ordered.pop_front();
    if (!ordered.empty()) attempt(ordered.front());
  }

  void due(Task& due_task) {
    const auto self = shared_from_this();  // an answer may end this object
    const TaskPtr task = due_task.shared_from_this();
    if (task->overdue) return give_up(task);
    if (task->waiting) return attempt(task);
    if (!used_up()) return wait(task);
    task->overdue = true;
    start(*task, times.length);
  }

  bool used_up() const {
    if (!period) return false;
    const Time age = loop.now() - *period;
    return age >= times.length && age < times.renewed;
  }

  void wait(const TaskPtr& task) {
    if (used_up()) return give_up(task);
    const Time now = loop.now();
    const bool first = !period || now - *period >= times.length;
    if (first) {
      period = task->arrived;
      loop.at(*period + times.length, [weak = weak_from_this(), began = *period] {
        const auto self = weak.lock();
        if (self && !self->closed && self->period == began) self->give_up_all();
      });
    }
    task->waiting = true;
    task->question.waits(first);
  }

  void give_up_all() {
    for (const TaskPtr& task : std::vector<TaskPtr>(open)) {
      if (task->waiting && !task->answered && !closed) give_up(task);
    }
  }

  void give_up(const TaskPtr& task) {
    const bool attempting = task->attempting;
    answer(task, {Kind::unavailable, task->reason}, {});
    if (!attempting && !closed) advance(task);
  }

  void answer(const TaskPtr& task, UefiOutcome outcome, std::string body) {
    net::Deadlines::stop(*task);
    task->answered = true;
    std::erase(open, task);
    // The value goes with the attempt, not with whoever still holds the task.
    const Question question = std::exchange(task->question, Question{task->question.in_order, {}, {}, {}});
    question.done(std::move(outcome), std::move(body));
  }

  void close() {
    closed = true;
    for (const TaskPtr& task : open) net::Deadlines::stop(*task);
    open.clear();
    ordered.clear();
  }
};

Patience::Patience(net::Loop& loop, Times times) : impl_(std::make_shared<Impl>(loop, times)) {}
Patience::~Patience() { impl_->close(); }

void Patience::ask(Question question) {
  const auto impl = impl_;
  impl->ask(std::move(question));
}

}  // namespace guard::device
