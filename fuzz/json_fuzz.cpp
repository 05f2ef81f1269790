// The JSON parser and printer: whatever is accepted is printed as JSON that means the same and prints the
// same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "wire/json.h"

using namespace guard::wire;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto json = parse_json(text);
  if (!json) {
    require(json.error().code == guard::Errc::invalid && !json.error().message.empty());
    // Limits only ever refuse more.
    require(!parse_json(text, {.max_depth = 4}));
    return 0;
  }
  const std::string printed = to_string(*json);
  // Every control character grows to at most six bytes, a number to at most a few more.
  const auto again = parse_json(printed, {.max_bytes = printed.size()});
  require(again.has_value());
  require(*again == *json);
  require(to_string(*again) == printed);
  require(!parse_json(printed, {.max_bytes = printed.size() - 1}));
  // What every text must survive: as a member name and as a string.
  const auto wrapped = parse_json(to_string(JsonObject{{printed, printed}}));
  require(wrapped && wrapped->find(printed) && *wrapped->find(printed)->string() == printed);
  return 0;
}
