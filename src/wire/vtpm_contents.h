// Codec of the one string in which xapi keeps the three states of a vTPM (VTPM.contents). Pure.
//
//   permall SP savestate SP volatilestate     two bytes 0x20; a field may be empty and holds no 0x20
//   permall                                   older form, no 0x20 at all: the other two are empty
//
// What is written is always the three-field form, also when all fields are empty: xenopsd takes a string of
// length 0 for a vTPM that has yet to be manufactured. Any other number of fields is malformed and is never
// repaired by us.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include "guard/result.h"
#include "guard/upstream.h"

namespace guard::wire {

/// The three fields in the order of the slots permall, savestate, volatilestate; views into the packed text.
using VtpmFields = std::array<std::string_view, 3>;

/// Splits on every single 0x20, trims nothing, copies nothing. Errc::corrupt when the text has neither one
/// nor three fields.
Result<VtpmFields> split_vtpm_contents(std::string_view packed);

/// The same as values; one copy of each field that is not empty. `vtpm` is left nil: the text does not name
/// it.
Result<Contents> unpack_vtpm_contents(std::string_view packed);

/// Length of the packed form in bytes.
std::size_t packed_vtpm_size(const Contents& contents);

/// Appends the three-field form. Precondition: no field holds a 0x20 (is_packable_field).
void append_vtpm_contents(std::string& out, const Contents& contents);
std::string pack_vtpm_contents(const Contents& contents);

/// Whether a value can be a field at all: a 0x20 in it would shift every field after it.
bool is_packable_field(std::string_view field);

}  // namespace guard::wire
