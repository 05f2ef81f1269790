#include "upstream/fake_xapi.h"

#include <algorithm>
#include <cstdio>
#include <thread>
#include <utility>

#include "wire/json.h"

namespace guard::upstream::testing {

namespace {

using net::testing::PeerConnection;
using net::testing::xapi_http_answer;
using wire::Json;
using wire::JsonArray;

std::string success(const Json& result, const std::string& id) {
  return R"({"result":)" + wire::to_string(result) + R"(,"error":null,"id":)" + id + "}";
}

std::string failure(const std::vector<std::string>& error, const std::string& id) {
  JsonArray array;
  for (const std::string& part : error) array.emplace_back(part);
  return R"({"result":null,"error":)" + wire::to_string(Json(std::move(array))) + R"(,"id":)" + id + "}";
}

}  // namespace

Reaction Reaction::result(std::string_view json) {
  return {Kind::answer, R"({"result":)" + std::string(json) + R"(,"error":null,"id":ID})"};
}
Reaction Reaction::error(std::vector<std::string> code_and_params) {
  return {Kind::answer, failure(code_and_params, "ID")};
}
Reaction Reaction::emergency(std::string_view code) {
  return {Kind::answer, R"({"jsonrpc":"2.0","error":[")" + std::string(code) + R"("],"id":0})"};
}

FakeXapi::FakeXapi(std::string path) : path_(std::move(path)) {}

void FakeXapi::start(int backlog) {
  end_session();
  peer_ = std::make_unique<net::testing::ScriptedPeer>(
      path_, [this](PeerConnection& connection) { serve(connection); }, backlog);
}

void FakeXapi::stop() { peer_.reset(); }

void FakeXapi::react(const std::string& method, std::vector<Reaction> reactions) {
  const std::lock_guard lock(mutex_);
  auto& planned = planned_[method];
  planned.insert(planned.end(), std::make_move_iterator(reactions.begin()),
                 std::make_move_iterator(reactions.end()));
}

std::string FakeXapi::new_reference() {
  char text[64];
  std::snprintf(text, sizeof(text), "OpaqueRef:00000000-0000-4000-8000-%012u", ++references_);
  return text;
}

void FakeXapi::add_vm(const Uuid& vm, const Uuid& vtpm, std::string contents) {
  const std::lock_guard lock(mutex_);
  FakeVm record{new_reference(), {}, {new_reference()}};
  vtpms_[record.vtpms.front()] = {vtpm.str(), std::move(contents)};
  vms_[vm.str()] = std::move(record);
}

void FakeXapi::replace_vtpm(const Uuid& vm, const Uuid& vtpm, std::string contents) {
  const std::lock_guard lock(mutex_);
  FakeVm& record = vms_[vm.str()];
  for (const std::string& reference : record.vtpms) vtpms_.erase(reference);
  record.vtpms = {new_reference()};
  vtpms_[record.vtpms.front()] = {vtpm.str(), std::move(contents)};
}

void FakeXapi::set_rule(Rule rule) {
  const std::lock_guard lock(mutex_);
  rule_ = std::move(rule);
}

void FakeXapi::remove_vm(const Uuid& vm) {
  const std::lock_guard lock(mutex_);
  for (const std::string& reference : vms_[vm.str()].vtpms) vtpms_.erase(reference);
  vms_.erase(vm.str());
}

void FakeXapi::set_vtpms(const Uuid& vm, std::vector<std::string> references) {
  const std::lock_guard lock(mutex_);
  vms_[vm.str()].vtpms = std::move(references);
}

FakeVm FakeXapi::vm(const Uuid& vm) {
  const std::lock_guard lock(mutex_);
  return vms_[vm.str()];
}

void FakeXapi::hide_vtpm_uuids() {
  const std::lock_guard lock(mutex_);
  knows_vtpm_uuids_ = false;
}

std::string FakeXapi::contents(const Uuid& vtpm) {
  const std::lock_guard lock(mutex_);
  for (const auto& [reference, record] : vtpms_) {
    if (record.uuid == vtpm.str()) return record.contents;
  }
  return "(no such vTPM)";
}

void FakeXapi::set_contents(const Uuid& vtpm, std::string contents) {
  const std::lock_guard lock(mutex_);
  for (auto& [reference, record] : vtpms_) {
    if (record.uuid == vtpm.str()) record.contents = contents;
  }
}

void FakeXapi::set_nvram(const Uuid& vm, std::string name, std::string value) {
  const std::lock_guard lock(mutex_);
  vms_[vm.str()].nvram[std::move(name)] = std::move(value);
}

void FakeXapi::change_references() {
  const std::lock_guard lock(mutex_);
  std::map<std::string, FakeVtpm> renamed;
  for (auto& [uuid, vm] : vms_) {
    vm.reference = new_reference();
    for (std::string& vtpm : vm.vtpms) {
      const std::string old = std::exchange(vtpm, new_reference());
      renamed[vtpm] = vtpms_[old];
    }
  }
  vtpms_ = std::move(renamed);
}

void FakeXapi::end_session() {
  const std::lock_guard lock(mutex_);
  session_.clear();
}

std::vector<SeenCall> FakeXapi::seen() {
  const std::lock_guard lock(mutex_);
  return seen_;
}

std::vector<std::string> FakeXapi::methods() {
  std::vector<std::string> names;
  for (SeenCall& call : seen()) names.push_back(std::move(call.method));
  return names;
}

std::size_t FakeXapi::count(std::string_view method) {
  const auto names = methods();
  return static_cast<std::size_t>(std::count(names.begin(), names.end(), method));
}

void FakeXapi::forget() {
  const std::lock_guard lock(mutex_);
  seen_.clear();
}

void FakeXapi::serve(PeerConnection& connection) {
  while (auto request = connection.read_request()) {
    const auto json = wire::parse_json(request->body);
    SeenCall call;
    call.body = request->body;
    call.head = request->head;
    call.connection = connection.number();
    std::string id = "0";
    if (json && json->object()) {
      if (const Json* method = json->find("method")) call.method = *method->string();
      if (const Json* number = json->find("id")) id = wire::to_string(*number);
      for (const Json& param : *json->find("params")->array()) {
        call.params.push_back(param.string() ? *param.string() : wire::to_string(param));
      }
    }
    Reaction reaction;
    std::string answer;
    {
      const std::lock_guard lock(mutex_);
      seen_.push_back(call);
      reaction = reaction_to(call);
      if (reaction.kind == Reaction::Kind::regular || reaction.kind == Reaction::Kind::act_close) {
        answer = regular_answer(call, id);
      }
    }
    std::this_thread::sleep_for(reaction.delay);
    switch (reaction.kind) {
      case Reaction::Kind::close:
      case Reaction::Kind::act_close:
        return;
      case Reaction::Kind::hang:
        return connection.wait_for_close();
      case Reaction::Kind::answer:
        answer = reaction.text;
        if (const auto at = answer.rfind("ID"); at != std::string::npos && answer.ends_with("ID}")) {
          answer.replace(at, 2, id);
        }
        break;
      default:
        break;
    }
    const std::string bytes = reaction.kind == Reaction::Kind::raw ? reaction.text : xapi_http_answer(answer);
    connection.send_in_pieces(bytes, reaction.piece == 0 ? bytes.size() : reaction.piece);
  }
}

Reaction FakeXapi::reaction_to(const SeenCall& call) {
  if (rule_) {
    if (auto reaction = rule_(call)) return *reaction;
  }
  auto& planned = planned_[call.method];
  if (planned.empty()) return {};
  Reaction reaction = planned.front();
  planned.erase(planned.begin());
  return reaction;
}

std::string FakeXapi::regular_answer(const SeenCall& call, const std::string& id) {
  const auto& params = call.params;
  if (call.method == "session.login_with_password") {
    session_ = new_reference();
    return success(session_, id);
  }
  if (params.empty() || params[0] != session_ || session_.empty()) {
    return failure({"SESSION_INVALID", params.empty() ? "" : params[0]}, id);
  }
  if (call.method == "session.logout") {
    session_.clear();
    return success("", id);
  }
  if (call.method == "VM.get_by_uuid") {
    const auto vm = vms_.find(params[1]);
    return vm == vms_.end() ? failure({"UUID_INVALID", "VM", params[1]}, id)
                            : success(vm->second.reference, id);
  }
  if (call.method == "VM.get_VTPMs") {
    for (const auto& [uuid, vm] : vms_) {
      if (vm.reference != params[1]) continue;
      JsonArray references(vm.vtpms.begin(), vm.vtpms.end());
      return success(Json(std::move(references)), id);
    }
    return failure({"HANDLE_INVALID", "VM", params[1]}, id);
  }
  if (call.method == "message.create") return success("OpaqueRef:message", id);
  if (call.method == "VM.get_NVRAM" || call.method == "VM.set_NVRAM_EFI_variables" ||
      call.method == "VM.get_secureboot_certificates_state") {
    return variables_answer(call, id);
  }
  if (call.method == "VM.get_uuid") {
    for (const auto& [uuid, vm] : vms_) {
      if (vm.reference == params[1]) return success(uuid, id);
    }
    return failure({"HANDLE_INVALID", "VM", params[1]}, id);
  }
  if (call.method == "VTPM.get_by_uuid") {
    for (const auto& [reference, vtpm] : vtpms_) {
      if (vtpm.uuid == params[1]) return success(reference, id);
    }
    return failure({"UUID_INVALID", "VTPM", params[1]}, id);
  }
  if (call.method == "VTPM.get_VM") {
    for (const auto& [uuid, vm] : vms_) {
      if (std::ranges::count(vm.vtpms, params[1]) > 0) return success(vm.reference, id);
    }
    return failure({"HANDLE_INVALID", "VTPM", params[1]}, id);
  }
  if (call.method.starts_with("VTPM.")) {
    const auto vtpm = vtpms_.find(params[1]);
    if (vtpm == vtpms_.end()) return failure({"HANDLE_INVALID", "VTPM", params[1]}, id);
    if (call.method == "VTPM.get_uuid" && knows_vtpm_uuids_) return success(vtpm->second.uuid, id);
    if (call.method == "VTPM.get_contents") return success(vtpm->second.contents, id);
    if (call.method == "VTPM.set_contents") {
      vtpm->second.contents = params[2];
      return success("", id);
    }
  }
  return failure({"MESSAGE_METHOD_UNKNOWN", call.method}, id);
}

std::string FakeXapi::variables_answer(const SeenCall& call, const std::string& id) {
  const auto& params = call.params;
  for (auto& [uuid, vm] : vms_) {
    if (vm.reference != params[1]) continue;
    if (call.method == "VM.get_secureboot_certificates_state") return success("update_available", id);
    if (call.method == "VM.set_NVRAM_EFI_variables") {
      vm.nvram["EFI-variables"] = params[2];
      return success("", id);
    }
    wire::JsonObject map;
    for (const auto& [name, value] : vm.nvram) map.emplace_back(name, value);
    return success(Json(std::move(map)), id);
  }
  return failure({"HANDLE_INVALID", "VM", params[1]}, id);
}

}  // namespace guard::upstream::testing
