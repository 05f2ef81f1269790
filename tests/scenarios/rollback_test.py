"""What xapi has accepted and then lost in a crash is there again, without any client's help (P13)."""

from guardtest import Scenario, main, wait_until


class Rollback(Scenario):
    direct_timeout = "10s"

    def begin(self, vms=3):
        """Values that xapi has on disk, and newer ones that it has accepted and only has in memory."""
        self.sim.flush_seconds = 3600
        uuids = self.start_all(vms)
        self.tpms = [self.guard.swtpm(vm) for vm in uuids]
        for tpm in self.tpms:
            tpm.write("permall", self.value(2000))
            tpm.write("savestate", self.value(100))
        self.sim.call("sim.flush")
        for tpm in self.tpms:
            for _ in range(20):
                tpm.write("permall", self.value(2000))
            tpm.erase("savestate")
            tpm.write("volatilestate", self.value(100))
        self.assertEqual(self.guard.counter("writes_journaled"), 0)
        return uuids

    def assert_whole(self, vms):
        for vm, tpm in zip(vms, self.tpms):
            self.assert_delivered(vm, tpm.acknowledged, 60)
            for slot, value in tpm.acknowledged.items():
                self.assertEqual(tpm.read(slot), value, slot)
        self.guard.wait_idle()
        status = self.guard.status()
        self.assertEqual((status["parked"], status["held"], status["counters"]["bugs"]), ([], [], 0))

    def test_xapi_crashes_with_values_that_it_had_not_written_out(self):
        vms = self.begin()
        self.assertGreater(self.guard.status()["retained"]["entries"], 0)
        self.sim.kill()
        self.sim.start()
        self.assertNotEqual(self.sim.contents(vms[0])["volatilestate"], None)
        self.assert_whole(vms)
        self.assertGreaterEqual(self.guard.counter("redelivered"), 3)
        # And once more: what was delivered again is retained again.
        self.sim.kill()
        self.sim.start()
        self.assert_whole(vms)

    def test_the_guard_is_restarted_in_an_orderly_way_before_xapi_crashes(self):
        vms = self.begin()
        self.guard.stop()
        self.guard.start()
        wait_until(lambda: self.guard.status()["retained"]["uncompared"] == 0, 30, "compared", self.guard.status)
        self.sim.kill()
        self.sim.start()
        self.assert_whole(vms)

    def test_xapi_crashes_while_the_guard_is_not_there(self):
        vms = self.begin()
        self.guard.stop()
        self.sim.kill()
        self.sim.start()
        self.guard.start()
        self.assert_whole(vms)
        self.assertGreaterEqual(self.guard.counter("redelivered"), 3)

    def test_xapi_crashes_after_an_outage_and_before_it_has_written_out_what_was_delivered(self):
        vms = self.begin()
        self.sim.call("sim.flush")
        self.sim.kill()
        for tpm in self.tpms:
            tpm.write("permall", self.value(2000))
        self.sim.start()
        self.guard.wait_idle()
        self.sim.kill()
        self.sim.start()
        self.assert_whole(vms)

    def test_a_guest_that_writes_on_meanwhile_keeps_its_newest_value(self):
        vms = self.begin()
        self.sim.kill()
        for tpm in self.tpms:
            tpm.write("permall", self.value(2000))
        self.sim.start()
        for tpm in self.tpms:
            tpm.write("permall", self.value(2000))
        self.assert_whole(vms)

    def test_nothing_is_kept_when_retention_is_switched_off(self):
        self.guard.options += ["--retain", "0s"]
        vms = self.begin(1)
        self.assertEqual(self.guard.status()["retained"]["entries"], 0)
        newest = self.tpms[0].acknowledged["permall"]
        self.sim.kill()
        self.sim.start()
        self.guard.wait_up()
        self.assertNotEqual(self.sim.contents(vms[0])["permall"], newest)


if __name__ == "__main__":
    main()
