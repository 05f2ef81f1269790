"""One VM's trouble is no other VM's."""

import time

from guardtest import Crowd, Scenario, main, vtpm_uuid, wait_until


class Isolation(Scenario):
    direct_timeout = "5s"

    def test_one_vm_hangs_while_63_others_write(self):
        self.sim.flush_seconds = 5
        vms = self.start_all(64)
        tpms = [self.guard.swtpm(vm) for vm in vms]
        for tpm in tpms:
            tpm.write("permall", self.value())
            tpm.latencies.clear()
        self.sim.fault("*", "hang", vm=vms[0])

        def write_many(tpm, values):
            for value in values:
                tpm.write("permall", value)

        begin = time.monotonic()
        crowd = Crowd()
        for tpm in tpms:
            crowd.start(write_many, tpm, [self.value(2000) for _ in range(15)])
        crowd.join(60)
        elapsed = time.monotonic() - begin
        self.assertEqual([tpm.retries for tpm in tpms], [0] * 64)
        # The others never wait for the one: a single write that did would take the 5 s of direct-timeout.
        others = sorted(latency for tpm in tpms[1:] for latency in tpm.latencies)
        self.assertLess(others[-1], 3, "slowest of the others; all took %.1f s" % elapsed)
        self.assertLess(others[len(others) // 2], 0.5, "median of the others")
        self.assertEqual(self.guard.counter("writes_unavailable"), 0)
        # They went direct and are there already.
        for vm, tpm in list(zip(vms, tpms))[1:]:
            self.assert_delivered(vm, tpm.acknowledged)
        status = self.guard.status()
        self.assertEqual(status["upstream"]["state"], "up")
        self.assertEqual((status["doubt"], status["pending"]["vms"]), (1, 1))
        # Neither does a read of the hung VM's wait, nor does it tell an old value.
        self.assertEqual(tpms[0].read("permall"), tpms[0].acknowledged["permall"])
        self.sim.clear_faults()
        self.sim.release("apply")
        self.guard.wait_idle()
        self.assert_delivered(vms[0], tpms[0].acknowledged)
        self.assert_no_overlap()

    def test_many_hung_vms_do_not_use_up_the_calls_of_the_others(self):
        self.sim.flush_seconds = 5
        vms = self.start_all(40, ["--direct-timeout", "500ms"])
        tpms = [self.guard.swtpm(vm) for vm in vms]
        for tpm in tpms:
            tpm.write("permall", self.value())
        # More than the deliveries at a time (8) and than the connections that count (16).
        for vm in vms[:30]:
            self.sim.fault("*", "hang", vm=vm)
        crowd = Crowd()
        for tpm in tpms:
            crowd.start(tpm.write, "permall", self.value())
        crowd.join(30)
        for tpm in tpms[30:]:
            tpm.write("permall", self.value())
        for vm, tpm in list(zip(vms, tpms))[30:]:
            self.assert_delivered(vm, tpm.acknowledged)
        self.sim.clear_faults()
        self.sim.release("apply")
        self.guard.wait_idle()
        for vm, tpm in zip(vms, tpms):
            self.assert_delivered(vm, tpm.acknowledged)

    def test_a_vm_deleted_with_entries_pending_is_held_and_the_others_are_delivered(self):
        vms = self.start_all(5)
        tpms = [self.guard.swtpm(vm) for vm in vms]
        for tpm in tpms:
            tpm.write("permall", self.value())
        self.sim.kill()
        for tpm in tpms:
            tpm.write("permall", self.value())
            tpm.write("savestate", self.value())
        self.sim.edit_while_down("delete_vm", vms[2])
        self.sim.start()
        others = [(vm, tpm) for i, (vm, tpm) in enumerate(zip(vms, tpms)) if i != 2]
        wait_until(lambda: self.guard.status()["pending"]["vms"] <= 1, 30, "the others are delivered", self.guard.status)
        wait_until(lambda: self.guard.status()["held"], 30, "the deleted VM is reported", self.guard.status)
        for vm, tpm in others:
            self.assert_delivered(vm, tpm.acknowledged)
            # Direct again, whatever is held elsewhere.
            before = self.guard.counter("commits")
            tpm.write("permall", self.value())
            self.assert_delivered(vm, tpm.acknowledged)
            self.assertEqual(self.guard.counter("commits"), before)
        status = self.guard.status()
        self.assertEqual({held["vm"] for held in status["held"]}, {vms[2]})
        self.assertIn("UUID_INVALID", status["held"][0]["reason"])
        # Kept, and still what a read answers.
        self.assertEqual(status["pending"]["entries"], 2)
        self.assertEqual(tpms[2].read("permall"), tpms[2].acknowledged["permall"])

    def test_what_is_held_survives_a_restart_and_blocks_nobody_then(self):
        vms = self.start_all(3)
        tpms = [self.guard.swtpm(vm) for vm in vms]
        for tpm in tpms:
            tpm.write("permall", self.value())
        self.sim.kill()
        for tpm in tpms:
            tpm.write("permall", self.value())
        self.guard.kill()
        self.sim.edit_while_down("delete_vm", vms[0])
        self.sim.start()
        self.guard.start()
        wait_until(lambda: self.guard.status()["pending"]["vms"] <= 1, 30, "the others are delivered", self.guard.status)
        wait_until(lambda: self.guard.status()["held"], 30, "the deleted VM is reported", self.guard.status)
        for vm, tpm in list(zip(vms, tpms))[1:]:
            self.assert_delivered(vm, tpm.acknowledged)
        self.assertEqual([entry["vm"] for entry in self.guard.pending()], [vms[0]])

    def test_a_vtpm_with_malformed_contents_is_not_overwritten(self):
        vms = self.start_all(2)
        self.sim.edit("set_contents", vms[0], contents="QQ== QQ== QQ== QQ==")
        bad, good = [self.guard.swtpm(vm) for vm in vms]
        for slot in ("permall", "savestate", "volatilestate"):
            self.assert_status(self.guard.device(vms[0]).get(slot), 503)
        self.assert_status(bad.put("permall", self.value()), 204, 503)
        good.write("permall", self.value())
        self.assert_delivered(vms[1], good.acknowledged)
        self.assertEqual(self.sim.vtpm(vms[0])["contents"], "QQ== QQ== QQ== QQ==")
        self.assertEqual(self.sim.vtpm(vms[0])["updates"], 1)  # that of the test itself

    def test_a_vm_without_a_vtpm_is_refused_and_never_empty(self):
        vms = self.start_all(2)
        self.sim.edit("destroy_vtpm", vms[0])
        device, good = self.guard.device(vms[0]), self.guard.swtpm(vms[1])
        self.assert_status(device.get("permall"), 503)
        good.write("permall", self.value())
        self.assert_delivered(vms[1], good.acknowledged)
        # It comes into being later.
        self.sim.edit("replace_vtpm", vms[0], vtpm=vtpm_uuid(77))
        tpm = self.guard.swtpm(vms[0])
        tpm.write("permall", self.value())
        self.guard.wait_idle()
        self.assert_delivered(vms[0], tpm.acknowledged)

    def test_a_client_that_floods_one_socket_delays_no_other(self):
        self.sim.flush_seconds = 5
        vms = self.start_all(2)
        quiet = self.guard.swtpm(vms[1])
        crowd = Crowd()

        def write_for(seconds, tpm, value):
            end = time.monotonic() + seconds
            while time.monotonic() < end or not tpm.acknowledged:
                tpm.write("permall", value)
            tpm.close()  # the surplus connections are served when the first four end

        for _ in range(12):  # three times as many as may be served at a time
            tpm = self.guard.swtpm(vms[0], timeout=120)
            crowd.start(write_for, 3, tpm, self.value(100_000))
        time.sleep(0.3)
        quiet.latencies.clear()
        for _ in range(50):
            quiet.write("permall", self.value())
        self.assertEqual(quiet.retries, 0)
        self.assertLess(sorted(quiet.latencies)[25], 0.3)
        self.assertLess(max(quiet.latencies), 3)
        crowd.join(90)
        self.guard.wait_idle()
        self.assert_delivered(vms[1], quiet.acknowledged)


if __name__ == "__main__":
    main()
