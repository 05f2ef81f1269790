// The files around an embedded store: its creation, the sync of its log, and the small file that names the
// store from outside. Blocking.
#pragma once

#include <optional>
#include <string>

#include "guard/result.h"
#include "guard/types.h"

namespace guard::upstream {

/// A new random uuid (version 4).
Uuid random_uuid();

/// The uuid in the file; nullopt when there is no such file. Errc::corrupt when it holds anything else.
Result<std::optional<Uuid>> read_identity(const std::string& path);
/// Durable after success.
Result<> write_identity(const std::string& path, const Uuid& store);

/// Makes an empty file, mode 0600, where there is none, with its directory; durable after success.
Result<> create_database_file(const std::string& path);

/// Makes durable what is in the write-ahead log beside a database, if there is one.
Result<> sync_log_file(const std::string& database);

}  // namespace guard::upstream
