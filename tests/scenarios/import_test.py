"""The cache tree of the original daemon is taken over at the start."""

import os
import time

from guardtest import EMPTY, Scenario, main, vm_uuid, wait_until
from originaltest import CacheTree, state

HOST = "00000000-0000-4000-8000-000000000001"  # of xapi-sim
OTHER_HOST = "00000000-0000-4000-8000-000000000002"


class Import(Scenario):
    direct_timeout = "5s"

    def setUp(self):
        super().setUp()
        # After another daemon every lane is in doubt for this long.
        self.guard.options += ["--doubt-window", "1s"]
        self.tree = CacheTree(self.guard.state_dir)
        self.vms = [vm_uuid(i + 1) for i in range(4)]
        self.guard.write_resume_file(self.vms)

    def state(self, size=60):
        return state(self.random, size)

    def test_pending_states_are_delivered_exactly_once_each_and_junk_is_not(self):
        expected = {vm: {} for vm in self.vms}
        for vm in self.vms[:3]:
            for slot in ("permall", "volatilestate"):
                for timestamp in (999, 1000, 10 ** 18):
                    expected[vm][slot] = self.state(6001)
                    self.tree.put(vm, slot, timestamp, expected[vm][slot])
                self.tree.put(vm, slot, "%d.pre" % (10 ** 18 + 1), self.state())
                self.tree.put(vm, slot, "0x7fffffffffffffff", self.state())
                self.tree.put(vm, slot, "invalid", b"x")
            self.tree.put(vm, "7", 5, self.state())
        self.tree.put("foo", "0", 5, self.state())
        os.makedirs(self.tree.path(self.vms[0], "permall", 10 ** 18 + 2))
        os.symlink("/nonexistent", self.tree.path(self.vms[0], "permall", 10 ** 18 + 3))
        self.sim.start()
        self.guard.start()
        for vm in self.vms[:3]:
            for slot, value in expected[vm].items():
                self.assertEqual(self.guard.swtpm(vm).read(slot), value)
        self.guard.wait_idle()
        for vm in self.vms[:3]:
            self.assert_delivered(vm, expected[vm])
        self.assertEqual(self.guard.counter("delivery_calls"), 3, "the slots of a VM travel together")
        self.assertFalse(os.path.exists(self.tree.root))
        wait_until(lambda: not os.path.exists(self.tree.root + ".done"), 30, "what was imported is removed")
        quarantine = self.guard.ctl("quarantine", "list").stdout
        self.assertIn("cache-foo-0-5", quarantine)
        self.assertGreater(self.guard.status()["quarantine_bytes"], 0)
        self.guard.ctl("quarantine", "purge")
        self.assertEqual(os.listdir(os.path.join(self.guard.state_dir, "quarantine")), [])
        # The disk is out of the way again.
        commits = self.guard.counter("commits")
        tpm = self.guard.swtpm(self.vms[0])
        tpm.write("permall", self.state())
        self.assertEqual(self.guard.counter("commits"), commits)

    def test_600_keys_are_all_delivered(self):
        values = {}
        for i in range(600):
            values[vm_uuid(1000 + i)] = self.state()
            self.tree.put(vm_uuid(1000 + i), "permall", 10 ** 12 + i, values[vm_uuid(1000 + i)])
        self.sim.start()
        self.guard.start()
        self.guard.wait_idle()
        contents = self.sim.all_contents()
        for vm, value in values.items():
            self.assertEqual(contents[vm]["permall"], value)

    def test_a_state_that_the_full_disk_cut_off_is_unknown_until_it_is_discarded(self):
        vm, whole = self.vms[0], self.state(6001)
        self.sim.start()
        self.sim.edit("set_contents", vm, contents=(self.state(6001) + b"  ").decode())
        before = self.sim.contents(vm)
        self.tree.put(vm, "permall", 10, whole)
        self.tree.put(vm, "permall", 11, whole[:4096])
        self.tree.put(self.vms[1], "permall", 11, b"")
        self.guard.start()
        for wanted in self.vms[:2]:
            self.assertEqual(self.guard.device(wanted).get("permall").status, 503)
        self.guard.kill()
        self.guard.start()
        time.sleep(2)
        for wanted in self.vms[:2]:
            self.assertEqual(self.guard.device(wanted).get("permall").status, 503, "also after the next start")
        self.assertEqual(self.sim.contents(vm), before)
        held = {item["vm"] for item in self.guard.status()["held"]}
        self.assertEqual(held, set(self.vms[:2]))
        self.guard.ctl("discard", vm)
        self.assertEqual(self.guard.device(vm).get("permall").body, before["permall"])
        # A new state takes the place of the lost one.
        tpm = self.guard.swtpm(self.vms[1])
        tpm.write("permall", self.state())
        self.guard.wait_idle()
        self.assert_delivered(self.vms[1], tpm.acknowledged)

    def test_a_vm_that_runs_elsewhere_by_now_is_not_written(self):
        vm = self.vms[0]
        self.tree.put(vm, "permall", 10, self.state())
        self.sim.start()
        self.sim.edit("set_resident_on", vm, host=OTHER_HOST)
        self.guard.options += ["--host-uuid", HOST]
        os.unlink(self.guard.resume_file)  # and has no socket here
        self.guard.start()
        wait_until(lambda: self.guard.status()["parked"], 30, "it is parked", self.guard.status)
        self.assertEqual(self.sim.contents(vm)["permall"], EMPTY)

    def test_killed_again_and_again_while_it_takes_over(self):
        values = {}
        for i in range(200):
            vm = vm_uuid(1000 + i)
            values[vm] = self.state(6001)
            self.tree.put(vm, "permall", 10 ** 12 + i, values[vm])
            self.tree.put(vm, "savestate", "1.pre", b"x")
        for attempt in range(12):
            process = self.scenario_start()
            time.sleep(self.random.random() * 0.15 + 0.02 * attempt)
            process.kill()
        self.sim.start()
        self.guard.start()
        self.guard.wait_idle()
        contents = self.sim.all_contents()
        for vm, value in values.items():
            self.assertEqual(contents[vm]["permall"], value)
        self.assertFalse(self.tree.files())
        wait_until(lambda: not any(name.startswith("Swtpm") for name in os.listdir(self.guard.state_dir)), 30,
                   "what was imported is removed")

    def scenario_start(self):
        return self.launch("xapi-guard", self.guard.arguments(), self.guard.log)


if __name__ == "__main__":
    main()
