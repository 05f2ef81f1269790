// The contents of vTPMs in xapi: references of a VM and its vTPM, reading, and the one update.
// Thread: the loop thread.
#pragma once

#include <functional>
#include <memory>

#include "base/limits.h"
#include "base/log.h"
#include "guard/upstream.h"
#include "upstream/device_store.h"
#include "upstream/xapi_calls.h"
#include "upstream/xapi_session.h"

namespace guard::upstream {

class VtpmStore final : public DeviceStore {
 public:
  VtpmStore(XapiCalls& calls, XapiSession& session, Logger& log, std::size_t reference_cache);

  const References* references(const Uuid& vm) override { return cache_.find(vm); }
  void drop_references(const Uuid& vm) override { cache_.drop(vm); }
  void read(const Uuid& vm, Time deadline, std::function<void(ReadResult)> done) override;
  void update(const References& references, const Contents& contents, UpdateFlag flag, Time send_by,
              std::function<void(UpdateResult)> done) override;

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
