// An upstream in one SQLite file, for hosts without xapi: what it has accepted is durable, and VMs come into
// being with their first write. What a VM never wrote is certainly absent.
//
// SQLite blocks, so it runs on a thread of its own: a store that hangs delays nothing but its own calls.
// Updates that queue up while the disk is busy share a transaction and its sync.
//
// A session lasts while the store is open. It ends when the file at the path turns out to be another one, or
// the disk fails in a way that leaves open what is on it; the next call opens the store again.
//
// Thread: the loop thread. After destruction no callback comes any more; destruction waits for the call that
// SQLite is working on.
#pragma once

#include <memory>

#include "base/log.h"
#include "guard/result.h"
#include "net/loop.h"
#include "upstream/embedded_store.h"
#include "upstream/managed_upstream.h"

namespace guard::upstream {

/// It has nothing beyond what every upstream of a daemon has.
using EmbeddedUpstream = ManagedUpstream;

/// Opens nothing yet. Errc::invalid when a path is not absolute or both are the same.
Result<std::unique_ptr<EmbeddedUpstream>> make_embedded_upstream(net::Loop& loop, EmbeddedOptions options,
                                                                 Logger& log);

}  // namespace guard::upstream
