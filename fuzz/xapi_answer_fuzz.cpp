// Answers of xapi. The first byte chooses the id and the method of the call. Checked besides the sanitizers:
// a refusal has a code and is sorted into a class with a bounded, printable reason; a refusal of an update is
// never taken for something that only look-ups have; a success is only found where the id is right.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "upstream/xapi_message.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace guard::upstream;
  if (size == 0) return 0;
  const std::uint64_t id = data[0] & 15;
  const auto method = static_cast<Method>((data[0] >> 4) % method_count);
  const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);

  const auto answer = parse_answer(body, id);
  if (!answer) {
    require(answer.error().code == guard::Errc::invalid);
    return 0;
  }
  if (const auto* error = std::get_if<XapiError>(&*answer)) {
    require(!error->code.empty());
    const Failure failure = classify(method, *error);
    require(!failure.reason.empty() && failure.reason.size() <= 200);
    for (const char c : failure.reason) require(c >= ' ' && c <= '~');
    require(failure.kind != Failure::Kind::unknown);
    require(!error->emergency || (failure.kind == Failure::Kind::transient && failure.host_wide));
    require(failure.kind != Failure::Kind::payload || is_update(method));
    return 0;
  }
  require(!parse_answer(body, id + 1));
  return 0;
}
