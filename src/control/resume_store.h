// The resume file on disk: reading it at start, whatever state it is in, and replacing it whole.
//
// Blocks; used by one thread at a time per object (copies are independent).
#pragma once

#include <string>
#include <string_view>

#include "base/log.h"
#include "guard/result.h"
#include "wire/resume_file.h"

namespace guard::control {

class ResumeStore {
 public:
  /// `path` is the absolute path of the file.
  ResumeStore(std::string path, Logger& log);

  struct Loaded {
    bool found = false;  ///< there was something at the path
    wire::ResumeFile file;
    std::string text;       ///< what was read
    std::string set_aside;  ///< the name under which what could not be read was kept; empty if nothing was
  };
  /// Reads the file. A missing one is an empty list. One that is not whole is kept for inspection as
  /// `<file>.broken-<n>`: as a copy, so that a crash before the next write() loses nothing that can still be
  /// read; what is no readable file of sensible size at all is moved there.
  Loaded load() const;

  /// Replaces the file durably (guard::replace_file), making its directory when it is missing.
  Result<void> write(std::string_view text) const;

 private:
  std::string directory_;
  std::string name_;
  Logger* log_;
};

}  // namespace guard::control
