#include "upstream/vtpm_store.h"

#include <utility>

#include "wire/vtpm_contents.h"

namespace guard::upstream {

struct VtpmStore::Reading {
  Uuid vm;
  Time deadline{};
  std::function<void(ReadResult)> done;
  References references;
  bool again = false;  ///< references were refused once already
};

VtpmStore::VtpmStore(XapiCalls& calls, XapiSession& session, Logger& log, std::size_t reference_cache)
    : calls_(calls), session_(session), log_(log), cache_(reference_cache) {}

void VtpmStore::read(const Uuid& vm, Time deadline, std::function<void(ReadResult)> done) {
  auto reading = std::make_shared<Reading>(Reading{vm, deadline, std::move(done), {}});
  if (const References* known = cache_.find(vm)) {
    reading->references = *known;
    find_contents(std::move(reading));
  } else {
    find_vm(std::move(reading));
  }
}

void VtpmStore::find_vm(std::shared_ptr<Reading> reading) {
  session_.look_up(Method::vm_get_by_uuid, reading->vm.str(), reading->deadline,
                   [this, reading](XapiSession::FoundResult found) {
                     auto reference = text_of(Method::vm_get_by_uuid, std::move(found));
                     if (!reference) return failed(reading, std::move(reference.error()));
                     reading->references.vm = std::move(*reference);
                     find_vtpm(reading);
                   });
}

void VtpmStore::find_vtpm(std::shared_ptr<Reading> reading) {
  session_.look_up(Method::vm_get_vtpms, reading->references.vm, reading->deadline,
                   [this, reading](XapiSession::FoundResult found) {
                     if (!found) return failed(reading, std::move(found.error()));
                     const wire::JsonArray* vtpms = found->result.array();
                     if (!vtpms || (!vtpms->empty() && !vtpms->front().string())) {
                       return failed(reading, malformed(Method::vm_get_vtpms, "no set of references"));
                     }
                     if (vtpms->empty() || *vtpms->front().string() == null_reference) {
                       return failed(reading, {Failure::Kind::vm, "the VM has no vTPM"});
                     }
                     reading->references.vtpm = *vtpms->front().string();
                     find_vtpm_uuid(reading);
                   });
}

void VtpmStore::find_vtpm_uuid(std::shared_ptr<Reading> reading) {
  session_.look_up(Method::vtpm_get_uuid, reading->references.vtpm, reading->deadline,
                   [this, reading](XapiSession::FoundResult found) {
                     if (!found && found.error().kind == Failure::Kind::unsupported) {
                       // Then P14 can compare values only.
                       if (!std::exchange(told_about_uuids_, true)) {
                         log_.log(LogLevel::warning, "xapi_tells_no_vtpm_uuids");
                       }
                     } else if (!found) {
                       return failed(reading, std::move(found.error()));
                     } else {
                       const std::string* text = found->result.string();
                       const auto uuid = text ? Uuid::parse(*text) : std::nullopt;
                       if (!uuid) return failed(reading, malformed(Method::vtpm_get_uuid, "no uuid"));
                       reading->references.vtpm_uuid = *uuid;
                     }
                     cache_.put(reading->vm, reading->references);
                     find_contents(reading);
                   });
}

void VtpmStore::find_contents(std::shared_ptr<Reading> reading) {
  session_.look_up(Method::vtpm_get_contents, reading->references.vtpm, reading->deadline,
                   [this, reading](XapiSession::FoundResult found) {
                     if (!found) return failed(reading, std::move(found.error()));
                     got_contents(reading, std::move(*found));
                   });
}

void VtpmStore::got_contents(const std::shared_ptr<Reading>& reading, XapiSession::Found found) {
  const std::string* packed = found.result.string();
  if (!packed) return failed(reading, malformed(Method::vtpm_get_contents, "no string"));
  auto contents = wire::unpack_vtpm_contents(*packed);
  if (!contents) {
    // Nobody knows what the fields mean, so nothing is overwritten until somebody repairs them.
    return failed(reading, {Failure::Kind::vm, "VTPM.get_contents: " + contents.error().message});
  }
  contents->vtpm = reading->references.vtpm_uuid;
  reading->done(Read{std::move(*contents), std::move(reading->references), found.epoch});
}

void VtpmStore::failed(std::shared_ptr<Reading> reading, Failure failure) {
  if (failure.kind == Failure::Kind::reference) {
    cache_.drop(reading->vm);
    if (!std::exchange(reading->again, true)) {
      reading->references = {};
      find_vm(std::move(reading));
      return;
    }
    failure.kind = Failure::Kind::vm;  // xapi itself gave us references that it does not know
  } else if (failure.kind == Failure::Kind::unsupported) {
    failure.kind = Failure::Kind::vm;
  }
  reading->done(std::unexpected(std::move(failure)));
}

void VtpmStore::update(const References& references, const Contents& contents, UpdateFlag, Time send_by,
                       std::function<void(UpdateResult)> done) {
  const std::string packed = wire::pack_vtpm_contents(contents);
  calls_.call(Method::vtpm_set_contents, {session_.current()->reference, references.vtpm, packed},
              {send_by, std::nullopt, false}, [done = std::move(done)](CallResult result) {
                if (result) {
                  done({});
                } else {
                  done(std::unexpected(std::move(result.error())));
                }
              });
}

}  // namespace guard::upstream
