#include "control/resume_store.h"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "guard/env.h"

namespace guard::control {

namespace {

/// The first free name `<name>.broken-<n>`; empty when all are taken: then there is enough to look at.
std::string free_name(Directory& dir, const std::string& name) {
  const auto names = dir.list();
  if (!names) return {};
  for (unsigned n = 1; n <= limits::broken_resume_files; ++n) {
    std::string candidate = name + ".broken-" + std::to_string(n);
    if (std::ranges::find(*names, candidate) == names->end()) return candidate;
  }
  return {};
}

/// At most limits::resume_file_bytes of the file, and whether that is all of it.
struct Text {
  std::string bytes;
  bool complete = true;
};

Result<Text> read_text(Directory& dir, const std::string& name) {
  auto file = dir.open_for_read(name);
  if (!file) return std::unexpected(std::move(file).error());
  const auto size = (*file)->size();
  if (!size) return std::unexpected(size.error());
  Text text;
  text.complete = *size <= limits::resume_file_bytes;
  text.bytes.resize(static_cast<std::size_t>(std::min<std::uint64_t>(*size, limits::resume_file_bytes)));
  const auto read = (*file)->read_at(0, std::as_writable_bytes(std::span(text.bytes)));
  if (!read) return std::unexpected(read.error());
  text.bytes.resize(*read);
  return text;
}

}  // namespace

ResumeStore::ResumeStore(std::string path, Logger& log) : log_(&log) {
  const auto slash = path.rfind('/');
  directory_ = slash == path.npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  name_ = slash == path.npos ? std::move(path) : path.substr(slash + 1);
}

ResumeStore::Loaded ResumeStore::load() const {
  Loaded loaded;
  auto dir = open_directory(directory_);
  Result<Text> text = dir ? read_text(**dir, name_) : std::unexpected(dir.error());
  if (!text && text.error().code == Errc::not_found) return loaded;
  loaded.found = true;
  if (text) {
    loaded.file = wire::read_resume_file(text->bytes);
    loaded.text = text->bytes;
    if (text->complete && !loaded.file.damaged && loaded.file.skipped == 0) return loaded;
  } else {
    loaded.file.damaged = true;
    loaded.file.problem = text.error().message;
  }
  if (dir) {
    const std::string aside = free_name(**dir, name_);
    const bool copy = text && text->complete;
    const Result<void> kept = aside.empty()
                                  ? std::unexpected(Error{Errc::no_space, 0, "enough are kept already"})
                              : copy ? replace_file(**dir, aside, text->bytes)
                                     : (*dir)->rename(name_, aside);
    if (kept) loaded.set_aside = aside;
  }
  log_->log(LogLevel::error, "resume_file_damaged",
            {{"file", directory_ + "/" + name_},
             {"problem", loaded.file.problem},
             {"entries_read", loaded.file.entries.size()},
             {"entries_lost", loaded.file.skipped},
             {"kept_as", loaded.set_aside.empty() ? "nothing" : loaded.set_aside}});
  return loaded;
}

Result<void> ResumeStore::write(std::string_view text) const {
  auto dir = open_directory(directory_);
  if (!dir) return std::unexpected(std::move(dir).error());
  return replace_file(**dir, name_, text);
}

}  // namespace guard::control
