// What every upstream promises (guard/upstream.h), as tests that know nothing of its kind. An upstream takes
// part by giving a backend to INSTANTIATE_TEST_SUITE_P at the end of upstream_contract_test.cpp.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "guard/upstream.h"
#include "net/loop.h"

namespace guard::upstream::testing {

/// An upstream together with the store behind it, which the tests look into and change from outside.
class ContractBackend {
 public:
  virtual ~ContractBackend() = default;
  virtual net::Loop& loop() = 0;
  virtual Upstream& upstream() = 0;
  /// Two VMs that may be written.
  virtual Uuid vm(int which) = 0;
  /// The uuid of a VM's vTPM as it is now; nil when there is none yet.
  virtual Uuid vtpm(const Uuid& vm) = 0;
  /// A VM that does not exist; nullopt where VMs come into being with their first write.
  virtual std::optional<Uuid> missing_vm() = 0;
  /// The contents of a VM's vTPM in the packed form, as they are stored; and a change made by somebody else.
  virtual std::string stored(const Uuid& vm) = 0;
  virtual void store(const Uuid& vm, std::string packed) = 0;
  /// Somebody else gives the VM another vTPM with these contents.
  virtual void replace_vtpm(const Uuid& vm, const Uuid& vtpm, std::string packed) = 0;
  /// Makes the contents of a VM such that nobody can tell what they were; and whether they still are what
  /// damage() made of them.
  virtual void damage(const Uuid& vm) = 0;
  virtual bool still_damaged(const Uuid& vm) = 0;
  /// A VM's UEFI variables as they are stored, empty when there are none; and a change made by somebody else.
  virtual std::string variables(const Uuid& vm) = 0;
  virtual void store_variables(const Uuid& vm, std::string value) = 0;
  /// How many alerts of a VM have arrived; nullopt where nobody takes any.
  virtual std::optional<unsigned> alerts(const Uuid& vm) = 0;
  /// The VM runs on another host from now on. False where there is only one host.
  virtual bool run_elsewhere(const Uuid& vm) = 0;
  /// Cuts it off, and lets it come back in a new session with what it had accepted.
  virtual void go_away() = 0;
  virtual void come_back() = 0;
};

struct BackendFactory {
  std::string name;
  std::function<std::unique_ptr<ContractBackend>()> make;
};

BackendFactory xapi_backend();
BackendFactory embedded_backend();
BackendFactory simulated_backend();

}  // namespace guard::upstream::testing
