"""Suspend and resume of a real TPM, with its volatile state, while xapi is down."""

from guardtest import main
from tpmtest import TpmScenario


class TpmSuspend(TpmScenario):
    def test_a_tpm_is_suspended_and_resumed_with_xapi_up(self):
        (guest,) = self.start_guests(1)
        guest.run("suspend", "--saved", guest.saved, "--count", 7)
        self.assertIn("has the value it had before", guest.run("resume", "--saved", guest.saved))
        self.assert_whole([guest])

    def test_a_tpm_is_suspended_and_resumed_with_xapi_down(self):
        (guest,) = self.start_guests(1)
        self.sim.kill()
        guest.run("suspend", "--saved", guest.saved, "--count", 7)
        self.assertIn("has the value it had before", guest.run("resume", "--saved", guest.saved))
        self.assertEqual(guest.write(10)["retries"], 0)
        self.sim.start()
        self.assert_whole([guest])

    def test_xapi_down_for_the_suspension_only(self):
        (guest,) = self.start_guests(1)
        self.sim.kill()
        guest.run("suspend", "--saved", guest.saved, "--count", 3)
        self.sim.start()
        self.guard.wait_idle()
        self.assert_in_xapi(guest)
        guest.run("resume", "--saved", guest.saved)
        self.assert_whole([guest])

    def test_the_guard_is_killed_between_suspension_and_resume_in_the_outage(self):
        (guest,) = self.start_guests(1)
        self.sim.kill()
        guest.run("suspend", "--saved", guest.saved, "--count", 3)
        self.guard.kill()
        self.guard.start()
        guest.run("resume", "--saved", guest.saved)
        self.sim.start()
        self.assert_whole([guest])

    def test_no_volatile_state_is_left_for_a_later_cold_boot(self):
        (guest,) = self.start_guests(1)
        self.sim.kill()
        guest.run("suspend", "--saved", guest.saved)
        self.assertEqual(self.guard.device(guest.vm).get("volatilestate").body, b"")
        guest.verify()  # a boot, not a resume: it must not find the volatile state of before
        self.sim.start()
        self.assert_whole([guest])


if __name__ == "__main__":
    main()
