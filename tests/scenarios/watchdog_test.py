"""A disk that hangs is no reason to end a guard that still answers: its loop goes on feeding systemd's watchdog."""

from disktest import DiskScenario, main
from guardtest import Crowd, wait_until
from systemdtest import Systemd, SystemdGuard


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


if __name__ == "__main__":
    main()
