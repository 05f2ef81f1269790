// XML-RPC calls and the responses that carry what was in them: what is accepted reads the same when it is
// written again, and every response made of it is well-formed.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "wire/xmlrpc.h"

using namespace guard::wire;
using Kind = XmlRpcParam::Kind;

namespace {

constexpr std::size_t bound = guard::limits::max_body_xmlrpc;

void require(bool condition) {
  if (!condition) std::abort();
}

/// What a reader of XML makes of line ends that stand in the text as they are.
std::string as_read(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r') {
      out.push_back('\n');
      if (i + 1 < text.size() && text[i + 1] == '\n') ++i;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

std::string written(const XmlRpcCall& call) {
  std::string out = "<methodCall><methodName>";
  append_xml(out, call.method);
  out += "</methodName><params>";
  for (const XmlRpcParam& param : call.params) {
    out += "<param><value><string>";
    append_xml(out, param.text);
    out += "</string></value></param>";
  }
  return out + "</params></methodCall>";
}

/// The response's own value as the one parameter of a call, which only a well-formed one can be.
void require_well_formed(std::string response) {
  const std::string_view begin = "<?xml version=\"1.0\"?><methodResponse>";
  const std::string_view end = "</methodResponse>";
  require(response.starts_with(begin) && response.ends_with(end));
  response.replace(response.size() - end.size(), end.size(), "</methodCall>");
  response.replace(0, begin.size(), "<methodCall><methodName>m</methodName>");
  if (response.size() > bound) return;
  const auto call = parse_xmlrpc_call(response, bound);
  require(call && call->params.size() == 1 && call->params[0].kind == Kind::structure);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  const auto call = parse_xmlrpc_call(body, bound);
  if (!call) {
    require(call.error().code == guard::Errc::invalid && !call.error().message.empty());
    return 0;
  }
  require(!call->method.empty() && call->params.size() <= guard::limits::xmlrpc_params);
  require(!parse_xmlrpc_call(body, size - 1));

  const std::string again = written(*call);
  std::vector<std::pair<std::string, guard::Value>> members;
  for (const XmlRpcParam& param : call->params) {
    members.emplace_back(param.text, guard::Value(param.text));
    require_well_formed(xmlrpc_failure(param.text));
    require_well_formed(xmlrpc_success(param.text));
    if (param.kind == Kind::integer) require(param.integer().has_value());
  }
  require_well_formed(xmlrpc_success(members));
  if (again.size() > bound) return 0;
  const auto read = parse_xmlrpc_call(again, bound);
  require(read && read->method == as_read(call->method) && read->params.size() == call->params.size());
  for (std::size_t i = 0; i < read->params.size(); ++i) {
    require(read->params[i].text == as_read(call->params[i].text));
  }
  return 0;
}
