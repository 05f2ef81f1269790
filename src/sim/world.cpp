#include "sim/world.h"

#include <algorithm>

namespace guard::sim {

using wire::Json;
using wire::JsonArray;
using wire::JsonObject;

namespace {

/// xapi keeps this many sessions per originator.
constexpr std::size_t sessions_per_originator = 500;

/// The vTPM of a provisioned VM must be the same one after the store was lost, or every restart would look
/// like a snapshot revert.
Uuid provisioned_vtpm(Uuid vm) {
  const Digest digest = digest_of("vtpm of " + vm.str());
  Uuid uuid;
  for (std::size_t i = 0; i < 8; ++i) {
    uuid.bytes[i] = static_cast<std::uint8_t>(digest.low >> (8 * i));
    uuid.bytes[i + 8] = static_cast<std::uint8_t>(digest.high >> (8 * i));
  }
  return uuid;
}

std::optional<Uuid> uuid_member(const Json& json, std::string_view name) {
  const Json* member = json.find(name);
  return member && member->string() ? Uuid::parse(*member->string()) : std::nullopt;
}

std::string text_member(const Json& json, std::string_view name, std::string_view otherwise = {}) {
  const Json* member = json.find(name);
  return std::string(member && member->string() ? *member->string() : otherwise);
}

std::unexpected<Error> bad_store(std::string_view what) {
  return std::unexpected(Error::invalid("store: " + std::string(what)));
}

}  // namespace

World::World(Uuid local_host, std::uint64_t seed) : random_(seed) { host_by_uuid(local_host); }

Vm& World::create_vm(Uuid uuid) {
  std::string ref = new_ref();
  Vm& vm = vms_[ref];
  vm.uuid = uuid;
  vm.ref = std::move(ref);
  vm.resident_on = local_host().ref;
  vm_index_[uuid] = &vm;
  deleted_.erase(uuid);
  touch();
  return vm;
}

Vtpm& World::create_vtpm(Vm& vm, Uuid uuid, std::string contents) {
  std::string ref = new_ref();
  Vtpm& vtpm = vtpms_[ref];
  vtpm.uuid = uuid;
  vtpm.ref = std::move(ref);
  vtpm.vm_ref = vm.ref;
  vtpm.secret_ref = new_ref();
  secrets_[vtpm.secret_ref] = std::move(contents);
  vtpm_index_[uuid] = &vtpm;
  vm.vtpms.push_back(vtpm.ref);
  touch();
  return vtpm;
}

void World::delete_vm(Vm& vm) {
  while (!vm.vtpms.empty()) destroy_vtpm(vtpms_.at(vm.vtpms.back()));
  deleted_.insert(vm.uuid);
  vm_index_.erase(vm.uuid);
  vms_.erase(std::string(vm.ref));
  touch();
}

void World::destroy_vtpm(Vtpm& vtpm) {
  std::erase(vms_.at(vtpm.vm_ref).vtpms, vtpm.ref);
  secrets_.erase(vtpm.secret_ref);
  vtpm_index_.erase(vtpm.uuid);
  vtpms_.erase(std::string(vtpm.ref));
  touch();
}

Vm* World::vm_by_ref(std::string_view ref) {
  const auto found = vms_.find(ref);
  return found == vms_.end() ? nullptr : &found->second;
}

Vtpm* World::vtpm_by_ref(std::string_view ref) {
  const auto found = vtpms_.find(ref);
  return found == vtpms_.end() ? nullptr : &found->second;
}

const Host* World::host_by_ref(std::string_view ref) const {
  const auto found =
      std::find_if(hosts_.begin(), hosts_.end(), [ref](const Host& h) { return h.ref == ref; });
  return found == hosts_.end() ? nullptr : &*found;
}

Vm* World::vm_by_uuid(Uuid uuid) {
  const auto found = vm_index_.find(uuid);
  if (found != vm_index_.end()) return found->second;
  // The nil uuid is what a client asks for to see whether anybody answers.
  if (!auto_provision_ || uuid.is_nil() || deleted_.contains(uuid)) return nullptr;
  Vm& vm = create_vm(uuid);
  create_vtpm(vm, provisioned_vtpm(uuid), {});
  return &vm;
}

Vtpm* World::vtpm_by_uuid(Uuid uuid) {
  const auto found = vtpm_index_.find(uuid);
  return found == vtpm_index_.end() ? nullptr : found->second;
}

const Host& World::host_by_uuid(Uuid uuid) {
  const auto found =
      std::find_if(hosts_.begin(), hosts_.end(), [uuid](const Host& h) { return h.uuid == uuid; });
  if (found != hosts_.end()) return *found;
  touch();
  return hosts_.emplace_back(Host{uuid, new_ref()});
}

const std::string* World::secret(std::string_view ref) const {
  const auto found = secrets_.find(ref);
  return found == secrets_.end() ? nullptr : &found->second;
}

bool World::store_contents(Vtpm& vtpm, std::string_view old, std::string contents) {
  vtpm.history.push_back(digest_of(contents));
  if (vtpm.history.size() > history_limit) vtpm.history.pop_front();
  ++vtpm.updates;
  vtpm.secret_ref = new_ref();
  secrets_[vtpm.secret_ref] = std::move(contents);
  touch();
  const auto found = secrets_.find(old);
  if (found == secrets_.end()) return false;
  secrets_.erase(found);
  return true;
}

const Session& World::login(std::string originator) {
  const auto same = [&originator](const Session& s) { return s.originator == originator; };
  if (std::count_if(sessions_.begin(), sessions_.end(), same) >=
      static_cast<std::ptrdiff_t>(sessions_per_originator)) {
    logout(std::string(std::find_if(sessions_.begin(), sessions_.end(), same)->ref));
  }
  sessions_.push_back({new_ref(), std::move(originator)});
  session_refs_.insert(sessions_.back().ref);
  return sessions_.back();
}

void World::logout(std::string_view ref) {
  if (const auto found = session_refs_.find(ref); found != session_refs_.end()) session_refs_.erase(found);
  std::erase_if(sessions_, [ref](const Session& s) { return s.ref == ref; });
}

void World::end_sessions() {
  sessions_.clear();
  session_refs_.clear();
}

std::string World::create_message(Message message) {
  messages_.push_back(std::move(message));
  touch();
  return new_ref();
}

std::vector<const Vm*> World::vms() const {
  std::vector<const Vm*> all;
  all.reserve(vms_.size());
  for (const auto& [ref, vm] : vms_) all.push_back(&vm);
  std::sort(all.begin(), all.end(), [](const Vm* a, const Vm* b) { return a->uuid < b->uuid; });
  return all;
}

Json World::to_json() const {
  JsonArray hosts;
  for (const Host& host : hosts_) hosts.push_back(JsonObject{{"uuid", host.uuid.str()}, {"ref", host.ref}});
  JsonArray vms;
  for (const Vm* vm : this->vms()) {
    JsonArray vtpms;
    for (const std::string& ref : vm->vtpms) {
      const Vtpm& vtpm = vtpms_.at(ref);
      vtpms.push_back(
          JsonObject{{"uuid", vtpm.uuid.str()}, {"ref", ref}, {"contents", secrets_.at(vtpm.secret_ref)}});
    }
    JsonObject nvram;
    for (const auto& [name, value] : vm->nvram) nvram.emplace_back(name, value);
    vms.push_back(JsonObject{{"uuid", vm->uuid.str()},
                             {"ref", vm->ref},
                             {"power_state", vm->power_state},
                             {"resident_on", vm->resident_on},
                             {"nvram", std::move(nvram)},
                             {"certificates_state", vm->certificates_state},
                             {"vtpms", std::move(vtpms)}});
  }
  JsonArray deleted;
  for (const Uuid& uuid : deleted_) deleted.push_back(uuid.str());
  JsonArray messages;
  for (const Message& m : messages_) {
    messages.push_back(JsonObject{{"name", m.name},
                                  {"priority", m.priority},
                                  {"class", m.object_class},
                                  {"object", m.object_uuid},
                                  {"body", m.body}});
  }
  return JsonObject{{"hosts", std::move(hosts)},
                    {"vms", std::move(vms)},
                    {"deleted", std::move(deleted)},
                    {"messages", std::move(messages)}};
}

Result<> World::load(const Json& json) {
  const Json* hosts = json.find("hosts");
  const Json* vms = json.find("vms");
  const Json* deleted = json.find("deleted");
  const Json* messages = json.find("messages");
  if (!hosts || !hosts->array() || hosts->array()->empty() || !vms || !vms->array() || !deleted ||
      !deleted->array() || !messages || !messages->array()) {
    return bad_store("a member is missing");
  }
  const bool keep_provisioning = auto_provision_;
  const bool keep_flag = update_flag_known_;
  const std::uint64_t revision = revision_;
  *this = World({}, random_());
  auto_provision_ = keep_provisioning;
  update_flag_known_ = keep_flag;
  hosts_.clear();
  for (const Json& host : *hosts->array()) {
    const auto uuid = uuid_member(host, "uuid");
    if (!uuid) return bad_store("a host has no uuid");
    hosts_.push_back({*uuid, text_member(host, "ref")});
  }
  for (const Json& vm : *vms->array()) {
    if (auto loaded = load_vm(vm); !loaded) return loaded;
  }
  for (const Json& entry : *deleted->array()) {
    const auto uuid = entry.string() ? Uuid::parse(*entry.string()) : std::nullopt;
    if (!uuid) return bad_store("a deleted VM has no uuid");
    deleted_.insert(*uuid);
  }
  for (const Json& m : *messages->array()) {
    const Json* priority = m.find("priority");
    messages_.push_back({text_member(m, "name"), priority && priority->integer() ? *priority->integer() : 0,
                         text_member(m, "class"), text_member(m, "object"), text_member(m, "body")});
  }
  revision_ = revision;
  return {};
}

Result<> World::load_vm(const Json& json) {
  const auto uuid = uuid_member(json, "uuid");
  std::string ref = text_member(json, "ref");
  const Json* vtpms = json.find("vtpms");
  const Json* nvram = json.find("nvram");
  if (!uuid || ref.empty() || !vtpms || !vtpms->array() || !nvram || !nvram->object()) {
    return bad_store("a VM is not whole");
  }
  Vm& vm = vms_[ref];
  vm.uuid = *uuid;
  vm.ref = std::move(ref);
  vm.power_state = text_member(json, "power_state", "Halted");
  vm.resident_on = text_member(json, "resident_on");
  vm.certificates_state = text_member(json, "certificates_state", "ok");
  for (const auto& [name, value] : *nvram->object()) vm.nvram[name] = value.string() ? *value.string() : "";
  vm_index_[vm.uuid] = &vm;
  for (const Json& entry : *vtpms->array()) {
    const auto vtpm_uuid = uuid_member(entry, "uuid");
    std::string vtpm_ref = text_member(entry, "ref");
    if (!vtpm_uuid || vtpm_ref.empty()) return bad_store("a vTPM is not whole");
    Vtpm& vtpm = vtpms_[vtpm_ref];
    vtpm.uuid = *vtpm_uuid;
    vtpm.ref = std::move(vtpm_ref);
    vtpm.vm_ref = vm.ref;
    vtpm.secret_ref = new_ref();
    secrets_[vtpm.secret_ref] = text_member(entry, "contents");
    vtpm_index_[vtpm.uuid] = &vtpm;
    vm.vtpms.push_back(vtpm.ref);
  }
  return {};
}

Uuid World::new_uuid() {
  Uuid uuid;
  for (std::size_t i = 0; i < 16; i += 8) {
    const std::uint64_t bits = random_();
    for (std::size_t j = 0; j < 8; ++j) uuid.bytes[i + j] = static_cast<std::uint8_t>(bits >> (8 * j));
  }
  uuid.bytes[6] = static_cast<std::uint8_t>((uuid.bytes[6] & 0x0f) | 0x40);  // version 4: random
  uuid.bytes[8] = static_cast<std::uint8_t>((uuid.bytes[8] & 0x3f) | 0x80);
  return uuid;
}

std::string World::new_ref() { return "OpaqueRef:" + new_uuid().str(); }

}  // namespace guard::sim
