// Files and directories of the real file system. Contracts: include/guard/env.h.
//
// Everything is reached through descriptors of directories held open, so that nothing renamed or linked in a
// path afterwards can lead elsewhere; files must be regular, links are never followed.
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "guard/env.h"

namespace guard {

namespace {

/// Parts of one pwritev; Linux allows 1024 (UIO_MAXIOV).
constexpr std::size_t max_iov = 1024;

// From linux/magic.h and the file systems themselves.
constexpr unsigned long btrfs_magic = 0x9123683E;
/// Where a block that was written stays where it is when it is written again. Elsewhere it does not (btrfs,
/// zfs, bcachefs, nilfs, f2fs), or nobody here can know (overlayfs, FUSE, network file systems).
constexpr std::array<unsigned long, 5> in_place_magics = {
    0xEF53,      // ext2, ext3, ext4
    0x58465342,  // xfs
    0x01021994,  // tmpfs
    0x3153464A,  // jfs
    0x52654973,  // reiserfs
};

std::unexpected<Error> failed(std::string_view what, int error = errno) {
  return std::unexpected(Error::system(what, error));
}

std::unexpected<Error> failed(std::string_view what, std::string_view name, int error = errno) {
  return std::unexpected(Error::system(std::string(what) + " " + std::string(name), error));
}

/// Owns a descriptor.
class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&&) = delete;
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_;
};

/// Repeats a system call that a signal interrupted.
template <class Call>
auto retry(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

class PosixFile final : public File {
 public:
  PosixFile(Fd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}

  Result<std::size_t> read_at(std::uint64_t offset, std::span<std::byte> buffer) override {
    std::size_t done = 0;
    while (done < buffer.size()) {
      const auto n = retry([&] {
        return ::pread(fd_.get(), buffer.data() + done, buffer.size() - done,
                       static_cast<off_t>(offset + done));
      });
      if (n < 0) return failed("read", name_);
      if (n == 0) break;
      done += static_cast<std::size_t>(n);
    }
    return done;
  }

  Result<void> write_at(std::uint64_t offset, std::span<const std::span<const std::byte>> parts) override {
    std::array<iovec, max_iov> window;
    std::size_t part = 0;
    std::size_t skip = 0;  // bytes of parts[part] already written
    while (part < parts.size()) {
      std::size_t count = 0;
      for (std::size_t i = part; i < parts.size() && count < max_iov; ++i) {
        const auto bytes = i == part ? parts[i].subspan(skip) : parts[i];
        if (!bytes.empty()) window[count++] = {const_cast<std::byte*>(bytes.data()), bytes.size()};
      }
      if (count == 0) break;
      const auto n = retry([&] {
        return ::pwritev(fd_.get(), window.data(), static_cast<int>(count), static_cast<off_t>(offset));
      });
      if (n < 0) return failed("write", name_);
      if (n == 0) return failed("write", name_, EIO);
      offset += static_cast<std::uint64_t>(n);
      for (auto left = static_cast<std::size_t>(n); part < parts.size();) {
        const auto rest = parts[part].size() - skip;
        if (left < rest) {
          skip += left;
          break;
        }
        left -= rest;
        skip = 0;
        ++part;
      }
    }
    return {};
  }

  Result<void> sync_data() override {
    if (retry([&] { return ::fdatasync(fd_.get()); }) < 0) return failed("fdatasync", name_);
    return {};
  }

  Result<void> sync_all() override {
    if (retry([&] { return ::fsync(fd_.get()); }) < 0) return failed("fsync", name_);
    return {};
  }

  Result<std::uint64_t> size() override {
    struct stat st{};
    if (::fstat(fd_.get(), &st) < 0) return failed("stat", name_);
    return static_cast<std::uint64_t>(st.st_size);
  }

 private:
  Fd fd_;
  std::string name_;
};

Result<void> check_name(std::string_view name) {
  const bool good = !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
                    name.find('/') == name.npos && name.find('\0') == name.npos;
  if (!good) return std::unexpected(Error::invalid("not a single path component"));
  return {};
}

class PosixDirectory final : public Directory {
 public:
  explicit PosixDirectory(Fd fd) : fd_(std::move(fd)) {
    struct statfs fs{};
    if (::fstatfs(fd_.get(), &fs) == 0) fs_type_ = static_cast<unsigned long>(fs.f_type) & 0xFFFFFFFFul;
  }

  Result<std::unique_ptr<File>> open_file(std::string_view name, Mode mode) override {
    int flags = O_RDWR;
    if (mode == Mode::create_new) flags |= O_CREAT | O_EXCL;
    if (mode == Mode::open_or_create) flags |= O_CREAT;
    return open_regular(name, flags);
  }

  Result<std::unique_ptr<File>> open_for_read(std::string_view name) override {
    return open_regular(name, O_RDONLY);
  }

  Result<std::unique_ptr<Directory>> open_dir(std::string_view name, bool create) override {
    if (auto good = check_name(name); !good) return std::unexpected(good.error());
    const std::string path(name);
    if (create && ::mkdirat(fd_.get(), path.c_str(), 0700) < 0 && errno != EEXIST) {
      return failed("mkdir", name);
    }
    Fd fd(::openat(fd_.get(), path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) return failed("open directory", name);
    return std::make_unique<PosixDirectory>(std::move(fd));
  }

  Result<void> rename(std::string_view from, std::string_view to) override {
    if (auto good = check_name(from); !good) return good;
    if (auto good = check_name(to); !good) return good;
    if (::renameat(fd_.get(), std::string(from).c_str(), fd_.get(), std::string(to).c_str()) < 0) {
      return failed("rename", from);
    }
    return {};
  }

  Result<void> unlink(std::string_view name) override {
    if (auto good = check_name(name); !good) return good;
    if (::unlinkat(fd_.get(), std::string(name).c_str(), 0) < 0) return failed("unlink", name);
    return {};
  }

  Result<void> remove_dir(std::string_view name) override {
    if (auto good = check_name(name); !good) return good;
    if (::unlinkat(fd_.get(), std::string(name).c_str(), AT_REMOVEDIR) == 0) return {};
    Error error = Error::system("remove directory " + std::string(name), errno);
    if (error.os_errno == ENOTEMPTY || error.os_errno == EEXIST) error.code = Errc::busy;
    return std::unexpected(std::move(error));
  }

  Result<void> link(std::string_view name, Directory& to, std::string_view to_name) override {
    if (auto good = check_name(name); !good) return good;
    if (auto good = check_name(to_name); !good) return good;
    const auto* target = dynamic_cast<PosixDirectory*>(&to);
    if (target == nullptr) return std::unexpected(Error::invalid("link: not a directory of this system"));
    if (::linkat(fd_.get(), std::string(name).c_str(), target->fd_.get(), std::string(to_name).c_str(), 0) ==
        0) {
      return {};
    }
    Error error = Error::system("link " + std::string(name), errno);
    if (error.os_errno == EEXIST) error.code = Errc::busy;
    return std::unexpected(std::move(error));
  }

  Result<Found> look_at(std::string_view name) override {
    if (auto good = check_name(name); !good) return std::unexpected(good.error());
    struct stat st{};
    if (::fstatat(fd_.get(), std::string(name).c_str(), &st, AT_SYMLINK_NOFOLLOW) < 0) {
      return failed("stat", name);
    }
    Found found;
    if (S_ISREG(st.st_mode)) found.kind = Found::Kind::file;
    if (S_ISDIR(st.st_mode)) found.kind = Found::Kind::directory;
    if (S_ISLNK(st.st_mode)) found.kind = Found::Kind::link;
    if (found.kind == Found::Kind::file) found.size = static_cast<std::uint64_t>(st.st_size);
    found.uid = st.st_uid;
    found.mode = st.st_mode & 07777u;
    return found;
  }

  Result<std::vector<std::string>> list() override {
    // A descriptor of its own: reading a directory moves the position of the one it reads through.
    Fd fd(::openat(fd_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd) return failed("open directory");
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(fd.get()), ::closedir);
    if (!stream) return failed("read directory");
    fd.release();  // the stream owns it now
    std::vector<std::string> names;
    for (;;) {
      errno = 0;
      const dirent* entry = ::readdir(stream.get());  // NOLINT(concurrency-mt-unsafe): our own stream
      if (entry == nullptr) break;
      const std::string_view name = entry->d_name;
      if (name != "." && name != "..") names.emplace_back(name);
    }
    if (errno != 0) return failed("read directory");
    std::sort(names.begin(), names.end());
    return names;
  }

  Result<void> sync() override {
    if (retry([&] { return ::fsync(fd_.get()); }) < 0) return failed("fsync directory");
    return {};
  }

  Result<std::shared_ptr<void>> lock(std::string_view name) override {
    if (auto good = check_name(name); !good) return std::unexpected(good.error());
    auto fd = open_fd(name, O_RDWR | O_CREAT);
    if (!fd) return std::unexpected(fd.error());
    if (retry([&] { return ::flock(fd->get(), LOCK_EX | LOCK_NB); }) < 0) {
      if (errno != EWOULDBLOCK) return failed("lock", name);
      return std::unexpected(
          Error{Errc::busy, EWOULDBLOCK, "lock " + std::string(name) + ": held by another process"});
    }
    return std::make_shared<Fd>(std::move(*fd));
  }

  bool overwrites_in_place() const override {
    return std::find(in_place_magics.begin(), in_place_magics.end(), fs_type_) != in_place_magics.end();
  }

 private:
  /// O_NONBLOCK: a FIFO somebody put in the way must not hang us; it means nothing for regular files.
  Result<Fd> open_fd(std::string_view name, int flags) {
    Fd fd(retry([&] {
      return ::openat(fd_.get(), std::string(name).c_str(), flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK,
                      0600);
    }));
    if (!fd) {
      Error error = Error::system("open " + std::string(name), errno);
      if (error.os_errno == EEXIST) error.code = Errc::busy;
      return std::unexpected(std::move(error));
    }
    struct stat st{};
    if (::fstat(fd.get(), &st) < 0) return failed("stat", name);
    if (!S_ISREG(st.st_mode)) {
      return std::unexpected(Error::invalid("open " + std::string(name) + ": not a regular file"));
    }
    // The attribute takes effect only while a file is empty. If it cannot be set, overwrites_in_place()
    // has already said that nothing is reserved here.
    if (fs_type_ == btrfs_magic && (flags & O_CREAT) != 0 && st.st_size == 0) {
      int attributes = 0;
      if (::ioctl(fd.get(), FS_IOC_GETFLAGS, &attributes) == 0) {
        attributes |= FS_NOCOW_FL;
        (void)::ioctl(fd.get(), FS_IOC_SETFLAGS, &attributes);
      }
    }
    return fd;
  }

  Result<std::unique_ptr<File>> open_regular(std::string_view name, int flags) {
    if (auto good = check_name(name); !good) return std::unexpected(good.error());
    auto fd = open_fd(name, flags);
    if (!fd) return std::unexpected(fd.error());
    return std::make_unique<PosixFile>(std::move(*fd), std::string(name));
  }

  Fd fd_;
  unsigned long fs_type_ = 0;
};

/// Opens `path` as a directory, making it and its parents when missing. A link in an existing part of the
/// path is followed (it is the operator's path), one in the place of a missing part is not.
Result<Fd> open_or_make(const std::string& path) {
  constexpr int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
  Fd fd(::open(path.c_str(), flags));
  if (fd) return fd;
  if (errno != ENOENT) return failed("open directory", path);
  const auto slash = path.find_last_of('/');
  const std::string name = slash == path.npos ? path : path.substr(slash + 1);
  std::string parent_path = slash == path.npos ? "." : path.substr(0, slash);
  if (parent_path.empty()) parent_path = "/";
  if (name.empty()) return open_or_make(parent_path);
  auto parent = open_or_make(parent_path);
  if (!parent) return parent;
  if (::mkdirat(parent->get(), name.c_str(), 0700) < 0 && errno != EEXIST) return failed("mkdir", path);
  if (retry([&] { return ::fsync(parent->get()); }) < 0) return failed("fsync directory", parent_path);
  Fd made(::openat(parent->get(), name.c_str(), flags | O_NOFOLLOW));
  if (!made) return failed("open directory", path);
  return made;
}

}  // namespace

Result<std::unique_ptr<Directory>> open_directory(const std::string& path) {
  if (path.empty()) return std::unexpected(Error::invalid("empty path of a directory"));
  auto fd = open_or_make(path);
  if (!fd) return std::unexpected(fd.error());
  return std::make_unique<PosixDirectory>(std::move(*fd));
}

Result<std::unique_ptr<Directory>> open_existing_directory(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return failed("open directory", path);
  return std::make_unique<PosixDirectory>(std::move(fd));
}

Result<void> replace_file(Directory& dir, std::string_view name, std::string_view contents) {
  const std::string temporary = std::string(name) + ".new";
  const auto write = [&]() -> Result<void> {
    auto file = dir.open_file(temporary, Directory::Mode::create_new);
    if (!file && file.error().code == Errc::busy) {
      // Left behind by a crash in an earlier replacement; nobody else uses this name.
      if (auto gone = dir.unlink(temporary); !gone) return gone;
      file = dir.open_file(temporary, Directory::Mode::create_new);
    }
    if (!file) return std::unexpected(file.error());
    const std::span<const std::byte> bytes = std::as_bytes(std::span(contents));
    auto done = (*file)->write_at(0, {&bytes, 1});
    if (done) done = (*file)->sync_all();
    if (done) done = dir.rename(temporary, name);
    if (done) return done;
    if (auto gone = dir.unlink(temporary); !gone) done.error().message += "; " + gone.error().message;
    return done;
  };
  if (auto written = write(); !written) return written;
  return dir.sync();
}

}  // namespace guard
