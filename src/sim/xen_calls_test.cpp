#include "sim/xen_calls.h"

#include <gtest/gtest.h>

namespace guard::sim {
namespace {

using wire::Json;
using wire::JsonArray;

const Uuid vm_uuid = *Uuid::parse("3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10");
const Uuid vtpm_uuid = *Uuid::parse("7c9e6679-7425-40de-944b-e07fc1f90ae7");
const Uuid host_uuid = *Uuid::parse("11111111-2222-4333-8444-555555555555");
constexpr std::string_view absent = "00000000-1111-4222-8333-444444444444";

class XenCallsTest : public ::testing::Test {
 protected:
  Answer call(std::string_view method, JsonArray params) {
    Begun begun = calls.begin(method, std::move(params));
    return calls.finish(begun);
  }
  std::string text(std::string_view method, JsonArray params) {
    const Answer answer = call(method, std::move(params));
    EXPECT_TRUE(answer) << method << ": " << (answer ? "" : answer.error().front());
    return answer && answer->string() ? *answer->string() : "";
  }
  XenError error(std::string_view method, JsonArray params) {
    const Answer answer = call(method, std::move(params));
    return answer ? XenError{"success"} : answer.error();
  }
  std::string login() { return text("session.login_with_password", {"root", "", "1", "test"}); }

  World world{host_uuid, 1};
  Vm& vm = world.create_vm(vm_uuid);
  Vtpm& vtpm = world.create_vtpm(vm, vtpm_uuid, "");
  XenCalls calls{world};
  std::string session = login();
};

TEST_F(XenCallsTest, TheWayFromAVmToItsContentsAndBack) {
  const std::string vm_ref = text("VM.get_by_uuid", {session, vm_uuid.str()});
  const Answer vtpms = call("VM.get_VTPMs", {session, vm_ref});
  ASSERT_TRUE(vtpms);
  ASSERT_EQ(vtpms->array()->size(), 1u);
  const Json vtpm_ref = (*vtpms->array())[0];
  EXPECT_EQ(text("VTPM.get_contents", {session, vtpm_ref}), "");
  EXPECT_EQ(call("VTPM.set_contents", {session, vtpm_ref, "QQ==  "}).value(), Json(""));
  EXPECT_EQ(text("VTPM.get_contents", {session, vtpm_ref}), "QQ==  ");
  EXPECT_EQ(text("VTPM.get_by_uuid", {session, vtpm_uuid.str()}), *vtpm_ref.string());
  EXPECT_EQ(text("VTPM.get_uuid", {session, vtpm_ref}), vtpm_uuid.str());
  EXPECT_EQ(text("VTPM.get_VM", {session, vtpm_ref}), vm_ref);
  EXPECT_EQ(text("VM.get_uuid", {session, vm_ref}), vm_uuid.str());
  EXPECT_EQ(world.secrets(), 1u);
}

TEST_F(XenCallsTest, ReferencesAreOpaque) {
  EXPECT_TRUE(vm.ref.starts_with("OpaqueRef:"));
  EXPECT_EQ(vm.ref.size(), 46u);
  EXPECT_EQ(vm.ref.find(vm_uuid.str()), std::string::npos);
  EXPECT_NE(vm.ref, vtpm.ref);
}

TEST_F(XenCallsTest, GettersOfAVm) {
  EXPECT_EQ(text("VM.get_power_state", {session, vm.ref}), "Running");
  const std::string host = text("VM.get_resident_on", {session, vm.ref});
  EXPECT_EQ(text("host.get_uuid", {session, host}), host_uuid.str());
  vm.resident_on.clear();
  EXPECT_EQ(text("VM.get_resident_on", {session, vm.ref}), "OpaqueRef:NULL");
  EXPECT_EQ(text("VM.get_secureboot_certificates_state", {session, vm.ref}), "ok");
}

TEST_F(XenCallsTest, LoginWantsRootWithoutAPassword) {
  EXPECT_EQ(error("session.login_with_password", {"root", "x"})[0], "SESSION_AUTHENTICATION_FAILED");
  EXPECT_EQ(error("session.login_with_password", {"me", "", "", ""})[0], "SESSION_AUTHENTICATION_FAILED");
  EXPECT_NE(text("session.login_with_password", {"root", ""}), session);
}

TEST_F(XenCallsTest, ASessionEndsWithLogoutAndWithManyMoreOfOneOriginator) {
  const std::string other = text("session.login_with_password", {"root", "", "1", "other"});
  EXPECT_EQ(call("session.logout", {session}).value(), Json(""));
  EXPECT_EQ(error("VM.get_by_uuid", {session, vm_uuid.str()}), (XenError{"SESSION_INVALID", session}));
  EXPECT_EQ(error("session.logout", {session})[0], "SESSION_INVALID");
  const std::string oldest = login();
  for (int i = 0; i < 499; ++i) login();
  EXPECT_TRUE(world.session_valid(oldest));
  login();
  EXPECT_FALSE(world.session_valid(oldest));
  EXPECT_TRUE(world.session_valid(other));
  world.end_sessions();
  EXPECT_FALSE(world.session_valid(other));
}

TEST_F(XenCallsTest, UnknownObjectsHaveTheErrorsOfTheirTables) {
  const std::string uuid(absent);
  EXPECT_EQ(error("VM.get_by_uuid", {session, uuid}), (XenError{"UUID_INVALID", "VM", uuid}));
  EXPECT_EQ(error("VM.get_by_uuid", {session, "nonsense"}), (XenError{"UUID_INVALID", "VM", "nonsense"}));
  EXPECT_EQ(error("VTPM.get_by_uuid", {session, uuid}), (XenError{"UUID_INVALID", "VTPM", uuid}));
  EXPECT_EQ(error("VM.get_VTPMs", {session, "OpaqueRef:x"}),
            (XenError{"HANDLE_INVALID", "VM", "OpaqueRef:x"}));
  EXPECT_EQ(error("VM.set_NVRAM_EFI_variables", {session, "OpaqueRef:x", ""})[1], "VM");
  for (const auto* method : {"VTPM.get_contents", "VTPM.get_uuid", "VTPM.get_VM"}) {
    EXPECT_EQ(error(method, {session, "OpaqueRef:x"}), (XenError{"HANDLE_INVALID", "VTPM", "OpaqueRef:x"}));
  }
  EXPECT_EQ(error("VTPM.set_contents", {session, "OpaqueRef:x", ""})[1], "VTPM");
  EXPECT_EQ(error("host.get_uuid", {session, "OpaqueRef:x"}),
            (XenError{"HANDLE_INVALID", "host", "OpaqueRef:x"}));
}

TEST_F(XenCallsTest, MethodsAndParametersAreChecked) {
  EXPECT_EQ(error("VM.start", {session, vm.ref}), (XenError{"MESSAGE_METHOD_UNKNOWN", "VM.start"}));
  EXPECT_EQ(error("VM.get_by_uuid", {session}),
            (XenError{"MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.get_by_uuid", "1", "0"}));
  EXPECT_EQ(error("VM.get_by_uuid", {session, "a", "b"})[3], "2");
  EXPECT_EQ(error("session.logout", {})[0], "MESSAGE_PARAMETER_COUNT_MISMATCH");
  EXPECT_EQ(error("VM.get_by_uuid", {session, 5}), (XenError{"FIELD_TYPE_ERROR", "uuid"}));
  EXPECT_EQ(error("VM.get_by_uuid", {nullptr, "a"}), (XenError{"FIELD_TYPE_ERROR", "session_id"}));
  EXPECT_EQ(error("VM.set_NVRAM_EFI_variables", {session, vm.ref, "a", "maybe"}),
            (XenError{"FIELD_TYPE_ERROR", "update"}));
  // The count is looked at before the session.
  EXPECT_EQ(error("VM.get_by_uuid", {"no session"})[0], "MESSAGE_PARAMETER_COUNT_MISMATCH");
}

TEST_F(XenCallsTest, WhatIsNotUtf8IsAnInvalidValueAndStoredNowhere) {
  Begun begun = calls.begin("VTPM.set_contents", {session, vtpm.ref, "a\xef\xbf\xbd"}, false);
  EXPECT_EQ(calls.finish(begun).error(), (XenError{"INVALID_VALUE", "contents", "not UTF-8"}));
  EXPECT_EQ(vtpm.updates, 0u);
}

TEST_F(XenCallsTest, OverlappingUpdatesStoreBothValuesAndFailTheLater) {
  Begun first = calls.begin("VTPM.set_contents", {session, vtpm.ref, "1"});
  Begun second = calls.begin("VTPM.set_contents", {session, vtpm.ref, "2"});
  EXPECT_EQ(vtpm.overlap_now, 2u);
  EXPECT_TRUE(calls.finish(first));
  const Answer late = calls.finish(second);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error()[0], "HANDLE_INVALID");
  EXPECT_EQ(late.error()[1], "secret");
  EXPECT_EQ(text("VTPM.get_contents", {session, vtpm.ref}), "2");
  EXPECT_EQ(world.secrets(), 2u);  // one is orphaned
  EXPECT_EQ(vtpm.overlap_now, 0u);
  EXPECT_EQ(vtpm.overlap_max, 2u);
  EXPECT_EQ(vtpm.history, (std::deque<Digest>{digest_of("1"), digest_of("2")}));
}

TEST_F(XenCallsTest, AReadThatAnUpdateOvertakesFails) {
  Begun read = calls.begin("VTPM.get_contents", {session, vtpm.ref});
  EXPECT_TRUE(call("VTPM.set_contents", {session, vtpm.ref, "1"}));
  const Answer answer = calls.finish(read);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error()[1], "secret");
  EXPECT_EQ(vtpm.overlap_max, 1u);
}

TEST_F(XenCallsTest, AnUpdateThatIsAbandonedOrComesTooLateChangesNothing) {
  Begun abandoned = calls.begin("VTPM.set_contents", {session, vtpm.ref, "1"});
  calls.abandon(abandoned);
  EXPECT_EQ(vtpm.overlap_now, 0u);
  Begun late = calls.begin("VTPM.set_contents", {session, vtpm.ref, "1"});
  world.destroy_vtpm(vtpm);
  EXPECT_EQ(calls.finish(late).error()[1], "VTPM");
  EXPECT_EQ(world.secrets(), 0u);
}

TEST_F(XenCallsTest, AnUpdateThatBeganInASessionTakesEffectAfterItsEnd) {
  Begun late = calls.begin("VTPM.set_contents", {session, vtpm.ref, "1"});
  world.end_sessions();
  EXPECT_TRUE(calls.finish(late));
  EXPECT_EQ(vtpm.updates, 1u);
}

TEST_F(XenCallsTest, NvramKeepsOtherEntriesAndTheFlagTravels) {
  vm.nvram["other"] = "x";
  vm.certificates_state = "update_available";
  EXPECT_TRUE(call("VM.set_NVRAM_EFI_variables", {session, vm.ref, "VkFSUw=="}));
  EXPECT_EQ(vm.last_update_flag, "unspecified");
  EXPECT_TRUE(call("VM.set_NVRAM_EFI_variables", {session, vm.ref, "VkFSUw==", "no"}));
  EXPECT_EQ(text("VM.get_secureboot_certificates_state", {session, vm.ref}), "update_available");
  EXPECT_TRUE(call("VM.set_NVRAM_EFI_variables", {session, vm.ref, "VkFSUx==", "yes"}));
  EXPECT_EQ(text("VM.get_secureboot_certificates_state", {session, vm.ref}), "ok");
  EXPECT_EQ(wire::to_string(call("VM.get_NVRAM", {session, vm.ref}).value()),
            R"({"EFI-variables":"VkFSUx==","other":"x"})");
}

TEST_F(XenCallsTest, AnOlderXapiKnowsNoUpdateFlag) {
  world.set_update_flag_known(false);
  EXPECT_EQ(error("VM.set_NVRAM_EFI_variables", {session, vm.ref, "a", "yes"})[0],
            "MESSAGE_PARAMETER_COUNT_MISMATCH");
  EXPECT_EQ(vm.nvram_updates, 0u);
  EXPECT_TRUE(call("VM.set_NVRAM_EFI_variables", {session, vm.ref, "a"}));
  EXPECT_EQ(vm.nvram_updates, 1u);
  EXPECT_EQ(vm.nvram_history.back(), digest_of("a"));
  world.set_update_flag_known(true);
  EXPECT_TRUE(call("VM.set_NVRAM_EFI_variables", {session, vm.ref, "b", "yes"}));
}

TEST_F(XenCallsTest, MessagesAreKept) {
  const JsonArray good = {session, "VM_SECURE_BOOT_FAILED", 5, "VM", vm_uuid.str(), "text"};
  EXPECT_TRUE(text("message.create", good).starts_with("OpaqueRef:"));
  JsonArray bad = good;
  bad[2] = "5";  // xapi takes decimal text for an int
  EXPECT_TRUE(call("message.create", bad));
  bad[2] = "five";
  EXPECT_EQ(error("message.create", bad), (XenError{"FIELD_TYPE_ERROR", "priority"}));
  bad = good;
  bad[3] = "Toaster";
  EXPECT_EQ(error("message.create", bad), (XenError{"FIELD_TYPE_ERROR", "cls"}));
  bad = good;
  bad[4] = absent;
  EXPECT_EQ(error("message.create", bad)[0], "UUID_INVALID");
  ASSERT_EQ(world.messages().size(), 2u);
  EXPECT_EQ(world.messages()[0].priority, 5);
}

TEST_F(XenCallsTest, TheVmOfACallIsFoundWhateverNamesIt) {
  EXPECT_EQ(calls.vm_of("VM.get_by_uuid", {session, vm_uuid.str()}), vm_uuid);
  EXPECT_EQ(calls.vm_of("VM.get_VTPMs", {session, vm.ref}), vm_uuid);
  EXPECT_EQ(calls.vm_of("VTPM.get_contents", {session, vtpm.ref}), vm_uuid);
  EXPECT_EQ(calls.vm_of("VTPM.get_by_uuid", {session, vtpm_uuid.str()}), vm_uuid);
  EXPECT_EQ(calls.vm_of("message.create", {session, "n", 1, "VM", vm_uuid.str(), ""}), vm_uuid);
  EXPECT_EQ(calls.vm_of("session.logout", {session}), std::nullopt);
  EXPECT_EQ(calls.vm_of("VTPM.get_contents", {session, "OpaqueRef:x"}), std::nullopt);
  EXPECT_EQ(calls.vm_of("host.get_uuid", {session, world.local_host().ref}), std::nullopt);
}

TEST(World, ProvisionsEveryVmThatIsAskedForButNotTheNilOneAndNotADeletedOne) {
  World world(host_uuid, 1);
  EXPECT_EQ(world.vm_by_uuid(vm_uuid), nullptr);
  world.auto_provision();
  Vm* vm = world.vm_by_uuid(vm_uuid);
  ASSERT_TRUE(vm);
  EXPECT_EQ(world.vm_by_uuid(vm_uuid), vm);
  EXPECT_EQ(vm->vtpms.size(), 1u);
  EXPECT_EQ(world.vm_by_uuid(Uuid()), nullptr);
  const Uuid vtpm = world.vtpm_by_ref(vm->vtpms[0])->uuid;
  world.delete_vm(*vm);
  EXPECT_EQ(world.vm_by_uuid(vm_uuid), nullptr);
  EXPECT_EQ(world.secrets(), 0u);
  // Another one that has lost its store gives the VM the same vTPM.
  World later(host_uuid, 2);
  later.auto_provision();
  EXPECT_EQ(later.vtpm_by_ref(later.vm_by_uuid(vm_uuid)->vtpms[0])->uuid, vtpm);
}

TEST(World, ComesBackFromTheStoreWithEverythingButItsSessions) {
  World world(host_uuid, 1);
  Vm& vm = world.create_vm(vm_uuid);
  vm.nvram["EFI-variables"] = "VkFSUw==";
  vm.power_state = "Suspended";
  vm.resident_on = world.host_by_uuid(vtpm_uuid).ref;
  world.create_vtpm(vm, vtpm_uuid, "QQ==  ");
  world.delete_vm(world.create_vm(*Uuid::parse(absent)));
  world.create_message({"n", 3, "VM", vm_uuid.str(), "b"});
  const std::string session = world.login("x").ref;
  const std::string stored = wire::to_string(world.to_json());

  World loaded(*Uuid::parse(absent), 2);
  ASSERT_TRUE(loaded.load(wire::parse_json(stored).value()));
  EXPECT_EQ(wire::to_string(loaded.to_json()), stored);
  EXPECT_EQ(loaded.local_host().uuid, host_uuid);
  EXPECT_FALSE(loaded.session_valid(session));
  ASSERT_TRUE(loaded.vm_by_ref(vm.ref));
  EXPECT_EQ(*loaded.secret(loaded.vtpm_by_uuid(vtpm_uuid)->secret_ref), "QQ==  ");
}

TEST(World, RefusesAStoreThatIsNotWhole) {
  for (
      const std::string_view text :
      {"{}", "[]", R"({"hosts":[],"vms":[],"deleted":[],"messages":[]})",
       R"({"hosts":[{}],"vms":[],"deleted":[],"messages":[]})",
       R"({"hosts":[{"uuid":"11111111-2222-4333-8444-555555555555","ref":"h"}],"vms":[{}],"deleted":[],"messages":[]})",
       R"({"hosts":[{"uuid":"11111111-2222-4333-8444-555555555555","ref":"h"}],"vms":[],"deleted":["x"],"messages":[]})"}) {
    World world(host_uuid, 1);
    EXPECT_FALSE(world.load(wire::parse_json(text).value())) << text;
  }
}

}  // namespace
}  // namespace guard::sim
