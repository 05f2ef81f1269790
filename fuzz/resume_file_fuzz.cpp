// The resume file: any text is read without failing, what was read can be written and read again unchanged,
// and an entry in front of damage is never lost.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "wire/resume_file.h"

using namespace guard;
using namespace guard::wire;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const ResumeFile file = read_resume_file(text);
  require(file.problem.empty() == (file.skipped == 0 && !file.damaged));
  require(file.entries.size() <= static_cast<std::size_t>(std::count(text.begin(), text.end(), '{')));

  const std::string written = write_resume_file(file.entries);
  const ResumeFile again = read_resume_file(written);
  require(!again.damaged && again.skipped == 0 && again.entries == file.entries);
  require(write_resume_file(again.entries) == written);

  const ResumeEntry known{Device::uefi, 65539, "/var/run/xen/varstored-root-4/xapi-depriv-socket",
                          *Uuid::parse("3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10")};
  std::string damaged = write_resume_file({&known, 1});
  damaged.back() = ',';
  const ResumeFile salvaged = read_resume_file(damaged.append(text));
  require(!salvaged.entries.empty() && salvaged.entries.front() == known);
  return 0;
}
