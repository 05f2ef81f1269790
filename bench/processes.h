// Real xapi-sim and xapi-guard in a directory of their own, for benchmarks.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "wire/json.h"

namespace guard::bench {

struct ProcessFigures {
  double resident_mb = 0;
  unsigned threads = 0;
  unsigned descriptors = 0;
  unsigned long switches = 0;  ///< voluntary context switches of all threads: wake-ups
};

class Stack {
 public:
  /// `bin` holds the programs; `dir` is created. Every failure ends the process with a message.
  Stack(std::string bin, std::string dir);
  ~Stack();

  void start_sim(const std::vector<std::string>& options);
  void stop_sim();
  /// Returns the seconds until the control socket answered.
  double start_guard(const std::vector<std::string>& options);
  void kill_guard();

  /// Device sockets of new VMs; the numbers make their uuids.
  std::vector<std::string> create_vms(unsigned count, unsigned first = 0);
  void destroy_vms(const std::vector<std::string>& sockets);

  /// A figure of `status`: from "counters", or else from "journal".
  double counter(const std::string& name);
  double pending_entries();
  /// Seconds until nothing is pending.
  double drain();
  double guard_cpu_seconds() const;
  ProcessFigures guard_figures() const;

  /// All calls that xapi-sim was asked for so far.
  double sim_calls();
  void hang_vm(unsigned number);
  void release_hangs();

 private:
  wire::Json guard_call(const std::string& method, wire::JsonArray params);
  wire::Json sim_call(const std::string& method, wire::JsonArray params);

  std::string bin_;
  std::string dir_;
  pid_t sim_ = -1;
  pid_t guard_ = -1;
};

}  // namespace guard::bench
