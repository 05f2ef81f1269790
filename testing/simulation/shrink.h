// Makes a failing plan shorter while it still fails.
#pragma once

#include <string>

#include "testing/simulation/plan.h"

namespace guard::simulation {

/// Plays the plan; the first broken promise, or nothing. A thrown exception or our own assertion that is an
/// exception counts as broken.
std::string failure_of(const Plan& plan);

/// Leaves out whole kinds of trouble, then steps, in ever smaller pieces; at most `most` histories are
/// played. What is left fails with the same promise (the text up to the first colon).
Plan shrink(const Plan& plan, unsigned most);

}  // namespace guard::simulation
