#include "sim/faults.h"

#include <algorithm>
#include <array>
#include <utility>

namespace guard::sim {

using wire::Json;
using wire::JsonArray;
using wire::JsonObject;

namespace {

using Kind = FaultPlan::Kind;
constexpr std::array<std::pair<std::string_view, Kind>, 8> kinds = {{{"delay", Kind::delay},
                                                                     {"hang", Kind::hang},
                                                                     {"drop_reply", Kind::drop_reply},
                                                                     {"drop_request", Kind::drop_request},
                                                                     {"http_status", Kind::http_status},
                                                                     {"error", Kind::error},
                                                                     {"error_v2", Kind::error_v2},
                                                                     {"garbage", Kind::garbage}}};
constexpr std::array<std::string_view, 9> member_names = {"method", "vm",    "kind",  "ms",    "status",
                                                          "error",  "count", "after", "effect"};
/// An hour: more is a typing error.
constexpr std::int64_t longest_delay_ms = 3'600'000;

/// A number of at least 0; `otherwise` when there is no such member, nullopt when it is something else.
std::optional<std::uint64_t> number_member(const Json& json, std::string_view name, std::uint64_t otherwise) {
  const Json* member = json.find(name);
  if (!member) return otherwise;
  if (!member->integer() || *member->integer() < 0) return std::nullopt;
  return static_cast<std::uint64_t>(*member->integer());
}

/// Nothing wrong, or what.
std::string read_error(const Json& json, FaultPlan& plan) {
  const Json* error = json.find("error");
  if (error && !error->array()) return "error must be an array of texts";
  if (error) {
    for (const Json& part : *error->array()) {
      if (!part.string()) return "error must be an array of texts";
      plan.error.push_back(*part.string());
    }
  }
  const bool needed = plan.kind == Kind::error || plan.kind == Kind::error_v2;
  return needed && plan.error.empty() ? "this kind needs an error" : "";
}

std::string read_plan(const Json& json, FaultPlan& plan) {
  const auto ms = number_member(json, "ms", 0);
  const auto status = number_member(json, "status", 500);
  if (!ms || *ms > static_cast<std::uint64_t>(longest_delay_ms)) return "ms must be a number of milliseconds";
  if (!status || *status < 300 || *status > 599) return "status must be from 300 to 599";
  plan.delay = std::chrono::milliseconds(*ms);
  plan.status = static_cast<unsigned>(*status);
  plan.effect = plan.kind == Kind::delay || plan.kind == Kind::drop_reply;
  if (const Json* effect = json.find("effect")) {
    const bool fixed = plan.kind == Kind::delay || plan.kind == Kind::hang;
    if (!effect->boolean() || fixed) return "effect must be true or false, and not with delay or hang";
    plan.effect = *effect->boolean();
  }
  return read_error(json, plan);
}

}  // namespace

std::expected<std::uint64_t, std::string> Faults::add(const Json& json) {
  const auto refuse = [](std::string_view why) { return std::unexpected(std::string(why)); };
  if (!json.object()) return refuse("a fault is an object");
  for (const auto& [name, value] : *json.object()) {
    if (std::find(member_names.begin(), member_names.end(), name) == member_names.end()) {
      return refuse("unknown member " + name);
    }
  }
  Fault fault;
  const Json* method = json.find("method");
  const Json* kind = json.find("kind");
  if (!method || !method->string() || !kind || !kind->string()) return refuse("method and kind are needed");
  fault.method = *method->string();
  fault.kind_name = *kind->string();
  const auto known = std::find_if(kinds.begin(), kinds.end(),
                                  [&fault](const auto& k) { return k.first == fault.kind_name; });
  if (known == kinds.end()) return refuse("unknown kind");
  fault.plan.kind = known->second;
  if (const Json* vm = json.find("vm")) {
    fault.vm = vm->string() ? Uuid::parse(*vm->string()) : std::nullopt;
    if (!fault.vm) return refuse("vm must be a uuid");
  }
  const auto after = number_member(json, "after", 0);
  const auto count = number_member(json, "count", 1);
  if (!after || !count) return refuse("after and count must be numbers");
  fault.after = *after;
  if (json.find("count")) fault.count = *count;
  if (const std::string wrong = read_plan(json, fault.plan); !wrong.empty()) return refuse(wrong);
  fault.number = next_++;
  need_vm_ = need_vm_ || fault.vm.has_value();
  faults_.push_back(std::move(fault));
  return faults_.back().number;
}

bool Faults::remove(std::optional<std::uint64_t> number) {
  const auto removed =
      std::erase_if(faults_, [number](const Fault& f) { return !number || f.number == *number; });
  need_vm_ = std::any_of(faults_.begin(), faults_.end(), [](const Fault& f) { return f.vm.has_value(); });
  return !number || removed > 0;
}

std::optional<FaultPlan> Faults::match(std::string_view method, std::optional<Uuid> vm) {
  for (Fault& fault : faults_) {
    if (fault.method != "*" && fault.method != method) continue;
    if (fault.vm && fault.vm != vm) continue;
    if (fault.count && fault.fired >= *fault.count) continue;
    if (++fault.matched <= fault.after) continue;
    ++fault.fired;
    return fault.plan;
  }
  return std::nullopt;
}

Json Faults::to_json() const {
  JsonArray all;
  for (const Fault& fault : faults_) {
    all.push_back(JsonObject{{"id", fault.number},
                             {"method", fault.method},
                             {"kind", fault.kind_name},
                             {"matched", fault.matched},
                             {"fired", fault.fired}});
  }
  return all;
}

}  // namespace guard::sim
