"""A real TPM while xapi is down, hangs, is slow, loses replies."""

import time

from guardtest import main, wait_until
from tpmtest import TpmScenario


class TpmOutage(TpmScenario):
    def test_a_tpm_notices_nothing_of_an_xapi_that_was_killed(self):
        (guest,) = self.start_guests(1)
        guest.write(20)
        self.assertEqual(self.guard.counter("writes_journaled"), 0, "all writes went direct")
        self.assert_in_xapi(guest)
        self.sim.kill()
        report = guest.write(100)
        self.assertEqual(report["operations"], 100)
        self.assertEqual(report["retries"], 0)
        self.assertEqual(report["connections"], 1)
        self.assertLess(report["puts"]["max_us"], 2e6)
        status = self.guard.status()
        self.assertEqual(status["mode"], "engaged")
        self.assertEqual(status["pending"]["vms"], 1)
        self.sim.start()
        self.assert_whole([guest])

    def test_a_tpm_that_writes_while_xapi_goes_and_comes_back_sees_no_failure(self):
        (guest,) = self.start_guests(1, ["--doubt-window", "1s"])
        process = guest.start_on_socket("write", "--count", 300, "--rate", 100, "--report", "json")
        for _ in range(2):
            time.sleep(0.4)
            self.sim.kill()
            time.sleep(0.6)
            self.sim.start()
        self.assertIn('"retries":0', guest.finish(process))
        self.assert_whole([guest])

    def test_a_hung_xapi_delays_the_first_write_by_the_direct_timeout_and_no_other(self):
        (guest,) = self.start_guests(1, ["--direct-timeout", "300ms"])
        fault = self.sim.fault("VTPM.set_contents", "hang")
        report = guest.write(50, "--no-shutdown")
        self.assertEqual(report["retries"], 0)
        self.assertLess(report["puts"]["max_us"], 1.5e6)
        self.assertLess(report["puts"]["p50_us"], 100e3)
        self.assertEqual(self.sim.hung(), 1, "one update, and no second one beside it")
        self.sim.call("sim.clear_faults", {"id": fault})
        self.sim.release("apply")
        self.assert_whole([guest])

    def test_an_update_whose_reply_is_lost_is_neither_lost_nor_undone(self):
        (guest,) = self.start_guests(1, ["--doubt-window", "1s"])
        self.sim.fault("VTPM.set_contents", "drop_reply", count=1, after=5)
        report = guest.write(40)
        self.assertEqual(report["retries"], 0)
        self.assert_whole([guest])

    def test_a_slow_xapi_slows_no_tpm_beyond_the_direct_timeout(self):
        guests = self.start_guests(4, ["--direct-timeout", "100ms"])
        self.sim.fault("*", "delay", ms=400)
        running = [g.start_on_socket("write", "--count", 30) for g in guests]
        for guest, process in zip(guests, running):
            self.assertIn(" 0 retried", guest.finish(process))
        self.sim.clear_faults()
        self.assert_whole(guests)

    def test_a_tpm_can_be_started_again_in_the_outage(self):
        (guest,) = self.start_guests(1)
        guest.write(5)
        self.sim.kill()
        for _ in range(3):
            guest.verify()
            guest.write(5)
        self.sim.start()
        self.assert_whole([guest])

    def test_a_tpm_that_starts_while_nothing_is_known_waits_and_keeps_its_identity(self):
        (guest,) = self.start_guests(1)
        guest.write(10)
        self.guard.stop()
        self.sim.kill()
        self.guard.start()  # knows nothing, and cannot ask
        process = guest.start_on_socket("verify")
        time.sleep(1.5)
        self.assertIsNone(process.poll(), "it must wait, whatever it was answered")
        self.assertEqual(self.guard.status()["pending"]["entries"], 0, "a new identity would have been stored")
        self.sim.start()
        self.assertIn("came back as it was stored", guest.finish(process))
        self.assert_whole([guest])

    def test_a_tpm_with_full_nv_memory_works_through_an_outage(self):
        (guest,) = self.start_guests(1, init_options=("--fill", 112000))
        guest.write(4)
        self.sim.kill()
        report = guest.write(40)
        self.assertEqual(report["retries"], 0)
        self.assertGreater(self.guard.status()["pending"]["bytes"], 150000)
        self.sim.start()
        self.assert_whole([guest])

    def test_a_vm_deleted_under_its_tpm_harms_no_other_tpm(self):
        doomed, other = self.start_guests(2)
        self.sim.kill()
        doomed.write(6)
        other.write(6)
        self.sim.edit_while_down("delete_vm", doomed.vm)
        self.sim.start()
        held = lambda: [h["vm"] for h in self.guard.status()["held"]]
        wait_until(lambda: held() == [doomed.vm], 60, "the lane of the deleted VM is held", self.guard.status)
        wait_until(lambda: self.guard.status()["pending"]["vms"] == 1, 30, "the other is delivered", self.guard.status)
        self.assert_in_xapi(other)
        self.assertEqual(other.write(10)["retries"], 0)
        other.verify()


if __name__ == "__main__":
    main()
