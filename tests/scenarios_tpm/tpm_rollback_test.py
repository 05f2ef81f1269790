"""Real TPMs whose newest state xapi has accepted and then lost in a crash (P13)."""

from guardtest import main, wait_until
from tpmtest import TpmScenario

TPMS = 4


class TpmRollback(TpmScenario):
    direct_timeout = "10s"

    def begin(self, operations=20):
        self.sim.flush_seconds = 3600
        guests = self.start_guests(TPMS)
        self.sim.call("sim.flush")
        before = [guest.acknowledged() for guest in guests]
        for guest in guests:
            guest.write(operations)
        self.assertEqual(self.guard.counter("writes_journaled"), 0)
        for guest, old in zip(guests, before):
            self.assertNotEqual(guest.acknowledged(), old)
        return guests

    def crash(self):
        self.sim.kill()
        self.sim.start()

    def assert_delivered_again(self, guests):
        wait_until(lambda: self.guard.counter("redelivered") >= TPMS, 60, "delivered again", self.guard.status)
        self.assert_whole(guests)

    def test_what_xapi_forgot_is_there_again(self):
        guests = self.begin()
        self.crash()
        self.assert_delivered_again(guests)

    def test_what_xapi_forgot_while_the_guard_was_restarted_is_there_again(self):
        # A record in the journal remembers the first value and fifteen more, and what xapi still has must be
        # among them.
        guests = self.begin(5)
        self.guard.stop()
        self.crash()
        self.guard.start()
        self.assert_delivered_again(guests)


if __name__ == "__main__":
    main()
