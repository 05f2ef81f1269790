"""Sixteen real TPMs while the guard is killed again and again, with xapi up and down."""

import time

from guardtest import main
from tpmtest import TpmScenario

TPMS = 16
SECONDS = 20


class TpmKill(TpmScenario):
    def test_sixteen_tpms_lose_nothing_however_often_the_guard_is_killed(self):
        guests = self.start_guests(TPMS, ["--direct-timeout", "200ms", "--doubt-window", "1s"])
        running = {g.vm: g.start_on_socket("write", "--count", SECONDS * 10, "--rate", 10, "--no-shutdown")
                   for g in guests}
        kills = {"guard": 0, "xapi": 0, "tpm": 0}
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(self.random.uniform(0.05, 1.0))
            self.guard.kill()
            kills["guard"] += 1
            if self.random.random() < 0.4:
                if self.sim.process.running():
                    self.sim.kill()
                    kills["xapi"] += 1
                else:
                    self.sim.start()
            self.guard.start()
            if self.random.random() < 0.3:
                # A VM is killed and started again; its TPM may have to wait for xapi.
                guest = self.random.choice(guests)
                running[guest.vm].kill()
                running[guest.vm].communicate()
                running[guest.vm] = guest.start_on_socket("write", "--count", 50, "--rate", 10, "--no-shutdown")
                kills["tpm"] += 1
        print("killed: %s; seed %d" % (kills, self.seed), flush=True)
        self.assertGreater(kills["guard"], 10)
        if not self.sim.process.running():
            self.sim.start()
        for guest in guests:
            self.assertIn("TPM operations acknowledged", guest.finish(running[guest.vm], 120))
        # A fresh guard, and every TPM through it and from xapi's own contents.
        self.guard.stop()
        self.guard.start()
        self.assert_whole(guests)
        self.assertEqual(self.guard.counter("bugs"), 0)

    def test_killed_in_the_outage_everything_is_there_when_xapi_is_back(self):
        guests = self.start_guests(TPMS, ["--doubt-window", "1s"])
        self.sim.kill()
        running = [g.start_on_socket("write", "--count", 60, "--rate", 15) for g in guests]
        for _ in range(8):
            time.sleep(self.random.uniform(0.1, 0.6))
            self.guard.kill()
            self.guard.start()
        for guest, process in zip(guests, running):
            guest.finish(process, 90)
        self.assertEqual(self.guard.status()["pending"]["vms"], TPMS)
        self.sim.start()
        self.assert_whole(guests)


if __name__ == "__main__":
    main()
