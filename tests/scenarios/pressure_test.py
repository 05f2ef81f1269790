"""Many pending entries: the modes, and what is more than the delivery queue may carry."""

from guardtest import SLOTS, Crowd, Scenario, main, vm_uuid


class Pressure(Scenario):
    direct_timeout = "5s"

    def fill(self, entries):
        """So many pending entries, three to a VM; answers the clients by VM."""
        tpms = {}
        for number in range(entries):
            vm = vm_uuid(number // 3 + 1)
            if vm not in tpms:
                self.guard.create(vm)
                tpms[vm] = self.guard.swtpm(vm)
            tpms[vm].write(SLOTS[number % 3], self.value())
        return tpms

    def test_511_512_and_513_entries(self):
        self.guard.start()
        tpms = self.fill(511)
        status = self.guard.status()
        self.assertEqual((status["mode"], status["pending"]["entries"]), ("engaged", 511))
        last = tpms[vm_uuid(511 // 3 + 1)]
        last.write(SLOTS[511 % 3], self.value())
        status = self.guard.status()
        self.assertEqual((status["mode"], status["pending"]["entries"]), ("engaged", 512))
        # Replacing an entry is no further entry.
        last.write(SLOTS[511 % 3], self.value())
        self.assertEqual(self.guard.status()["mode"], "engaged")
        last.write(SLOTS[512 % 3], self.value())
        status = self.guard.status()
        self.assertEqual((status["mode"], status["pending"]["entries"]), ("disengaged", 513))
        self.guard.kill()
        self.guard.start()
        status = self.guard.status()
        self.assertEqual((status["mode"], status["pending"]["entries"]), ("disengaged", 513))
        for tpm in list(tpms.values())[-3:]:
            for slot, value in tpm.acknowledged.items():
                self.assertEqual(tpm.read(slot), value)
        self.sim.flush_seconds = 5
        self.sim.start()
        self.guard.wait_idle()
        held = self.sim.all_contents()
        for vm, tpm in tpms.items():
            self.assertEqual(held[vm], {**dict.fromkeys(SLOTS, b""), **tpm.acknowledged})
        # New writes bypass the disk again.
        commits = self.guard.counter("commits")
        for vm in list(tpms)[:5]:
            tpms[vm].write("permall", self.value())
            self.assert_delivered(vm, tpms[vm].acknowledged)
        self.assertEqual(self.guard.counter("commits"), commits)

    def test_a_small_queue_changes_nothing_but_the_mode(self):
        self.guard.start("--queue-capacity", "4")
        vms = self.create_vms(12)
        tpms = [self.guard.swtpm(vm) for vm in vms]
        crowd = Crowd()

        def write_some(tpm):
            for _ in range(10):
                for slot in SLOTS:
                    tpm.write(slot, self.value(500))

        for tpm in tpms:
            crowd.start(write_some, tpm)
        crowd.join(60)
        self.assertEqual(self.guard.status()["mode"], "disengaged")
        for tpm in tpms:
            for slot, value in tpm.acknowledged.items():
                self.assertEqual(tpm.read(slot), value)
        self.sim.start()
        self.guard.wait_idle()
        for vm, tpm in zip(vms, tpms):
            self.assert_delivered(vm, tpm.acknowledged)
            self.assertEqual(tpm.retries, 0)

    def test_more_writes_than_a_journal_file_holds(self):
        (vm,) = self.start_all(guard_options=["--journal-size", "4MiB"])
        tpm = self.guard.swtpm(vm)
        tpm.write("permall", self.value())
        self.sim.kill()
        for _ in range(60):
            tpm.write("permall", self.value(150_000))
        self.assertGreaterEqual(self.guard.status()["journal"]["switches"], 2)
        self.assertEqual(tpm.retries, 0)
        self.guard.kill()
        self.guard.start()
        self.assertEqual(tpm.read("permall"), tpm.acknowledged["permall"])
        self.sim.start()
        self.guard.wait_idle()
        self.assert_delivered(vm, tpm.acknowledged)


if __name__ == "__main__":
    main()
