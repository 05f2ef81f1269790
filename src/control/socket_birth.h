// How a listening unix socket comes into a directory that belongs to somebody who is not trusted, and how it
// goes away again.
//
// swtpm owns the directory its socket stands in and may rename, unlink or replace anything there at any
// moment. So nothing is ever changed *through the path* once the socket exists: mode and group are right from
// the instant of bind(2), and the only later steps are a rename and an unlink within a directory held open.
// None of these follows a link, so whatever the owner of the directory does, nothing outside of it is
// touched.
//
// All functions block (a few system calls); any thread may call them.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "guard/result.h"

namespace guard::control {

/// Owns a file descriptor.
class OwnedFd {
 public:
  OwnedFd() = default;
  explicit OwnedFd(int fd) : fd_(fd) {}
  OwnedFd(OwnedFd&& other) noexcept : fd_(other.release()) {}
  OwnedFd& operator=(OwnedFd&& other) noexcept {
    OwnedFd old(std::exchange(fd_, other.release()));
    return *this;
  }
  ~OwnedFd();
  int get() const { return fd_; }
  /// Hands the descriptor over; this object is empty afterwards.
  int release() { return std::exchange(fd_, -1); }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

struct SocketSpec {
  std::string path;                  ///< absolute; see check_socket_path
  std::optional<std::uint32_t> gid;  ///< group of the file; nullopt = the group of this process
  std::uint32_t mode = 0660;         ///< permission bits of the file
  bool replace_files = true;         ///< a plain file in the way is replaced, as a socket always is
};

/// Tells whether a file is still the one that was created.
struct FileId {
  dev_t device = 0;
  ino_t inode = 0;
  bool operator==(const FileId&) const = default;
};

struct BornSocket {
  OwnedFd listener;  ///< bound, listening, non-blocking, close-on-exec
  FileId file;
};

/// A path that can be served: absolute, no empty, "." or ".." component, no NUL, at most 107 bytes (sun_path
/// has 108 with its NUL, and clients must be able to connect). Errc::invalid otherwise.
Result<void> check_socket_path(std::string_view path);

/// The name a socket is born under, beside its path: ".guard-" and 16 hex digits of XXH3-64 of the full path.
/// getsockname() of a descriptor answers this name for ever, so the digits lead back to the path.
std::string private_name(std::string_view path);
/// Whether `name` has that form.
bool is_private_name(std::string_view name);
/// The private name under which the socket was born, empty when it was not born here.
std::string born_name(int socket);

/// Creates the listening socket of `spec` with limits::listen_backlog. After success the file at the path has
/// exactly the mode and group asked for, and clients can connect. A socket, or a plain file when
/// `replace_files` is set, that was in the way is gone. After failure nothing of ours is left in the
/// directory, and what stood at the path still does.
/// Errors: invalid (bad path; something else than a socket or plain file is in the way; the directory is a
/// link; its set-group-ID bit or default ACL would change group or mode), not_found (no such directory), io.
Result<BornSocket> create_socket(const SocketSpec& spec);

/// Whether `listener`, a listening socket that was born under the private name of `spec.path` in an earlier
/// process, is what clients reach at that path, and the file there has the group and mode asked for. Success
/// makes it what create_socket would have made. Nobody may accept from it meanwhile; a connection that ends
/// at once is left in its backlog. Errors: not_found (nothing there, or another file), io.
Result<FileId> adopt_socket(const SocketSpec& spec, const OwnedFd& listener);

/// Whether the file at `path` is still the socket `file`, links not followed.
bool is_still_there(const std::string& path, const FileId& file);

/// Unlinks the socket if the file at `path` is still `file`. A missing path or directory, and a file that is
/// not ours any more, is success: nothing is touched.
Result<void> remove_socket(const std::string& path, const FileId& file);

}  // namespace guard::control
