// Single calls to xapi: encode, send over the pool, read the answer, sort failures. Knows nothing of
// sessions. Thread: the loop thread.
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "base/log.h"
#include "guard/env.h"
#include "net/loop.h"
#include "upstream/connection_pool.h"
#include "upstream/xapi_message.h"

namespace guard::upstream {

/// What was asked of xapi and how it went, since the start of the process.
struct XapiCounters {
  struct Calls {
    std::uint64_t succeeded = 0;
    std::uint64_t refused = 0;  ///< answered with an error
    std::uint64_t failed = 0;   ///< no usable answer
  };
  std::array<Calls, method_count> calls;
  std::uint64_t connects = 0;
  std::uint64_t logins = 0;  ///< successful ones = sessions so far
  std::uint64_t login_failures = 0;
  std::uint64_t sessions_ended = 0;

  const Calls& of(Method method) const { return calls[static_cast<std::size_t>(method)]; }
};

using CallResult = std::expected<wire::Json, Failure>;

struct CallTimes {
  Time send_by{};                 ///< a request that is not sent completely by then is given up
  std::optional<Time> answer_by;  ///< none: waits for as long as the connection lasts
  bool urgent = false;            ///< does not queue for a connection
};

class XapiCalls {
 public:
  XapiCalls(net::Loop& loop, PoolOptions options, Logger& log);

  /// `done` comes exactly once; before the return only when the request would exceed the size that xapi
  /// takes (Failure::Kind::payload, nothing sent). Failure::Kind::unknown is given only for an update whose
  /// request the kernel took completely.
  void call(Method method, std::initializer_list<Param> params, CallTimes times,
            std::function<void(CallResult)> done);

  XapiCounters& counters() { return counters_; }
  const XapiCounters& counters() const { return counters_; }
  const ConnectionPool& pool() const { return pool_; }

 private:
  CallResult read_result(Method method, std::uint64_t id, net::HttpResult& result);
  CallResult read_answer(Method method, std::uint64_t id, const net::HttpAnswer& answer);
  void raise_alarm(Method method, const Failure& failure);

  Logger& log_;
  ConnectionPool pool_;
  XapiCounters counters_;
  std::uint64_t last_id_ = 0;
  std::string last_alarm_;  ///< so that a lasting misconfiguration is logged once
};

}  // namespace guard::upstream
