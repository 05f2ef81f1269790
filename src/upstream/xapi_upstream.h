// xapi as an upstream: XenAPI over kept-alive connections to the unix socket of the local xapi.
//
// A write whose contents are known costs one call; a first write costs a login, three look-ups and a read
// more. An update is never cancelled and never repeated here: once its request was sent completely, only its
// answer or the loss of the connection ends it.
//
// UEFI variables have a call of their own, which needs no merging: xapi replaces their entry of the NVRAM map
// under a lock of its own. A write of theirs costs one call too, once what stands there is known.
//
// Thread: everything is called, and calls back, on the thread of the loop. The object must not be destroyed
// from within one of its own callbacks. After its destruction no callback comes any more; connections are
// closed, which cancels nothing inside xapi.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "base/limits.h"
#include "base/log.h"
#include "guard/result.h"
#include "guard/upstream.h"
#include "net/loop.h"
#include "upstream/managed_upstream.h"
#include "upstream/xapi_calls.h"

namespace guard::upstream {

struct XapiOptions {
  /// `unix:PATH`, the one kind of address this upstream knows.
  std::string uri = "unix:/var/lib/xcp/xapi";
  /// Free text that xapi records with the session.
  std::string client_version = "xapi-guard";
  /// The uuid of this host; nil = unknown, then `ask_residence` of a delivery asks nothing.
  Uuid host;
  /// A call older than this no longer counts against the bound on connections.
  std::chrono::milliseconds direct_timeout = limits::direct_timeout;
  /// For what goes before an update: a session, look-ups, reading, and sending the request; and for reading
  /// back after it.
  std::chrono::milliseconds upstream_timeout = limits::upstream_timeout;
  std::chrono::milliseconds login_timeout = limits::login_timeout;
  std::chrono::milliseconds probe_timeout = limits::probe_timeout;
  /// fetch() ends within this time.
  std::chrono::milliseconds read_patience = limits::read_patience;
  std::size_t connections = limits::upstream_connections;
  std::size_t connection_ceiling = limits::upstream_ceiling;
};

class XapiUpstream : public ManagedUpstream {
 public:
  virtual const XapiCounters& counters() const = 0;
  /// Connections that are open now, idle ones included.
  virtual std::size_t connections() const = 0;
};

/// Contacts nothing yet. Errc::invalid when the URI is not `unix:` and a path that a socket address can hold.
Result<std::unique_ptr<XapiUpstream>> make_xapi_upstream(net::Loop& loop, XapiOptions options, Logger& log);

}  // namespace guard::upstream
