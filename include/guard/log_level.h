// How much a line of the log matters.
#pragma once

#include <string_view>

namespace guard {

enum class LogLevel {
  debug,    ///< for those who work on the guard
  info,     ///< worth knowing afterwards
  notice,   ///< normal, and rare: started, the upstream is back
  warning,  ///< the world is in trouble and the guard copes
  error,    ///< an operator has to look
};
std::string_view name_of(LogLevel level);

}  // namespace guard
