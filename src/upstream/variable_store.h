// The UEFI variables of VMs in xapi: one entry of a VM's NVRAM map, which xapi replaces by itself and leaves
// the others alone. Thread: the loop thread.
#pragma once

#include <functional>
#include <memory>

#include "base/log.h"
#include "guard/upstream.h"
#include "upstream/device_store.h"
#include "upstream/xapi_calls.h"
#include "upstream/xapi_session.h"

namespace guard::upstream {

class VariableStore final : public DeviceStore {
 public:
  VariableStore(XapiCalls& calls, XapiSession& session, Logger& log, std::size_t reference_cache);

  const References* references(const Uuid& vm) override { return cache_.find(vm); }
  void drop_references(const Uuid& vm) override { cache_.drop(vm); }
  void read(const Uuid& vm, Time deadline, std::function<void(ReadResult)> done) override;
  /// One call; two where this xapi turns out to know no update flag, which is remembered for the session.
  void update(const References& references, const Contents& contents, UpdateFlag flag, Time send_by,
              std::function<void(UpdateResult)> done) override;

  /// The state of the VM's certificates, as read() does.
  using StateResult = std::expected<std::string, Failure>;
  void certificates_state(const Uuid& vm, Time deadline, std::function<void(StateResult)> done);

 private:
  struct Reading;
  void begin(std::shared_ptr<Reading> reading);
  void find_vm(std::shared_ptr<Reading> reading);
  void ask(std::shared_ptr<Reading> reading);
  void failed(std::shared_ptr<Reading> reading, Failure failure);
  void send(std::string vm, std::string value, UpdateFlag flag, Time send_by,
            std::function<void(UpdateResult)> done);

  XapiCalls& calls_;
  XapiSession& session_;
  Logger& log_;
  ReferenceCache cache_;
  Epoch flagless_ = 0;  ///< the session in which xapi refused the update flag
};

}  // namespace guard::upstream
