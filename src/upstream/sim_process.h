// For tests: a xapi-sim as a real process, and its inspection from outside.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "guard/types.h"
#include "wire/json.h"

namespace guard::upstream::testing {

class SimProcess {
 public:
  /// `program` is the path of xapi-sim; the arguments follow `--socket SOCKET --store STORE`.
  SimProcess(std::string program, std::string socket, std::string store, std::vector<std::string> arguments);
  ~SimProcess();
  SimProcess(const SimProcess&) = delete;

  /// Returns when it accepts connections.
  void start();
  /// SIGKILL: what it has not flushed is lost.
  void kill();
  /// SIGSTOP, SIGCONT: it accepts into its backlog and answers nothing.
  void freeze();
  void thaw();

  /// One of its own methods, e.g. "sim.set_fault"; throws when it refuses.
  wire::Json control(std::string_view method, wire::JsonObject argument = {});
  /// {"method": ..., "kind": ...} and what else is in `more`; caught `count` times.
  void fault(std::string_view method, std::string_view kind, wire::JsonObject more = {}, int count = 1);
  /// The contents of the VM's first vTPM, "(none)" without one.
  std::string contents(const Uuid& vm);
  void set_contents(const Uuid& vm, std::string contents);
  std::int64_t calls(std::string_view method);

 private:
  const std::string program_;
  const std::string socket_;
  const std::vector<std::string> arguments_;
  pid_t pid_ = -1;
};

}  // namespace guard::upstream::testing
