"""A journal that grows until the disk is full: what it has got by then goes on taking writes, nothing is lost by
growing in vain, and it grows on when there is space, without a restart."""

import os

from disktest import MIB, DiskScenario, main
from guardtest import SLOTS

LARGE = 100_000  # decoded; two of them are within what xapi takes of one VM
VMS = 60


class DiskLimitsGrowth(DiskScenario):
    # Room for each file to grow to more than twice its size.
    disk_bytes = DiskScenario.disk_bytes + 12 * MIB

    def start_with_little_room(self):
        disk = self.any_disk()
        with open(os.path.join(disk.path, "others"), "wb") as file:
            file.write(b"x" * (7 * MIB))
        vms = self.start_all(VMS)
        tpms = [self.guard.swtpm(vm) for vm in vms]
        for tpm in tpms:
            tpm.write("permall", self.value())
        self.guard.wait_idle()
        self.sim.kill()
        for tpm in tpms:
            tpm.write("permall", self.value())
        return disk, vms, tpms

    def write_until_refused(self, tpms):
        """Answers the client and slot of the write that was."""
        for tpm in tpms:
            for slot in SLOTS[1:]:
                if slot in tpm.acknowledged:
                    continue
                if self.try_to_write(tpm, slot, self.value(LARGE)) == 503:
                    return tpm, slot
        return self.fail("everything is taken")

    def test_growth_ends_where_the_disk_ends_and_goes_on_with_it(self):
        disk, vms, tpms = self.start_with_little_room()
        made = self.journal()["capacity_bytes"]
        refused, slot = self.write_until_refused(tpms)
        grown = self.journal()
        self.assertGreater(grown["capacity_bytes"], made)
        self.assertGreater(grown["live_bytes"], made)
        self.assertEqual(grown["state"], "ok")
        self.assertIn("journal_not_enlarged", self.guard.process.text())
        self.assert_reads_what_was_acknowledged(tpms)
        # Replacements are not refused; neither before nor after a crash, nor on a disk without a free byte.
        disk.fill()
        for restart in (False, True):
            if restart:
                self.guard.kill()
                self.guard.start()
                self.assert_reads_what_was_acknowledged(tpms)
            for tpm in tpms:
                self.assertEqual(self.try_to_write(tpm, "permall", self.value()), 204)
            self.assertEqual(self.try_to_write(refused, slot, self.value(LARGE)), 503)
        self.assertGreater(self.journal()["capacity_bytes"], made)

        disk.free()
        os.unlink(os.path.join(disk.path, "others"))
        refused.write(slot, self.value(LARGE))
        self.write_until_refused(tpms)
        self.assertGreater(self.journal()["capacity_bytes"], grown["capacity_bytes"])
        self.guard.kill()
        self.guard.start()
        self.assertEqual(self.journal()["corrupt_records"], 0)
        self.assert_reads_what_was_acknowledged(tpms)
        self.sim.start()
        self.assert_all_delivered(vms, tpms)

    def test_killed_again_and_again_while_growing(self):
        _, vms, tpms = self.start_with_little_room()
        todo = [(tpm, slot) for tpm in tpms for slot in SLOTS[1:]]
        for _ in range(6):
            for _ in range(self.random.randrange(4, 16)):
                tpm, slot = todo.pop()
                self.try_to_write(tpm, slot, self.value(LARGE))
            self.guard.kill()
            self.guard.start()
            self.assertEqual(self.journal()["corrupt_records"], 0)
            self.assert_reads_what_was_acknowledged(tpms)
        self.sim.start()
        self.assert_all_delivered(vms, tpms)


if __name__ == "__main__":
    main()
