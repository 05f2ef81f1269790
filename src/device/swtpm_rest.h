// What swtpm's HTTP storage backend speaks to: the three states of one vTPM as resources of one device
// socket. Answers are byte for byte those of the daemon this one replaces, except where that one was wrong.
//
// swtpm takes 200 and 204 as success, tries again for ever on 5xx and on a closed connection, and sends the
// guest's TPM into failure mode on anything else (P6). So a 4xx is given only where no retry can ever help.
//
//   request                             answer
//   GET known path                      200 and the state, empty when there is none (P4); 503
//   HEAD known path                     200 with the header of GET; 404 when there is none; 503
//   PUT known path, base64 body         204; 413 when it can never be delivered; 503
//   PUT known path, other body          400
//   PUT known path, no length           411 (an empty body would erase the state)
//   DELETE known path                   204 (a body is ignored; an absent state is a success); 503
//   GET, HEAD, PUT, DELETE other path   404
//   anything for `/`, other methods     405
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/log.h"
#include "guard/lane.h"
#include "net/http_server.h"

namespace guard::device {

/// How many requests were answered how; what the server refused by itself (too large, malformed) never gets
/// here and is not counted. Loop thread only.
struct SwtpmStats {
  enum Method : std::size_t { get, head, put, del, other, methods };
  enum Result : std::size_t {
    success,      ///< 200, 204
    refused,      ///< 4xx
    unavailable,  ///< 503
    results
  };
  std::array<std::array<std::uint64_t, results>, methods> requests{};

  std::uint64_t operator()(Method method, Result result) const { return requests[method][result]; }
};

/// The handler of one device socket, bound to one lane for its life: nothing in a request can name another
/// VM (P5). Requests go to the lane in the order in which their last bytes arrived.
///
/// `lane`, `stats` and `log` must outlive the Server that gets the handler, and every callback of the lane.
/// Any number of handlers may share one `stats`. Thread: the loop thread. Logs one line per request at debug
/// level, without a byte of the guest's.
net::Server::Handler make_swtpm_handler(LaneAccess& lane, SwtpmStats& stats, Logger& log);

/// The answer to a body over the limit, for the Server.
net::Reply swtpm_too_large();

}  // namespace guard::device
