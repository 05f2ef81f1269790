// XML-RPC as varstored speaks it: reads a methodCall, writes a methodResponse in XenAPI's shape. Pure;
// bounded. XML is read by expat behind this header.
//
// Calls: typed and untyped values (an untyped one is a string), `<value/>` is the empty string, white space
// between elements is ignored, an XML declaration is optional. Refused: document types and with them every
// entity but the five of XML itself, processing instructions, attributes, text that is not UTF-8 whatever
// its declaration says, anything over a bound of limits.h.
//
// Responses are byte for byte those of the daemon this one replaces: one line, `Status` before `Value` (the
// client goes by the order, not by the names), strings without a type. Only the names of members, which that
// daemon copied, are escaped like strings.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "guard/result.h"
#include "guard/types.h"

namespace guard::wire {

/// One parameter of a call. What an array or a struct holds is checked and dropped: no method takes one.
struct XmlRpcParam {
  enum class Kind { string, integer, boolean, real, time, base64, nil, array, structure };
  Kind kind = Kind::string;
  std::string text;  ///< as sent, entities resolved; empty for nil, array and structure

  /// Of an integer (int, i4, i8), or of a string that is one; nullopt outside of int64.
  std::optional<std::int64_t> integer() const;
  bool operator==(const XmlRpcParam&) const = default;
};
std::string_view name_of(XmlRpcParam::Kind kind);

struct XmlRpcCall {
  std::string method;
  std::vector<XmlRpcParam> params;
  bool operator==(const XmlRpcCall&) const = default;
};

/// Errors are Errc::invalid and name the rule and the position, never the content. A well-formed call is
/// taken whatever its method and the number of its parameters. `max_bytes` bounds the body.
Result<XmlRpcCall> parse_xmlrpc_call(std::string_view body, std::size_t max_bytes);

/// Success without a result.
std::string xmlrpc_success();
std::string xmlrpc_success(std::string_view text);
/// Success with a struct of strings, members in the order given.
std::string xmlrpc_success(std::span<const std::pair<std::string, Value>> members);
/// Failure with the one error the original knows: Internal_error and a text for people.
std::string xmlrpc_failure(std::string_view text);
/// The body of an answer to a method that is not POST (248 bytes).
std::string xmlrpc_not_allowed();

/// Appends text as the original escapes it: > < & " as entities; bytes below 0x20 other than TAB, LF and CR
/// are dropped; everything else is copied.
void append_xml(std::string& out, std::string_view text);

}  // namespace guard::wire
