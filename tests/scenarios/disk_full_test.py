"""A disk that is full to the last byte while xapi is away: what was reserved goes on taking writes, the rest is
refused honestly, and nothing that was acknowledged is lost."""

import os
import threading

from disktest import MIB, DiskScenario, main
from guardtest import EMPTY, SLOTS, Crowd

LARGE = 100_000  # decoded; two of them are within what xapi takes of one VM


class DiskFull(DiskScenario):
    def start_full(self, vms):
        """Sockets of so many VMs, xapi down, the disk full. A permall of each is in xapi, a newer one in the journal:
        so a restarted guard knows all that is asked for."""
        disk = self.any_disk()
        uuids = self.start_all(vms)
        tpms = [self.guard.swtpm(vm) for vm in uuids]
        for tpm in tpms:
            tpm.write("permall", self.value())
        self.guard.wait_idle()
        self.sim.kill()
        for tpm in tpms:
            tpm.write("permall", self.value())
        disk.fill()
        return disk, uuids, tpms

    def fill_journal(self, tpms):
        """Writes smaller and smaller values until not even the smallest is taken; answers how many were."""
        taken = 0
        for size in (LARGE, 10_000, 1000, 16):
            refused = 0
            for tpm in tpms:
                for slot in SLOTS[1:]:
                    if refused < 3 and len(tpm.acknowledged.get(slot, b"")) == 0:
                        status = self.try_to_write(tpm, slot, self.value(size))
                        refused += status == 503
                        taken += status == 204
            self.assertGreater(refused, 0, "values of %d bytes are taken without end" % size)
        return taken

    def test_acknowledging_goes_on_in_what_is_reserved(self):
        disk, vms, tpms = self.start_full(2)
        for _ in range(60):
            tpms[0].write("permall", self.value(LARGE))
        tpms[1].erase("savestate")
        self.assertEqual([tpm.retries for tpm in tpms], [0, 0])
        self.assertGreaterEqual(self.journal()["switches"], 1)
        self.assert_reads_what_was_acknowledged(tpms)
        self.guard.kill()
        self.guard.start()
        self.assert_reads_what_was_acknowledged(tpms)
        self.assertEqual(os.statvfs(disk.path).f_bavail, 0)
        self.sim.start()
        self.assert_all_delivered(vms, tpms)

    def test_beyond_what_is_reserved_writes_are_refused_and_replacements_are_not(self):
        disk, vms, tpms = self.start_full(80)
        self.assertGreater(self.fill_journal(tpms), 20)
        self.assertIn("journal full", self.guard.process.text())
        self.assert_reads_what_was_acknowledged(tpms)

        self.guard.kill()
        self.guard.start()
        self.assert_reads_what_was_acknowledged(tpms)
        # Full is full, also after a restart; but what takes the place of something as large finds room.
        self.assertEqual(self.try_to_write(tpms[-1], "volatilestate", self.value(LARGE)), 503)
        for tpm in tpms:
            for slot, old in list(tpm.acknowledged.items()):
                # Base64 turned round is base64, but for its padding.
                new = old[-5::-1] + old[-4:]
                self.assertEqual(self.try_to_write(tpm, slot, new), 204)
        self.assertEqual(self.try_to_write(tpms[-1], "volatilestate", self.value(LARGE)), 503)
        self.assert_reads_what_was_acknowledged(tpms)
        # So does what makes room, and then there is some.
        roomy = next(tpm for tpm in tpms if len(tpm.acknowledged.get("savestate", b"")) > LARGE)
        self.assertEqual(self.try_to_write(roomy, "savestate", self.value(100)), 204)
        self.assertEqual(self.try_to_write(tpms[-1], "volatilestate", self.value(LARGE * 9 // 10)), 204)
        self.assertEqual(self.guard.device(vms[0]).delete("savestate").status, 204)
        tpms[0].acknowledged["savestate"] = EMPTY
        self.assert_reads_what_was_acknowledged(tpms)

        disk.free()
        self.sim.start()
        self.assert_all_delivered(vms, tpms)
        for tpm in tpms[-3:]:
            self.assertEqual(self.try_to_write(tpm, "volatilestate", self.value(LARGE)), 204)
        self.assert_all_delivered(vms, tpms)
        self.assertEqual(self.journal()["corrupt_records"], 0)

    def test_killed_again_and_again_on_a_full_disk(self):
        disk, vms, tpms = self.start_full(6)
        for tpm in tpms:
            tpm.write("savestate", self.value(LARGE))
        stop = threading.Event()

        def write_on(tpm):
            for _ in range(10_000):
                tpm.write("savestate", self.value(LARGE))
                if stop.is_set():
                    return

        crowd = Crowd()
        for tpm in tpms:
            crowd.start(write_on, tpm)
        for _ in range(5):
            stop.wait(self.random.uniform(0.2, 0.8))
            self.guard.kill()
            self.guard.start()
        stop.set()
        crowd.join(60)
        self.assert_reads_what_was_acknowledged(tpms)
        self.assertEqual(os.statvfs(disk.path).f_bavail, 0)
        self.sim.start()
        self.assert_all_delivered(vms, tpms)

    def test_a_journal_that_finds_no_place_at_the_first_start(self):
        disk = self.any_disk()
        disk.fill()
        self.guard.start()
        (vm,) = self.create_vms(1)
        tpm = self.guard.swtpm(vm)
        self.assertEqual(self.journal()["state"], "unread")
        self.assertIn("No space left", self.journal()["error"])
        self.assertIn("journal_unreadable", self.guard.process.text())
        self.assertEqual(self.try_to_write(tpm, "permall", self.value()), 503)
        self.assertEqual(self.guard.device(vm).get("permall").status, 503)
        disk.free()
        tpm.write("permall", self.value())
        self.assertEqual(self.journal()["state"], "ok")
        self.assertEqual(sorted(os.listdir(os.path.join(self.guard.state_dir, "journal"))), ["a", "b"])
        self.sim.start()
        self.assert_all_delivered([vm], [tpm])

    def test_a_disk_with_room_for_one_file_of_the_two(self):
        disk = self.any_disk()
        with open(os.path.join(disk.path, "more"), "wb") as file:
            file.write(b"x" * (5 * MIB))
        self.guard.start()
        (vm,) = self.create_vms(1)
        tpm = self.guard.swtpm(vm)
        self.assertEqual(self.journal()["state"], "unread")
        self.assertEqual(self.try_to_write(tpm, "permall", self.value()), 503)
        os.unlink(os.path.join(disk.path, "more"))
        tpm.write("permall", self.value())
        self.guard.kill()
        self.guard.start()
        self.assertEqual(self.journal()["corrupt_records"], 0)
        self.assert_reads_what_was_acknowledged([tpm])


if __name__ == "__main__":
    main()
