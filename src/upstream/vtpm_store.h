// The contents of vTPMs in xapi: references of a VM and its vTPM, reading, and the one update.
// Thread: the loop thread.
#pragma once

#include <expected>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>

#include "base/limits.h"
#include "base/log.h"
#include "guard/upstream.h"
#include "upstream/xapi_calls.h"
#include "upstream/xapi_session.h"

namespace guard::upstream {

/// How xapi calls a VM's vTPM. Good until it is refused: a snapshot revert makes a new vTPM with a new
/// reference and a new uuid.
struct References {
  std::string vm;
  std::string vtpm;
  Uuid vtpm_uuid;
};

/// References of VMs; when it is full the one unused for longest goes.
class ReferenceCache {
 public:
  explicit ReferenceCache(std::size_t capacity) : capacity_(capacity) {}
  /// Valid until the next change of the cache.
  const References* find(const Uuid& vm);
  void put(const Uuid& vm, References references);
  void drop(const Uuid& vm);
  std::size_t size() const { return index_.size(); }

 private:
  using Entries = std::list<std::pair<Uuid, References>>;
  const std::size_t capacity_;
  Entries entries_;  ///< used last first
  std::unordered_map<Uuid, Entries::iterator> index_;
};

class VtpmStore {
 public:
  /// What a VM's vTPM holds, under which references it was read, and in which session.
  struct Read {
    Contents contents;
    References references;
    Epoch epoch = 0;
  };
  using ReadResult = std::expected<Read, Failure>;
  using UpdateResult = std::expected<void, Failure>;

  VtpmStore(XapiCalls& calls, XapiSession& session, Logger& log, std::size_t reference_cache);

  /// The references of the VM if they are known already; valid until the next event.
  const References* references(const Uuid& vm) { return cache_.find(vm); }
  /// To be called when xapi refused them.
  void drop_references(const Uuid& vm) { cache_.drop(vm); }

  /// Reads the contents, looking up references first when they are not known, and once more when they are
  /// refused. Failures: transient, or `vm`.
  void read(const Uuid& vm, Time deadline, std::function<void(ReadResult)> done);

  /// Replaces the contents, in the current session (precondition: there is one): exactly one call. Once sent
  /// it is never given up; `send_by` limits only the sending. Failures of every kind.
  void update(const References& references, const Contents& contents, Time send_by,
              std::function<void(UpdateResult)> done);

 private:
  struct Reading;
  void find_vm(std::shared_ptr<Reading> reading);
  void find_vtpm(std::shared_ptr<Reading> reading);
  void find_vtpm_uuid(std::shared_ptr<Reading> reading);
  void find_contents(std::shared_ptr<Reading> reading);
  void got_contents(const std::shared_ptr<Reading>& reading, XapiSession::Found found);
  void failed(std::shared_ptr<Reading> reading, Failure failure);

  XapiCalls& calls_;
  XapiSession& session_;
  Logger& log_;
  ReferenceCache cache_;
  bool told_about_uuids_ = false;
};

}  // namespace guard::upstream
