#include "engine/translate.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace guard::engine {

namespace {

using journal::flag_lost, journal::flag_over_anything, journal::flag_update_bits;

Time since(const journal::LiveEntry& found, Time now, std::int64_t wall_ms) {
  const std::int64_t age_ms = std::clamp<std::int64_t>(wall_ms - found.wall_ms, 0, std::int64_t{1} << 40);
  return now - std::chrono::milliseconds(age_ms);
}

core::CommitDone::Result result_of(const Result<>& result) {
  if (result) return core::CommitDone::Result::durable;
  return result.error().code == Errc::no_space ? core::CommitDone::Result::full
                                               : core::CommitDone::Result::failed;
}

core::ValueRead::Trouble trouble_of(const Result<>& result) {
  using Trouble = core::ValueRead::Trouble;
  if (result) return Trouble::none;
  if (result.error().code == Errc::not_found) return Trouble::gone;
  return result.error().code == Errc::corrupt ? Trouble::damaged : Trouble::failed;
}

}  // namespace

journal::Request to_request(core::Commit action, std::int64_t wall_ms) {
  journal::Entry entry;
  entry.owner = action.owner;
  entry.slot = action.slot;
  entry.sequence = action.sequence;
  entry.vtpm = action.vtpm;
  entry.known = std::move(action.known);
  entry.wall_ms = wall_ms;
  entry.flags = static_cast<std::uint8_t>(action.update);
  if (action.over_anything) entry.flags |= flag_over_anything;
  if (action.alert) entry.type = journal::RecordType::alert;
  if (action.contents) {
    entry.type = journal::RecordType::contents;
    entry.value = journal::pack_contents(*action.contents);
  } else {
    entry.value = std::move(action.value);
  }
  return entry;
}

journal::Request to_request(const core::Remove& action) {
  return journal::Removal{action.owner,     action.slot,     action.up_to,
                          action.delivered, action.retained, action.alert};
}

journal::Request to_request(const core::ReadBack& action) {
  return journal::ReadBack{action.owner, action.slot, action.sequence};
}

core::Event to_event(journal::Completion done) {
  switch (done.kind) {
    case journal::Completion::Kind::entry:
      return core::CommitDone{done.owner, done.slot, done.sequence, result_of(done.result)};
    case journal::Completion::Kind::removal:
      return core::RemovalDone{done.owner, done.slot, done.sequence, done.result.has_value()};
    case journal::Completion::Kind::read:
      break;
  }
  core::ValueRead read{done.owner, done.slot, done.sequence, std::nullopt, trouble_of(done.result)};
  if (done.result) read.value = std::move(done.value);
  return read;
}

std::optional<core::RecoveredEntry> to_recovered(const journal::LiveEntry& found, Time now,
                                                 std::int64_t wall_ms) {
  using journal::RecordType;
  const bool contents = found.type == RecordType::contents && found.owner.device == Device::vtpm;
  const int update = found.flags & ~(flag_over_anything | flag_lost) & 0xff;
  const bool known_flags = update <= static_cast<int>(UpdateFlag::no);
  if ((found.type != RecordType::write && !contents) || device_of(found.slot) != found.owner.device ||
      !known_flags) {
    return std::nullopt;
  }
  core::RecoveredEntry entry;
  entry.slot = found.slot;
  entry.sequence = found.sequence;
  entry.size = found.size;
  entry.digest = found.digest;
  entry.known = found.known;
  entry.vtpm = found.vtpm;
  entry.suspect = found.suspect;
  entry.retained = found.retained;
  entry.over_anything = (found.flags & flag_over_anything) != 0;
  entry.update = static_cast<UpdateFlag>(found.flags & flag_update_bits);
  entry.since = since(found, now, wall_ms);
  return entry;
}

std::optional<core::RecoveredAlert> to_recovered_alert(const journal::LiveEntry& found, Time now,
                                                       std::int64_t wall_ms) {
  if (found.type != journal::RecordType::alert || found.owner.device != Device::uefi) return std::nullopt;
  return core::RecoveredAlert{found.sequence, found.size, since(found, now, wall_ms)};
}

}  // namespace guard::engine
