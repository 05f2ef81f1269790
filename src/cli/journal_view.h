// What a look at a journal looks like, to people and to machines. Pure.
#pragma once

#include <optional>
#include <string>

#include "journal/inspect.h"
#include "wire/json.h"

namespace guard::cli {

/// What was looked at.
struct JournalLook {
  std::string directory;
  std::optional<std::int64_t> in_use_by;  ///< the pid of the daemon that may be writing
  journal::Inspection found;
};

/// "good", "damaged", "lost" or "unreadable".
std::string_view state_of(const journal::Inspection& found);

/// Everything but guest bytes and salts. `batches` is there only if `found` has records.
wire::Json journal_json(const JournalLook& look);
/// The same for people, several lines.
std::string present_journal(const JournalLook& look);
/// One line if all is well, else one per place that is not.
std::string present_verdict(const JournalLook& look);

}  // namespace guard::cli
