#include "upstream/variable_store.h"

#include <utility>

namespace guard::upstream {

namespace {

/// The map, with the value of its one entry that is ours in the slot; nullopt when it is no map of texts.
std::optional<Contents> contents_of(const wire::Json& result) {
  if (!result.object()) return std::nullopt;
  Contents contents;
  for (const auto& [name, value] : *result.object()) {
    if (!value.string()) return std::nullopt;
    const bool ours = name == efi_variables;
    if (ours) contents[Slot::nvram] = Value(*value.string());
    contents.nvram_map.emplace_back(name, ours ? Value() : Value(*value.string()));
  }
  return contents;
}

}  // namespace

/// A question about a VM: its reference, then one look-up.
struct VariableStore::Reading {
  Uuid vm;
  Time deadline{};
  Method method = Method::vm_get_nvram;
  std::function<void(std::expected<XapiSession::Found, Failure>, References)> done;
  References references;
  bool again = false;  ///< the reference was refused once already
};

VariableStore::VariableStore(XapiCalls& calls, XapiSession& session, Logger& log, std::size_t reference_cache)
    : calls_(calls), session_(session), log_(log), cache_(reference_cache) {}

void VariableStore::read(const Uuid& vm, Time deadline, std::function<void(ReadResult)> done) {
  auto answered = [done = std::move(done)](std::expected<XapiSession::Found, Failure> found,
                                           References references) {
    if (!found) return done(std::unexpected(std::move(found.error())));
    auto contents = contents_of(found->result);
    if (!contents) return done(std::unexpected(malformed(Method::vm_get_nvram, "no map of texts")));
    done(Read{std::move(*contents), std::move(references), found->epoch});
  };
  begin(std::make_shared<Reading>(Reading{vm, deadline, Method::vm_get_nvram, std::move(answered), {}}));
}

void VariableStore::certificates_state(const Uuid& vm, Time deadline, std::function<void(StateResult)> done) {
  constexpr Method method = Method::vm_get_certificates_state;
  auto answered = [done = std::move(done)](std::expected<XapiSession::Found, Failure> found, References) {
    done(text_of(method, std::move(found)));
  };
  begin(std::make_shared<Reading>(Reading{vm, deadline, method, std::move(answered), {}}));
}

void VariableStore::begin(std::shared_ptr<Reading> reading) {
  const References* known = cache_.find(reading->vm);
  if (!known) return find_vm(std::move(reading));
  reading->references = *known;
  ask(std::move(reading));
}

void VariableStore::find_vm(std::shared_ptr<Reading> reading) {
  session_.look_up(Method::vm_get_by_uuid, reading->vm.str(), reading->deadline,
                   [this, reading](XapiSession::FoundResult found) {
                     auto reference = text_of(Method::vm_get_by_uuid, std::move(found));
                     if (!reference) return failed(reading, std::move(reference.error()));
                     reading->references.vm = std::move(*reference);
                     cache_.put(reading->vm, reading->references);
                     ask(reading);
                   });
}

void VariableStore::ask(std::shared_ptr<Reading> reading) {
  session_.look_up(reading->method, reading->references.vm, reading->deadline,
                   [this, reading](XapiSession::FoundResult found) {
                     if (!found) return failed(reading, std::move(found.error()));
                     reading->done(std::move(*found), std::move(reading->references));
                   });
}

void VariableStore::failed(std::shared_ptr<Reading> reading, Failure failure) {
  if (failure.kind == Failure::Kind::reference) {
    cache_.drop(reading->vm);
    if (!std::exchange(reading->again, true)) return find_vm(std::move(reading));
    failure.kind = Failure::Kind::vm;  // xapi itself gave us a reference that it does not know
  } else if (failure.kind == Failure::Kind::unsupported) {
    failure.kind = Failure::Kind::vm;
  }
  reading->done(std::unexpected(std::move(failure)), {});
}

void VariableStore::update(const References& references, const Contents& contents, UpdateFlag flag,
                           Time send_by, std::function<void(UpdateResult)> done) {
  const Epoch epoch = session_.epoch();
  std::string value(contents[Slot::nvram].view());
  if (flag == UpdateFlag::unspecified || flagless_ == epoch) {
    return send(references.vm, std::move(value), UpdateFlag::unspecified, send_by, std::move(done));
  }
  auto answered = [this, vm = references.vm, value, epoch, send_by,
                   done = std::move(done)](UpdateResult result) mutable {
    const bool flagless = !result && result.error().kind == Failure::Kind::unsupported;
    if (!flagless) return done(std::move(result));
    // An older xapi: it has no certificates to keep account of, and takes the value alone.
    if (std::exchange(flagless_, epoch) != epoch) {
      log_.log(LogLevel::notice, "xapi_takes_no_update_flag", {{"epoch", epoch}});
    }
    if (session_.epoch() != epoch) {
      return done(std::unexpected(Failure{Failure::Kind::session, "the session has changed"}));
    }
    send(std::move(vm), std::move(value), UpdateFlag::unspecified, send_by, std::move(done));
  };
  send(references.vm, value, flag, send_by, std::move(answered));
}

/// A parameter that has its default value is not sent: `unspecified` is that of the flag.
void VariableStore::send(std::string vm, std::string value, UpdateFlag flag, Time send_by,
                         std::function<void(UpdateResult)> done) {
  auto answered = [done = std::move(done)](CallResult result) {
    if (result) return done({});
    done(std::unexpected(std::move(result.error())));
  };
  const std::string& session = session_.current()->reference;
  const CallTimes times{send_by, std::nullopt, false};
  if (flag == UpdateFlag::unspecified) {
    calls_.call(Method::vm_set_nvram, {session, vm, value}, times, std::move(answered));
  } else {
    calls_.call(Method::vm_set_nvram, {session, vm, value, name_of(flag)}, times, std::move(answered));
  }
}

}  // namespace guard::upstream
