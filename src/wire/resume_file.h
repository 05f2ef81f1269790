// Codec of the resume file: the list of device sockets that survives a restart of the daemon. Pure.
//
// The format is the original daemon's, so that an upgrade and a downgrade keep the sockets of running VMs:
// a JSON array without white space, one object per socket with the members typ ("Swtpm" or "Varstored"),
// gid, path and vm_uuid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "guard/types.h"

namespace guard::wire {

/// One device socket.
struct ResumeEntry {
  Device device = Device::vtpm;
  std::uint32_t gid = 0;
  std::string path;  ///< absolute
  Uuid vm;
  bool operator==(const ResumeEntry&) const = default;
};

struct ResumeFile {
  std::vector<ResumeEntry> entries;  ///< in the order of the file
  /// Objects that are no usable entry: a member missing or unreadable, an unknown service.
  std::size_t skipped = 0;
  /// The text is not a JSON array; `entries` holds what was still whole in it.
  bool damaged = false;
  /// What was wrong first, for an operator; empty when nothing was.
  std::string problem;
};

/// Reads a resume file as leniently as is safe: names of members and services in any case, members in any
/// order, unknown members ignored, gid as number or decimal text. Never fails: what cannot be read is
/// skipped and counted, and the work is bounded whatever the text is. An empty text counts as damaged; a
/// *missing* file is an empty list and the caller's case.
ResumeFile read_resume_file(std::string_view text);

/// The exact form the original daemon writes and reads. Paths must be valid UTF-8.
std::string write_resume_file(std::span<const ResumeEntry> entries);

}  // namespace guard::wire
