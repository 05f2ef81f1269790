// The simulated upstream, as a backend of the contract suite: what the simulation runs against keeps the same
// promises as what the daemon runs against.
#include <memory>

#include "testing/sim_upstream_adapter.h"
#include "upstream/upstream_contract.h"
#include "wire/vtpm_contents.h"

namespace guard::upstream::testing {

namespace {

using guard::testing::SimUpstream;
using guard::testing::SimUpstreamAdapter;
using guard::testing::SimUpstreamOptions;

const Uuid vms[] = {*Uuid::parse("3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"),
                    *Uuid::parse("b1c0e5a3-8f5b-4c0e-9d2b-6a1e5b7c9d11")};
const Uuid vtpms[] = {*Uuid::parse("7c9e6679-7425-40de-944b-e07fc1f90ae7"),
                      *Uuid::parse("8c9e6679-7425-40de-944b-e07fc1f90ae8")};
const Uuid missing = *Uuid::parse("9c9e6679-7425-40de-944b-e07fc1f90ae9");

class SimulatedBackend final : public ContractBackend {
 public:
  SimulatedBackend()
      : adapter_(
            sim_, SimUpstreamOptions().limits, [this] { return loop_.now(); },
            [this](Time when, std::function<void()> work) { loop_.at(when, std::move(work)); }) {
    for (int i : {0, 1}) sim_.add_vm(vms[i], vtpms[i]);
  }
  net::Loop& loop() override { return loop_; }
  Upstream& upstream() override { return adapter_; }
  Uuid vm(int which) override { return vms[which]; }
  Uuid vtpm(const Uuid& vm) override { return sim_.accepted(owner(vm)).vtpm; }
  std::optional<Uuid> missing_vm() override { return missing; }
  std::string stored(const Uuid& vm) override { return wire::pack_vtpm_contents(sim_.accepted(owner(vm))); }
  void store(const Uuid& vm, std::string packed) override {
    const Contents contents = *wire::unpack_vtpm_contents(packed);
    for (const Slot slot : {Slot::permall, Slot::savestate, Slot::volatilestate}) {
      sim_.edit(owner(vm), slot, contents[slot], loop_.now());
    }
  }
  void replace_vtpm(const Uuid& vm, const Uuid& vtpm, std::string packed) override {
    sim_.replace_vtpm(vm, vtpm, *wire::unpack_vtpm_contents(packed), loop_.now());
  }
  void damage(const Uuid& vm) override { sim_.damage(owner(vm)); }
  bool still_damaged(const Uuid& vm) override { return sim_.is_damaged(owner(vm)); }
  std::string variables(const Uuid& vm) override {
    return std::string(sim_.accepted({vm, Device::uefi})[Slot::nvram].view());
  }
  void store_variables(const Uuid& vm, std::string value) override {
    sim_.edit({vm, Device::uefi}, Slot::nvram, Value(std::move(value)), loop_.now());
  }
  std::optional<unsigned> alerts(const Uuid&) override { return std::nullopt; }
  bool run_elsewhere(const Uuid& vm) override {
    sim_.set_elsewhere(vm, true);
    return true;
  }
  void go_away() override {
    sim_.stop(loop_.now());
    adapter_.pump();
  }
  void come_back() override {
    sim_.start(loop_.now());
    adapter_.pump();
  }

 private:
  static Owner owner(const Uuid& vm) { return {vm, Device::vtpm}; }

  net::Loop loop_;
  SimUpstream sim_{SimUpstreamOptions()};
  SimUpstreamAdapter adapter_;
};

}  // namespace

BackendFactory simulated_backend() {
  return {"Simulated", [] { return std::make_unique<SimulatedBackend>(); }};
}

}  // namespace guard::upstream::testing
