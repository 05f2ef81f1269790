#include "tpm.h"

#include <cassert>
#include <cstring>
#include <utility>

extern "C" {
#include <libtpms/tpm_types.h>
// The types come first: the others need them.
#include <libtpms/tpm_error.h>
#include <libtpms/tpm_library.h>
#include <libtpms/tpm_memory.h>
}

#include "tpm_marshal.h"

namespace guard::tool {

namespace {

constexpr std::uint32_t rc_handle_missing = 0x18b;  // TPM_RC_HANDLE, first handle
constexpr std::uint32_t rc_failure = 0x101;

constexpr std::uint32_t rh_owner = 0x40000001;
constexpr std::uint32_t rh_null = 0x40000007;
constexpr std::uint16_t alg_null = 0x0010;
constexpr std::uint16_t alg_sha256 = 0x000b;
constexpr std::uint16_t alg_ecdsa = 0x0018;
constexpr std::uint16_t alg_ecc = 0x0023;
constexpr std::uint16_t curve_p256 = 0x0003;

// TPMA_NV: written and read by the owner or with the (empty) authorisation of the index, and no lock-out.
constexpr std::uint32_t nv_attributes = 1u << 1 | 1u << 2 | 1u << 17 | 1u << 18 | 1u << 25;
constexpr std::uint32_t nv_counter = 1u << 4;
// TPMA_OBJECT: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, sign.
constexpr std::uint32_t key_attributes = 1u << 1 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 10 | 1u << 18;

/// The callbacks of libtpms carry no user data, so the TPM that is powered on stands here.
struct Current {
  StateStore* store = nullptr;
  std::optional<Error> failure;  ///< why the last storage operation failed for good
  bool had_no_state = false;     ///< a load of the permanent state found none
} current;

std::string_view bytes_of(const unsigned char* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

TPM_RESULT fail(Error error) {
  current.failure = std::move(error);
  return TPM_FAIL;
}

TPM_RESULT on_init() { return TPM_SUCCESS; }

TPM_RESULT on_load(unsigned char** data, std::uint32_t* length, std::uint32_t, const char* name) {
  const auto slot = slot_named(name);
  if (!slot) return fail(Error::invalid(std::string("unknown state ") + name));
  const auto text = current.store->load(*slot);
  if (!text) return fail(text.error());
  if (text->empty()) {
    current.had_no_state |= *slot == Slot::permall;
    return TPM_RETRY;  // libtpms's word for "no such state"
  }
  const auto state = unwrap_state(*text);
  if (!state) return fail(Error::corrupt("the stored " + std::string(name) + " is not whole"));
  if (TPM_Malloc(data, static_cast<std::uint32_t>(state->size())) != TPM_SUCCESS) return TPM_FAIL;
  std::memcpy(*data, state->data(), state->size());
  *length = static_cast<std::uint32_t>(state->size());
  return TPM_SUCCESS;
}

TPM_RESULT on_store(const unsigned char* data, std::uint32_t length, std::uint32_t, const char* name) {
  const auto slot = slot_named(name);
  if (!slot) return fail(Error::invalid(std::string("unknown state ") + name));
  const auto stored = current.store->store(*slot, wrap_state(bytes_of(data, length)));
  return stored ? TPM_SUCCESS : fail(stored.error());
}

TPM_RESULT on_delete(std::uint32_t, const char* name, TPM_BOOL) {
  const auto slot = slot_named(name);
  if (!slot) return fail(Error::invalid(std::string("unknown state ") + name));
  const auto removed = current.store->remove(*slot);
  return removed ? TPM_SUCCESS : fail(removed.error());
}

/// A buffer that libtpms allocated.
class LibraryBuffer {
 public:
  ~LibraryBuffer() { TPM_Free(data); }
  std::string str() const { return std::string(bytes_of(data, size)); }
  unsigned char* data = nullptr;
  std::uint32_t size = 0;
};

std::string public_area_of_key() {
  Writer area;
  area.u16(alg_ecc).u16(alg_sha256).u32(key_attributes).sized({});
  area.u16(alg_null);                   // no symmetric algorithm
  area.u16(alg_ecdsa).u16(alg_sha256);  // the scheme it signs with
  area.u16(curve_p256).u16(alg_null);   // no key derivation
  area.sized({}).sized({});             // the point is for the TPM to choose
  return area.bytes();
}

}  // namespace

Tpm::Tpm(StateStore& store) : store_(store) {
  assert(!current.store);
  current.store = &store;
}

Tpm::~Tpm() {
  TPMLIB_Terminate();
  current = {};
}

Result<> Tpm::start_library() {
  libtpms_callbacks callbacks{};
  callbacks.sizeOfStruct = sizeof callbacks;
  callbacks.tpm_nvram_init = on_init;
  callbacks.tpm_nvram_loaddata = on_load;
  callbacks.tpm_nvram_storedata = on_store;
  callbacks.tpm_nvram_deletename = on_delete;
  if (TPMLIB_ChooseTPMVersion(TPMLIB_TPM_VERSION_2) != TPM_SUCCESS ||
      TPMLIB_RegisterCallbacks(&callbacks) != TPM_SUCCESS) {
    return std::unexpected(Error::invalid("libtpms has no TPM 2.0"));
  }
  return {};
}

Result<> Tpm::power_on() {
  if (auto ready = start_library(); !ready) return ready;
  // libtpms itself asks whether there is a permanent state, loads it or makes one, and loads a volatile one.
  if (const auto code = TPMLIB_MainInit(); code != TPM_SUCCESS) {
    return std::unexpected(command_error("power on", code));
  }
  manufactured_ = current.had_no_state;
  // libtpms overlooks some failures of its first look, as it does for swtpm. What it must never have been
  // given is another matter.
  if (current.failure && current.failure->code == Errc::corrupt) return std::unexpected(*current.failure);
  return perform("TPM2_Startup", Command(cc_startup).u16(0).finish());
}

Result<> Tpm::resume(const SuspendedState& state) {
  if (auto ready = start_library(); !ready) return ready;
  const auto set = [](TPMLIB_StateType type, const std::string& bytes) {
    return TPMLIB_SetState(type, reinterpret_cast<const unsigned char*>(bytes.data()),
                           static_cast<std::uint32_t>(bytes.size()));
  };
  if (auto code = set(TPMLIB_STATE_PERMANENT, state.permanent); code != TPM_SUCCESS) {
    return std::unexpected(command_error("restore of the permanent state", code));
  }
  if (auto code = set(TPMLIB_STATE_VOLATILE, state.volatile_part); code != TPM_SUCCESS) {
    return std::unexpected(command_error("restore of the volatile state", code));
  }
  if (auto code = TPMLIB_MainInit(); code != TPM_SUCCESS)
    return std::unexpected(command_error("resume", code));
  return store_.remove(Slot::volatilestate);
}

Result<SuspendedState> Tpm::suspend() {
  const auto fetch = [this](Slot slot) -> Result<std::string> {
    const auto text = store_.load(slot);
    if (!text) return std::unexpected(text.error());
    if (text->empty()) return std::string();
    auto state = unwrap_state(*text);
    if (!state)
      return std::unexpected(Error::corrupt("the stored " + std::string(name_of(slot)) + " is not whole"));
    return *std::move(state);
  };
  SuspendedState state;
  auto permanent = fetch(Slot::permall);
  if (!permanent) return std::unexpected(permanent.error());
  state.permanent = *std::move(permanent);

  LibraryBuffer buffer;
  if (auto code = TPMLIB_VolatileAll_Store(&buffer.data, &buffer.size); code != TPM_SUCCESS) {
    return std::unexpected(command_error("saving the volatile state", code));
  }
  if (auto stored = store_.store(Slot::volatilestate, wrap_state(buffer.str())); !stored) {
    return std::unexpected(stored.error());
  }
  auto volatile_part = fetch(Slot::volatilestate);
  if (!volatile_part) return std::unexpected(volatile_part.error());
  state.volatile_part = *std::move(volatile_part);
  if (auto removed = store_.remove(Slot::volatilestate); !removed) return std::unexpected(removed.error());
  // A TPM 2.0 never has this state, but QEMU asks for it.
  const auto savestate = fetch(Slot::savestate);
  if (!savestate) return std::unexpected(savestate.error());
  if (!savestate->empty()) return std::unexpected(Error::corrupt("a savestate that nobody stored"));
  if (state.permanent.empty() || state.volatile_part != buffer.str()) {
    return std::unexpected(Error::corrupt("what was stored did not come back"));
  }
  return state;
}

Result<> Tpm::shutdown() { return perform("TPM2_Shutdown", Command(cc_shutdown).u16(0).finish()); }

Result<> Tpm::define_nv(const NvIndex& index) {
  Writer area;
  area.u32(index.handle).u16(alg_sha256).u32(nv_attributes | (index.counter ? nv_counter : 0)).sized({});
  area.u16(index.bytes);
  const auto command = Command(cc_nv_define, {rh_owner}, 1).sized({}).sized(area.bytes()).finish();
  return perform("TPM2_NV_DefineSpace", command);
}

Result<std::optional<std::uint16_t>> Tpm::nv_size(std::uint32_t handle) {
  auto reply = process(Command(cc_nv_read_public, {handle}).finish());
  if (!reply) return std::unexpected(reply.error());
  if (reply->code == rc_handle_missing) return std::nullopt;
  if (reply->code != 0) return std::unexpected(command_error("TPM2_NV_ReadPublic", reply->code));
  Reader area(Reader(reply->body).sized());
  area.skip(4 + 2 + 4);
  area.sized();
  const auto size = area.u16();
  if (!area.ok()) return std::unexpected(Error::corrupt("TPM2_NV_ReadPublic: short reply"));
  return size;
}

Result<> Tpm::write_nv(std::uint32_t handle, std::string_view bytes, std::uint16_t offset) {
  const auto command = Command(cc_nv_write, {handle, handle}, 1).sized(bytes).u16(offset).finish();
  return perform("TPM2_NV_Write", command);
}

Result<std::string> Tpm::read_nv(std::uint32_t handle, std::uint16_t bytes) {
  auto reply = run("TPM2_NV_Read", Command(cc_nv_read, {handle, handle}, 1).u16(bytes).u16(0).finish());
  if (!reply) return reply;
  Reader reader(*reply);
  reader.skip(4);
  std::string content(reader.sized());
  if (!reader.ok() || content.size() != bytes)
    return std::unexpected(Error::corrupt("TPM2_NV_Read: short reply"));
  return content;
}

Result<> Tpm::increment_counter(std::uint32_t handle) {
  const auto command = Command(cc_nv_increment, {handle, handle}, 1).finish();
  return perform("TPM2_NV_Increment", command);
}

Result<std::uint64_t> Tpm::read_counter(std::uint32_t handle) {
  const auto bytes = read_nv(handle, 8);
  if (!bytes) return std::unexpected(bytes.error());
  return Reader(*bytes).u64();
}

Result<> Tpm::create_persistent_key(std::uint32_t handle) {
  Writer sensitive;
  sensitive.sized({}).sized({});
  const auto create = Command(cc_create_primary, {rh_owner}, 1)
                          .sized(sensitive.bytes())
                          .sized(public_area_of_key())
                          .sized({})  // nothing from outside
                          .u32(0)     // no PCRs
                          .finish();
  const auto created = run("TPM2_CreatePrimary", create);
  if (!created) return std::unexpected(created.error());
  const auto transient = Reader(*created).u32();
  const auto evict = Command(cc_evict_control, {rh_owner, transient}, 1).u32(handle).finish();
  const auto kept = run("TPM2_EvictControl", evict);
  if (!kept) return std::unexpected(kept.error());
  return perform("TPM2_FlushContext", Command(cc_flush_context).u32(transient).finish());
}

Result<std::optional<std::string>> Tpm::key_point(std::uint32_t handle) {
  auto reply = process(Command(cc_read_public, {handle}).finish());
  if (!reply) return std::unexpected(reply.error());
  if (reply->code == rc_handle_missing) return std::nullopt;
  if (reply->code != 0) return std::unexpected(command_error("TPM2_ReadPublic", reply->code));
  Reader area(Reader(reply->body).sized());
  area.skip(2 + 2 + 4);          // type, name algorithm, attributes
  area.sized();                  // policy
  area.skip(2 + 2 + 2 + 2 + 2);  // symmetric, scheme and its hash, curve, derivation
  const auto x = area.sized();
  const auto y = area.sized();
  if (!area.ok() || x.size() > 32 || y.size() > 32) return std::unexpected(Error::corrupt("not a P-256 key"));
  return "\x04" + left_padded(x, 32) + left_padded(y, 32);
}

Result<std::string> Tpm::sign(std::uint32_t handle, std::string_view digest) {
  const auto command = Command(cc_sign, {handle}, 1)
                           .sized(digest)
                           .u16(alg_ecdsa)
                           .u16(alg_sha256)
                           .u16(0x8024)  // a hash-check ticket that says nothing: the key is not restricted
                           .u32(rh_null)
                           .sized({})
                           .finish();
  const auto reply = run("TPM2_Sign", command);
  if (!reply) return reply;
  Reader reader(*reply);
  reader.skip(4 + 2 + 2);
  const auto r = reader.sized();
  const auto s = reader.sized();
  if (!reader.ok() || r.size() > 32 || s.size() > 32)
    return std::unexpected(Error::corrupt("not a signature"));
  return left_padded(r, 32) + left_padded(s, 32);
}

Result<> Tpm::extend_pcr(unsigned pcr, std::string_view sha256) {
  const auto command = Command(cc_pcr_extend, {pcr}, 1).u32(1).u16(alg_sha256).raw(sha256).finish();
  return perform("TPM2_PCR_Extend", command);
}

Result<std::string> Tpm::read_pcr(unsigned pcr) {
  std::string selection(3, '\0');
  selection[pcr / 8] = static_cast<char>(1u << pcr % 8);
  const auto command = Command(cc_pcr_read).u32(1).u16(alg_sha256).u8(3).raw(selection).finish();
  const auto reply = run("TPM2_PCR_Read", command);
  if (!reply) return reply;
  Reader reader(*reply);
  reader.skip(4 + 4 + 2 + 1 + 3 + 4);  // update counter, the selection again, number of digests
  std::string value(reader.sized());
  if (!reader.ok() || value.size() != 32)
    return std::unexpected(Error::corrupt("TPM2_PCR_Read: no SHA-256 value"));
  return value;
}

Result<std::string> Tpm::random(std::uint16_t bytes) {
  const auto reply = run("TPM2_GetRandom", Command(cc_get_random).u16(bytes).finish());
  if (!reply) return reply;
  return std::string(Reader(*reply).sized());
}

Result<Tpm::Reply> Tpm::process(std::string_view command) {
  LibraryBuffer response;
  std::uint32_t capacity = 0;
  std::string copy(command);  // libtpms takes a pointer to bytes it may change
  const auto code =
      TPMLIB_Process(&response.data, &response.size, &capacity, reinterpret_cast<unsigned char*>(copy.data()),
                     static_cast<std::uint32_t>(copy.size()));
  const std::string bytes = response.str();
  if (code != TPM_SUCCESS || bytes.size() < 10) return std::unexpected(command_error("the TPM", code));
  Reader header(bytes);
  header.skip(6);
  return Reply{header.u32(), bytes.substr(10)};
}

/// Runs a command whose success is all there is to know.
Result<> Tpm::perform(std::string_view name, std::string_view command) {
  const auto reply = run(name, command);
  if (!reply) return std::unexpected(reply.error());
  return {};
}

/// Runs a command that has to succeed; the body of its reply.
Result<std::string> Tpm::run(std::string_view name, std::string_view command) {
  auto reply = process(command);
  if (!reply) return std::unexpected(reply.error());
  if (reply->code != 0) return std::unexpected(command_error(name, reply->code));
  return std::move(reply->body);
}

Error Tpm::command_error(std::string_view name, std::uint32_t code) const {
  std::string text = std::string(name) + " returned " + hex_number(code);
  if (code == rc_failure || code == TPM_FAIL) text += " (the TPM is in failure mode)";
  if (current.failure) text += ": " + current.failure->message;
  return {Errc::io, 0, std::move(text)};
}

}  // namespace guard::tool
