#include "engine/call_notes.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <span>

#include "guard/env.h"

namespace guard::engine {

namespace {

constexpr std::size_t unit_bytes = 128;
constexpr std::uint64_t magic = 0x53'45'54'4F'4E'44'47'58;  // "XGDNOTES"
constexpr std::uint64_t format_version = 1;
constexpr std::size_t values_per_unit = 4;
static_assert(values_per_unit >= slot_count);

// Two words that no damage turns into each other.
constexpr std::uint64_t says_known = 0x6B6E'6F77'6E2E'2E2E;
constexpr std::uint64_t says_unknown = 0x9491'9088'91D1'D1D1;

std::unexpected<Error> failed(std::string_view what) {
  return std::unexpected(Error::system(std::string(what) + " " + std::string(CallNotes::file_name), errno));
}

/// Never zero: zero is "free".
std::uint64_t checksum(const void* from, std::size_t size) {
  const std::uint64_t sum = digest_of({static_cast<const char*>(from), size}).low;
  return sum == 0 ? 1 : sum;
}

/// After this store, and not before it, everything stored so far counts.
void publish(std::uint64_t& word, std::uint64_t value) {
  std::atomic_ref(word).store(value, std::memory_order_release);
}

}  // namespace

struct CallNotes::Unit {
  std::array<std::uint8_t, 16> vm;
  std::uint8_t device;
  std::uint8_t count;
  std::array<std::uint8_t, values_per_unit> slots;
  std::array<std::uint8_t, 2> zero;
  std::array<std::array<std::uint64_t, 2>, values_per_unit> digests;
  std::array<std::uint64_t, values_per_unit> sequences;
  std::uint64_t sum;

  std::uint64_t expected() const { return checksum(this, offsetof(Unit, sum)); }
};

struct CallNotes::Header {
  std::uint64_t magic;
  std::uint64_t version;
  std::uint64_t units;
  std::array<std::uint64_t, 2> identity;
  std::array<std::uint64_t, 9> unused;
  std::uint64_t unknown;  ///< says_known or says_unknown; changes, so it is not part of the sum
  std::uint64_t sum;

  std::uint64_t expected() const { return checksum(this, offsetof(Header, unknown)); }
};

struct CallNotes::Mapping {
  Mapping(int fd, std::size_t units) : fd_(fd), units_(units) {}
  ~Mapping() {
    if (data_ != MAP_FAILED) ::munmap(data_, bytes());
    ::close(fd_);  // and with it the lock
  }
  Mapping(const Mapping&) = delete;

  std::size_t bytes() const { return (1 + units_) * unit_bytes; }
  std::size_t units() const { return units_; }
  int fd() const { return fd_; }
  bool map() {
    data_ = ::mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    return data_ != MAP_FAILED;
  }
  Header& header() { return *static_cast<Header*>(data_); }
  std::span<Unit> notes() { return {static_cast<Unit*>(data_) + 1, units_}; }
  void* data() { return data_; }

 private:
  int fd_;
  std::size_t units_;
  void* data_ = MAP_FAILED;
};

namespace {

/// Opens what is a regular file of ours; makes it when there is none, or when something else is in the way.
Result<int> open_file(const std::string& path) {
  for (int attempt = 0;; ++attempt) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    struct stat info{};
    if (fd >= 0) {
      if (::fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == ::geteuid() &&
          info.st_nlink == 1 && ::fchmod(fd, 0600) == 0) {
        return fd;
      }
      ::close(fd);
    } else if (errno != ELOOP && errno != ENXIO) {
      return failed("open");
    }
    if (attempt > 0) return std::unexpected(Error::invalid("something is in the way of " + path));
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) return failed("unlink");
  }
}

}  // namespace

Result<std::unique_ptr<CallNotes>> CallNotes::open(const std::string& directory, const std::string& identity,
                                                   std::size_t units) {
  static_assert(sizeof(Unit) == unit_bytes && sizeof(Header) == unit_bytes);
  auto dir = open_directory(directory);
  if (!dir) return std::unexpected(std::move(dir.error()));
  const auto fd = open_file(directory + "/" + std::string(file_name));
  if (!fd) return std::unexpected(fd.error());
  auto mapping = std::make_unique<Mapping>(*fd, units);
  if (::flock(*fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return failed("lock");
    return std::unexpected(Error{Errc::busy, 0, "another process uses " + directory});
  }
  struct stat info{};
  if (::fstat(*fd, &info) != 0) return failed("look at");
  const bool fits = info.st_size == static_cast<off_t>(mapping->bytes());
  if (!fits) {
    // Every page is allocated now: a full file system must not end this process later, at a store.
    if (::ftruncate(*fd, 0) != 0) return failed("empty");
    if (const int error = ::posix_fallocate(*fd, 0, static_cast<off_t>(mapping->bytes())); error != 0) {
      return std::unexpected(Error::system("allocate " + std::string(file_name), error));
    }
  }
  if (!mapping->map()) return failed("map");
  std::unique_ptr<CallNotes> notes(new CallNotes(std::move(mapping)));
  if (fits) {
    notes->read(identity);
  } else {
    notes->start_afresh(identity, info.st_size == 0 ? "there was no file" : "the file had another size");
  }
  return notes;
}

CallNotes::CallNotes(std::unique_ptr<Mapping> mapping) : mapping_(std::move(mapping)) {}
CallNotes::~CallNotes() = default;

void CallNotes::read(const std::string& identity) {
  const Header& header = mapping_->header();
  const Digest whose = digest_of(identity);
  if (header.magic != magic || header.version != format_version || header.units != mapping_->units() ||
      header.sum != header.expected()) {
    return start_afresh(identity, "the header is damaged");
  }
  if (header.identity != std::array{whose.low, whose.high}) {
    return start_afresh(identity, "the file is of another run of the machine, or of another store");
  }
  if (header.unknown != says_known) return start_afresh(identity, "the file says that it is not complete");
  const auto units = mapping_->notes();
  for (std::size_t i = units.size(); i-- > 0;) {
    const Unit& unit = units[i];
    if (unit.sum == 0) {
      free_.push_back(i);
      continue;
    }
    if (unit.sum != unit.expected() || unit.count > values_per_unit || unit.device > 1) {
      return start_afresh(identity, "a note is damaged");
    }
    const Owner owner{Uuid{unit.vm}, static_cast<Device>(unit.device)};
    const auto [place, created] = used_.try_emplace(owner);
    place->second.push_back(i);
    // Two of one owner: killed while one was replaced.
    if (created) found_.calls.emplace_back(owner, Values{});
    const auto call = std::find_if(found_.calls.begin(), found_.calls.end(),
                                   [&](const auto& item) { return item.first == owner; });
    for (std::size_t v = 0; v < unit.count; ++v) {
      if (unit.slots[v] >= slot_count) return start_afresh(identity, "a note is damaged");
      call->second.push_back({static_cast<Slot>(unit.slots[v]),
                              Digest{unit.digests[v][0], unit.digests[v][1]}, unit.sequences[v]});
    }
  }
}

/// An empty file that says "unknown". Killed in between, it is damaged, which says the same.
void CallNotes::start_afresh(const std::string& identity, std::string why) {
  found_ = Found{true, std::move(why), {}};
  used_.clear();
  free_.clear();
  unknown_ = true;
  Header& header = mapping_->header();
  publish(header.unknown, says_unknown);
  publish(header.sum, 0);
  std::memset(static_cast<void*>(mapping_->notes().data()), 0, mapping_->units() * unit_bytes);
  const Digest whose = digest_of(identity);
  header.magic = magic;
  header.version = format_version;
  header.units = mapping_->units();
  header.identity = {whose.low, whose.high};
  header.unused = {};
  publish(header.sum, header.expected());
  for (std::size_t i = mapping_->units(); i-- > 0;) free_.push_back(i);
}

void CallNotes::note(Owner owner, const Values& values) {
  if (free_.empty() || values.size() > values_per_unit) {
    no_room_.insert(owner);
    return store_unknown();
  }
  const std::size_t place = free_.back();
  free_.pop_back();
  Unit& unit = mapping_->notes()[place];
  Unit filled{};
  filled.vm = owner.vm.bytes;
  filled.device = static_cast<std::uint8_t>(owner.device);
  filled.count = static_cast<std::uint8_t>(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    filled.slots[i] = static_cast<std::uint8_t>(values[i].slot);
    filled.digests[i] = {values[i].digest.low, values[i].digest.high};
    filled.sequences[i] = values[i].sequence;
  }
  std::memcpy(static_cast<void*>(&unit), &filled, offsetof(Unit, sum));
  publish(unit.sum, filled.expected());
  release(owner);  // what was noted before; only now
  used_[owner].push_back(place);
  if (no_room_.erase(owner) > 0) store_unknown();
}

void CallNotes::erase(Owner owner) {
  release(owner);
  if (no_room_.erase(owner) > 0) store_unknown();
}

void CallNotes::doubt_all(std::string why) {
  if (!found_.unknown) found_.why = std::move(why);
  found_.unknown = true;
  unknown_ = true;
  store_unknown();
}

void CallNotes::forget_unknown() {
  unknown_ = false;
  store_unknown();
}

void CallNotes::release(Owner owner) {
  const auto found = used_.find(owner);
  if (found == used_.end()) return;
  for (const std::size_t place : found->second) {
    publish(mapping_->notes()[place].sum, 0);
    free_.push_back(place);
  }
  used_.erase(found);
}

void CallNotes::store_unknown() {
  publish(mapping_->header().unknown, unknown_ || !no_room_.empty() ? says_unknown : says_known);
}

std::string identity_of(std::string_view state_dir) {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string boot;
  std::getline(file, boot);
  return boot + " " + std::string(state_dir);
}

}  // namespace guard::engine
