// Between the words of the core and those of the journal. Pure; used by the engine and by the simulation, so
// that what is simulated is what runs.
#pragma once

#include <cstdint>
#include <optional>

#include "core/alerts.h"
#include "core/events.h"
#include "core/lane.h"
#include "guard/env.h"
#include "journal/journal.h"

namespace guard::engine {

/// What the journal is to do. `wall_ms`: milliseconds since 1970, for people only.
journal::Request to_request(core::Commit action, std::int64_t wall_ms);
journal::Request to_request(const core::Remove& action);
journal::Request to_request(const core::ReadBack& action);

/// What the journal's answer means to the core: CommitDone, RemovalDone or ValueRead.
core::Event to_event(journal::Completion done);

/// What recovery found, for Core::recover(); nullopt for what this version cannot deliver, which stays in
/// the journal untouched. `wall_ms` is the wall clock at `now`.
std::optional<core::RecoveredEntry> to_recovered(const journal::LiveEntry& found, Time now,
                                                 std::int64_t wall_ms);

/// The same for alerts; nullopt for any other entry.
std::optional<core::RecoveredAlert> to_recovered_alert(const journal::LiveEntry& found, Time now,
                                                       std::int64_t wall_ms);

}  // namespace guard::engine
