"""Somebody else's value stands in xapi, or the VM runs elsewhere: entries are parked or held, shown, and an operator
decides (P7, P14)."""

import json
import os

from guardtest import Scenario, main, wait_until

HOST = "00000000-0000-4000-8000-000000000001"  # of xapi-sim
OTHER_HOST = "00000000-0000-4000-8000-000000000002"
FOREIGN = b"Zm9yZWlnbg=="


class Conflict(Scenario):
    direct_timeout = "10s"

    def with_pending(self, action, **members):
        """A VM with an older value in xapi and a newer one pending, and what somebody else did meanwhile."""
        (self.vm,) = self.start_all(1, ["--host-uuid", HOST])
        self.tpm = self.guard.swtpm(self.vm)
        self.older, self.newer = self.value(), self.value()
        self.tpm.write("permall", self.older)
        self.sim.kill()
        self.tpm.write("permall", self.newer)
        if action == "set_resident_on_without_socket":
            self.guard.ctl("vtpm-destroy", str(os.getgid()), self.guard.socket_path(self.vm))
            action = "set_resident_on"
        self.sim.edit_while_down(action, self.vm, **members)
        self.sim.start()

    def wait_for(self, what):
        wait_until(lambda: self.guard.status()[what], 30, what, self.guard.status)
        return self.guard.status()[what]

    def check(self):
        return self.guard.ctl("status", "--check", check=False).returncode

    def parked_after_a_change(self):
        self.with_pending("set_contents", contents=FOREIGN.decode())
        parked = self.wait_for("parked")
        self.assertEqual([(p["vm"], p["slot"], p["bytes"]) for p in parked], [(self.vm, "permall", len(self.newer))])
        self.assertIn("permall", parked[0]["reason"])
        self.assertTrue(parked[0]["since"].endswith("Z"))
        self.assertEqual(self.sim.contents(self.vm)["permall"], FOREIGN, "nothing was overwritten")
        self.assertEqual(self.tpm.read("permall"), FOREIGN, "parked entries are out of the data path")
        self.assertEqual(self.check(), 2)
        self.assertEqual([p["state"] for p in self.guard.pending()], ["parked"])
        self.assertEqual(self.guard.counter("parked"), 1)

    def test_what_somebody_else_changed_is_kept_and_the_entry_can_be_discarded(self):
        self.parked_after_a_change()
        # It survives a restart: parked again after the same comparison.
        self.guard.stop()
        self.guard.start()
        self.wait_for("parked")
        done = json.loads(self.guard.ctl("discard", self.vm).stdout)
        self.assertEqual(done, {"entries": 1})
        self.assertEqual(self.guard.status()["parked"], [])
        self.assertEqual(self.sim.contents(self.vm)["permall"], FOREIGN)
        self.assertEqual(self.check(), 0)
        self.assertEqual(self.guard.counter("discarded"), 1)
        self.assertEqual(self.guard.ctl("discard", self.vm, check=False).returncode, 1, "nothing is left")
        self.guard.kill()
        self.guard.start("--doubt-window", "1s")
        self.assertEqual(self.guard.pending(), [], "it was given up for good")
        # The lane works on.
        self.tpm.write("permall", self.newer)
        self.guard.wait_idle()
        self.assert_delivered(self.vm, {"permall": self.newer})

    def test_what_somebody_else_changed_can_be_overwritten_by_force(self):
        self.parked_after_a_change()
        self.assertEqual(self.guard.ctl("deliver", self.vm, check=False).returncode, 2, "force must be asked for")
        done = json.loads(self.guard.ctl("deliver", "--force", self.vm, "permall").stdout)
        self.assertEqual(done, {"entries": 1})
        self.guard.wait_idle()
        self.assert_delivered(self.vm, {"permall": self.newer})
        self.assertEqual(self.tpm.read("permall"), self.newer)
        self.assertEqual(self.check(), 0)

    def test_the_guest_writes_on_while_an_older_entry_is_parked(self):
        self.parked_after_a_change()
        newest = self.value()
        self.tpm.write("permall", newest)
        self.assert_delivered(self.vm, {"permall": newest})
        self.assertEqual(self.tpm.read("permall"), newest)

    def test_entries_of_a_vm_that_left_for_another_host_are_parked(self):
        self.with_pending("set_resident_on_without_socket", host=OTHER_HOST)
        parked = self.wait_for("parked")
        self.assertEqual([(p["vm"], p["slot"]) for p in parked], [(self.vm, "permall")])
        self.assert_delivered(self.vm, {"permall": self.older})
        self.assertEqual(self.check(), 2)

    def test_entries_of_a_vm_that_is_served_here_wait_until_it_is_back(self):
        self.guard.options += ["--doubt-window", "1s"]
        self.with_pending("set_power_state", power_state="Running")
        self.guard.wait_idle()
        # Found at a start, so somebody asks where the VM runs.
        self.sim.kill()
        self.tpm.write("permall", self.older)
        self.guard.stop()
        self.guard.start()
        self.sim.edit_while_down("set_resident_on", self.vm, host=OTHER_HOST)
        self.sim.start()
        held = self.wait_for("held")
        self.assertEqual((held[0]["vm"], held[0]["slot"]), (self.vm, "permall"))
        self.assertEqual(self.tpm.read("permall"), self.older, "held entries are what a read gives")
        self.assertEqual(self.sim.contents(self.vm)["permall"], self.newer)
        self.sim.edit("set_resident_on", self.vm, host=HOST)
        self.guard.wait_idle()
        self.assert_delivered(self.vm, {"permall": self.older})

    def test_a_held_entry_is_discarded(self):
        self.with_pending("delete_vm")
        held = self.wait_for("held")
        self.assertEqual((held[0]["vm"], held[0]["slot"]), (self.vm, "permall"))
        self.assertEqual(self.check(), 2)
        self.guard.ctl("discard", self.vm, "permall")
        status = self.guard.status()
        self.assertEqual((status["held"], status["pending"]["entries"]), ([], 0))
        self.assertEqual(self.check(), 0)


if __name__ == "__main__":
    main()
