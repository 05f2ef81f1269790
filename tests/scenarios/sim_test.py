"""xapi-sim as a program: options, the store, and what a crash costs."""

import os
import signal

from guardtest import Scenario, Sim, SimError, main, vm_uuid, vtpm_uuid, wait_until


class SimProgram(Scenario):
    def run_with(self, *arguments):
        process = self.launch("xapi-sim", arguments, os.path.join(self.dir, "run.log"))
        return process.wait(20), process.text()

    def store_value(self, vm, text):
        session = self.sim.call("session.login_with_password", "root", "", "1", "test")
        vtpm = self.sim.call("VM.get_VTPMs", session, self.sim.call("VM.get_by_uuid", session, vm))[0]
        self.sim.call("VTPM.set_contents", session, vtpm, text)
        return session, vtpm

    def test_wrong_options_are_refused(self):
        place = ["--socket", os.path.join(self.dir, "s")]
        for wrong in ([], [*place, "--nonsense"], [*place, "--vm", "x"], [*place, "--vm", "x=y"],
                      [*place, "--latency", "5"], [*place, "--log-level", "loud"], [*place, "--host-uuid", "x"],
                      [*place, "--flush-seconds", "-1"]):
            status, text = self.run_with(*wrong)
            self.assertEqual(status, 2, "%s: %s" % (wrong, text))

    def test_it_does_not_start_over_something_that_is_no_socket_or_store(self):
        path = os.path.join(self.dir, "file")
        with open(path, "w", encoding="utf-8") as file:
            file.write("{")
        self.assertEqual(self.run_with("--socket", path)[0], 1)
        self.assertEqual(self.run_with("--socket", self.dir + "/s", "--store", path)[0], 1)
        self.assertEqual(self.run_with("--socket", self.dir + "/s", "--store", path + "/below")[0], 1)
        self.assertEqual(self.run_with("--socket", self.dir + "/none/s")[0], 1)
        self.assertEqual(self.run_with("--socket", self.dir + "/" + "s" * 120)[0], 1)
        with open(path, encoding="utf-8") as file:
            self.assertEqual(file.read(), "{")

    def test_a_crash_costs_what_was_not_flushed(self):
        vm = vm_uuid(1)
        self.sim.flush_seconds = 3600
        self.sim.start()
        session, _ = self.store_value(vm, "kept")
        self.sim.call("sim.flush")
        self.store_value(vm, "lost")
        self.sim.kill()
        self.sim.start()
        self.assertEqual(self.sim.vtpm(vm)["contents"], "kept")
        # Sessions are never kept.
        with self.assertRaisesRegex(SimError, "SESSION_INVALID"):
            self.sim.call("VM.get_by_uuid", session, vm)

    def test_an_orderly_stop_costs_nothing_and_removes_the_socket(self):
        self.sim.flush_seconds = 3600
        self.sim.start()
        self.store_value(vm_uuid(1), "kept")
        self.sim.stop()
        self.assertFalse(os.path.exists(self.sim.socket))
        self.sim.start()
        self.assertEqual(self.sim.vtpm(vm_uuid(1))["contents"], "kept")

    def test_named_vms_exist_and_no_others(self):
        self.sim.options = ["--vm", vm_uuid(1) + "=" + vtpm_uuid(1), "--vm", vm_uuid(2) + "=" + vtpm_uuid(2)]
        self.sim.start()
        self.store_value(vm_uuid(1), "a")
        with self.assertRaisesRegex(SimError, "UUID_INVALID"):
            self.store_value(vm_uuid(3), "a")
        self.sim.kill()
        self.sim.start()
        self.assertEqual(self.sim.vtpm(vm_uuid(1))["contents"], "a")
        self.assertEqual(self.sim.vtpm(vm_uuid(1))["uuid"], vtpm_uuid(1))
        self.sim.kill()
        # Another vTPM takes the place of the old one.
        self.sim.options = ["--vm", vm_uuid(1) + "=" + vtpm_uuid(9)]
        self.sim.start()
        self.assertEqual(self.sim.vtpm(vm_uuid(1))["uuid"], vtpm_uuid(9))
        self.assertEqual(self.sim.vtpm(vm_uuid(1))["contents"], "")

    def test_a_store_that_cannot_be_written_is_reported_and_service_goes_on(self):
        folder = os.path.join(self.dir, "folder")
        os.mkdir(folder)
        self.sim.store = os.path.join(folder, "store")
        self.sim.start()
        self.store_value(vm_uuid(1), "a")
        os.unlink(self.sim.store)
        os.mkdir(self.sim.store)  # a file cannot be renamed over a directory
        self.store_value(vm_uuid(1), "b")
        self.assertEqual(self.sim.vtpm(vm_uuid(1))["contents"], "b")
        wait_until(lambda: "store_write_failed" in self.sim.process.text(), 10, "the failure is logged")

    def test_two_of_them_side_by_side(self):
        self.sim.start()
        other = Sim(self, "other").start()
        self.store_value(vm_uuid(1), "a")
        self.assertIsNone(other.vtpm(vm_uuid(1)))
        self.assertEqual(self.sim.process.popen.poll(), None)
        other.process.popen.send_signal(signal.SIGINT)
        self.assertEqual(other.process.wait(), 0)


if __name__ == "__main__":
    main()
