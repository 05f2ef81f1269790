"""The embedded store on a disk that is full, and that becomes read-only: writes are kept in the journal, and delivered
when the disk takes them again."""

import os

from disktest import DiskScenario, main
from guardtest import wait_until

LARGE = 100_000


class EmbeddedDisk(DiskScenario):
    def start_on_store(self, vms, state_dir=None):
        disk = self.any_disk()
        self.guard.state_dir = state_dir or self.guard.state_dir
        self.guard.upstream = "embedded:" + os.path.join(self.place, "state.db")
        self.guard.start()
        uuids = self.create_vms(vms)
        tpms = [self.guard.swtpm(vm) for vm in uuids]
        for tpm in tpms:
            tpm.write("permall", self.value())
        return disk, tpms

    def wait_down(self, word):
        def says_so():
            upstream = self.guard.status()["upstream"]
            return upstream["state"] == "down" and word in (upstream["last_error"] or "")
        wait_until(says_so, 30, "the store is down and status says why", lambda: self.guard.status()["upstream"])

    def assert_all_stored(self, tpms):
        """After a fresh start, which knows nothing but what the store tells it."""
        self.guard.wait_idle()
        self.guard.stop()
        self.guard.start()
        self.assert_reads_what_was_acknowledged(tpms)
        self.assertEqual(self.guard.counter("reads_pending"), 0)

    def test_on_a_full_disk_writes_are_kept_and_delivered_when_there_is_room(self):
        disk, tpms = self.start_on_store(2)
        disk.fill()
        for _ in range(10):
            tpms[0].write("permall", self.value(LARGE))
        self.wait_down("full")
        tpms[1].write("savestate", self.value())
        self.assert_reads_what_was_acknowledged(tpms)
        self.assertEqual([tpm.retries for tpm in tpms], [0, 0])
        self.guard.kill()
        self.guard.start()
        self.assertEqual(tpms[0].read("permall"), tpms[0].acknowledged["permall"])
        self.assertGreater(self.guard.status()["pending"]["entries"], 0)
        disk.free()
        self.assert_all_stored(tpms)

    def test_a_disk_that_is_remounted_read_only_and_back_loses_nothing(self):
        # The journal on another disk: this is about the store.
        disk, tpms = self.start_on_store(2, os.path.join(self.dir, "state"))
        for tpm in tpms:
            tpm.write("savestate", self.value())
        self.guard.stop()
        disk.remount("ro")
        self.guard.start()
        for tpm in tpms:
            tpm.write("permall", self.value())
        self.wait_down("")
        self.guard.kill()
        self.guard.start()
        for tpm in tpms:
            self.assertEqual(tpm.read("permall"), tpm.acknowledged["permall"])
        disk.remount("rw")
        self.assert_all_stored(tpms)


if __name__ == "__main__":
    main()
