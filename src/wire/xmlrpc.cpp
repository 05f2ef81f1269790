#include "wire/xmlrpc.h"

#include <expat.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <memory>

#include "base/limits.h"

namespace guard::wire {

namespace {

using Kind = XmlRpcParam::Kind;

// --- Calls ------------------------------------------------------------------------------------------------

enum class Element { call, method, params, param, value, scalar, array, data, structure, member, name };

struct ElementName {
  std::string_view name;
  Element element;
  Kind kind = Kind::string;  ///< of what may stand in a value
};

constexpr std::array<ElementName, 19> element_names{{
    {"methodCall", Element::call},
    {"methodName", Element::method},
    {"params", Element::params},
    {"param", Element::param},
    {"value", Element::value},
    {"string", Element::scalar, Kind::string},
    {"int", Element::scalar, Kind::integer},
    {"i4", Element::scalar, Kind::integer},
    {"i8", Element::scalar, Kind::integer},
    {"boolean", Element::scalar, Kind::boolean},
    {"double", Element::scalar, Kind::real},
    {"dateTime.iso8601", Element::scalar, Kind::time},
    {"base64", Element::scalar, Kind::base64},
    {"nil", Element::scalar, Kind::nil},
    {"array", Element::array, Kind::array},
    {"data", Element::data},
    {"struct", Element::structure, Kind::structure},
    {"member", Element::member},
    {"name", Element::name},
}};

const ElementName* element_named(std::string_view name) {
  const auto found = std::ranges::find(element_names, name, &ElementName::name);
  return found == element_names.end() ? nullptr : found;
}

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n") == std::string_view::npos; }

std::optional<std::int64_t> to_integer(std::string_view text) {
  if (text.starts_with('+')) {
    text.remove_prefix(1);
    if (text.starts_with('-')) return std::nullopt;
  }
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

/// Follows expat through one document. Every element knows which one it may stand in, and as which child.
class CallReader {
 public:
  CallReader() : parser_(XML_ParserCreate("UTF-8")) {
    if (!parser_) throw std::bad_alloc();
    XML_SetUserData(parser_.get(), this);
    XML_SetElementHandler(parser_.get(), on_start, on_end);
    XML_SetCharacterDataHandler(parser_.get(), on_text);
    XML_SetStartDoctypeDeclHandler(parser_.get(), on_doctype);
    XML_SetProcessingInstructionHandler(parser_.get(), on_instruction);
  }

  Result<XmlRpcCall> read(std::string_view body) {
    const auto status = XML_Parse(parser_.get(), body.data(), static_cast<int>(body.size()), XML_TRUE);
    if (!error_.empty()) return failed(error_, error_position_);
    if (status != XML_STATUS_OK) {
      return failed(XML_ErrorString(XML_GetErrorCode(parser_.get())), position());
    }
    return std::move(call_);
  }

 private:
  struct Free {
    void operator()(XML_ParserStruct* parser) const { XML_ParserFree(parser); }
  };
  struct Frame {
    Element element;
    Kind kind;
    unsigned children = 0;
  };

  static CallReader& self(void* data) { return *static_cast<CallReader*>(data); }
  static void XMLCALL on_start(void* data, const XML_Char* name, const XML_Char** attributes) {
    self(data).start(name, attributes[0] != nullptr);
  }
  static void XMLCALL on_end(void* data, const XML_Char*) { self(data).end(); }
  static void XMLCALL on_text(void* data, const XML_Char* text, int size) {
    self(data).text({text, static_cast<std::size_t>(size)});
  }
  static void XMLCALL on_doctype(void* data, const XML_Char*, const XML_Char*, const XML_Char*, int) {
    self(data).fail("document types are refused");
  }
  static void XMLCALL on_instruction(void* data, const XML_Char*, const XML_Char*) {
    self(data).fail("processing instructions are refused");
  }

  static Failure failed(std::string_view what, std::uint64_t at) {
    return Failure(
        Error::invalid("no XML-RPC call: " + std::string(what) + " at byte " + std::to_string(at)));
  }
  std::uint64_t position() const {
    return static_cast<std::uint64_t>(std::max<XML_Index>(XML_GetCurrentByteIndex(parser_.get()), 0));
  }

  /// Callbacks may still come after the parser was told to stop.
  void fail(std::string_view what) {
    if (!error_.empty()) return;
    error_ = what;
    error_position_ = position();
    XML_StopParser(parser_.get(), XML_FALSE);
  }

  void start(std::string_view name, bool attributes) {
    if (!error_.empty()) return;
    const ElementName* found = element_named(name);
    if (found == nullptr) return fail("unknown element");
    if (attributes) return fail("attributes are refused");
    if (open_.size() >= limits::xmlrpc_depth) return fail("too deep");
    if (!is_blank(text_)) return fail("text beside elements");
    if (!may_begin(found->element)) return fail("element out of place");
    if (!open_.empty()) ++open_.back().children;
    if (found->element == Element::param) {
      if (call_.params.size() >= limits::xmlrpc_params) return fail("too many parameters");
      call_.params.emplace_back();
    }
    open_.push_back({found->element, found->kind});
    text_.clear();
  }

  bool may_begin(Element element) const {
    if (open_.empty()) return element == Element::call;
    const unsigned before = open_.back().children;
    switch (open_.back().element) {
      case Element::call:
        return (before == 0 && element == Element::method) || (before == 1 && element == Element::params);
      case Element::params:
        return element == Element::param;
      case Element::param:
        return before == 0 && element == Element::value;
      case Element::value:
        return before == 0 &&
               (element == Element::scalar || element == Element::array || element == Element::structure);
      case Element::array:
        return before == 0 && element == Element::data;
      case Element::data:
        return element == Element::value;
      case Element::structure:
        return element == Element::member;
      case Element::member:
        return (before == 0 && element == Element::name) || (before == 1 && element == Element::value);
      case Element::method:
      case Element::scalar:
      case Element::name:
        return false;
    }
    return false;
  }

  void text(std::string_view more) {
    if (!error_.empty()) return;
    if (!open_.empty() && open_.back().element == Element::method &&
        text_.size() + more.size() > limits::xmlrpc_method) {
      return fail("the method's name is too long");
    }
    text_ += more;
  }

  void end() {
    if (!error_.empty()) return;
    const Frame frame = open_.back();
    open_.pop_back();
    switch (frame.element) {
      case Element::call:
        if (frame.children != 2) return fail("no parameters");
        break;
      case Element::method:
        if (text_.empty()) return fail("no method");
        call_.method = std::exchange(text_, {});
        return;
      case Element::param:
        if (frame.children != 1) return fail("a parameter without a value");
        break;
      case Element::member:
        if (frame.children != 2) return fail("a member without a value");
        break;
      case Element::array:
        if (frame.children != 1) return fail("an array without data");
        break;
      case Element::value:
        if (frame.children == 0) return take(Kind::string);
        break;
      case Element::scalar:
        return take(frame.kind);
      case Element::name:
        text_.clear();
        return;
      case Element::structure:
      case Element::data:
      case Element::params:
        break;
    }
    if (!is_blank(text_)) return fail("text beside elements");
    text_.clear();
    if (frame.element == Element::array || frame.element == Element::structure) take(frame.kind);
  }

  /// A value is complete. Called with the value's own element, or the one in it, just closed.
  void take(Kind kind) {
    std::string text = std::exchange(text_, {});
    if (kind == Kind::integer && !to_integer(text)) return fail("not an integer");
    if (kind == Kind::boolean && text != "0" && text != "1") return fail("not a boolean");
    if (kind == Kind::nil && !is_blank(text)) return fail("text in nil");
    // methodCall, params, param and, unless it is the one that was closed, value.
    const bool of_param = open_.back().element == Element::param ||
                          (open_.size() == 4 && open_.back().element == Element::value);
    if (!of_param) return;
    call_.params.back().kind = kind;
    if (kind != Kind::nil) call_.params.back().text = std::move(text);
  }

  std::unique_ptr<XML_ParserStruct, Free> parser_;
  std::vector<Frame> open_;
  std::string text_;  ///< since the last tag
  XmlRpcCall call_;
  std::string error_;
  std::uint64_t error_position_ = 0;
};

// --- Responses --------------------------------------------------------------------------------------------

constexpr std::string_view response_begin =
    "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct>"
    "<member><name>Status</name><value>";
constexpr std::string_view success_begin = "Success</value></member><member><name>Value</name>";
constexpr std::string_view failure_begin = "Failure</value></member><member><name>ErrorDescription</name>";
constexpr std::string_view response_end = "</member></struct></value></param></params></methodResponse>";

std::string response(std::string_view begin, std::size_t room) {
  std::string out;
  out.reserve(response_begin.size() + begin.size() + response_end.size() + room);
  out += response_begin;
  out += begin;
  return out;
}

void append_value(std::string& out, std::string_view text) {
  out += "<value>";
  append_xml(out, text);
  out += "</value>";
}

}  // namespace

std::optional<std::int64_t> XmlRpcParam::integer() const {
  if (kind != Kind::integer && kind != Kind::string) return std::nullopt;
  return to_integer(text);
}

std::string_view name_of(XmlRpcParam::Kind kind) {
  switch (kind) {
    case Kind::string:
      return "string";
    case Kind::integer:
      return "int";
    case Kind::boolean:
      return "boolean";
    case Kind::real:
      return "double";
    case Kind::time:
      return "dateTime";
    case Kind::base64:
      return "base64";
    case Kind::nil:
      return "nil";
    case Kind::array:
      return "array";
    case Kind::structure:
      return "struct";
  }
  return "unknown";
}

Result<XmlRpcCall> parse_xmlrpc_call(std::string_view body, std::size_t max_bytes) {
  if (body.empty()) return Failure(Error::invalid("no XML-RPC call: the body is empty"));
  if (body.size() > std::min(max_bytes, limits::max_body_xmlrpc)) {
    return Failure(Error::invalid("no XML-RPC call: the body is too long"));
  }
  return CallReader().read(body);
}

void append_xml(std::string& out, std::string_view text) {
  std::size_t copied = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    // Base64, which is what is stored, has none of these.
    const bool control = static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\n' && c != '\r';
    if (c != '>' && c != '<' && c != '&' && c != '"' && !control) continue;
    out.append(text.substr(copied, i - copied));
    copied = i + 1;
    if (c == '>') out += "&gt;";
    if (c == '<') out += "&lt;";
    if (c == '&') out += "&amp;";
    if (c == '"') out += "&quot;";
  }
  out.append(text.substr(copied));
}

std::string xmlrpc_success() {
  std::string out = response(success_begin, 32);
  out += "<value><nil/></value>";
  out += response_end;
  return out;
}

std::string xmlrpc_success(std::string_view text) {
  std::string out = response(success_begin, text.size() + 32);
  append_value(out, text);
  out += response_end;
  return out;
}

std::string xmlrpc_success(std::span<const std::pair<std::string, Value>> members) {
  std::size_t room = 64;
  for (const auto& [name, value] : members) room += name.size() + value.size() + 64;
  std::string out = response(success_begin, room);
  out += "<value><struct>";
  for (const auto& [name, value] : members) {
    out += "<member><name>";
    append_xml(out, name);
    out += "</name>";
    append_value(out, value.view());
    out += "</member>";
  }
  out += "</struct></value>";
  out += response_end;
  return out;
}

std::string xmlrpc_failure(std::string_view text) {
  std::string out = response(failure_begin, text.size() + 96);
  out += "<value><array><data><value>Internal_error</value>";
  append_value(out, text);
  out += "</data></array></value>";
  out += response_end;
  return out;
}

std::string xmlrpc_not_allowed() {
  std::string out = response(failure_begin, 32);
  append_value(out, "Not allowed");
  out += response_end;
  return out;
}

}  // namespace guard::wire
