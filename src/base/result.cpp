#include "guard/result.h"

#include <cerrno>
#include <system_error>

namespace guard {

std::string_view name_of(Errc code) {
  switch (code) {
    case Errc::invalid:
      return "invalid";
    case Errc::not_found:
      return "not_found";
    case Errc::busy:
      return "busy";
    case Errc::no_space:
      return "no_space";
    case Errc::io:
      return "io";
    case Errc::corrupt:
      return "corrupt";
    case Errc::unavailable:
      return "unavailable";
    case Errc::timeout:
      return "timeout";
    case Errc::closed:
      return "closed";
  }
  return "unknown";
}

Error Error::system(std::string_view what, int os_errno) {
  Errc code = Errc::io;
  if (os_errno == ENOSPC || os_errno == EDQUOT) code = Errc::no_space;
  if (os_errno == ENOENT) code = Errc::not_found;
  return {code, os_errno, std::string(what) + ": " + std::generic_category().message(os_errno)};
}

}  // namespace guard
