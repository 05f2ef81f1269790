"""A disk that hangs is no reason to end a guard that still answers: its loop goes on feeding systemd's watchdog."""

import os

from disktest import DiskScenario, main
from guardtest import Crowd, wait_until
from systemdtest import CurlSwtpm, Systemd, SystemdGuard


class HungDisk(DiskScenario):
    def setUp(self):
        super().setUp()
        state_dir, options = self.guard.state_dir, self.guard.options
        self.systemd = Systemd(self, watchdog=0.4)
        self.guard = SystemdGuard(self, self.systemd)
        self.guard.state_dir, self.guard.options = state_dir, options

    def test_the_watchdog_is_fed_while_the_journal_waits_for_the_disk(self):
        disk = self.need_ext4()
        vms = self.start_all(2)
        hanging, other = (self.guard.swtpm(vm) for vm in vms)
        hanging.write("permall", self.value())
        self.sim.kill()
        hanging.write("permall", self.value())
        statuses = []
        with disk.frozen():
            before = len(self.systemd.signs_of_life())
            crowd = Crowd()
            crowd.start(lambda: statuses.append(hanging.put("permall", self.value()).status))
            wait_until(lambda: statuses, 30, "the journal is given up")
            self.assertEqual(statuses, [503])
            self.assertEqual(self.guard.status()["journal"]["state"], "stalled")
            # Longer than systemd would have waited, many times over.
            self.assertGreater(len(self.systemd.signs_of_life()) - before, 10)
            crowd.join(10)
        self.sim.start()
        for tpm in (hanging, other):
            tpm.write("permall", self.value())
        self.assert_all_delivered(vms, [hanging, other])
        self.assertEqual(self.systemd.said(self.guard.process.pid, "READY"), ["1"])

    def stopped_without_a_journal(self):
        """A guard that has to make its journal anew, on a disk that can be made to hang."""
        # Only the journal stands on that disk: the lock beside it is had before.
        self.guard.state_dir = os.path.join(self.dir, "state")
        self.place = os.path.join(self.guard.state_dir, "journal")
        os.mkdir(self.guard.state_dir, 0o700)
        disk = self.need_ext4()
        (vm,) = self.start_all(1)
        tpm = self.track(CurlSwtpm(self.guard.socket_path(vm)))
        tpm.write("permall", self.value())
        self.guard.stop()
        for name in ("a", "b"):
            os.unlink(os.path.join(self.place, name))
        return disk, vm, tpm

    def test_a_journal_that_takes_long_to_be_read_keeps_nobody_from_being_ready(self):
        disk, vm, tpm = self.stopped_without_a_journal()
        crowd = Crowd()
        with disk.frozen():
            self.guard.spawn()
            crowd.start(tpm.write, "permall", self.value())
            pid = self.guard.process.pid
            self.guard.wait_ready()
            self.assertEqual(self.systemd.said(pid, "STATUS"), ["the journal has not been read yet"])
            fed = len(self.systemd.signs_of_life())
            wait_until(lambda: len(self.systemd.signs_of_life()) > fed + 5, 20, "the watchdog is fed")
            self.assertTrue(crowd.threads[0].is_alive(), "it waits in the queue of its socket")
        crowd.join(30)
        self.assertEqual(tpm.troubles, [])
        self.assertEqual(self.systemd.said(pid, "READY"), ["1"])
        wait_until(lambda: self.systemd.said(pid, "STATUS")[-1] == "direct, upstream up, nothing pending", 30, "all is well",
                   lambda: self.systemd.said(pid, "STATUS"))
        self.assert_delivered(vm, tpm.acknowledged)

    def test_a_stop_before_the_journal_is_read_loses_nobody_who_waits(self):
        disk, vm, tpm = self.stopped_without_a_journal()
        crowd = Crowd()
        with disk.frozen():
            self.guard.spawn()
            crowd.start(tpm.write, "permall", self.value())
            pid = self.guard.process.pid
            wait_until(lambda: self.systemd.said(pid, "WATCHDOG"), 20, "its loop runs")
            self.guard.process.popen.terminate()
            wait_until(lambda: self.systemd.said(pid, "STOPPING") == ["1"], 20, "it stops")
            self.assertEqual(self.systemd.said(pid, "READY"), [])
        self.assertEqual(self.guard.process.wait(30), 0)
        self.assertTrue(crowd.threads[0].is_alive())
        self.guard.start()
        crowd.join(30)
        self.assertEqual(tpm.troubles, [])
        self.assert_delivered(vm, tpm.acknowledged)


if __name__ == "__main__":
    main()
