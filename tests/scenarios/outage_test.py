"""xapi in trouble of every kind: writes are acknowledged, and everything arrives afterwards."""

import time

from guardtest import EMPTY, SLOTS, Crowd, Scenario, main


class Outage(Scenario):
    def test_with_xapi_up_a_write_is_one_call_and_nothing_touches_the_disk(self):
        (vm,) = self.start_all(guard_options=["--direct-timeout", "5s"])
        tpm = self.guard.swtpm(vm)
        for _ in range(20):
            tpm.write("permall", self.value(6000))
        self.assert_delivered(vm, tpm.acknowledged)
        status = self.guard.status()
        self.assertEqual(status["counters"]["writes_direct"], 20)
        self.assertEqual(status["counters"]["commits"], 0)
        self.assertEqual(status["mode"], "direct")
        self.assertEqual(self.sim.calls("VTPM.set_contents"), 20)
        self.assertLessEqual(self.sim.calls("VTPM.get_contents"), 2)
        self.assertEqual(self.sim.calls("session.login_with_password"), 1)

    def test_xapi_down_at_once_and_back(self):
        (vm,) = self.start_all()
        tpm = self.guard.swtpm(vm)
        tpm.write("permall", self.value(6000))
        self.sim.kill()
        values = []
        for _ in range(50):
            values.append(self.value(6000))
            tpm.write("permall", values[-1])
            self.assertEqual(tpm.read("permall"), values[-1])
        self.assertEqual(tpm.retries, 0)
        self.assertEqual(self.guard.status()["mode"], "engaged")
        self.assertEqual(self.guard.status()["pending"]["entries"], 1)
        self.sim.start()
        self.guard.wait_idle()
        self.assert_delivered(vm, tpm.acknowledged)
        # Superseded values were never sent.
        self.assertEqual(self.sim.vtpm(vm)["updates"], 1)
        calls = self.sim.calls("VTPM.set_contents")
        tpm.write("permall", self.value(6000))
        self.assertEqual(self.sim.calls("VTPM.set_contents"), calls + 1)
        self.assert_delivered(vm, tpm.acknowledged)

    def test_xapi_never_there_when_the_guard_starts(self):
        self.guard.start()
        (vm,) = self.create_vms(1)
        tpm = self.guard.swtpm(vm)
        tpm.write("permall", self.value())
        self.assertEqual(tpm.read("permall"), tpm.acknowledged["permall"])
        # Nobody knows whether there is a volatile state: no invented absence.
        self.assert_status(self.guard.device(vm).get("volatilestate"), 503)
        self.sim.start()
        self.guard.wait_idle()
        self.assertEqual(self.guard.device(vm).get("volatilestate").body, EMPTY)
        self.assert_delivered(vm, tpm.acknowledged)

    def test_xapi_hangs(self):
        (vm,) = self.start_all(guard_options=["--direct-timeout", "300ms"])
        tpm = self.guard.swtpm(vm)
        tpm.write("permall", self.value())
        self.sim.fault("*", "hang")
        values = [self.value() for _ in range(10)]
        for value in values:
            tpm.write("permall", value)
            self.assertEqual(tpm.read("permall"), value)
        self.assertEqual(tpm.retries, 0)
        # One waits for direct-timeout, none for xapi, which does not answer at all.
        self.assertLess(max(tpm.latencies), 5)
        # The write that hangs may still take effect, so the lane sends no other.
        self.assertEqual(self.guard.status()["doubt"], 1)
        self.sim.clear_faults()
        self.sim.release("apply")
        self.guard.wait_idle()
        self.assert_delivered(vm, tpm.acknowledged)
        self.assert_no_overlap()

    def test_xapi_is_slow(self):
        (vm,) = self.start_all(guard_options=["--direct-timeout", "200ms"])
        tpm = self.guard.swtpm(vm)
        tpm.write("permall", self.value())
        self.sim.fault("*", "delay", ms=3000)
        for _ in range(8):
            tpm.write("permall", self.value())
            tpm.write("volatilestate", self.value())
        self.assertEqual(tpm.retries, 0)
        self.assertLess(max(tpm.latencies), 2.5)
        self.sim.clear_faults()
        self.guard.wait_idle()
        self.assert_delivered(vm, tpm.acknowledged)
        self.assert_no_overlap()

    def test_xapi_refuses_the_login(self):
        self.sim.start()
        self.sim.fault("session.login_with_password", "error", error=["SESSION_AUTHENTICATION_FAILED", "root", "no"])
        self.guard.start()
        (vm,) = self.create_vms(1)
        tpm = self.guard.swtpm(vm)
        for _ in range(5):
            tpm.write("permall", self.value())
        self.assertEqual(tpm.retries, 0)
        self.assert_status(self.guard.device(vm).get("savestate"), 503)
        self.assertEqual(self.sim.calls("VTPM.set_contents"), 0)
        self.sim.clear_faults()
        self.guard.wait_idle()
        self.assert_delivered(vm, tpm.acknowledged)

    def test_xapi_is_starting_and_answers_in_emergency_form(self):
        (vm,) = self.start_all()
        tpm = self.guard.swtpm(vm)
        tpm.write("permall", self.value())
        for kind in ("error_v2", "error"):
            fault = self.sim.fault("*", kind, error=["HOST_STILL_BOOTING"])
            tpm.write("permall", self.value())
            tpm.write("savestate", self.value())
            self.assertEqual(self.guard.status()["pending"]["entries"], 2)
            self.sim.call("sim.clear_faults", {"id": fault})
            self.guard.wait_idle()
            self.assert_delivered(vm, tpm.acknowledged)
        self.assertEqual(tpm.retries, 0)

    def test_something_else_answers_in_place_of_xapi(self):
        (vm,) = self.start_all(guard_options=["--doubt-window", "1s"])
        tpm = self.guard.swtpm(vm)
        tpm.write("permall", self.value())
        for kind, more in (("http_status", {"status": 500}), ("http_status", {"status": 403}), ("garbage", {})):
            self.sim.fault("*", kind, **more)
            tpm.write("permall", self.value())
            self.assertEqual(tpm.read("permall"), tpm.acknowledged["permall"])
            self.sim.clear_faults()
            self.guard.wait_idle()
            self.assert_delivered(vm, tpm.acknowledged)
        self.assertEqual(tpm.retries, 0)

    def test_killed_in_mid_call(self):
        vms = self.start_all(8, ["--direct-timeout", "200ms"])
        tpms = [self.guard.swtpm(vm) for vm in vms]
        for tpm in tpms:
            tpm.write("permall", self.value())
        self.sim.fault("VTPM.set_contents", "hang")
        crowd = Crowd()
        for tpm in tpms:
            crowd.start(tpm.write, "permall", self.value())
        crowd.join(20)
        self.assertEqual(self.sim.hung(), 8)
        self.sim.kill()
        for tpm in tpms:
            tpm.write("permall", self.value())
        self.sim.start()
        # The new xapi does not know the old session, which ends the doubt long before the doubt window.
        self.guard.wait_idle(30)
        for vm, tpm in zip(vms, tpms):
            self.assertEqual(tpm.retries, 0)
            self.assert_delivered(vm, tpm.acknowledged)

    def test_reply_dropped_after_the_update_took_effect(self):
        (vm,) = self.start_all(guard_options=["--doubt-window", "1s"])
        tpm = self.guard.swtpm(vm)
        tpm.write("permall", self.value())
        self.sim.fault("VTPM.set_contents", "drop_reply", count=1)
        tpm.write("permall", self.value())
        self.assertEqual(tpm.read("permall"), tpm.acknowledged["permall"])
        self.guard.wait_idle()
        self.assert_delivered(vm, tpm.acknowledged)
        # Its own value, found upstream, is no conflict.
        self.assertEqual(self.guard.status()["parked"], [])
        self.assertEqual(tpm.retries, 0)

    def test_request_dropped_before_the_update_took_effect(self):
        (vm,) = self.start_all(guard_options=["--doubt-window", "1s"])
        tpm = self.guard.swtpm(vm)
        tpm.write("permall", self.value())
        self.sim.fault("VTPM.set_contents", "drop_request", count=3)
        tpm.write("permall", self.value())
        tpm.write("volatilestate", self.value())
        self.guard.wait_idle()
        self.assert_delivered(vm, tpm.acknowledged)
        self.assertEqual(tpm.retries, 0)

    def test_a_late_effect_never_brings_an_old_value_back(self):
        (vm,) = self.start_all(guard_options=["--direct-timeout", "200ms", "--doubt-window", "1s"])
        tpm = self.guard.swtpm(vm)
        values = [self.value() for _ in range(6)]
        tpm.write("permall", values[0])
        self.sim.fault("VTPM.set_contents", "hang", count=1)
        for value in values[1:]:
            tpm.write("permall", value)
        time.sleep(1.5)  # longer than the doubt window; the connection is still open, so doubt stays
        self.assertEqual(self.guard.status()["doubt"], 1)
        self.assertEqual(self.sim.release("apply"), 1)
        self.guard.wait_idle()
        self.assert_delivered(vm, tpm.acknowledged)
        self.assert_no_overlap()
        self.assert_history_never_goes_back(vm, [value + b"  " for value in values])

    def test_all_three_slots_arrive_in_one_call(self):
        (vm,) = self.start_all()
        tpm = self.guard.swtpm(vm)
        tpm.write("permall", self.value())
        self.sim.kill()
        for slot in SLOTS:
            tpm.write(slot, self.value())
        tpm.erase("savestate")
        self.sim.start()
        self.guard.wait_idle()
        self.assert_delivered(vm, tpm.acknowledged)
        self.assertEqual(self.sim.vtpm(vm)["updates"], 1)

    def test_an_outage_is_two_lines_in_the_log(self):
        vms = self.start_all(4)
        tpms = [self.guard.swtpm(vm) for vm in vms]
        for tpm in tpms:
            tpm.write("permall", self.value())
        self.sim.kill()
        for _ in range(10):
            for tpm in tpms:
                tpm.write("permall", self.value())
        time.sleep(2)
        self.sim.start()
        self.guard.wait_idle()
        log = self.guard.process.text()
        self.assertEqual(log.count("upstream_down"), 1, log)
        self.assertEqual(log.count("upstream_up"), 1, log)


if __name__ == "__main__":
    main()
