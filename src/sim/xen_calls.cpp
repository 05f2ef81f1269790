#include "sim/xen_calls.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <unordered_map>

#include "base/text.h"

namespace guard::sim {

using wire::Json;
using wire::JsonArray;
using wire::JsonObject;

enum class Type { text, integer, update_flag };

struct Param {
  std::string_view name;
  Type type = Type::text;
};

/// What a call does once it was checked. `params` have the right count and types; the session is the first.
using Body = Answer (*)(World& world, const JsonArray& params, const Begun& call);

struct Method {
  std::string_view name;
  std::vector<Param> params;  ///< the session not among them
  std::size_t required = 0;   ///< how many of them have no default
  bool session = true;
  Body body = nullptr;
};

namespace {

std::unexpected<XenError> fail(XenError error) { return std::unexpected(std::move(error)); }
std::unexpected<XenError> handle_invalid(std::string_view table, std::string_view ref) {
  return fail({"HANDLE_INVALID", std::string(table), std::string(ref)});
}
std::unexpected<XenError> uuid_invalid(std::string_view table, std::string_view uuid) {
  return fail({"UUID_INVALID", std::string(table), std::string(uuid)});
}

const std::string& text(const JsonArray& params, std::size_t i) { return *params[i].string(); }

/// xapi takes an int parameter as a number or as decimal text.
std::optional<std::int64_t> integer(const Json& json) {
  if (json.integer()) return *json.integer();
  if (!json.string()) return std::nullopt;
  std::string_view digits = *json.string();
  const bool negative = digits.starts_with('-');
  if (negative) digits.remove_prefix(1);
  const auto number = parse_decimal(digits);
  if (!number || *number > INT64_MAX) return std::nullopt;
  return negative ? -static_cast<std::int64_t>(*number) : static_cast<std::int64_t>(*number);
}

bool has_type(const Json& json, Type type) {
  switch (type) {
    case Type::text:
      return json.string() != nullptr;
    case Type::integer:
      return integer(json).has_value();
    case Type::update_flag:
      return json.string() &&
             (*json.string() == "yes" || *json.string() == "no" || *json.string() == "unspecified");
  }
  return false;
}

Answer login(World& world, const JsonArray& params, const Begun&) {
  if (text(params, 0) != "root" || !text(params, 1).empty()) {
    return fail({"SESSION_AUTHENTICATION_FAILED", text(params, 0), "Authentication failure"});
  }
  return world.login(params.size() > 3 ? text(params, 3) : "").ref;
}

Answer logout(World& world, const JsonArray& params, const Begun&) {
  world.logout(text(params, 0));
  return "";
}

Answer vm_get_by_uuid(World& world, const JsonArray& params, const Begun&) {
  const auto uuid = Uuid::parse(text(params, 1));
  const Vm* vm = uuid ? world.vm_by_uuid(*uuid) : nullptr;
  if (!vm) return uuid_invalid("VM", text(params, 1));
  return vm->ref;
}

Answer vtpm_get_by_uuid(World& world, const JsonArray& params, const Begun&) {
  const auto uuid = Uuid::parse(text(params, 1));
  const Vtpm* vtpm = uuid ? world.vtpm_by_uuid(*uuid) : nullptr;
  if (!vtpm) return uuid_invalid("VTPM", text(params, 1));
  return vtpm->ref;
}

/// A getter of a VM's field.
template <auto get>
Answer vm_field(World& world, const JsonArray& params, const Begun&) {
  const Vm* vm = world.vm_by_ref(text(params, 1));
  if (!vm) return handle_invalid("VM", text(params, 1));
  return get(*vm);
}

Json vtpms_of(const Vm& vm) { return JsonArray(vm.vtpms.begin(), vm.vtpms.end()); }
Json uuid_of(const Vm& vm) { return vm.uuid.str(); }
Json power_state_of(const Vm& vm) { return vm.power_state; }
Json resident_on_of(const Vm& vm) { return vm.resident_on.empty() ? "OpaqueRef:NULL" : vm.resident_on; }
Json certificates_state_of(const Vm& vm) { return vm.certificates_state; }
Json nvram_of(const Vm& vm) {
  JsonObject object;
  for (const auto& [name, value] : vm.nvram) object.emplace_back(name, value);
  return object;
}

Answer set_nvram(World& world, const JsonArray& params, const Begun&) {
  Vm* vm = world.vm_by_ref(text(params, 1));
  if (!vm) return handle_invalid("VM", text(params, 1));
  vm->nvram["EFI-variables"] = text(params, 2);
  vm->nvram_history.push_back(digest_of(text(params, 2)));
  if (vm->nvram_history.size() > history_limit) vm->nvram_history.pop_front();
  ++vm->nvram_updates;
  vm->last_update_flag = params.size() > 3 ? text(params, 3) : "unspecified";
  // "unspecified" makes xapi run its certificate check, which finds nothing new here.
  if (vm->last_update_flag == "yes") vm->certificates_state = "ok";
  world.touch();
  return "";
}

Answer vtpm_get_vm(World& world, const JsonArray& params, const Begun&) {
  const Vtpm* vtpm = world.vtpm_by_ref(text(params, 1));
  if (!vtpm) return handle_invalid("VTPM", text(params, 1));
  return vtpm->vm_ref;
}

Answer vtpm_get_uuid(World& world, const JsonArray& params, const Begun&) {
  const Vtpm* vtpm = world.vtpm_by_ref(text(params, 1));
  if (!vtpm) return handle_invalid("VTPM", text(params, 1));
  return vtpm->uuid.str();
}

Answer get_contents(World& world, const JsonArray& params, const Begun& call) {
  if (!world.vtpm_by_ref(text(params, 1))) return handle_invalid("VTPM", text(params, 1));
  const std::string* secret = world.secret(call.secret);
  if (!secret) return handle_invalid("secret", call.secret);
  return *secret;
}

Answer set_contents(World& world, const JsonArray& params, const Begun& call) {
  Vtpm* vtpm = world.vtpm_by_ref(text(params, 1));
  if (!vtpm) return handle_invalid("VTPM", text(params, 1));
  if (!world.store_contents(*vtpm, call.secret, text(params, 2)))
    return handle_invalid("secret", call.secret);
  return "";
}

Answer host_get_uuid(World& world, const JsonArray& params, const Begun&) {
  const Host* host = world.host_by_ref(text(params, 1));
  if (!host) return handle_invalid("host", text(params, 1));
  return host->uuid.str();
}

Answer message_create(World& world, const JsonArray& params, const Begun&) {
  static constexpr std::array<std::string_view, 8> classes = {"VM",   "Host", "SR",        "Pool",
                                                              "VMPP", "VMSS", "PVS_proxy", "VDI"};
  const std::string& object_class = text(params, 3);
  if (std::find(classes.begin(), classes.end(), object_class) == classes.end()) {
    return fail({"FIELD_TYPE_ERROR", "cls"});
  }
  if (object_class == "VM") {
    const auto uuid = Uuid::parse(text(params, 4));
    if (!uuid || !world.vm_by_uuid(*uuid)) return uuid_invalid(object_class, text(params, 4));
  }
  return world.create_message(
      {text(params, 1), *integer(params[2]), object_class, text(params, 4), text(params, 5)});
}

using MethodTable = std::unordered_map<std::string_view, Method>;

MethodTable make_methods() {
  const Param uuid{"uuid"}, self{"self"};
  MethodTable table;
  for (Method& method : std::vector<Method>{
           {"session.login_with_password",
            {{"uname"}, {"pwd"}, {"version"}, {"originator"}},
            2,
            false,
            login},
           {"session.logout", {}, 0, true, logout},
           {"VM.get_by_uuid", {uuid}, 1, true, vm_get_by_uuid},
           {"VM.get_uuid", {self}, 1, true, vm_field<uuid_of>},
           {"VM.get_VTPMs", {self}, 1, true, vm_field<vtpms_of>},
           {"VM.get_power_state", {self}, 1, true, vm_field<power_state_of>},
           {"VM.get_resident_on", {self}, 1, true, vm_field<resident_on_of>},
           {"VM.get_NVRAM", {self}, 1, true, vm_field<nvram_of>},
           {"VM.get_secureboot_certificates_state", {self}, 1, true, vm_field<certificates_state_of>},
           {"VM.set_NVRAM_EFI_variables",
            {self, {"value"}, {"update", Type::update_flag}},
            2,
            true,
            set_nvram},
           {"VTPM.get_by_uuid", {uuid}, 1, true, vtpm_get_by_uuid},
           {"VTPM.get_uuid", {self}, 1, true, vtpm_get_uuid},
           {"VTPM.get_VM", {self}, 1, true, vtpm_get_vm},
           {"VTPM.get_contents", {self}, 1, true, get_contents},
           {"VTPM.set_contents", {self, {"contents"}}, 2, true, set_contents},
           {"host.get_uuid", {self}, 1, true, host_get_uuid},
           {"message.create",
            {{"name"}, {"priority", Type::integer}, {"cls"}, {"obj_uuid"}, {"body"}},
            5,
            true,
            message_create},
       }) {
    table.emplace(method.name, std::move(method));
  }
  return table;
}

const MethodTable& methods() {
  static const MethodTable table = make_methods();
  return table;
}

/// Count and types of the parameters. xapi counts without the session.
std::optional<XenError> check_params(const Method& method, const JsonArray& params, bool update_flag_known) {
  const std::size_t offset = method.session ? 1 : 0;
  const bool older = method.body == set_nvram && !update_flag_known;
  const std::size_t most = method.params.size() - (older ? 1 : 0);
  if (params.size() < method.required + offset || params.size() > most + offset) {
    const std::size_t received = params.size() - std::min(offset, params.size());
    return XenError{"MESSAGE_PARAMETER_COUNT_MISMATCH", std::string(method.name),
                    std::to_string(method.required), std::to_string(received)};
  }
  if (method.session && !params[0].string()) return XenError{"FIELD_TYPE_ERROR", "session_id"};
  for (std::size_t i = offset; i < params.size(); ++i) {
    const Param& param = method.params[i - offset];
    if (!has_type(params[i], param.type)) return XenError{"FIELD_TYPE_ERROR", std::string(param.name)};
  }
  return std::nullopt;
}

/// Where bytes were not UTF-8 the reader has put this.
constexpr std::string_view replacement_character = "\xef\xbf\xbd";

XenError invalid_value(const Method& method, const JsonArray& params) {
  const std::size_t offset = method.session ? 1 : 0;
  for (std::size_t i = offset; i < params.size() && i - offset < method.params.size(); ++i) {
    if (!params[i].string() || params[i].string()->find(replacement_character) == std::string::npos) continue;
    return {"INVALID_VALUE", std::string(method.params[i - offset].name), "not UTF-8"};
  }
  return {"INVALID_VALUE", "session_id", "not UTF-8"};
}

}  // namespace

Begun XenCalls::begin(std::string_view name, JsonArray params, bool utf8) {
  Begun call;
  const auto found = methods().find(name);
  if (found == methods().end()) {
    call.failure = XenError{"MESSAGE_METHOD_UNKNOWN", std::string(name)};
    return call;
  }
  const Method& method = found->second;
  call.method = &method;
  call.params = std::move(params);
  call.failure = check_params(method, call.params, world_.update_flag_known());
  if (call.failure) return call;
  if (!utf8) {
    call.failure = invalid_value(method, call.params);
    return call;
  }
  if (method.session && !world_.session_valid(text(call.params, 0))) {
    call.failure = XenError{"SESSION_INVALID", text(call.params, 0)};
    return call;
  }
  if (method.body != get_contents && method.body != set_contents) return call;
  Vtpm* vtpm = world_.vtpm_by_ref(text(call.params, 1));
  if (!vtpm) return call;  // finish() finds that out again
  call.secret = vtpm->secret_ref;
  if (method.body == set_contents) {
    call.counted_vtpm = vtpm->ref;
    vtpm->overlap_max = std::max(vtpm->overlap_max, ++vtpm->overlap_now);
  }
  return call;
}

Answer XenCalls::finish(Begun& call) {
  Answer answer = call.failure ? Answer(fail(*call.failure)) : call.method->body(world_, call.params, call);
  abandon(call);
  return answer;
}

void XenCalls::abandon(Begun& call) {
  if (call.counted_vtpm.empty()) return;
  if (Vtpm* vtpm = world_.vtpm_by_ref(call.counted_vtpm)) --vtpm->overlap_now;
  call.counted_vtpm.clear();
}

std::optional<Uuid> XenCalls::vm_of(std::string_view method, const JsonArray& params) {
  const std::size_t index = method == "message.create" ? 4 : 1;
  if (params.size() <= index || !params[index].string()) return std::nullopt;
  const std::string& name = *params[index].string();
  if (method == "message.create" || method == "VM.get_by_uuid") return Uuid::parse(name);
  const Vtpm* vtpm = nullptr;
  if (method == "VTPM.get_by_uuid") {
    const auto uuid = Uuid::parse(name);
    vtpm = uuid ? world_.vtpm_by_uuid(*uuid) : nullptr;
  } else if (method.starts_with("VTPM.")) {
    vtpm = world_.vtpm_by_ref(name);
  }
  const Vm* vm = world_.vm_by_ref(vtpm ? std::string_view(vtpm->vm_ref) : std::string_view(name));
  if (!vm) return std::nullopt;
  return vm->uuid;
}

}  // namespace guard::sim
