#include "wire/vtpm_contents.h"

#include <cstring>

namespace guard::wire {

namespace {

constexpr char separator = ' ';
constexpr std::array<Slot, 3> order{Slot::permall, Slot::savestate, Slot::volatilestate};

}  // namespace

Result<VtpmFields> split_vtpm_contents(std::string_view packed) {
  VtpmFields fields;
  std::size_t count = 0;
  for (;;) {
    const std::size_t end = packed.find(separator);
    if (count < fields.size()) fields[count] = packed.substr(0, end);
    ++count;
    if (end == std::string_view::npos) break;
    packed.remove_prefix(end + 1);
  }
  if (count != 1 && count != fields.size()) {
    return std::unexpected(Error::corrupt("contents have " + std::to_string(count) + " fields, not 3 or 1"));
  }
  return fields;
}

Result<Contents> unpack_vtpm_contents(std::string_view packed) {
  const auto fields = split_vtpm_contents(packed);
  if (!fields) return std::unexpected(fields.error());
  Contents contents;
  for (std::size_t i = 0; i < order.size(); ++i) contents[order[i]] = Value(std::string((*fields)[i]));
  return contents;
}

std::size_t packed_vtpm_size(const Contents& contents) {
  std::size_t size = order.size() - 1;
  for (const Slot slot : order) size += contents[slot].size();
  return size;
}

void append_vtpm_contents(std::string& out, const Contents& contents) {
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i != 0) out.push_back(separator);
    out += contents[order[i]].view();
  }
}

std::string pack_vtpm_contents(const Contents& contents) {
  std::string packed;
  packed.reserve(packed_vtpm_size(contents));
  append_vtpm_contents(packed, contents);
  return packed;
}

bool is_packable_field(std::string_view field) {
  return field.empty() || std::memchr(field.data(), separator, field.size()) == nullptr;
}

}  // namespace guard::wire
