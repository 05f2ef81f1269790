// Which VM a vTPM belongs to, for calls that name a vTPM. Thread: the loop thread.
#pragma once

#include <functional>
#include <optional>

#include "guard/env.h"
#include "guard/result.h"
#include "guard/types.h"
#include "upstream/xapi_session.h"

namespace guard::upstream {

/// Three look-ups; nothing is cached, because a vTPM may be deleted or replaced at any time. `done` gets
/// nullopt when xapi knows no such vTPM, and Errc::unavailable when it could not be asked until `deadline`.
/// `session` must outlive the call; callbacks that are still waiting when it ends are dropped.
void find_vm_of_vtpm(XapiSession& session, Uuid vtpm, Time deadline,
                     std::function<void(Result<std::optional<Uuid>>)> done);

}  // namespace guard::upstream
