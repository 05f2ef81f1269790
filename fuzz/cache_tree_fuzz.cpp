// What the original's cache tree may hold: names have one spelling, a state that counts as whole has the
// length that its header tells, and a manifest that can be read can be written and read again unchanged.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/limits.h"
#include "base/text.h"
#include "cache_tree/layout.h"
#include "cache_tree/manifest.h"

using namespace guard;
using namespace guard::cache_tree;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void check_names(std::string_view text) {
  if (const auto vm = parse_vm(text)) require(vm->str() == text);
  if (const auto key = parse_key(text)) require(key_of(*key) == text);
  if (const auto timestamp = parse_timestamp(text)) require(std::to_string(*timestamp) == text);
}

void check_value(std::string_view text) {
  if (!flaw_of(text).empty()) return;
  require(is_base64(text) && text.size() >= 16 && text.size() <= limits::max_body_vtpm);
  // One quantum less or more is another length, whatever is in it.
  require(!flaw_of(text.substr(0, text.size() - 4)).empty());
  if (!text.ends_with('=')) require(!flaw_of(std::string(text) + "AAAA").empty());
}

void check_manifest(std::string_view text) {
  const auto manifest = read_manifest(text);
  if (!manifest) return;
  const std::string written = write_manifest(*manifest);
  const auto again = read_manifest(written);
  require(again && again->files == manifest->files && write_manifest(*again) == written);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  check_names(text);
  check_value(text);
  check_manifest(text);
  return 0;
}
