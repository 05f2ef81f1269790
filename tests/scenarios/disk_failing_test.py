"""A disk that fails under the guard: I/O errors, a file system that has become read-only, one that hangs, a journal
that cannot be read. Nothing is acknowledged that is not kept, and the guard recovers without a restart as soon as
its files can be used again."""

import os
import time

from disktest import DiskScenario, main
from guardtest import Crowd, wait_until


class DiskFails(DiskScenario):
    def start_journaling(self, vms=2):
        """Sockets of so many VMs and an entry of each in the journal, xapi down."""
        self.guard.start()
        uuids = self.create_vms(vms)
        tpms = [self.guard.swtpm(vm) for vm in uuids]
        for tpm in tpms:
            tpm.write("permall", self.value(6000))
        return uuids, tpms

    def wait_journal(self, state):
        wait_until(lambda: self.journal()["state"] == state, 60, "the journal is " + state, self.journal)

    def write_until_refused(self, tpm):
        """Until then everything is acknowledged, and kept."""
        for _ in range(1000):
            before = dict(tpm.acknowledged)
            if self.try_to_write(tpm, "permall", self.value(6000)) == 503:
                # A failed write may or may not stand on the disk; what was acknowledged is what is read.
                self.assertEqual(tpm.read("permall"), before["permall"])
                return
        self.fail("the failing disk takes everything")

    def restart_on_what_the_disk_holds(self, disk):
        """As after a power cut: no byte of the file system or the guard stays in memory."""
        self.guard.kill()
        disk.detach()
        disk.attach()
        self.guard.start()

    def test_one_file_of_the_journal_cannot_be_written(self):
        disk = self.failing_disk()
        vms, tpms = self.start_journaling()
        disk.out_of_blocks("state/journal/a")
        for _ in range(20):
            tpms[0].write("permall", self.value(6000))
            tpms[1].write("savestate", self.value(6000))
        # The other file took over; no client has noticed.
        self.assertEqual([tpm.retries for tpm in tpms], [0, 0])
        self.assertIn("journal_file_failed", self.guard.process.text())
        self.assertEqual(self.journal()["state"], "ok")
        self.assert_reads_what_was_acknowledged(tpms)
        self.restart_on_what_the_disk_holds(disk)
        self.assert_reads_what_was_acknowledged(tpms)
        self.sim.start()
        self.assert_all_delivered(vms, tpms)

    def test_a_device_that_takes_no_write(self):
        disk = self.failing_disk()
        self.fail_and_mend(disk, disk.fail_writes, "Input/output error")

    def test_a_thin_device_that_has_no_more_blocks(self):
        disk = self.failing_disk()
        self.fail_and_mend(disk, disk.out_of_blocks, "(No space left on device|Input/output error)")

    def fail_and_mend(self, disk, fail, error):
        vms, tpms = self.start_journaling()
        fail()
        self.write_until_refused(tpms[0])
        self.assertEqual(self.journal()["state"], "failed")
        self.assertRegex(self.guard.process.text(), "journal_failed error=.*" + error)
        self.assert_reads_what_was_acknowledged(tpms)
        # Also for the others, until it is mended; then for all, without a restart.
        self.assertEqual(self.try_to_write(tpms[1], "savestate", self.value()), 503)
        crowd = Crowd()
        for tpm in tpms:
            crowd.start(tpm.write, "permall", self.value(6000))
        disk.mend()
        crowd.join(60)
        self.assertEqual(self.journal()["state"], "ok")
        self.assert_reads_what_was_acknowledged(tpms)
        self.restart_on_what_the_disk_holds(disk)
        self.assert_reads_what_was_acknowledged(tpms)
        self.assertEqual(self.journal()["corrupt_records"], 0)
        self.sim.start()
        self.assert_all_delivered(vms, tpms)

    def test_entries_that_cannot_be_read_back_for_a_while(self):
        disk = self.failing_disk()
        self.guard.options += ["--queue-capacity", "1"]
        vms, tpms = self.start_journaling(4)
        # Its values are on the disk only, the last batch is sealed, and nothing will be written by itself.
        wait_until(lambda: self.quiet(), 30, "the journal rests")
        place = min(at for _, at, _ in disk.extents("state/journal/a"))
        disk.fail_reads_from(place)
        for name in ("a", "b"):
            fd = os.open(os.path.join(self.guard.state_dir, "journal", name), os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
        answers = [self.guard.device(vm).get("permall") for vm in vms]
        self.assertEqual([answer.status for answer in answers].count(503), 3)
        for answer, tpm in zip(answers, tpms):
            if answer.status != 503:
                self.assertEqual(answer.body, tpm.acknowledged["permall"])
        disk.mend()
        self.assert_reads_what_was_acknowledged(tpms)
        self.sim.start()
        self.assert_all_delivered(vms, tpms)

    def quiet(self):
        before = self.journal()["syncs"]
        time.sleep(0.5)
        return self.journal()["syncs"] == before

    def test_killed_while_no_file_can_be_written(self):
        disk = self.failing_disk()
        vms, tpms = self.start_journaling(4)
        disk.fail_writes()
        for tpm in tpms:
            self.write_until_refused(tpm)
        self.guard.kill()
        self.guard.start()
        disk.mend()
        # What was refused may have come to the disk all the same; never anything else in the place of what was
        # acknowledged.
        for tpm in tpms:
            tpm.write("savestate", self.value(6000))
        self.wait_journal("ok")
        self.sim.start()
        self.guard.wait_idle()
        for vm, tpm in zip(vms, tpms):
            self.assert_delivered(vm, {**tpm.acknowledged, "permall": self.newest(vm, tpm)})

    def newest(self, vm, tpm):
        held = self.sim.contents(vm)["permall"]
        self.assertIn(held, (tpm.acknowledged["permall"], tpm.refused))
        return held

    def test_with_xapi_up_a_failed_disk_stops_only_who_needs_it(self):
        disk = self.failing_disk()
        vms = self.start_all(8)
        tpms = [self.guard.swtpm(vm) for vm in vms]
        # All but the last have something to retain, which goes to the journal when xapi is lost.
        for tpm in tpms[:-1]:
            tpm.write("permall", self.value(6000))
        disk.fail_writes()
        self.sim.kill()
        self.write_until_refused(tpms[0])
        self.sim.start()
        self.guard.wait_up()
        self.assertEqual(self.journal()["state"], "failed")
        # A disk of which nobody knows that it works is tried by one of them; the others never touch it.
        stopped = [tpm for tpm in tpms[1:] if self.try_to_write(tpm, "permall", self.value(6000)) == 503]
        self.assertLessEqual(len(stopped), 1)
        self.assertEqual(self.journal()["state"], "failed")
        for vm, tpm in zip(vms, tpms):
            if tpm is not tpms[0] and tpm not in stopped:
                self.assert_delivered(vm, tpm.acknowledged)
        disk.mend()
        tpms[0].write("permall", self.value(6000))
        self.assert_all_delivered(vms, tpms)
        self.assertEqual(self.journal()["state"], "ok")

    def test_a_journal_that_cannot_be_read_at_the_start(self):
        disk = self.failing_disk()
        vms, tpms = self.start_journaling()
        self.guard.kill()
        first = min(at for _, at, _ in disk.extents("state/journal/a") + disk.extents("state/journal/b"))
        disk.detach()
        disk.attach(before_mount=lambda: disk.fail_reads_from(first))
        self.guard.start()
        self.assertEqual(self.journal()["state"], "unread")
        self.assertIn("Input/output error", self.journal()["error"])
        for vm, tpm in zip(vms, tpms):
            self.assertEqual(self.guard.device(vm).get("permall").status, 503)
            self.assertEqual(self.try_to_write(tpm, "savestate", self.value()), 503)
        # Also with xapi up: nobody knows what is pending.
        self.sim.start()
        self.assertEqual(self.guard.device(vms[0]).get("permall").status, 503)
        self.sim.kill()
        disk.mend()
        self.assert_reads_what_was_acknowledged(tpms)
        self.assertEqual(self.journal()["corrupt_records"], 0)
        self.sim.start()
        self.assert_all_delivered(vms, tpms)

    def test_read_only_at_the_start(self):
        disk = self.any_disk()
        vms, tpms = self.start_journaling()
        self.guard.kill()
        disk.remount("ro")
        self.guard.start()
        self.assertEqual(self.journal()["state"], "unread")
        self.assertIn("Read-only file system", self.journal()["error"])
        self.assertIn("journal_unreadable", self.guard.process.text())
        self.assertEqual(self.try_to_write(tpms[0], "permall", self.value()), 503)
        disk.remount("rw")
        self.assert_reads_what_was_acknowledged(tpms)
        tpms[0].write("savestate", self.value())
        self.sim.start()
        self.assert_all_delivered(vms, tpms)

    def test_read_only_at_the_start_and_mounted_anew(self):
        disk = self.need_ext4(on_error="continue")
        vms, tpms = self.start_journaling()
        self.guard.kill()
        disk.remount("ro")
        self.guard.start()
        self.assertEqual(self.journal()["state"], "unread")
        # Nothing of the guard is in the way, but for the moments in which it tries again.
        wait_until(lambda: self.unmounted(disk), 60, "the file system is unmounted")
        disk.check()
        disk.attach()
        self.assert_reads_what_was_acknowledged(tpms)
        self.sim.start()
        self.assert_all_delivered(vms, tpms)

    def unmounted(self, disk):
        try:
            disk.detach()
            return True
        except OSError:
            return False

    def test_read_only_while_writing(self):
        """ext4 makes itself read-only when it finds an error; then it must be unmounted, which it cannot be while the
        guard has files on it."""
        disk = self.need_ext4(on_error="remount-ro")
        vms, tpms = self.start_journaling()
        disk.write_setting("trigger_fs_error", "test")
        self.write_until_refused(tpms[0])
        self.assertEqual(self.journal()["state"], "failed")
        self.assertIn("Read-only file system", self.guard.process.text())
        self.assert_reads_what_was_acknowledged(tpms)
        self.guard.stop()
        disk.detach()
        disk.check()
        disk.attach()
        self.guard.start()
        self.assert_reads_what_was_acknowledged(tpms[1:])
        tpms[0].write("permall", self.value())
        self.sim.start()
        self.assert_all_delivered(vms, tpms)

    def test_a_disk_that_hangs(self):
        disk = self.need_ext4()
        vms = self.start_all(3)
        tpms = [self.guard.swtpm(vm) for vm in vms]
        self.sim.kill()
        for tpm in tpms[:2]:
            tpm.write("permall", self.value(6000))
        with disk.frozen():
            crowd = Crowd()
            crowd.start(tpms[0].write, "permall", self.value(6000))
            wait_until(lambda: self.journal()["state"] == "stalled", 60, "the journal is stalled", self.journal)
            self.assertTrue(crowd.threads[0].is_alive())
            # Who does not need the disk is not kept waiting.
            self.assertEqual(tpms[1].read("permall"), tpms[1].acknowledged["permall"])
            self.sim.start()
            self.guard.wait_up()
            tpms[2].write("permall", self.value(6000))
            self.assert_delivered(vms[2], tpms[2].acknowledged)
        crowd.join(60)
        self.assert_all_delivered(vms, tpms)
        self.assertEqual(self.journal()["state"], "ok")


if __name__ == "__main__":
    main()
