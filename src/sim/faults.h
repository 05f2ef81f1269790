// Faults that tests plant into the simulated xapi. Pure; one thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "guard/types.h"
#include "wire/json.h"

namespace guard::sim {

/// What happens to a call that a fault catches.
struct FaultPlan {
  enum class Kind {
    delay,         ///< late, otherwise as usual
    hang,          ///< no effect and no answer until it is released
    drop_reply,    ///< the connection is closed instead of an answer, after the effect
    drop_request,  ///< the same without the effect
    http_status,   ///< an HTTP failure, connection closed
    error,         ///< a XenAPI failure
    error_v2,      ///< the failure of a host in emergency mode: version 2 with a plain array and id 0
    garbage,       ///< 200 and a body that is not JSON
  };
  Kind kind = Kind::delay;
  std::chrono::milliseconds delay{0};  ///< before effect and answer
  unsigned status = 500;
  std::vector<std::string> error;
  bool effect = false;  ///< the call does its work before it is answered this way
};

class Faults {
 public:
  /// Adds a fault from its JSON form: {"method": name or "*", "vm": uuid, "kind": word, "ms": n, "status": n,
  /// "error": [text...], "effect": bool, "count": n, "after": n}; all but method and kind may be absent.
  /// Answers its number, or what is wrong with it.
  std::expected<std::uint64_t, std::string> add(const wire::Json& json);
  /// Without a number all faults are removed. False when there is no such fault.
  bool remove(std::optional<std::uint64_t> number);

  /// True when some fault needs to know the VM of a call.
  bool need_vm() const { return need_vm_; }
  /// The first fault that catches this call, if any; counts it.
  std::optional<FaultPlan> match(std::string_view method, std::optional<Uuid> vm);

  /// [{"id","method","kind","matched","fired"}...]
  wire::Json to_json() const;

 private:
  struct Fault {
    std::uint64_t number = 0;
    std::string method;
    std::optional<Uuid> vm;
    std::string kind_name;
    FaultPlan plan;
    std::uint64_t after = 0;
    std::optional<std::uint64_t> count;
    std::uint64_t matched = 0;
    std::uint64_t fired = 0;
  };
  std::vector<Fault> faults_;
  std::uint64_t next_ = 1;
  bool need_vm_ = false;
};

}  // namespace guard::sim
