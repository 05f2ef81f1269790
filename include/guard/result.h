// Errors are values that say what to do about them.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <version>

#ifdef __cpp_lib_expected
#include <expected>
#else
#include "guard/detail/expected.h"
#endif

namespace guard {

/// What kind of trouble it is, which decides what the caller does.
enum class Errc {
  invalid,      ///< the input is wrong; repeating it is pointless
  not_found,    ///< the named thing does not exist
  busy,         ///< somebody else holds it (a lock, a path)
  no_space,     ///< the disk or a bound is full; may pass
  io,           ///< the operating system reported a failure; `os_errno` says which
  corrupt,      ///< stored bytes are not what was stored
  unavailable,  ///< the other side cannot be reached now; may pass
  timeout,      ///< no answer in time; whether it took effect is unknown
  closed,       ///< we are shutting down
};
std::string_view name_of(Errc code);

struct Error {
  Errc code = Errc::io;
  int os_errno = 0;     ///< 0 when no system call was involved
  std::string message;  ///< for logs and operators; never contains guest bytes

  static Error invalid(std::string text) { return {Errc::invalid, 0, std::move(text)}; }
  static Error corrupt(std::string text) { return {Errc::corrupt, 0, std::move(text)}; }
  /// An error from errno: ENOSPC and EDQUOT become no_space, ENOENT not_found, the rest io; the text is
  /// "what: strerror".
  static Error system(std::string_view what, int os_errno);
};

/// std::expected; in a program that is compiled as C++20 a stand-in with the same members.
#ifdef __cpp_lib_expected
template <class T = void>
using Result = std::expected<T, Error>;
using Failure = std::unexpected<Error>;
#else
template <class T = void>
using Result = detail::Expected<T, Error>;
using Failure = detail::Unexpected<Error>;
#endif

}  // namespace guard
