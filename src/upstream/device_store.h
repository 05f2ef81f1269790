// Where xapi keeps the state of one kind of device: references, reading, and the one update.
// Thread: the loop thread.
#pragma once

#include <expected>
#include <functional>
#include <list>
#include <string>
#include <unordered_map>
#include <utility>

#include "guard/env.h"
#include "guard/upstream.h"
#include "upstream/xapi_message.h"

namespace guard::upstream {

/// How xapi calls a VM and its vTPM. Good until it is refused: a snapshot revert makes a new vTPM with a new
/// reference and a new uuid. Of UEFI variables there is only the VM.
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

class DeviceStore {
 public:
  /// What a device holds, under which references it was read, and in which session.
  struct Read {
    Contents contents;
    References references;
    Epoch epoch = 0;
  };
  using ReadResult = std::expected<Read, Failure>;
  using UpdateResult = std::expected<void, Failure>;

  virtual ~DeviceStore() = default;

  /// The references of the VM if they are known already; valid until the next event.
  virtual const References* references(const Uuid& vm) = 0;
  /// To be called when xapi refused them.
  virtual void drop_references(const Uuid& vm) = 0;

  /// Reads the contents, looking up references first when they are not known, and once more when they are
  /// refused. Failures: transient, or `vm`.
  virtual void read(const Uuid& vm, Time deadline, std::function<void(ReadResult)> done) = 0;

  /// Replaces the contents, in the current session (precondition: there is one). Once sent it is never given
  /// up; `send_by` limits only the sending. `flag` travels with UEFI variables. Failures of every kind.
  virtual void update(const References& references, const Contents& contents, UpdateFlag flag, Time send_by,
                      std::function<void(UpdateResult)> done) = 0;
};

}  // namespace guard::upstream
