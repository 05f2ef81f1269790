// A load of PUTs as swtpm sends them: one kept-alive connection per device socket, one request in flight
// each.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace guard::bench {

/// Monotonic seconds.
double now_seconds();

struct Percentiles {
  double p50 = 0, p99 = 0, max = 0;  ///< in the unit of the samples
};
/// All 0 when there are none.
Percentiles percentiles(std::vector<double> samples);

struct LoadResult {
  std::vector<double> latencies;  ///< seconds, of requests answered 204
  std::size_t failures = 0;       ///< other answers and closed connections (which are opened anew)
  double seconds = 0;
};

/// Sends PUTs of permall to every socket for `seconds`, from this thread. Each body is different. A request
/// that is not answered within 5 s after the end counts as failed. Ends the process when a socket cannot be
/// connected at all.
LoadResult put_load(const std::vector<std::string>& sockets, std::size_t body_bytes, double seconds);
/// One PUT of the state to every socket; ends the process unless all are answered 204.
void put_once(const std::vector<std::string>& sockets, const std::string& state, std::size_t body_bytes);
/// One idle connection to every socket.
std::vector<int> connect_all(const std::vector<std::string>& sockets);
void close_all(const std::vector<int>& connections);

}  // namespace guard::bench
