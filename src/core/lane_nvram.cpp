// The lane and UEFI variables: the update flag, and the rest of the map they stand in. See lane.h.
#include <utility>

#include "core/lane.h"

namespace guard::core {

/// The flag of a value that takes the place of another one on its way. The newest decides; but `no` says that
/// this value has nothing to tell, and what the older one had to tell must not be lost with it.
UpdateFlag Lane::inherited(UpdateFlag older, UpdateFlag newer) {
  return newer == UpdateFlag::no ? older : newer;
}

/// The same when what is replaced is in the journal: an entry that was not delivered yet, or, after the end
/// of a session, one that may have to be delivered again. What is delivered already has told its flag.
void Lane::inherit_pending(const SlotState& s, Entry& entry) const {
  if (owner_.device != Device::uefi) return;
  if (s.durable && s.durable->sequence > s.delivered) {
    entry.update = inherited(s.durable->update, entry.update);
  } else if (!s.durable && s.uncompared()) {
    entry.update = inherited(s.retained->entry.update, entry.update);
  }
}

/// A pending value is shown together with the rest of the map; where that is not known, the upstream is asked
/// if it can be. If it cannot tell, the value alone is the answer: it is all that varstored looks for.
bool Lane::wants_rest(const Context& cx, Slot slot) const {
  const SlotState& s = at(slot);
  if (owner_.device != Device::uefi || rest_epoch_ > cx.shared.ended_epoch) return false;
  if (!s.durable && !s.committing && !s.uncompared()) return false;
  return cx.shared.health.worth_trying();
}

void Lane::remember_rest(const Contents& contents, Epoch epoch) {
  if (owner_.device != Device::uefi) return;
  std::size_t bytes = 0;
  for (const auto& [name, value] : contents.nvram_map) bytes += name.size() + value.size();
  rest_epoch_ = bytes <= limits::nvram_rest && socket_open_ ? epoch : 0;
  rest_ = rest_epoch_ != 0 ? contents.nvram_map : NvramMap();
}

void Lane::answer_pending(Context& cx, RequestId reader, Value value) {
  const bool known = rest_epoch_ > cx.shared.ended_epoch;
  answer(cx, reader, ReadResult::Source::pending, std::move(value), known ? rest_ : NvramMap());
}

}  // namespace guard::core
