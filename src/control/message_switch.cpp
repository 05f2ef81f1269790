#include "control/message_switch.h"

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "base/limits.h"
#include "control/switch_connection.h"
#include "guard/types.h"
#include "wire/message_switch.h"

namespace guard::control {

namespace protocol = wire::message_switch;
using protocol::Message;
using std::chrono::duration_cast;
using std::chrono::milliseconds;

namespace {

constexpr wire::JsonLimits json_limits{.max_depth = 16, .max_bytes = limits::switch_answer};

/// When a message was queued, on the loop's clock.
struct Queued {
  std::optional<Time> earliest;  ///< absent: nobody knows
  std::optional<Time> latest;    ///< absent: a moment ago
};

/// A request that was read and not begun.
struct Waiting {
  Message message;
  std::expected<Command, std::string> command;
  Queued queued;
};

/// A request that was begun.
struct Request {
  protocol::MessageId id;
  std::string reply_queue;
  Digest payload;
  bool acknowledge_first = false;
  bool listed = true;  ///< by the switch we are connected to
  bool executing = true;
  std::optional<std::string> answer;  ///< absent while executing; and when it is too long to be remembered
  unsigned steps_done = 0;            ///< of response and acknowledgement
  unsigned attempts = 0;

  bool is(const Message& message) const {
    return id == message.id && reply_queue == message.reply_queue && payload == digest_of(message.payload);
  }
};
using RequestPtr = std::shared_ptr<Request>;

/// Whether how long it has waited decides what becomes of it. Creates come in with a caller that waits,
/// unless they were there before we were.
bool depends_on_age(const std::expected<Command, std::string>& command, bool found_there) {
  if (!command) return false;
  return std::holds_alternative<SetContents>(*command) ||
         (found_there && std::holds_alternative<CreateSocket>(*command));
}

bool is_long(const std::optional<std::string>& answer) {
  return answer && answer->size() > limits::switch_remembered_answer;
}

}  // namespace

struct MessageSwitch::Impl : std::enable_shared_from_this<MessageSwitch::Impl> {
  Impl(net::Loop& the_loop, MessageSwitchOptions the_options, Commands& the_commands, Logger& the_log)
      : loop(the_loop), options(std::move(the_options)), commands(the_commands), log(the_log) {}

  net::Loop& loop;
  const MessageSwitchOptions options;
  Commands& commands;
  Logger& log;
  MessageSwitchStats stats;
  bool draining = false;
  bool told_absent = false;
  std::function<void()> drained;

  // The session: both connections, from log-in to loss.
  std::unique_ptr<SwitchConnection> poller;
  std::unique_ptr<SwitchConnection> replier;
  bool ready = false;  ///< logged in, and the queue is there
  bool polling = false;
  bool replying = false;
  std::optional<std::string> from;  ///< absent: everything not acknowledged is listed
  bool listed_once = false;         ///< what was there before us
  std::optional<Time> heard;        ///< of the last poll: nothing listed later was queued before
  milliseconds retry = limits::switch_retry_min;
  unsigned unreadable = 0;  ///< answers in a row

  // Requests: waiting -> executing -> outbox -> remembered.
  std::deque<Waiting> waiting;
  std::size_t executing = 0;
  std::map<std::int64_t, RequestPtr> requests;  ///< begun ones by number
  std::deque<RequestPtr> outbox;
  std::deque<RequestPtr> remembered;  ///< oldest first

  bool connected() const { return stats.connected; }
  bool has_room() const { return executing + outbox.size() < limits::switch_requests; }

  // --- The session
  // ------------------------------------------------------------------------------------------

  void connect() {
    if (draining) return;
    poller = std::make_unique<SwitchConnection>(loop, options.socket_path);
    replier = std::make_unique<SwitchConnection>(loop, options.socket_path);
    from.reset();
    listed_once = false;
    poller->log_in(options.token, step([this](std::string) {
                     replier->log_in(options.token, step([this](std::string) { make_queue(); }));
                   }));
  }

  /// Goes on with the body of an answer, or gives the session up.
  template <class Next>
  SwitchConnection::Done step(Next next) {
    return [this, next](Result<std::string> answer) {
      if (!answer) return lost(answer.error());
      next(std::move(*answer));
    };
  }

  void make_queue() {
    const auto create = [this] {
      poller->request("GET", protocol::persistent_path(options.queue), {}, limits::switch_patience,
                      step([this](std::string) {
                        ready = true;
                        poll();
                      }));
    };
    if (unreadable < limits::switch_unreadable) return create();
    // Nobody can be served while it is there, and its callers have given up.
    log.log(LogLevel::error, "switch_queue_discarded",
            {{"queue", options.queue}, {"error", stats.last_error}});
    ++stats.discarded;
    unreadable = 0;
    poller->request("GET", protocol::destroy_path(options.queue), {}, limits::switch_patience,
                    step([create](std::string) { create(); }));
  }

  void lost(const Error& error) {
    poller.reset();
    replier.reset();
    ready = polling = replying = false;
    waiting.clear();  // listed again
    outbox.clear();
    for (const auto& [number, request] : requests) {
      request->listed = false;
      if (is_long(request->answer)) request->answer.reset();
    }
    stats.last_error = error.message;
    if (std::exchange(stats.connected, false)) {
      stats.since = loop.now();
      log.log(LogLevel::warning, "switch_lost", {{"error", error.message}});
    } else if (!std::exchange(told_absent, true)) {
      log.log(LogLevel::notice, "switch_absent", {{"socket", options.socket_path}, {"error", error.message}});
    }
    loop.at(loop.now() + Time(retry), [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->connect();
    });
    retry = std::min<milliseconds>(retry * 2, limits::switch_retry_max);
    finish_drain();
  }

  /// The first answer to a poll: from now on the switch can be relied upon.
  void session_stands() {
    if (connected()) return;
    stats.connected = true;
    stats.since = loop.now();
    ++stats.sessions;
    told_absent = true;
    retry = limits::switch_retry_min;
    log.log(LogLevel::notice, "switch_connected", {{"socket", options.socket_path}});
  }

  // --- Polling
  // ----------------------------------------------------------------------------------------------

  void poll() {
    if (!ready || polling || draining || !waiting.empty() || !has_room()) return;
    polling = true;
    // The first one comes back at once: what it lists was there before.
    const auto hold = connected() ? limits::switch_poll : std::chrono::seconds(0);
    poller->request("POST", protocol::transfer_path,
                    protocol::transfer_body(from, static_cast<unsigned>(hold.count()), options.queue),
                    hold + limits::switch_patience, [this](Result<std::string> answer) {
                      polling = false;
                      if (!answer) {
                        if (answer.error().code == Errc::invalid) ++unreadable;
                        return lost(answer.error());
                      }
                      polled(*answer);
                    });
  }

  void polled(const std::string& answer) {
    auto transfer = protocol::parse_transfer(answer, json_limits);
    if (!transfer) {
      ++unreadable;
      return lost(transfer.error());
    }
    unreadable = 0;
    session_stands();
    from = transfer->next;
    const std::optional<Time> since = std::exchange(heard, loop.now());
    const bool first = !std::exchange(listed_once, true);
    for (const protocol::MessageId& id : transfer->unreadable) drop(id, "it cannot be read");
    std::vector<Waiting> read;
    for (Message& message : transfer->messages) {
      if (message.id.queue != options.queue) continue;
      if (message.kind == Message::Kind::response) {
        drop(message.id, "it is a response");
        continue;
      }
      auto command = parse_request(message.payload);
      read.push_back({std::move(message), std::move(command), {since, {}}});
    }
    const bool old = !since || loop.now() - *since > Time(limits::contents_age);
    const auto depends = [first](const Waiting& w) { return depends_on_age(w.command, first); };
    if (old && std::ranges::any_of(read, depends)) return ask_ages(std::move(read), first);
    take(std::move(read));
  }

  /// Only the diagnostics of the switch tell how long a message has waited.
  void ask_ages(std::vector<Waiting> read, bool first) {
    polling = true;
    auto shared = std::make_shared<std::vector<Waiting>>(std::move(read));
    poller->request("GET", protocol::diagnostics_path, {}, limits::switch_patience,
                    [this, shared, first, asked = loop.now()](Result<std::string> answer) {
                      polling = false;
                      // Too long for us is no reason to give the session up, but it has ended with it.
                      const auto ages = answer ? protocol::parse_ages(*answer, options.queue, json_limits)
                                               : std::unexpected(answer.error());
                      if (ages) {
                        for (Waiting& w : *shared) set_age(w, *ages, asked, first);
                      } else {
                        log.log(LogLevel::warning, "switch_tells_no_ages", {{"error", ages.error().message}});
                        // What ends a poll that had to wait has just come, unless we slept longer than the
                        // poll.
                        for (Waiting& w : *shared) w.queued.earliest = first ? w.queued.earliest : asked;
                      }
                      if (!answer && answer.error().code != Errc::invalid) return lost(answer.error());
                      take(std::move(*shared));
                      if (!answer) lost(answer.error());
                    });
  }

  /// `asked`: when the diagnostics were asked for; they were made after that.
  void set_age(Waiting& w, const protocol::Ages& ages, Time asked, bool first) const {
    for (const auto& age : ages.entries) {
      if (age.number != w.message.id.number || age.age_ns < 0) continue;
      w.queued.latest = loop.now() - Time(age.age_ns);
      // After a restart of the switch with its queues, what they hold bears the date of the restart; but all
      // of that was listed by the first poll.
      if (first && age.after_start_ns < Time(limits::switch_settled).count()) continue;
      const Time earliest = asked - Time(age.age_ns);
      w.queued.earliest = w.queued.earliest ? std::max(*w.queued.earliest, earliest) : earliest;
    }
  }

  void drop(const protocol::MessageId& id, std::string_view why) {
    log.log(LogLevel::warning, "switch_message_dropped", {{"number", id.number}, {"reason", why}});
    auto request = std::make_shared<Request>();
    request->id = id;
    request->executing = false;
    request->acknowledge_first = true;
    outbox.push_back(std::move(request));
    reply();
  }

  // --- Executing
  // --------------------------------------------------------------------------------------------

  void take(std::vector<Waiting> read) {
    for (Waiting& w : read) waiting.push_back(std::move(w));
    run_waiting();
  }

  void run_waiting() {
    while (!waiting.empty() && has_room() && !draining) {
      Waiting next = std::move(waiting.front());
      waiting.pop_front();
      if (!was_begun(next.message)) execute(std::move(next));
    }
    poll();
  }

  /// Recognises what was listed before; true when it need not be executed.
  bool was_begun(const Message& message) {
    const auto found = requests.find(message.id.number);
    if (found == requests.end()) return false;
    const RequestPtr request = found->second;
    if (!request->is(message)) return false;  // the switch counts anew
    if (!request->executing && !request->answer) return false;
    request->listed = true;
    ++stats.duplicates;
    if (!request->executing) bring(request);
    return true;
  }

  Caller caller_of(const Queued& queued) const {
    const auto ago = [now = loop.now()](Time when) { return duration_cast<milliseconds>(now - when); };
    Caller caller;
    caller.transport = Caller::Transport::message_switch;
    caller.waited_at_most.reset();
    if (queued.earliest) caller.waited_at_most = ago(*queued.earliest);
    if (queued.latest) caller.waited_at_least = ago(*queued.latest);
    return caller;
  }

  void execute(Waiting next) {
    auto request = std::make_shared<Request>();
    request->id = next.message.id;
    request->reply_queue = next.message.reply_queue;
    request->payload = digest_of(next.message.payload);
    request->acknowledge_first = next.command && std::holds_alternative<SetContents>(*next.command);
    requests.insert_or_assign(request->id.number, request);
    ++executing;
    ++stats.requests;
    commands.execute(std::move(next.command), caller_of(next.queued),
                     [weak = weak_from_this(), request](std::string answer) {
                       if (const auto self = weak.lock()) self->executed(request, std::move(answer));
                     });
  }

  void executed(const RequestPtr& request, std::string answer) {
    --executing;
    request->executing = false;
    request->answer = std::move(answer);
    const auto found = requests.find(request->id.number);
    const bool current = found != requests.end() && found->second == request;
    if (current) remember(request);
    if (current && request->listed) {
      bring(request);
    } else {
      ++stats.unanswered;
    }
    run_waiting();
    finish_drain();
  }

  // --- Answering
  // --------------------------------------------------------------------------------------------

  void bring(const RequestPtr& request) {
    request->steps_done = 0;
    outbox.push_back(request);
    reply();
  }

  void reply() {
    if (replying || outbox.empty() || !replier) return;
    replying = true;
    const RequestPtr request = outbox.front();
    const bool acknowledge = request->acknowledge_first == (request->steps_done == 0);
    auto done = [this, request](Result<std::string> result) {
      replying = false;
      if (!result) return not_answered(*request, result.error());
      if (++request->steps_done < 2 && request->answer) return reply();
      outbox.pop_front();
      if (is_long(request->answer)) request->answer.reset();
      reply();
      run_waiting();
      finish_drain();
    };
    if (acknowledge || request->attempts >= limits::switch_attempts) {
      if (!acknowledge) request->steps_done = 1;  // given up: it only has to go
      return replier->request("GET", protocol::ack_path(request->id), {}, limits::switch_patience,
                              std::move(done));
    }
    replier->request("POST", protocol::response_path(request->reply_queue, request->id), *request->answer,
                     limits::switch_patience, [this, done](Result<std::string> result) {
                       if (result) check_posted(*result);
                       done(std::move(result));
                     });
  }

  void check_posted(const std::string& answer) {
    const auto posted = protocol::parse_posted(answer);
    if (posted && *posted) return;
    ++stats.unanswered;
    log.log(LogLevel::info, "switch_caller_gone", {});
  }

  void not_answered(Request& request, const Error& error) {
    if (++request.attempts == limits::switch_attempts) {
      log.log(
          LogLevel::warning, "switch_takes_no_answer",
          {{"number", request.id.number}, {"reply_queue", request.reply_queue}, {"error", error.message}});
    }
    lost(error);
  }

  /// Should the switch list it again: a restored queue, a lost acknowledgement.
  void remember(const RequestPtr& request) {
    remembered.push_back(request);
    while (remembered.size() > limits::switch_remembered) {
      const auto found = requests.find(remembered.front()->id.number);
      if (found != requests.end() && found->second == remembered.front()) requests.erase(found);
      remembered.pop_front();
    }
  }

  // --- The end
  // ----------------------------------------------------------------------------------------------

  void finish_drain() {
    if (!drained || executing > 0 || (connected() && !outbox.empty())) return;
    loop.post(std::exchange(drained, nullptr));
  }
};

MessageSwitch::MessageSwitch(net::Loop& loop, MessageSwitchOptions options, Commands& commands, Logger& log)
    : impl_(std::make_shared<Impl>(loop, std::move(options), commands, log)) {
  impl_->stats.since = loop.now();
  impl_->connect();
}

MessageSwitch::~MessageSwitch() {
  impl_->drained = nullptr;
  impl_->draining = true;
  impl_->poller.reset();
  impl_->replier.reset();
}

void MessageSwitch::drain(std::function<void()> drained) {
  impl_->draining = true;
  impl_->drained = std::move(drained);
  impl_->poller.reset();
  impl_->polling = false;
  impl_->waiting.clear();
  impl_->finish_drain();
}

const MessageSwitchStats& MessageSwitch::stats() const { return impl_->stats; }

}  // namespace guard::control
