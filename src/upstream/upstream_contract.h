// What every upstream promises (guard/upstream.h), as tests that know nothing of its kind. An upstream takes
// part by giving a backend to INSTANTIATE_TEST_SUITE_P at the end of upstream_contract_test.cpp.
#pragma once

#include <functional>
#include <memory>
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
  /// Two VMs that exist, with vTPMs of which this is the uuid; and one that does not exist.
  virtual Uuid vm(int which) = 0;
  virtual Uuid vtpm(int which) = 0;
  virtual Uuid missing_vm() = 0;
  /// What is stored, in the packed form, and a change made by somebody else.
  virtual std::string stored(const Uuid& vm) = 0;
  virtual void store(const Uuid& vm, std::string packed) = 0;
  /// Cuts it off, and lets it come back in a new session with what it had accepted.
  virtual void go_away() = 0;
  virtual void come_back() = 0;
};

struct BackendFactory {
  std::string name;
  std::function<std::unique_ptr<ContractBackend>()> make;
};

BackendFactory xapi_backend();

}  // namespace guard::upstream::testing
