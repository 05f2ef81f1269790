#include "control/socket_birth.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>

#include "base/limits.h"

namespace guard::control {

namespace {

std::unexpected<Error> failed(std::string_view what, const std::string& name, int error = errno) {
  return std::unexpected(Error::system(std::string(what) + " " + name, error));
}

std::unexpected<Error> refused(const std::string& name, std::string_view why) {
  return std::unexpected(Error::invalid(name + " " + std::string(why)));
}

constexpr std::string_view private_prefix = ".guard-";

std::unexpected<Error> not_found(const std::string& name, std::string_view why) {
  return std::unexpected(Error{Errc::not_found, 0, name + " " + std::string(why)});
}

/// The two halves of a checked path.
struct Place {
  std::string directory;
  std::string name;
};

Place split(const std::string& path) {
  const auto slash = path.rfind('/');
  return {slash == 0 ? "/" : path.substr(0, slash), path.substr(slash + 1)};
}

/// O_NOFOLLOW: the last directory may be the private one of a VM, a link in its place is refused. Links
/// further up (/var/run) belong to the host and are followed.
Result<OwnedFd> open_parent(const std::string& directory) {
  OwnedFd fd(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (fd) return fd;
  const int error = errno;
  struct stat st{};
  if (error == ENOTDIR && ::lstat(directory.c_str(), &st) == 0 && S_ISLNK(st.st_mode)) {
    return refused(directory, "is a symbolic link, not a directory");
  }
  return failed("open directory", directory, error);
}

/// Whether the rename may replace what stands at the path. What the check and the rename see may differ, as
/// the owner of the directory can change it in between; the rename itself fails on a directory and replaces,
/// never follows, a link.
Result<void> check_the_way(const OwnedFd& parent, const Place& place, const SocketSpec& spec) {
  struct stat st{};
  if (::fstatat(parent.get(), place.name.c_str(), &st, AT_SYMLINK_NOFOLLOW) < 0) {
    if (errno == ENOENT) return {};
    return failed("stat", spec.path);
  }
  if (S_ISSOCK(st.st_mode)) return {};
  if (S_ISREG(st.st_mode) && spec.replace_files) return {};
  return refused(spec.path,
                 S_ISREG(st.st_mode) ? "is a file, not a socket" : "is in the way and is not a socket");
}

/// Guards the umask of the process where a thread cannot have its own; see Umask.
std::mutex& process_umask() {
  static std::mutex mutex;
  return mutex;
}

/// Sets the umask of the calling, short-lived thread to 0. The umask belongs to the process unless the thread
/// leaves what it shares (CLONE_FS, no privilege needed). Some containers forbid that; then the umask of the
/// process is 0 for the few microseconds of the bind. That is harmless: every file and directory of ours is
/// created with an explicit mode without group and other bits. The lock keeps two births from restoring each
/// other's 0.
class Umask {
 public:
  Umask() {
    if (::unshare(CLONE_FS) != 0) lock_ = std::unique_lock(process_umask());
    before_ = ::umask(0);
  }
  ~Umask() { ::umask(before_); }
  Umask(const Umask&) = delete;

 private:
  std::unique_lock<std::mutex> lock_;
  mode_t before_ = 0;
};

/// Makes files of the calling thread be created with `gid`. Not restored: the thread ends afterwards.
Result<void> take_group(std::uint32_t gid) {
  ::setfsgid(gid);
  // setfsgid has no way to report failure: asking with an invalid id answers what is in force.
  const auto in_force = static_cast<std::uint32_t>(::setfsgid(static_cast<gid_t>(-1)));
  if (in_force == gid) return {};
  return std::unexpected(
      Error{Errc::invalid, EPERM, "not permitted to create a socket for group " + std::to_string(gid)});
}

/// bind(2) relative to an open directory, through /proc, which also keeps the name within sun_path.
Result<void> bind_in(const OwnedFd& parent, const std::string& name, const OwnedFd& socket) {
  const std::string path = "/proc/self/fd/" + std::to_string(parent.get()) + "/" + name;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  static_assert(sizeof(address.sun_path) > sizeof("/proc/self/fd/2147483647/.guard-0123456789abcdef"));
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) < 0) {
    return failed("bind", name);
  }
  return {};
}

/// What bind made, checked: a directory with the set-group-ID bit gives its own group to new files, a default
/// ACL takes permissions away, and the owner of the directory may already have put something else there.
Result<FileId> check_newborn(const OwnedFd& parent, const std::string& name, const SocketSpec& spec) {
  struct stat st{};
  if (::fstatat(parent.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) < 0) return failed("stat", spec.path);
  if (!S_ISSOCK(st.st_mode)) return refused(spec.path, "was replaced while it was created");
  if (spec.gid && st.st_gid != *spec.gid) {
    return refused(spec.path, "would get group " + std::to_string(st.st_gid) + " from its directory");
  }
  if ((st.st_mode & 07777) != spec.mode) return refused(spec.path, "would get its mode from its directory");
  return FileId{st.st_dev, st.st_ino};
}

/// The steps from bind to rename; on failure the caller removes the private name.
Result<BornSocket> bear(const OwnedFd& parent, const Place& place, const SocketSpec& spec) {
  OwnedFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return failed("create a socket for", spec.path);
  // Before bind, fchmod on the socket decides the mode of the file to come; afterwards it changes nothing.
  if (::fchmod(socket.get(), spec.mode) < 0) return failed("set the mode of", spec.path);
  const std::string name = private_name(spec.path);
  {
    const Umask none;
    if (auto bound = bind_in(parent, name, socket); !bound) return std::unexpected(bound.error());
  }
  const auto remove_and = [&](std::unexpected<Error> error) {
    (void)::unlinkat(parent.get(), name.c_str(), 0);
    return error;
  };
  auto file = check_newborn(parent, name, spec);
  if (!file) return remove_and(std::unexpected(std::move(file).error()));
  if (::listen(socket.get(), limits::listen_backlog) < 0) return remove_and(failed("listen on", spec.path));
  if (::renameat(parent.get(), name.c_str(), parent.get(), place.name.c_str()) < 0) {
    return remove_and(failed("put in place", spec.path));
  }
  return BornSocket{std::move(socket), *file};
}

/// Runs on a thread of its own, see create_socket.
Result<BornSocket> create_here(const SocketSpec& spec) {
  const Place place = split(spec.path);
  auto parent = open_parent(place.directory);
  if (!parent) return std::unexpected(parent.error());
  if (auto clear = check_the_way(*parent, place, spec); !clear) return std::unexpected(clear.error());
  if (spec.gid) {
    if (auto taken = take_group(*spec.gid); !taken) return std::unexpected(taken.error());
  }
  // Left behind by a crash between bind and rename; the name is derived from this path, so it is ours.
  const std::string name = private_name(spec.path);
  if (::unlinkat(parent->get(), name.c_str(), 0) < 0 && errno != ENOENT) {
    return failed("remove what stands at the private name beside", spec.path);
  }
  return bear(*parent, place, spec);
}

/// What follows the last slash of the path that `ask` (getsockname, getpeername) tells of a unix socket.
std::string last_component(int socket, int (*ask)(int, sockaddr*, socklen_t*) noexcept) {
  sockaddr_un address{};
  socklen_t size = sizeof address;
  if (ask(socket, reinterpret_cast<sockaddr*>(&address), &size) < 0 || address.sun_family != AF_UNIX)
    return {};
  const auto length = std::min<std::size_t>(size, sizeof address) - offsetof(sockaddr_un, sun_path);
  const std::string path(address.sun_path, ::strnlen(address.sun_path, length));
  return path.substr(path.rfind('/') + 1);
}

/// Whether who connects to the socket `file` (an O_PATH descriptor, so that no link is followed) ends up in
/// the backlog of `listener`. Neither fstat nor /proc tells: a connection does. It gets the private name of
/// the path from a socket that was born there, and stands in the backlog of ours; nobody accepts it
/// meanwhile.
Result<> check_reached(const std::string& path, const OwnedFd& file, const OwnedFd& listener) {
  const OwnedFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return failed("create a socket for", path);
  const std::string place = "/proc/self/fd/" + std::to_string(file.get());
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, place.c_str(), place.size() + 1);
  const bool connected =
      ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  if (!connected && errno != EAGAIN) return failed("connect to", path);
  // A full backlog (EAGAIN) gives no connection that could be asked; ours must be full of clients then.
  if (connected && last_component(probe.get(), ::getpeername) != private_name(path)) {
    return not_found(path, "is another socket");
  }
  pollfd waiting{listener.get(), POLLIN, 0};
  if (::poll(&waiting, 1, 0) == 1 && waiting.revents == POLLIN) return {};
  return not_found(path, "leads to another socket");
}

}  // namespace

OwnedFd::~OwnedFd() {
  if (fd_ >= 0) ::close(fd_);
}

Result<void> check_socket_path(std::string_view path) {
  if (path.empty() || path.front() != '/')
    return std::unexpected(Error::invalid("socket path is not absolute"));
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    return std::unexpected(
        Error::invalid("socket path has " + std::to_string(path.size()) + " bytes, at most " +
                       std::to_string(sizeof(sockaddr_un::sun_path) - 1) + " are possible"));
  }
  if (path.find('\0') != path.npos) return std::unexpected(Error::invalid("socket path contains a NUL byte"));
  for (std::string_view rest = path.substr(1);;) {
    const auto slash = rest.find('/');
    const auto component = rest.substr(0, slash);
    if (component.empty() || component == "." || component == "..") {
      return refused(std::string(path), "is not a plain path: it has an empty, \".\" or \"..\" component");
    }
    if (slash == rest.npos) return {};
    rest.remove_prefix(slash + 1);
  }
}

std::string private_name(std::string_view path) {
  static constexpr char digits[] = "0123456789abcdef";
  const std::uint64_t hash = XXH3_64bits(path.data(), path.size());
  std::string name(private_prefix);
  for (int shift = 60; shift >= 0; shift -= 4) name.push_back(digits[hash >> shift & 15]);
  return name;
}

bool is_private_name(std::string_view name) {
  return name.size() == private_prefix.size() + 16 && name.starts_with(private_prefix) &&
         name.substr(private_prefix.size()).find_first_not_of("0123456789abcdef") == name.npos;
}

std::string born_name(int socket) {
  std::string name = last_component(socket, ::getsockname);
  return is_private_name(name) ? name : std::string();
}

Result<FileId> adopt_socket(const SocketSpec& spec, const OwnedFd& listener) {
  if (auto good = check_socket_path(spec.path); !good) return std::unexpected(good.error());
  const Place place = split(spec.path);
  auto parent = open_parent(place.directory);
  if (!parent) return std::unexpected(parent.error());
  const OwnedFd file(::openat(parent->get(), place.name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!file) return failed("open", spec.path);
  struct stat st{};
  if (::fstat(file.get(), &st) < 0) return failed("stat", spec.path);
  if (!S_ISSOCK(st.st_mode)) return not_found(spec.path, "is no socket any more");
  if ((spec.gid && st.st_gid != *spec.gid) || (st.st_mode & 07777) != spec.mode) {
    return not_found(spec.path, "has another group or mode");
  }
  if (auto reached = check_reached(spec.path, file, listener); !reached) {
    return std::unexpected(reached.error());
  }
  // Not all of this survives an exec or an older version: who listens (SO_PEERCRED), backlog, flags.
  const int flags = ::fcntl(listener.get(), F_GETFL);
  if (::listen(listener.get(), limits::listen_backlog) < 0 || flags < 0 ||
      ::fcntl(listener.get(), F_SETFL, flags | O_NONBLOCK) < 0 ||
      ::fcntl(listener.get(), F_SETFD, FD_CLOEXEC) < 0) {
    return failed("take over", spec.path);
  }
  return FileId{st.st_dev, st.st_ino};
}

// A thread that lives for one birth: its group for new files (and, where possible, its umask) end with it, so
// there is nothing to restore that could fail, and no other thread ever runs with them.
Result<BornSocket> create_socket(const SocketSpec& spec) {
  if (auto good = check_socket_path(spec.path); !good) return std::unexpected(good.error());
  Result<BornSocket> result = std::unexpected(Error{});
  try {
    std::thread birth([&result, &spec] { result = create_here(spec); });
    birth.join();
  } catch (const std::system_error& error) {
    return failed("start a thread for", spec.path, error.code().value());
  }
  return result;
}

bool is_still_there(const std::string& path, const FileId& file) {
  if (!check_socket_path(path)) return false;
  const Place place = split(path);
  auto parent = open_parent(place.directory);
  struct stat st{};
  return parent && ::fstatat(parent->get(), place.name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 &&
         S_ISSOCK(st.st_mode) && FileId{st.st_dev, st.st_ino} == file;
}

Result<void> remove_socket(const std::string& path, const FileId& file) {
  if (auto good = check_socket_path(path); !good) return good;
  const Place place = split(path);
  auto parent = open_parent(place.directory);
  struct stat st{};
  if (!parent || ::fstatat(parent->get(), place.name.c_str(), &st, AT_SYMLINK_NOFOLLOW) < 0) return {};
  if (!S_ISSOCK(st.st_mode) || FileId{st.st_dev, st.st_ino} != file) return {};
  if (::unlinkat(parent->get(), place.name.c_str(), 0) < 0 && errno != ENOENT) return failed("unlink", path);
  return {};
}

}  // namespace guard::control
