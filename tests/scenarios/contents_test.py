"""vtpm_get_contents and vtpm_set_contents: the control plane sees every acknowledged write, and what it writes
supersedes what is pending (P11), with xapi up, down and hung."""

import json
import os
import threading
import time

from guardtest import SLOTS, Crowd, main, vm_uuid, vtpm_uuid, wait_until
from switchtest import QUEUE, Client, Refused, SwitchScenario

VM, VTPM = vm_uuid(1), vtpm_uuid(1)


class ContentsScenario(SwitchScenario):
    direct_timeout = "5s"

    def setUp(self):
        super().setUp()
        self.sim.options += ["--vm", "%s=%s" % (VM, VTPM), "--vm", "%s=%s" % (vm_uuid(2), vtpm_uuid(2))]

    def start(self):
        self.sim.start()
        self.switch.start()
        self.start_guard()
        return self.client()

    def start_guard(self):
        self.guard.start()
        wait_until(lambda: self.guard.status()["switch"]["state"] == "connected", 30, "the switch is there")

    def client(self):
        return self.track(Client(self.switch.path))

    def serve(self, client, number=1):
        client.create(vm_uuid(number), self.guard.socket_path(vm_uuid(number)))
        return self.guard.swtpm(vm_uuid(number))

    def fields(self, contents):
        return dict(zip(SLOTS, contents.encode().split(b" ")))

    def packed(self, *values):
        return b" ".join(values).decode()

    def xapi_up(self):
        self.sim.start()
        self.guard.wait_up()
        self.guard.wait_idle()


class WithXapi(ContentsScenario):
    def test_a_vtpm_is_manufactured_and_found_again(self):
        client = self.start()
        swtpm = self.serve(client)
        self.assertEqual(client.get_contents(VTPM), "", "only then xenopsd manufactures")
        made = self.value()
        self.assertIsNone(client.set_contents(VTPM, made.decode()))
        self.assertEqual(self.fields(client.get_contents(VTPM)), {SLOTS[0]: made, SLOTS[1]: b"", SLOTS[2]: b""})
        self.assertEqual(swtpm.read("permall"), made)
        value = self.value()
        swtpm.write("volatilestate", value)
        self.assertEqual(client.get_contents(VTPM), self.packed(made, b"", value))
        self.assertEqual(self.sim.contents(VM), {"permall": made, "savestate": b"", "volatilestate": value})

    def test_without_a_socket_too(self):
        client = self.start()
        state = self.packed(self.value(), self.value(), self.value())
        self.assertIsNone(client.set_contents(VTPM, state))
        self.assertEqual(client.get_contents(VTPM), state)
        swtpm = self.serve(client)
        self.assertEqual(swtpm.read("savestate"), state.encode().split(b" ")[1])

    def test_through_the_command_line(self):
        self.start()
        file = os.path.join(self.dir, "contents")
        with open(file, "w", encoding="ascii") as out:
            out.write("YQ== Yg== \n")
        self.assertEqual(self.guard.ctl("vtpm-set", VTPM, file).stdout, "null\n")
        self.assertEqual(json.loads(self.guard.ctl("vtpm-get", VTPM).stdout), "YQ== Yg== ")
        self.assertEqual(self.guard.ctl("vtpm-get", vtpm_uuid(9), check=False).returncode, 1)
        self.assertEqual(self.guard.ctl("vtpm-set", VTPM, file + "x", check=False).returncode, 2)

    def test_what_makes_no_sense_is_refused(self):
        client = self.start()
        self.assertIsNone(client.set_contents(VTPM, "YQ=="))
        for call, text in ((lambda: client.get_contents(vtpm_uuid(9)), "UUID_INVALID, [ VTPM; " + vtpm_uuid(9)),
                           (lambda: client.set_contents(vtpm_uuid(9), "YQ=="), "UUID_INVALID"),
                           (lambda: client.set_contents(VTPM, "YQ== Yg=="), "neither one nor three fields"),
                           (lambda: client.set_contents(VTPM, "YQ==    "), "neither one nor three fields"),
                           (lambda: client.set_contents(VTPM, "A" * 307200), "larger than can be stored")):
            with self.assertRaises(Refused) as refused:
                call()
            self.assertIn(text, str(refused.exception))
        self.assertEqual(self.fields(client.get_contents(VTPM))["permall"], b"YQ==")

    def test_after_a_snapshot_revert_the_old_vtpm_is_no_more(self):
        client = self.start()
        client.set_contents(VTPM, self.value().decode())
        reverted = vtpm_uuid(7)
        self.sim.edit("replace_vtpm", VM, vtpm=reverted, contents="YQ==")
        with self.assertRaises(Refused):
            client.get_contents(VTPM)
        with self.assertRaises(Refused):
            client.set_contents(VTPM, "Yg==")
        self.assertEqual(self.fields(client.get_contents(reverted))["permall"], b"YQ==")

    def test_calls_of_one_vtpm_run_in_order(self):
        client = self.start()
        values = [self.value() for _ in range(8)]
        numbers = []
        for value in values:
            numbers.append(client.post("vtpm_set_contents", value.decode(), dbg="", vtpm_uuid=VTPM))
            numbers.append(client.post("vtpm_get_contents", dbg="", vtpm_uuid=VTPM))
        for i, value in enumerate(values):
            self.assertIsNone(client.wait(numbers[2 * i]))
            # A get sees what was set before it, or something newer that was accepted meanwhile.
            got = self.fields(client.wait(numbers[2 * i + 1]))["permall"]
            self.assertIn(got, values[i:])
        self.assertEqual(self.sim.contents(VM)["permall"], values[-1])
        self.assert_history_never_goes_back(VM, [value + b"  " for value in values])


class WithoutXapi(ContentsScenario):
    def test_what_is_pending_is_seen(self):
        client = self.start()
        swtpm = self.serve(client)
        old, new = self.value(), self.value()
        swtpm.write("permall", old)
        swtpm.write("savestate", old)
        self.sim.kill()
        swtpm.write("permall", new)
        swtpm.erase("savestate")
        volatile = self.value()
        swtpm.write("volatilestate", volatile)
        self.assertEqual(client.get_contents(VTPM), self.packed(new, b"", volatile))
        self.xapi_up()
        self.assertEqual(client.get_contents(VTPM), self.packed(new, b"", volatile))
        self.assert_delivered(VM, swtpm.acknowledged)

    def test_what_is_set_supersedes_what_is_pending(self):
        client = self.start()
        swtpm = self.serve(client)
        swtpm.write("permall", self.value())
        self.sim.kill()
        for slot in SLOTS:
            swtpm.write(slot, self.value())
        state = [self.value(), b"", self.value()]
        self.assertIsNone(client.set_contents(VTPM, self.packed(*state)))
        self.assertEqual([swtpm.read(slot) for slot in SLOTS], state)
        newer = self.value()
        swtpm.write("savestate", newer)
        self.guard.kill()
        self.start_guard()
        self.xapi_up()
        self.assert_delivered(VM, dict(zip(SLOTS, [state[0], newer, state[2]])))

    def test_a_vtpm_that_nobody_knows_is_refused_while_xapi_is_away(self):
        client = self.start()
        self.serve(client)
        self.sim.kill()
        for call in (lambda: client.get_contents(vtpm_uuid(2)), lambda: client.set_contents(vtpm_uuid(2), "YQ==")):
            with self.assertRaises(Refused) as refused:
                call()
            self.assertIn("Nobody knows whose vTPM", str(refused.exception))

    def test_what_is_pending_is_seen_after_a_crash_of_the_guard(self):
        client = self.start()
        swtpm = self.serve(client)
        swtpm.write("permall", self.value())
        self.sim.kill()
        for slot in SLOTS:
            swtpm.write(slot, self.value())
        state = self.packed(*(swtpm.acknowledged[slot] for slot in SLOTS))
        self.guard.kill()
        self.start_guard()
        # Its entries still name the vTPM.
        self.assertEqual(self.client().get_contents(VTPM), state)

    def test_a_hung_xapi_delays_no_create_and_a_get_fails_before_its_caller_gives_up(self):
        client = self.start()
        self.sim.fault("VTPM.get_by_uuid", "hang")
        number = client.post("vtpm_get_contents", dbg="", vtpm_uuid=VTPM)
        hung = client.post("vtpm_set_contents", "YQ==", dbg="", vtpm_uuid=VTPM)
        self.assertIsNone(client.create(vm_uuid(2), self.guard.socket_path(vm_uuid(2))))
        self.assertNotIn(number, client.unclaimed)
        for request in (number, hung):
            with self.assertRaises(Refused) as refused:
                client.wait(request)
            self.assertIn("Nobody knows whose vTPM", str(refused.exception))

    def test_a_get_waits_for_a_hung_read_and_fails_in_time(self):
        client = self.start()
        self.serve(client)
        self.sim.fault("VTPM.get_contents", "hang")
        with self.assertRaises(Refused) as refused:
            client.get_contents(VTPM)
        self.assertIn("could not be told in time", str(refused.exception))


class Age(ContentsScenario):
    def test_an_old_set_never_overwrites_what_was_written_since(self):
        client = self.start()
        swtpm = self.serve(client)
        swtpm.write("permall", self.value())
        self.guard.stop()
        payload = json.dumps({"method": "vtpm_set_contents", "id": 1,
                              "params": [{"dbg": "", "vtpm_uuid": VTPM}, "b2xk"]})
        self.switch.put(payload, age=25)
        self.start_guard()
        swtpm = self.guard.swtpm(VM)
        newer = self.value()
        swtpm.write("permall", newer)
        wait_until(lambda: self.switch.queued() == [], 20, "the old request was dealt with")
        self.assertEqual(client.get_contents(VTPM), self.packed(newer, b"", b""))
        # The same when the switch restarted and dates it anew.
        self.guard.stop()
        self.switch.put(payload, age=25)
        self.switch.stop(keep=True)
        self.switch.start(started_ago=0)
        self.start_guard()
        wait_until(lambda: self.switch.queued() == [], 20, "the old request was dealt with")
        self.assertEqual(self.client().get_contents(VTPM), self.packed(newer, b"", b""))

    def test_a_set_is_executed_also_when_the_switch_does_not_tell_ages(self):
        client = self.start()
        client.set_contents(VTPM, "YQ==")
        self.switch.fault("diagnostics", "garbage", count=9)
        time.sleep(3)  # longer than the age up to which a set is executed without asking
        self.assertIsNone(client.set_contents(VTPM, "Yg=="))
        # What was there before the guard is of unknown age then.
        self.guard.stop()
        number = client.post("vtpm_set_contents", "YQ==", dbg="", vtpm_uuid=VTPM)
        self.start_guard()
        with self.assertRaises(Refused) as refused:
            client.wait(number)
        self.assertIn("nobody knows how long", str(refused.exception))
        self.assertEqual(self.fields(client.get_contents(VTPM))["permall"], b"Yg==")

    def test_a_set_whose_caller_still_waits_is_executed_by_the_next_guard(self):
        client = self.start()
        self.guard.stop()
        number = client.post("vtpm_set_contents", "YQ==", dbg="", vtpm_uuid=VTPM)
        done = threading.Event()
        crowd = Crowd()
        crowd.start(lambda: (self.start_guard(), done.set()))
        self.assertIsNone(client.wait(number))
        crowd.join(30)
        self.assertEqual(self.sim.contents(VM)["permall"], b"YQ==")

    def test_a_set_is_acknowledged_before_its_caller_knows_and_never_executed_twice(self):
        client = self.start()
        swtpm = self.serve(client)
        number = client.post("vtpm_set_contents", "YQ==", dbg="", vtpm_uuid=VTPM)
        self.assertIsNone(client.wait(number))
        about = [kind for kind, target, _ in self.switch.requests if target.endswith("/%s/%d" % (QUEUE, number))]
        self.assertEqual(about, ["ack", "response"])
        # Its response is lost: it is not there any more when the guard comes back.
        fault = self.switch.fault("response", "late-eof")
        client.set_contents(VTPM, "Yg==")
        newer = self.value()
        swtpm.write("permall", newer)
        wait_until(lambda: fault.happened == 1, 10, "the fault happened")
        self.guard.kill()
        self.start_guard()
        self.assertEqual(client.get_contents(VTPM), self.packed(newer, b"", b""))


if __name__ == "__main__":
    main()
