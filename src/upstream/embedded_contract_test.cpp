// The embedded upstream, as a backend of the contract suite.
#include <fcntl.h>

#include <cstdio>
#include <memory>

#include "upstream/embedded_test_support.h"
#include "upstream/embedded_upstream.h"
#include "upstream/upstream_contract.h"
#include "wire/vtpm_contents.h"

namespace guard::upstream::testing {

namespace {

const Uuid vms[] = {*Uuid::parse("3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10"),
                    *Uuid::parse("b1c0e5a3-8f5b-4c0e-9d2b-6a1e5b7c9d11")};

struct Lines final : Logger {
  std::vector<std::string> lines;
  void log(LogLevel, std::string_view event, std::initializer_list<Field> fields) override {
    lines.push_back(log_line(event, fields));
  }
  bool enabled(LogLevel) const override { return true; }
};

class EmbeddedBackend final : public ContractBackend {
 public:
  EmbeddedBackend() : upstream_(*make_embedded_upstream(loop_, place_.options(), log_)) {}
  net::Loop& loop() override { return loop_; }
  Upstream& upstream() override { return *upstream_; }
  Uuid vm(int which) override { return vms[which]; }
  Uuid vtpm(const Uuid& vm) override { return place_.contents({vm, Device::vtpm}).vtpm; }
  std::optional<Uuid> missing_vm() override { return std::nullopt; }
  std::string stored(const Uuid& vm) override {
    return wire::pack_vtpm_contents(place_.contents({vm, Device::vtpm}));
  }
  void store(const Uuid& vm, std::string packed) override {
    const Contents contents = *wire::unpack_vtpm_contents(packed);
    std::vector<SlotWrite> writes;
    for (const Slot slot : {Slot::permall, Slot::savestate, Slot::volatilestate}) {
      writes.push_back({slot, 0, contents[slot], {}, {}, true});
    }
    place_.write({vm, Device::vtpm}, std::move(writes));
  }
  void replace_vtpm(const Uuid& vm, const Uuid& vtpm, std::string packed) override {
    place_.replace_vtpm(vm, vtpm, *wire::unpack_vtpm_contents(packed));
  }
  void damage(const Uuid& vm) override { place_.sql("UPDATE value SET bytes = x'00' WHERE " + of(vm)); }
  bool still_damaged(const Uuid& vm) override {
    return place_.number("SELECT count(*) = 3 AND max(bytes) = x'00' FROM value WHERE " + of(vm)) == 1;
  }
  std::string variables(const Uuid& vm) override {
    return std::string(place_.contents({vm, Device::uefi})[Slot::nvram].view());
  }
  void store_variables(const Uuid& vm, std::string value) override {
    place_.write({vm, Device::uefi}, {{Slot::nvram, 0, Value(std::move(value)), {}, {}, true}});
  }
  std::optional<unsigned> alerts(const Uuid& vm) override {
    unsigned count = 0;
    for (const std::string& line : log_.lines) {
      if (line.starts_with("vm_secure_boot_failed") && line.find(vm.str()) != std::string::npos) ++count;
    }
    return count;
  }
  bool run_elsewhere(const Uuid&) override { return false; }
  void go_away() override { std::rename(place_.file().c_str(), aside().c_str()); }
  void come_back() override { std::rename(aside().c_str(), place_.file().c_str()); }

 private:
  std::string aside() const { return place_.file() + ".aside"; }
  static std::string of(const Uuid& vm) {
    return "id / 4 IN (SELECT id FROM device WHERE device = 0 AND vm = " + literal(vm) + ")";
  }

  StorePlace place_;
  Lines log_;
  net::Loop loop_;
  std::unique_ptr<EmbeddedUpstream> upstream_;
};

}  // namespace

BackendFactory embedded_backend() {
  return {"Embedded", [] { return std::make_unique<EmbeddedBackend>(); }};
}

}  // namespace guard::upstream::testing
