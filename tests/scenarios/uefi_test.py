"""UEFI variables: varstored sees no trouble of xapi's, and xapi gets what varstored was told is stored."""

import base64
import json
import os
import threading
import time

from guardtest import Crowd, Scenario, main, vm_uuid, wait_until
from varstoretest import CallFailed, UefiGuard, method_call, request, string


class UefiScenario(Scenario):
    direct_timeout = "5s"

    def setUp(self):
        super().setUp()
        self.guard = UefiGuard(self)

    def start_uefi(self, vms=1, guard_options=()):
        self.guard.options += guard_options
        self.sim.start()
        self.guard.start()
        return self.create_varstores(vms)

    def create_varstores(self, count):
        uuids = [vm_uuid(i + 1) for i in range(count)]
        for vm in uuids:
            self.guard.create_varstore(vm)
        return [self.guard.varstored(vm) for vm in uuids]

    def variables(self, size=600):
        return self.value(size).decode()

    def sim_vm(self, vm):
        return self.sim.dump(vm=vm)["vms"][0]

    def stored(self, vm):
        return self.sim_vm(vm)["nvram"].get("EFI-variables")

    def assert_stored(self, store, seconds=20):
        end = time.monotonic() + seconds
        while self.stored(store.uuid) != store.value and time.monotonic() < end:
            time.sleep(0.05)
        self.assertEqual(self.stored(store.uuid), store.value)

    def edit_store(self, vm, change):
        """Changes a VM in the database of a xapi that is down."""
        with open(self.sim.store, encoding="utf-8") as file:
            world = json.load(file)
        (found,) = [one for one in world["vms"] if one["uuid"] == vm]
        change(found)
        with open(self.sim.store, "w", encoding="utf-8") as file:
            json.dump(world, file)


class Start(UefiScenario):
    def test_first_boot_then_each_change_goes_straight_to_xapi(self):
        (store,) = self.start_uefi()
        self.assertIsNone(store.start())
        for _ in range(10):
            store.set(self.variables())
            self.assertEqual(self.stored(store.uuid), store.value)
        self.assertEqual(self.guard.varstored(store.uuid).start(), store.value)
        status = self.guard.status()
        self.assertEqual(status["mode"], "direct")
        self.assertEqual(status["counters"]["commits"], 0)
        self.assertEqual([(s["service"], s["vm"]) for s in status["sockets"]], [("varstore", store.uuid)])
        self.assertEqual(self.sim.calls("VM.set_NVRAM_EFI_variables"), 10)
        self.assertEqual(self.sim.calls("session.login_with_password"), 1)

    def start_unknown(self, guard_options=()):
        """A guard that has never heard of a VM's variables, which stand in a xapi that is down."""
        value, vm = self.variables(), vm_uuid(1)
        self.sim.options = []
        self.sim.start()
        self.sim.edit("create_vm", vm)
        self.sim.stop()
        self.edit_store(vm, lambda found: found["nvram"].update({"EFI-variables": value}))
        self.guard.start(*guard_options)
        (store,) = self.create_varstores(1)
        return store, value

    def test_a_start_while_xapi_is_away_waits_and_is_never_a_first_boot(self):
        store, value = self.start_unknown()
        crowd = Crowd()
        crowd.start(store.start)
        time.sleep(2)
        self.assertTrue(crowd.threads[0].is_alive())
        self.sim.start()
        crowd.join(30)
        self.assertEqual(store.value, value)

    def test_a_start_fails_when_xapi_does_not_come_back_in_time(self):
        store, value = self.start_unknown(["--varstored-patience", "3s"])
        with self.assertRaises(CallFailed):
            store.start()
        self.assertIn("varstored_waits", self.guard.process.text())
        # What it does not take from xapi never fails.
        store.call("session.logout", string("x"))
        self.sim.start()
        self.guard.wait_up()
        self.assertEqual(store.start(), value)

    def test_a_known_map_is_served_while_xapi_is_away(self):
        (store,) = self.start_uefi()
        store.start()
        store.set(self.variables())
        self.assertEqual(self.guard.varstored(store.uuid).start(), store.value)
        self.sim.kill()
        self.assertEqual(self.guard.varstored(store.uuid).start(), store.value)

    def test_a_vm_that_xapi_does_not_know_fails_at_once(self):
        self.sim.options = []
        (store,) = self.start_uefi(guard_options=["--varstored-patience", "10min"])
        with self.assertRaises(CallFailed) as failed:
            store.start()
        self.assertIn("UUID_INVALID", str(failed.exception))

    def test_the_state_of_the_certificates_is_passed_on(self):
        (store,) = self.start_uefi()
        store.start()
        self.sim.edit("set_certificates_state", store.uuid, state="update_on_boot")
        self.assertEqual(store.secureboot_state(), "update_on_boot")


class Values(UefiScenario):
    def test_the_largest_variables_and_awkward_texts_come_back_byte_for_byte(self):
        (store,) = self.start_uefi()
        for value in (base64.b64encode(self.random.randbytes(130 * 1024)).decode(), "<&>\"'", "a\tb\nc", "\u00e9\U0001f600"):
            store.set(value)
            self.assertEqual(self.stored(store.uuid), value)
            self.assertEqual(self.guard.varstored(store.uuid).start(), value)
        self.sim.kill()
        store.set("<&>\"'\t\n")
        self.assertEqual(self.guard.varstored(store.uuid).start(), store.value)
        self.sim.start()
        self.guard.wait_idle()
        self.assert_stored(store)

    def test_what_cannot_be_stored_fails_and_changes_nothing(self):
        (store,) = self.start_uefi()
        store.set(self.variables())
        good = store.value
        for value in ("", "A" * 262_000, "A" * 600_000):
            with self.assertRaises(CallFailed):
                store.set(value)
        for raw in (b"\x01", b"\xff", b"&#1;", b"&e;", b"<x/>"):
            body = method_call("VM.set_NVRAM_EFI_variables", string("S"), string("V"), "<string>@</string>")
            answer = store.exchange(request(body.replace(b"@", raw)))
            self.assertTrue(answer.startswith(b"HTTP/1.1 200 OK\r\n"))
            self.assertIn(b"<value>Failure</value>", answer)
        self.assertEqual(self.stored(store.uuid), good)
        self.assertEqual(self.guard.varstored(store.uuid).start(), good)

    def test_other_entries_of_the_map_stay_and_are_shown(self):
        (store,) = self.start_uefi()
        store.set(self.variables())
        self.sim.stop()
        self.edit_store(store.uuid, lambda vm: vm["nvram"].update({"other": "<x>", "A": ""}))
        self.sim.start()
        store.set(self.variables())
        self.sim.kill()
        store.set(self.variables())
        self.sim.start()
        self.guard.wait_idle()
        self.assert_stored(store)
        self.assertEqual(self.sim_vm(store.uuid)["nvram"], {"other": "<x>", "A": "", "EFI-variables": store.value})
        result = store.call("VM.get_NVRAM", string("S"), string("V"))
        entries = {m.find("name").text: m.find("value").text or "" for m in result.findall("./struct/member")}
        self.assertEqual(entries, {"other": "<x>", "A": "", "EFI-variables": store.value})

    def test_the_flag_travels_with_the_value(self):
        (store,) = self.start_uefi()
        for flag, wanted in (("yes", "yes"), ("no", "no"), ("unspecified", "unspecified"), ("maybe", "unspecified")):
            store.set_v2(self.variables(), flag)
            self.assertEqual(self.sim_vm(store.uuid)["update_flag"], wanted)
        store.set(self.variables())
        self.assertEqual(self.sim_vm(store.uuid)["update_flag"], "unspecified")

    def test_no_inherits_the_flag_of_what_it_replaces_and_others_do_not(self):
        for first, second, wanted in (("yes", "no", "yes"), ("unspecified", "no", "unspecified"),
                                      ("yes", "unspecified", "unspecified"), ("no", "yes", "yes")):
            with self.subTest(first=first, second=second):
                if self.guard.process is None:
                    (store,) = self.start_uefi()
                store.set(self.variables())
                self.sim.kill()
                store.set_v2(self.variables(), first)
                store.set_v2(self.variables(), second)
                self.sim.start()
                self.guard.wait_idle()
                self.assert_stored(store)
                self.assertEqual(self.sim_vm(store.uuid)["update_flag"], wanted)


class Outage(UefiScenario):
    def test_sets_while_xapi_is_down_succeed_and_arrive(self):
        (store,) = self.start_uefi()
        store.set(self.variables())
        self.sim.kill()
        for _ in range(20):
            store.set(self.variables())
            self.assertEqual(self.guard.varstored(store.uuid).start(), store.value)
        entries = self.guard.pending()
        self.assertEqual([(e["vm"], e["slot"]) for e in entries], [(store.uuid, "nvram")])
        self.assertEqual(self.guard.status()["mode"], "engaged")
        self.sim.start()
        self.guard.wait_idle()
        self.assert_stored(store)
        self.assertEqual(self.sim.calls("VM.set_NVRAM_EFI_variables"), 1)

    def test_sets_while_xapi_hangs_succeed_and_the_newest_wins(self):
        (store,) = self.start_uefi(guard_options=["--direct-timeout", "300ms"])
        store.set(self.variables())
        self.sim.fault("VM.set_NVRAM_EFI_variables", "hang")
        for _ in range(5):
            store.set(self.variables())
            self.assertEqual(self.guard.varstored(store.uuid).start(), store.value)
        self.sim.clear_faults()
        self.sim.release("apply")
        self.guard.wait_idle()
        self.assert_stored(store)

    def test_xapi_is_killed_in_the_middle_of_a_set(self):
        (store,) = self.start_uefi(guard_options=["--direct-timeout", "5s", "--doubt-window", "1s"])
        store.set(self.variables())
        self.sim.fault("VM.set_NVRAM_EFI_variables", "hang")
        crowd = Crowd()
        crowd.start(store.set, self.variables())
        wait_until(lambda: self.sim.hung() == 1, 20, "the set hangs in xapi")
        self.sim.kill()
        crowd.join(30)
        self.assertEqual(self.guard.varstored(store.uuid).start(), store.value)
        self.sim.start()
        self.guard.wait_idle()
        self.assert_stored(store)

    def test_the_guard_is_killed_after_a_success(self):
        stores = self.start_uefi(3)
        for store in stores:
            store.set(self.variables())
        self.sim.kill()
        for _ in range(3):
            for store in stores:
                store.set(self.variables())
            self.guard.kill()
            self.guard.start()
            for store in stores:
                self.assertEqual(self.guard.varstored(store.uuid).start(), store.value)
        self.sim.start()
        self.guard.wait_idle()
        for store in stores:
            self.assert_stored(store)
        self.assertEqual(self.guard.status()["parked"], [])

    def test_a_call_under_way_at_an_orderly_stop_is_answered(self):
        (store,) = self.start_uefi(guard_options=["--direct-timeout", "4s"])
        store.set(self.variables())
        self.sim.fault("VM.set_NVRAM_EFI_variables", "delay", ms=1500, count=1)
        # The next call of the chain meets the guard that was started again.
        back = threading.Event()
        steps = []

        def between():
            steps.append(1)
            if len(steps) == 2:
                self.assertTrue(back.wait(30))

        chain = self.guard.varstored(store.uuid, between=between)
        chain.looked_up = True
        value = self.variables()
        crowd = Crowd()
        crowd.start(chain.set, value)
        wait_until(lambda: len(steps) == 1, 20, "the login is done")
        time.sleep(0.3)
        self.guard.stop()
        self.guard.start()
        back.set()
        crowd.join(30)
        self.assertEqual(chain.value, value)
        self.guard.wait_idle()
        self.assert_stored(chain)

    def test_sockets_of_both_services_are_there_again_after_a_crash(self):
        (store,) = self.start_uefi()
        store.set(self.variables())
        self.guard.create(store.uuid)
        self.guard.kill()
        self.guard.start()
        self.assertEqual(sorted(s["service"] for s in self.guard.status()["sockets"]), ["varstore", "vtpm"])
        self.assertEqual(self.guard.varstored(store.uuid).start(), store.value)
        self.guard.ctl("varstore-destroy", str(os.getgid()), self.guard.varstore_path(store.uuid))
        with self.assertRaises(CallFailed):
            store.start()
        self.assertEqual([s["service"] for s in self.guard.status()["sockets"]], ["vtpm"])

    def test_writers_while_xapi_and_the_guard_come_and_go(self):
        stores = self.start_uefi(4, ["--direct-timeout", "100ms", "--doubt-window", "1s"])
        end = time.monotonic() + 15

        def write_on(store):
            while time.monotonic() < end:
                # A guard that is killed fails what is under way; the real one keeps what it had then.
                try:
                    store.set(self.variables(self.random.choice((30, 3000))))
                except CallFailed:
                    time.sleep(0.02)

        crowd = Crowd()
        for store in stores:
            crowd.start(write_on, store)
        turn = 0
        while time.monotonic() < end:
            # A record remembers fifteen values (decision 0025).
            if turn % 9 == 8:
                if not self.sim.process.running():
                    self.sim.start()
                wait_until(lambda: self.guard.status()["pending"]["entries"] == 0, 60, "nothing is pending",
                           self.guard.status)
            time.sleep(self.random.uniform(0.3, 1.2))
            if turn % 3 == 0:
                self.sim.kill()
            elif turn % 3 == 1:
                self.sim.start()
            self.guard.kill()
            self.guard.start()
            turn += 1
        crowd.join(60)
        if not self.sim.process.running():
            self.sim.start()
        self.guard.wait_idle(90)
        self.assertEqual(self.guard.status()["parked"], [])
        for store in stores:
            self.assertGreater(len(store.attempted), 10)
            # Not older than the last success; what failed after it may have taken effect.
            since = max(i for i, value in enumerate(store.attempted) if value == store.value)
            self.assertIn(self.stored(store.uuid), store.attempted[since:])


class Alerts(UefiScenario):
    def messages(self):
        return self.sim.dump()["messages"]

    def test_an_alert_names_this_vm_whatever_was_sent(self):
        (store,) = self.start_uefi()
        store.call("message.create", string("S"), string("OTHER"), "<int>3</int>", string("Host"),
                   string(vm_uuid(77)), string("<&>\""))
        (message,) = self.messages()
        self.assertEqual(message, {"name": "VM_SECURE_BOOT_FAILED", "priority": 3, "class": "VM", "object": store.uuid,
                                   "body": "<&>\""})

    def test_alerts_while_xapi_is_down_all_arrive_and_the_17th_fails(self):
        (store,) = self.start_uefi()
        store.set(self.variables())
        self.sim.kill()
        bodies = ["alert %d" % i for i in range(16)]
        for body in bodies:
            store.alert(body)
        with self.assertRaises(CallFailed):
            store.alert("one too many")
        store.set(self.variables())
        self.guard.kill()
        self.guard.start()
        self.sim.start()
        self.guard.wait_idle()
        self.assertLessEqual(set(bodies), {m["body"] for m in self.messages()})
        self.assertNotIn("one too many", {m["body"] for m in self.messages()})
        self.assert_stored(store)


class Both(UefiScenario):
    def test_neither_service_of_a_vm_waits_for_the_other(self):
        (store,) = self.start_uefi(guard_options=["--direct-timeout", "20s"])
        self.guard.create(store.uuid)
        tpm = self.guard.swtpm(store.uuid)
        store.set(self.variables())
        tpm.write("permall", self.value())
        for method, hanging, going in (
                ("VTPM.set_contents", lambda: tpm.write("permall", self.value()), lambda: store.set(self.variables())),
                ("VM.set_NVRAM_EFI_variables", lambda: store.set(self.variables()),
                 lambda: tpm.write("permall", self.value()))):
            self.sim.fault(method, "hang", count=1)
            crowd = Crowd()
            crowd.start(hanging)
            wait_until(lambda: self.sim.hung() == 1, 20, "the first one hangs")
            for _ in range(5):
                going()
            self.assertEqual(self.sim.hung(), 1)
            self.assertTrue(crowd.threads[0].is_alive())
            self.sim.release("apply")
            crowd.join(30)
        self.assert_stored(store)
        self.assert_delivered(store.uuid, tpm.acknowledged)


class Flood(UefiScenario):
    def memory_mib(self):
        with open("/proc/%d/status" % self.guard.process.pid, encoding="ascii") as file:
            for line in file:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) / 1024
        raise AssertionError("no VmRSS")

    def test_a_varstored_that_floods_its_socket_harms_no_other(self):
        stores = self.start_uefi(5)
        loud, others = stores[0], stores[1:]
        for store in stores:
            store.set(self.variables())
        largest = base64.b64encode(self.random.randbytes(130 * 1024)).decode()
        stop = threading.Event()
        done = []

        def measure(seconds):
            latencies, end = [], time.monotonic() + seconds
            while time.monotonic() < end:
                for store in others:
                    begin = time.monotonic()
                    store.set(self.variables())
                    latencies.append(time.monotonic() - begin)
                time.sleep(0.01)
            latencies.sort()
            return latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]

        def flood():
            body = request(method_call("VM.set_NVRAM_EFI_variables", string("S"), string("V"), string(largest)))
            while not stop.is_set():
                if b"Success" in loud.exchange(body):
                    done.append(1)
                time.sleep(0.08)  # eight of them: 100 sets/s, as fast as they may come

        quiet = measure(3)
        before = self.memory_mib()
        crowd = Crowd()
        for _ in range(8):
            crowd.start(flood)
        begin = time.monotonic()
        flooded = measure(5)
        elapsed = time.monotonic() - begin
        grown = self.memory_mib() - before
        stop.set()
        crowd.join(60)
        print("flood: %.0f sets/s of %d bytes; others p50 %.1f -> %.1f ms, p99 %.1f -> %.1f ms; memory +%.1f MiB" %
              (len(done) / elapsed, len(largest), quiet[0] * 1e3, flooded[0] * 1e3, quiet[1] * 1e3, flooded[1] * 1e3,
               grown))
        self.assertGreater(len(done), 50)
        self.assertLess(grown, 16)
        for store in others:
            self.assertEqual(self.guard.varstored(store.uuid).start(), store.value)


if __name__ == "__main__":
    main()
