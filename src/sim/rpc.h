// The JSON-RPC and HTTP shapes of xapi, byte for byte.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "net/http_server.h"
#include "sim/xen_calls.h"
#include "wire/json.h"

namespace guard::sim {

struct RpcRequest {
  std::string method;
  wire::JsonArray params;
  wire::Json id;
  bool version2 = false;
  /// False when the body was not UTF-8; what was not is then replaced by U+FFFD.
  bool utf8 = true;
};

/// nullopt when the body is not a JSON-RPC call.
std::optional<RpcRequest> read_rpc(std::string_view body);

/// A success in the version of the request.
net::Reply rpc_success(const wire::Json& id, bool version2, const wire::Json& result);
/// A failure in the version of the request.
net::Reply rpc_failure(const wire::Json& id, bool version2, const XenError& error);
/// The failure of a host in emergency mode, which looks the same whatever the request was.
net::Reply rpc_emergency(const XenError& error);
/// Status 200 with a body that is nothing.
net::Reply rpc_garbage();

/// The pages of xapi's HTTP server; the connection closes after each. `extra` stands in the page.
net::Reply http_failure(unsigned status, std::string_view extra);
/// For a request over the limit of 307,200 bytes.
net::Reply too_large_failure();

}  // namespace guard::sim
