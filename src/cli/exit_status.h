// The exit statuses of xapi-guardctl.
#pragma once

namespace guard::cli {

enum Exit {
  success = 0,
  refused = 1,  ///< the daemon refused; `journal verify`: damaged
  usage = 2,
  unreachable = 3,  ///< cannot reach the daemon; cannot read the journal
};

}  // namespace guard::cli
