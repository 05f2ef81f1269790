// The codec of a vTPM's stored string. Checked besides the sanitizers: what is accepted has the number of
// fields it must have, comes back the same when written and read again, and is refused when a field is added.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "wire/vtpm_contents.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace guard::wire;
  const std::string_view packed(reinterpret_cast<const char*>(data), size);
  std::size_t spaces = 0;
  for (const char c : packed) spaces += c == ' ' ? 1 : 0;

  const auto fields = split_vtpm_contents(packed);
  require(fields.has_value() == (spaces == 0 || spaces == 2));
  const auto contents = unpack_vtpm_contents(packed);
  require(contents.has_value() == fields.has_value());
  if (!contents) return 0;

  for (std::size_t i = 0; i < fields->size(); ++i) {
    require(is_packable_field((*fields)[i]));
    require(contents->slots[i].view() == (*fields)[i]);
  }
  const std::string written = pack_vtpm_contents(*contents);
  require(written.size() == packed_vtpm_size(*contents));
  require(spaces == 0 ? written == std::string(packed) + "  " : written == packed);
  const auto again = unpack_vtpm_contents(written);
  require(again && again->slots == contents->slots);
  require(!split_vtpm_contents(written + " "));
  return 0;
}
