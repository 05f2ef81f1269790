// The database of a simulated xapi: virtual machines, their vTPMs, secrets, sessions and messages.
//
// Pure: no I/O, no clock. Used by one thread. Objects are named by opaque references, as in xapi: random,
// remembered in the store, and not derived from the uuid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "guard/result.h"
#include "guard/types.h"
#include "wire/json.h"

namespace guard::sim {

inline constexpr std::size_t history_limit = 4096;

struct Vtpm {
  Uuid uuid;
  std::string ref;
  std::string vm_ref;
  /// The row of the secret table that holds the contents.
  std::string secret_ref;
  // What tests want to know about it.
  std::deque<Digest> history;  ///< of the latest values stored, oldest first, at most `history_limit`
  std::uint64_t updates = 0;   ///< how many values were stored
  unsigned overlap_now = 0;    ///< set_contents calls begun and not finished
  unsigned overlap_max = 0;
};

struct Vm {
  Uuid uuid;
  std::string ref;
  std::string power_state = "Running";
  std::string resident_on;  ///< reference of a host, empty = nowhere
  std::map<std::string, std::string> nvram;
  std::string certificates_state = "ok";
  std::string last_update_flag;  ///< `update` of the latest set_NVRAM_EFI_variables, empty before
  // What tests want to know about its UEFI variables.
  std::deque<Digest> nvram_history;  ///< of the latest values stored, oldest first, at most `history_limit`
  std::uint64_t nvram_updates = 0;   ///< how many values were stored
  std::vector<std::string> vtpms;
};

struct Host {
  Uuid uuid;
  std::string ref;
};

struct Message {
  std::string name;
  std::int64_t priority = 0;
  std::string object_class;
  std::string object_uuid;
  std::string body;
};

struct Session {
  std::string ref;
  std::string originator;
};

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>{}(text); }
};
template <class T>
using ByRef = std::unordered_map<std::string, T, StringHash, std::equal_to<>>;

class World {
 public:
  /// `seed` feeds references and uuids.
  World(Uuid local_host, std::uint64_t seed);

  /// Creates a VM that runs on this host. Precondition: no VM has that uuid.
  Vm& create_vm(Uuid uuid);
  /// Appends a vTPM. Precondition: no vTPM has that uuid.
  Vtpm& create_vtpm(Vm& vm, Uuid uuid, std::string contents);
  /// Removes the VM with its vTPMs; it is not provisioned again.
  void delete_vm(Vm& vm);
  void destroy_vtpm(Vtpm& vtpm);
  /// Makes every VM that is asked for exist, with one vTPM, unless it was deleted or its uuid is nil.
  void auto_provision() { auto_provision_ = true; }

  /// nullptr when there is none. References stay good until the object is removed.
  Vm* vm_by_ref(std::string_view ref);
  Vtpm* vtpm_by_ref(std::string_view ref);
  const Host* host_by_ref(std::string_view ref) const;
  Vm* vm_by_uuid(Uuid uuid);  ///< provisions
  Vtpm* vtpm_by_uuid(Uuid uuid);
  const Host& local_host() const { return *hosts_.begin(); }
  /// Makes the host known if it is not.
  const Host& host_by_uuid(Uuid uuid);

  /// nullptr when the secret is gone.
  const std::string* secret(std::string_view ref) const;
  /// As xapi does it: a new secret, the vTPM pointed to it, the secret `old` destroyed. False when `old` was
  /// gone already: the value is stored all the same.
  bool store_contents(Vtpm& vtpm, std::string_view old, std::string contents);

  /// Oldest sessions of the originator end when it has more than 500.
  const Session& login(std::string originator);
  bool session_valid(std::string_view ref) const { return session_refs_.contains(ref); }
  void logout(std::string_view ref);
  void end_sessions();

  std::string create_message(Message message);

  /// An older xapi does not know the update flag of set_NVRAM_EFI_variables.
  void set_update_flag_known(bool known) { update_flag_known_ = known; }
  bool update_flag_known() const { return update_flag_known_; }

  const std::deque<Session>& sessions() const { return sessions_; }
  const std::vector<Message>& messages() const { return messages_; }
  const std::set<Uuid>& deleted() const { return deleted_; }
  std::size_t secrets() const { return secrets_.size(); }
  /// In the order of their uuids.
  std::vector<const Vm*> vms() const;

  /// Counts changes of what the store holds; unchanged = nothing to flush.
  std::uint64_t revision() const { return revision_; }
  void touch() { ++revision_; }

  /// Everything xapi keeps in its database. Sessions are not part of it.
  wire::Json to_json() const;
  /// Replaces everything by what to_json() made. Errors: invalid; the world is then half replaced.
  Result<> load(const wire::Json& json);

 private:
  Result<> load_vm(const wire::Json& json);
  std::string new_ref();
  Uuid new_uuid();

  std::mt19937_64 random_;
  bool auto_provision_ = false;
  bool update_flag_known_ = true;
  std::uint64_t revision_ = 0;
  std::deque<Host> hosts_;  ///< the local one first
  ByRef<Vm> vms_;
  ByRef<Vtpm> vtpms_;
  ByRef<std::string> secrets_;
  std::unordered_map<Uuid, Vm*> vm_index_;
  std::unordered_map<Uuid, Vtpm*> vtpm_index_;
  std::set<Uuid> deleted_;
  std::deque<Session> sessions_;  ///< oldest first
  std::set<std::string, std::less<>> session_refs_;
  std::vector<Message> messages_;
};

}  // namespace guard::sim
