// Serves the privileged interface on the message switch: the transport by which xenopsd and xapi ask for
// device sockets (commands.h has the requests themselves).
//
// Two connections: one polls, the other brings responses and acknowledgements, so that a request that takes
// long holds up nobody. Requests are begun in the order in which the switch got them, whatever order it lists
// them in; those for one path or one vTPM are also finished in that order, all others concurrently.
//
// The switch may go away at any moment, with or without its queues, and come back. After every loss both
// connections are made anew, logged in, the queue is created, and everything not acknowledged is listed once
// more. What was executed already, or is being executed, is recognised (same number, same reply queue, same
// payload) and answered without being executed again; what the switch does not list any more is not answered,
// because its number may by then belong to somebody else's request. While there is no switch nothing else is
// affected; it is looked for for ever.
//
// A request of vtpm_set_contents is acknowledged before its response is posted: once its caller knows, it
// cannot come back. Others are acknowledged after their response: a caller that waits is answered even if the
// guard ends in between.
//
// Thread: the loop thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/log.h"
#include "control/commands.h"
#include "net/loop.h"

namespace guard::control {

struct MessageSwitchOptions {
  std::string socket_path;
  /// Session name of a server: its process id in decimal.
  std::string token;
  std::string queue = "org.xen.xapi.xapi_depriv";
};

/// For status and metrics.
struct MessageSwitchStats {
  bool connected = false;
  Time since{};            ///< of `connected`, on the loop's clock
  std::string last_error;  ///< why it is not, or was not the last time
  std::uint64_t sessions = 0;
  std::uint64_t requests = 0;    ///< executed
  std::uint64_t duplicates = 0;  ///< listed again and not executed again
  std::uint64_t unanswered = 0;  ///< executed, and nobody left to answer
  std::uint64_t discarded = 0;   ///< queues that were made anew because they could not be read
};

class MessageSwitch {
 public:
  /// Begins to look for the switch. `loop`, `commands` and `log` outlive it.
  MessageSwitch(net::Loop& loop, MessageSwitchOptions options, Commands& commands, Logger& log);
  /// Closes the connections. What is being executed ends without an answer.
  ~MessageSwitch();
  MessageSwitch(const MessageSwitch&) = delete;

  /// Takes no more requests; calls `drained`, on the loop thread and not before the return, once everything
  /// taken was executed and, as long as the switch is there, answered. Call it once.
  void drain(std::function<void()> drained);

  const MessageSwitchStats& stats() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace guard::control
