#include "ledger.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "crypto.h"

namespace guard::tool {

namespace {

constexpr std::string_view first_line = "guest-tpm-ledger 1";

/// How a text is named in the ledger: by its SHA-256, "-" for none.
std::string digest_name(std::string_view text) { return text.empty() ? "-" : hex(sha256(text)); }

Result<std::string> read_all(int fd) {
  std::string content;
  char buffer[65536];
  for (;;) {
    const auto got = ::read(fd, buffer, sizeof buffer);
    if (got < 0) return std::unexpected(Error::system("read the ledger", errno));
    if (got == 0) return content;
    content.append(buffer, static_cast<std::size_t>(got));
  }
}

}  // namespace

std::string nv_pattern(std::uint64_t number, std::size_t bytes) {
  const std::string phrase = "operation " + std::to_string(number) + ". ";
  std::string pattern;
  while (pattern.size() < bytes) pattern += phrase;
  pattern.resize(bytes);
  return pattern;
}

Result<std::unique_ptr<Ledger>> Ledger::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return std::unexpected(Error::system("open " + path, errno));
  std::unique_ptr<Ledger> ledger(new Ledger(fd));
  auto content = read_all(fd);
  if (!content) return std::unexpected(content.error());
  const auto whole = content->rfind('\n') == std::string::npos ? 0 : content->rfind('\n') + 1;
  if (whole < content->size()) {
    if (::ftruncate(fd, static_cast<off_t>(whole)) != 0) {
      return std::unexpected(Error::system("cut the ledger's torn last line", errno));
    }
    content->resize(whole);
  }
  std::istringstream lines(*content);
  std::string line;
  if (!std::getline(lines, line)) {
    ledger->record(std::string(first_line));
  } else if (line != first_line) {
    return std::unexpected(Error::corrupt(path + " is not a ledger"));
  }
  for (std::size_t number = 2; std::getline(lines, line); ++number) {
    if (!ledger->apply(line)) {
      return std::unexpected(Error::corrupt(path + ": line " + std::to_string(number) + " makes no sense"));
    }
  }
  return ledger;
}

Ledger::~Ledger() { ::close(fd_); }

void Ledger::ready(const Identity& identity, std::uint64_t counter) {
  record("ready " + hex(identity.key_point) + " " + std::to_string(identity.nv_bytes) + " " +
         std::to_string(counter));
}

std::string Ledger::nv_content_after(const Operation& operation) const {
  std::string content = nv_content_;
  if (!operation.counter)
    content.replace(0, operation.amount, nv_pattern(operation.number, operation.amount));
  return content;
}

void Ledger::begin(const Operation& operation) {
  record("op " + std::to_string(operation.number) + (operation.counter ? " counter " : " nv ") +
         std::to_string(operation.amount));
}

void Ledger::done() { record("done " + std::to_string(under_way_->number)); }

void Ledger::lost() { record("lost " + std::to_string(under_way_->number)); }

void Ledger::expect_pcr(unsigned index, const std::string& value) {
  record("pcr " + std::to_string(index) + " " + hex(value));
}

void Ledger::store_begins(Slot slot, std::string_view text) {
  record("begin " + std::string(name_of(slot)) + " " + digest_name(text) + " " + std::to_string(text.size()));
}

void Ledger::store_acknowledged(Slot slot) { record("ack " + std::string(name_of(slot))); }

Result<> Ledger::loaded(Slot slot, std::string_view text) {
  State& state = states_[static_cast<std::size_t>(slot)];
  if (!state.acknowledged) return {};
  const std::string digest = digest_name(text);
  if (digest == *state.acknowledged || state.begun.contains(digest)) return {};
  const std::string what = "the stored " + std::string(name_of(slot));
  if (text.empty()) {
    return std::unexpected(Error::corrupt(what + " is gone: a TPM would now make a new identity"));
  }
  return std::unexpected(Error::corrupt(what + " (" + std::to_string(text.size()) + " bytes, SHA-256 " +
                                        digest + ") is neither the last acknowledged (" +
                                        *state.acknowledged + ") nor one sent later"));
}

std::optional<std::string> Ledger::acknowledged_digest(Slot slot) const {
  return states_[static_cast<std::size_t>(slot)].acknowledged;
}

/// Takes a line into account; false when it does not fit what went before.
bool Ledger::apply(const std::string& line) {
  std::istringstream words(line);
  std::string kind, name;
  words >> kind >> name;
  if (kind == "begin" || kind == "ack") {
    const auto slot = slot_named(name);
    if (!slot) return false;
    State& state = states_[static_cast<std::size_t>(*slot)];
    if (kind == "begin") {
      std::string digest;
      if (!(words >> digest)) return false;
      state.begun.insert(digest);
      state.last_begun = digest;
      return true;
    }
    if (!state.last_begun) return false;
    state.acknowledged = state.last_begun;
    state.begun.clear();
    return true;
  }
  if (kind == "ready") {
    Identity identity;
    if (!(words >> identity.nv_bytes >> counter_)) return false;
    identity.key_point = unhex(name);
    nv_content_ = nv_pattern(0, identity.nv_bytes);
    identity_ = identity;
    return true;
  }
  if (kind == "pcr") {
    std::string value;
    if (!(words >> value)) return false;
    pcr_ = {static_cast<unsigned>(std::strtoul(name.c_str(), nullptr, 10)), unhex(value)};
    return true;
  }
  const std::uint64_t number = std::strtoull(name.c_str(), nullptr, 10);
  if (kind == "op") {
    std::string what;
    Operation operation{number, false, 0};
    if (!identity_ || under_way_ || !(words >> what >> operation.amount)) return false;
    operation.counter = what == "counter";
    if (!operation.counter && operation.amount > nv_content_.size()) return false;
    under_way_ = operation;
    last_operation_ = number;
    return true;
  }
  if ((kind == "done" || kind == "lost") && under_way_ && under_way_->number == number) {
    if (kind == "done") {
      nv_content_ = nv_content_after(*under_way_);
      if (under_way_->counter) counter_ = under_way_->amount;
    }
    under_way_.reset();
    return true;
  }
  return false;
}

/// Appends a line and takes it into account. A ledger that cannot be written proves nothing, so that the
/// tool ends then.
void Ledger::record(const std::string& line) {
  const std::string text = line + "\n";
  if (::write(fd_, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    std::perror("guest-tpm: cannot write the ledger");
    std::exit(2);
  }
  if (line != first_line) apply(line);
}

}  // namespace guard::tool
