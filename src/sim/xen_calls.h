// The XenAPI calls of the simulated xapi: checks of parameters, session and references, and what each does.
//
// A call runs in two steps, because a real one takes time: begin() checks it and looks up what xapi looks up
// first; finish() does the work, perhaps much later. So overlapping updates meet each other as in xapi.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/world.h"
#include "wire/json.h"

namespace guard::sim {

/// Code and parameters of a XenAPI failure.
using XenError = std::vector<std::string>;
using Answer = std::expected<wire::Json, XenError>;

struct Method;

/// A call between its two steps.
struct Begun {
  const Method* method = nullptr;
  wire::JsonArray params;
  std::optional<XenError> failure;  ///< what finish() will answer
  std::string secret;               ///< that the vTPM pointed to when the call began
  std::string counted_vtpm;         ///< reference of the vTPM whose overlap counts include this call
};

class XenCalls {
 public:
  explicit XenCalls(World& world) : world_(world) {}

  /// Never fails itself: a failure is what finish() answers. `utf8` = the request was valid UTF-8.
  Begun begin(std::string_view method, wire::JsonArray params, bool utf8 = true);
  Answer finish(Begun& call);
  /// The call takes no effect.
  void abandon(Begun& call);

  /// The VM a call is about; nullopt when it is about none or cannot be told.
  std::optional<Uuid> vm_of(std::string_view method, const wire::JsonArray& params);

 private:
  World& world_;
};

}  // namespace guard::sim
