// The methods of the simulated xapi that xapi does not have: for tests, without a session, never faulty.
#include <array>

#include "sim/service.h"

namespace guard::sim {

using wire::Json;
using wire::JsonArray;
using wire::JsonObject;

namespace {

std::unexpected<std::string> refuse(std::string_view why) { return std::unexpected(std::string(why)); }

std::optional<Uuid> uuid_member(const Json& json, std::string_view name) {
  const Json* member = json.find(name);
  return member && member->string() ? Uuid::parse(*member->string()) : std::nullopt;
}

const std::string* text_member(const Json& json, std::string_view name) {
  const Json* member = json.find(name);
  return member ? member->string() : nullptr;
}

/// Absent = true.
bool flag_member(const Json& json, std::string_view name) {
  const Json* member = json.find(name);
  return !member || !member->boolean() || *member->boolean();
}

std::string hex(const Digest& digest) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (const std::uint64_t half : {digest.high, digest.low}) {
    for (int shift = 60; shift >= 0; shift -= 4) text += digits[half >> shift & 15];
  }
  return text;
}

}  // namespace

Service::ControlMethod Service::control_method(std::string_view name) {
  static constexpr std::array<std::pair<std::string_view, ControlMethod>, 7> table = {
      {{"sim.set_fault", &Service::set_fault},
       {"sim.clear_faults", &Service::clear_faults},
       {"sim.release", &Service::release},
       {"sim.edit", &Service::edit},
       {"sim.dump", &Service::dump},
       {"sim.digest", &Service::digest},
       {"sim.flush", &Service::flush}}};
  for (const auto& [known, method] : table) {
    if (known == name) return method;
  }
  return nullptr;
}

void Service::control(const RpcRequest& request, net::Responder responder) {
  const auto refused = [&request](std::string why) {
    return rpc_failure(request.id, request.version2, {"SIM_REFUSED", std::move(why)});
  };
  const ControlMethod method = control_method(request.method);
  if (!method)
    return responder(rpc_failure(request.id, request.version2, {"MESSAGE_METHOD_UNKNOWN", request.method}));
  if (request.params.size() > 1) return responder(refused("at most one argument"));
  const ControlAnswer answer =
      (this->*method)(request.params.empty() ? Json(JsonObject()) : request.params[0]);
  flush_soon();
  responder(answer ? rpc_success(request.id, request.version2, *answer) : refused(answer.error()));
}

/// Plants a fault (Faults::add) and answers its number.
Service::ControlAnswer Service::set_fault(const Json& argument) { return faults_.add(argument); }

/// Removes the fault {"id"}, or all. Calls that hang already go on hanging.
Service::ControlAnswer Service::clear_faults(const Json& argument) {
  const Json* id = argument.find("id");
  if (id && !id->integer()) return refuse("id must be a number");
  std::optional<std::uint64_t> number;
  if (id) number = static_cast<std::uint64_t>(*id->integer());
  if (!faults_.remove(number)) return refuse("no such fault");
  return "";
}

/// Ends hanging calls, oldest first: {"action": "apply" lets them take effect now and answers them, "drop"
/// closes their connections without effect; "vm", "method": only those; "count": at most so many}. Answers
/// how many.
Service::ControlAnswer Service::release(const Json& argument) {
  const std::string* action = text_member(argument, "action");
  if (!action || (*action != "apply" && *action != "drop")) return refuse("action must be apply or drop");
  const auto vm = uuid_member(argument, "vm");
  if (argument.find("vm") && !vm) return refuse("vm must be a uuid");
  const std::string* method = text_member(argument, "method");
  const Json* count = argument.find("count");
  if (count && !count->integer()) return refuse("count must be a number");
  std::int64_t released = 0;
  for (auto call = hung_.begin(); call != hung_.end() && (!count || released < *count->integer());) {
    if ((vm && call->vm != vm) || (method && call->method != *method)) {
      ++call;
      continue;
    }
    InFlight ended = std::move(*call);
    call = hung_.erase(call);
    ++released;
    if (*action == "apply") {
      answer(ended, calls_.finish(ended.begun));
    } else {
      calls_.abandon(ended.begun);
    }
  }
  return released;
}

/// Changes the world as somebody else would: {"action": word, "vm": uuid, ...}.
Service::ControlAnswer Service::edit(const Json& argument) {
  const std::string* action = text_member(argument, "action");
  if (!action) return refuse("action is needed");
  if (*action == "end_sessions") {
    world_.end_sessions();
    return "";
  }
  if (*action == "set_update_flag_known") {
    const Json* known = argument.find("known");
    if (!known || !known->boolean()) return refuse("known must be true or false");
    world_.set_update_flag_known(*known->boolean());
    return "";
  }
  const auto uuid = uuid_member(argument, "vm");
  if (!uuid) return refuse("vm must be a uuid");
  Vm* vm = world_.vm_by_uuid(*uuid);
  if (*action == "create_vm") {
    if (vm) return refuse("that VM exists");
    const auto vtpm = uuid_member(argument, "vtpm");
    if (vtpm && world_.vtpm_by_uuid(*vtpm)) return refuse("that vTPM exists");
    Vm& made = world_.create_vm(*uuid);
    if (vtpm) world_.create_vtpm(made, *vtpm, {});
    return "";
  }
  if (!vm) return refuse("no such VM");
  return edit_vm(*action, *vm, argument);
}

Service::ControlAnswer Service::edit_vm(std::string_view action, Vm& vm, const Json& argument) {
  Vtpm* vtpm = vm.vtpms.empty() ? nullptr : world_.vtpm_by_ref(vm.vtpms.front());
  const std::string* contents = text_member(argument, "contents");
  if (action == "delete_vm") {
    world_.delete_vm(vm);
  } else if (action == "set_contents") {
    if (!vtpm || !contents) return refuse("a VM with a vTPM, and contents, are needed");
    world_.store_contents(*vtpm, std::string(vtpm->secret_ref), *contents);
  } else if (action == "destroy_vtpm") {
    if (!vtpm) return refuse("that VM has no vTPM");
    world_.destroy_vtpm(*vtpm);
  } else if (action == "replace_vtpm") {
    const auto uuid = uuid_member(argument, "vtpm");
    if (!uuid || world_.vtpm_by_uuid(*uuid)) return refuse("vtpm must be a new uuid");
    if (vtpm) world_.destroy_vtpm(*vtpm);
    world_.create_vtpm(vm, *uuid, contents ? *contents : "");
  } else if (action == "set_power_state") {
    const std::string* state = text_member(argument, "power_state");
    if (!state) return refuse("power_state is needed");
    vm.power_state = *state;
  } else if (action == "set_resident_on") {
    const auto host = uuid_member(argument, "host");
    if (argument.find("host") && !host) return refuse("host must be a uuid");
    vm.resident_on = host ? world_.host_by_uuid(*host).ref : "";
  } else if (action == "set_certificates_state") {
    const std::string* state = text_member(argument, "state");
    if (!state) return refuse("state is needed");
    vm.certificates_state = *state;
  } else if (action == "set_nvram") {
    const std::string* name = text_member(argument, "name");
    const std::string* value = text_member(argument, "value");
    if (!name) return refuse("name is needed");
    if (value) {
      vm.nvram[*name] = *value;
    } else {
      vm.nvram.erase(*name);
    }
  } else {
    return refuse("unknown action");
  }
  world_.touch();
  return "";
}

/// What there is, for comparing: {"vm": only that one, "contents": false, "history": false to leave them
/// out}.
Service::ControlAnswer Service::dump(const Json& argument) {
  const auto only = uuid_member(argument, "vm");
  if (argument.find("vm") && !only) return refuse("vm must be a uuid");
  JsonArray vms, deleted, messages, sessions, hung;
  for (const Vm* vm : world_.vms()) {
    if (only && vm->uuid != *only) continue;
    vms.push_back(dump_vm(*vm, flag_member(argument, "contents"), flag_member(argument, "history")));
  }
  for (const Uuid& uuid : world_.deleted()) deleted.push_back(uuid.str());
  for (const Message& m : world_.messages()) {
    messages.push_back(JsonObject{{"name", m.name},
                                  {"priority", m.priority},
                                  {"class", m.object_class},
                                  {"object", m.object_uuid},
                                  {"body", m.body}});
  }
  for (const Session& s : world_.sessions()) {
    sessions.push_back(JsonObject{{"ref", s.ref}, {"originator", s.originator}});
  }
  for (const InFlight& call : hung_) {
    hung.push_back(JsonObject{{"number", call.number},
                              {"method", call.method},
                              {"vm", call.vm ? Json(call.vm->str()) : Json(nullptr)}});
  }
  JsonObject calls;
  for (const auto& [method, count] : call_counts_) calls.emplace_back(method, count);
  return JsonObject{
      {"host", world_.local_host().uuid.str()},
      {"vms", std::move(vms)},
      {"deleted", std::move(deleted)},
      {"messages", std::move(messages)},
      {"sessions", std::move(sessions)},
      {"calls", std::move(calls)},
      {"connections", JsonObject{{"now", connections_()}, {"seen", std::uint64_t{seen_connections_.size()}}}},
      {"faults", faults_.to_json()},
      {"hung", std::move(hung)},
      {"secrets", std::uint64_t{world_.secrets()}},
      {"flushes", flushes_}};
}

Json Service::dump_vm(const Vm& vm, bool contents, bool history) {
  JsonArray vtpms;
  for (const std::string& ref : vm.vtpms) {
    const Vtpm& vtpm = *world_.vtpm_by_ref(ref);
    JsonObject object{{"uuid", vtpm.uuid.str()},
                      {"ref", ref},
                      {"updates", vtpm.updates},
                      {"overlap_now", vtpm.overlap_now},
                      {"overlap_max", vtpm.overlap_max}};
    if (contents) object.emplace_back("contents", *world_.secret(vtpm.secret_ref));
    if (history) {
      JsonArray digests;
      for (const Digest& digest : vtpm.history) digests.push_back(hex(digest));
      object.emplace_back("history", std::move(digests));
    }
    vtpms.push_back(std::move(object));
  }
  JsonObject nvram;
  for (const auto& [name, value] : vm.nvram) nvram.emplace_back(name, value);
  JsonArray nvram_history;
  if (history) {
    for (const Digest& digest : vm.nvram_history) nvram_history.push_back(hex(digest));
  }
  const Host* host = world_.host_by_ref(vm.resident_on);
  return JsonObject{{"uuid", vm.uuid.str()},
                    {"ref", vm.ref},
                    {"power_state", vm.power_state},
                    {"resident_on", host ? Json(host->uuid.str()) : Json(nullptr)},
                    {"nvram", std::move(nvram)},
                    {"nvram_history", std::move(nvram_history)},
                    {"nvram_updates", vm.nvram_updates},
                    {"update_flag", vm.last_update_flag},
                    {"certificates_state", vm.certificates_state},
                    {"vtpms", std::move(vtpms)}};
}

/// The digests of the texts in an array, in the form in which histories hold them.
Service::ControlAnswer Service::digest(const Json& argument) {
  if (!argument.array()) return refuse("an array of texts is needed");
  JsonArray digests;
  for (const Json& text : *argument.array()) {
    if (!text.string()) return refuse("an array of texts is needed");
    digests.push_back(hex(digest_of(*text.string())));
  }
  return digests;
}

/// Flushes now instead of later, and answers when all is in the file.
Service::ControlAnswer Service::flush(const Json&) {
  if (!flush_) return refuse("there is no store");
  flush_now();
  return "";
}

}  // namespace guard::sim
