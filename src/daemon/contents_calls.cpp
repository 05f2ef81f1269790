#include "daemon/contents_calls.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/limits.h"
#include "wire/vtpm_contents.h"

namespace guard::daemon {

using wire::Json;

ContentsCalls::ContentsCalls(engine::Engine& engine, upstream::ManagedUpstream& upstream)
    : engine_(engine), upstream_(upstream), self_(std::make_shared<ContentsCalls*>(this)) {}

ContentsCalls::~ContentsCalls() { *self_ = nullptr; }

void ContentsCalls::get(Uuid vtpm, Done done) { submit(vtpm, {std::nullopt, std::move(done)}); }

void ContentsCalls::set(Uuid vtpm, const Value& packed, Done done) {
  const auto contents = wire::unpack_vtpm_contents(packed.view());
  if (!contents)
    return done(std::unexpected(Error::invalid("The contents have neither one nor three fields")));
  submit(vtpm, {std::array{(*contents)[Slot::permall], (*contents)[Slot::savestate],
                           (*contents)[Slot::volatilestate]},
                std::move(done)});
}

void ContentsCalls::submit(Uuid vtpm, Call call) {
  const auto asking = waiting_.find(vtpm);
  if (asking != waiting_.end()) {
    if (asking->second.size() >= limits::contents_calls) {
      return call.done(
          std::unexpected(Error{Errc::no_space, 0, "Too many calls for this vTPM are under way"}));
    }
    asking->second.push_back(std::move(call));
    return;
  }
  if (const auto lane = engine_.owner_of_vtpm(vtpm); lane && lane->certain) {
    return begin(lane->owner, vtpm, std::move(call));
  }
  if (waiting_.size() >= limits::contents_lookups) {
    return call.done(std::unexpected(Error{Errc::no_space, 0, "Too many calls for vTPMs are under way"}));
  }
  waiting_[vtpm].push_back(std::move(call));
  upstream_.find_vm(vtpm, limits::contents_lookup, [self = self_, vtpm](Found vm) {
    if (*self != nullptr) (*self)->found(vtpm, std::move(vm));
  });
}

void ContentsCalls::found(Uuid vtpm, Found vm) {
  const auto node = waiting_.extract(vtpm);
  const Result<Owner> owner = owner_of(vtpm, std::move(vm));
  for (Call& call : node.mapped()) {
    if (!owner) {
      call.done(std::unexpected(owner.error()));
    } else {
      begin(*owner, vtpm, std::move(call));
    }
  }
}

Result<Owner> ContentsCalls::owner_of(Uuid vtpm, Found vm) {
  if (vm && *vm) {
    if (remembered_.size() >= limits::reference_cache) remembered_.clear();
    remembered_.insert_or_assign(vtpm, **vm);
    return Owner{**vm, Device::vtpm};
  }
  if (vm) {
    // In the words of xapi, which the original passes on.
    remembered_.erase(vtpm);
    return std::unexpected(
        Error{Errc::not_found, 0, "Server_error(UUID_INVALID, [ VTPM; " + vtpm.str() + " ])"});
  }
  if (const auto lane = engine_.owner_of_vtpm(vtpm)) return lane->owner;
  if (const auto known = remembered_.find(vtpm); known != remembered_.end()) {
    return Owner{known->second, Device::vtpm};
  }
  return std::unexpected(
      Error{Errc::unavailable, 0, "Nobody knows whose vTPM " + vtpm.str() + " is: " + vm.error().message});
}

void ContentsCalls::begin(Owner owner, Uuid vtpm, Call call) {
  if (call.values) {
    engine_.set_contents(
        owner, std::move(*call.values), vtpm, [done = std::move(call.done)](WriteStatus status) {
          switch (status) {
            case WriteStatus::accepted:
              return done(Json(nullptr));
            case WriteStatus::too_large:
              return done(std::unexpected(Error::invalid("The contents are larger than can be stored")));
            case WriteStatus::unavailable:
              return done(
                  std::unexpected(Error{Errc::unavailable, 0, "The contents could not be stored in time"}));
          }
        });
    return;
  }
  engine_.get_contents(owner, [done = std::move(call.done)](std::optional<std::array<Value, 3>> values) {
    if (!values) {
      return done(
          std::unexpected(Error{Errc::unavailable, 0, "It could not be told in time what the vTPM holds"}));
    }
    Contents contents;
    std::copy(values->begin(), values->end(), contents.slots.begin());
    // xenopsd manufactures a TPM when, and only when, this is empty.
    const bool none = std::ranges::all_of(*values, [](const Value& value) { return value.empty(); });
    done(Json(none ? std::string() : wire::pack_vtpm_contents(contents)));
  });
}

}  // namespace guard::daemon
