"""What xenopsd does with a VM, from its first start to its migration, with a real TPM. What the TPM finds when it is
started or resumed is never older than what it was told is stored."""

import os

from guardtest import SLOTS, Device, Swtpm, main, wait_until
from xenopsdtest import XenopsdScenario


class Life(XenopsdScenario):
    def test_first_start_with_manufacture_shutdown_and_reboot(self):
        self.sim.start()
        host, vm = self.host(), self.vm
        first = host.start_vm(vm)
        vm.run("write", "--count", 5)
        host.stop_vm(first)
        second = host.start_vm(vm)
        vm.run("verify")
        vm.run("write", "--count", 5)
        self.assertNotEqual(first, second)
        host.stop_vm(second)
        host.guard.wait_idle()
        vm.guest.verify_contents()
        self.assert_variables(vm)
        self.assertEqual(host.guard.status()["sockets"], [])

    def test_the_outage_begins_in_the_first_life_and_ends_in_the_second(self):
        self.sim.start()
        host, vm = self.host(), self.vm
        first = host.start_vm(vm)
        self.sim.kill()
        vm.run("write", "--count", 5)
        vm.change_variables()
        host.stop_vm(first)
        self.sim.start()
        host.guard.wait_up()
        second = host.start_vm(vm)
        vm.run("verify")
        vm.run("write", "--count", 3)
        host.stop_vm(second)
        host.guard.wait_idle()
        vm.guest.verify_contents()
        self.assert_variables(vm)

    def suspend_and_resume(self, down_before_save, kill_guard):
        self.sim.start()
        host, vm = self.host(), self.vm
        path = host.start_vm(vm)
        vm.run("write", "--count", 3)
        if down_before_save:
            self.sim.kill()
        vm.run("suspend", "--saved", vm.guest.saved, "--count", 4)
        vm.change_variables()
        record = host.save_vm(vm)
        host.stop_vm(path)
        if kill_guard:
            host.guard.kill()
            host.start_guard()
        if down_before_save:
            self.sim.start()
            host.guard.wait_up()
        path = host.start_vm(vm, record)
        self.assertIn("has the value it had before", vm.run("resume", "--saved", vm.guest.saved))
        self.assertEqual(self.read_slot(path, "volatilestate"), b"")
        vm.run("write", "--count", 3)
        host.stop_vm(path)
        host.guard.wait_idle()
        vm.guest.verify_contents()
        self.assert_variables(vm)
        self.assertEqual(host.guard.status()["parked"], [])

    def read_slot(self, path, slot):
        return self.track(Device(path)).get(slot).body

    def test_suspend_and_resume(self):
        self.suspend_and_resume(down_before_save=False, kill_guard=False)

    def test_suspend_while_xapi_is_down_and_resume(self):
        self.suspend_and_resume(down_before_save=True, kill_guard=False)

    def test_suspend_while_xapi_is_down_and_resume_after_a_crash_of_the_guard(self):
        self.suspend_and_resume(down_before_save=True, kill_guard=True)


class SlowXapi(Life):
    """The same lives with an xapi that takes its time."""

    def setUp(self):
        super().setUp()
        self.sim.options += ["--latency", "300ms"]


class Migration(XenopsdScenario):
    """Between hosts that share an xapi, and on one host."""

    def test_to_another_host(self):
        self.sim.start()
        source, destination, vm = self.host("a"), self.host("b"), self.vm
        old = source.start_vm(vm)
        vm.run("write", "--count", 3)
        vm.run("suspend", "--saved", vm.guest.saved, "--count", 4)
        record = source.save_vm(vm)
        # The destination writes before the source has given up its socket.
        new = destination.start_vm(vm, record)
        self.assertIn("has the value it had before", vm.run("resume", "--saved", vm.guest.saved))
        source.stop_vm(old)
        vm.run("write", "--count", 5)
        destination.stop_vm(new)
        for host in (source, destination):
            host.guard.wait_idle()
            self.assertEqual(host.guard.status()["parked"], [])
        vm.guest.verify_contents()
        self.assert_variables(vm)

    def test_from_a_host_on_which_writes_are_pending(self):
        self.sim.start()
        source, destination, vm = self.host("a"), self.host("b"), self.vm
        old = source.start_vm(vm)
        self.sim.kill()
        vm.run("suspend", "--saved", vm.guest.saved, "--count", 6)
        vm.change_variables()
        record = source.save_vm(vm)
        self.assertGreater(source.guard.status()["pending"]["entries"], 0)
        # The source does not come back to life before the VM has gone on elsewhere.
        source.guard.kill()
        self.sim.start()
        destination.guard.wait_up()
        new = destination.start_vm(vm, record)
        vm.run("resume", "--saved", vm.guest.saved)
        vm.run("write", "--count", 5)
        source.start_guard()
        source.stop_vm(old)
        wait_until(lambda: source.guard.status()["pending"]["entries"] == 0, 60, "what was pending is settled")
        # Whatever became of it, it did not go over what the destination wrote.
        path = vm.path
        vm.run("verify")
        destination.stop_vm(path)
        destination.guard.wait_idle()
        self.assertEqual(new, path)
        vm.guest.verify_contents()
        self.assert_variables(vm)

    def test_restarted_on_another_host_while_the_first_has_writes_pending(self):
        self.sim.start()
        first, second, vm = self.host("a"), self.host("b"), self.vm
        swtpm = self.track(Swtpm(first.start_vm(vm)))
        for slot in SLOTS:
            swtpm.write(slot, self.value())
        first.guard.wait_idle()
        self.sim.kill()
        swtpm.write("permall", self.value())
        vm.change_variables()
        first.guard.kill()  # and its host is gone for a while
        self.sim.start()
        other = self.track(Swtpm(second.start_vm(vm, forgotten=True)))
        other.acknowledged = {slot: other.read(slot) for slot in SLOTS}
        other.write("permall", self.value())
        first.start_guard()
        wait_until(lambda: first.guard.status()["parked"], 60, "the older write is set aside", first.guard.status)
        self.assert_delivered(vm.uuid, other.acknowledged)
        # The VM comes back to the first host: what is parked there is not shown to it.
        second.stop_vm(vm.path)
        record = second.save_vm(vm)
        back = self.track(Swtpm(first.start_vm(vm, record)))
        self.assertEqual({slot: back.read(slot) for slot in SLOTS}, other.acknowledged)
        self.assert_variables(vm)

    def test_on_the_same_host_with_two_sockets_for_a_moment(self):
        self.sim.start()
        host, vm = self.host(), self.vm
        old = host.start_vm(vm)
        vm.run("suspend", "--saved", vm.guest.saved, "--count", 4)
        record = host.save_vm(vm)
        new = host.start_vm(vm, record)
        self.assertEqual(len(host.guard.status()["sockets"]), 4, "of both TPMs and both varstoreds")
        vm.run("resume", "--saved", vm.guest.saved)
        host.stop_vm(old)
        self.assertTrue(os.path.exists(new))
        vm.run("write", "--count", 3)
        host.stop_vm(new)
        host.guard.wait_idle()
        vm.guest.verify_contents()
        self.assert_variables(vm)


class MigrationWithSlowXapi(Migration):
    """The same with an xapi that takes its time."""

    def setUp(self):
        super().setUp()
        self.sim.options += ["--latency", "300ms"]


if __name__ == "__main__":
    main()
