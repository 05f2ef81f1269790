"""Real TPMs while updates take effect late (P2), somebody else changes the VM, or it runs elsewhere (P14): what a TPM was
told is stored is never lost, and nobody else's state is overwritten."""

import json
import os
import signal

from guardtest import Crowd, main, vm_uuid, vtpm_uuid, wait_until
from tpmtest import Guest, TpmScenario

HOST = "00000000-0000-4000-8000-000000000001"  # of xapi-sim
OTHER_HOST = "00000000-0000-4000-8000-000000000002"


class TpmTrouble(TpmScenario):
    def test_updates_that_take_effect_late_are_overwritten(self):
        guests = self.start_guests(4, ["--direct-timeout", "100ms", "--doubt-window", "2s"])
        for kill in (False, True):
            running = [guest.start_on_socket("write", "--count", 30) for guest in guests]
            wait_until(lambda: self.guard.counter("direct_calls") > 0, 30, "the TPMs write")
            self.sim.process.popen.send_signal(signal.SIGSTOP)
            try:
                # Acknowledged from the journal, while updates wait in xapi's socket.
                wait_until(lambda: self.guard.status()["pending"]["vms"] == len(guests), 60, "all are journaled",
                           self.guard.status)
                if kill:
                    self.guard.kill()
                    self.guard.start()
                for guest, process in zip(guests, running):
                    guest.finish(process)
            finally:
                self.sim.process.popen.send_signal(signal.SIGCONT)
            self.assert_whole(guests)

    def test_among_a_thousand_vms_of_which_ten_hang(self):
        vms = [vm_uuid(i + 1) for i in range(1000)]
        self.sim.flush_seconds = 5
        self.guard.options += ["--direct-timeout", "5s", "--doubt-window", "3s"]
        self.guard.write_resume_file(vms)
        self.sim.start()
        self.guard.start()
        # Two of those that hang have a real TPM, and four of the others.
        guests = [Guest(self, vm) for vm in vms[:2] + vms[10:14]]
        for process, guest in [(guest.start_on_socket("init"), guest) for guest in guests]:
            guest.finish(process)
        for vm in vms[:10]:
            self.sim.fault("VTPM.set_contents", "hang", vm=vm)
        running = [guest.start_on_socket("write", "--count", 10) for guest in guests]

        def write_all(mine):
            for vm in mine:
                tpm = self.guard.swtpm(vm)
                for _ in range(3):
                    tpm.write("permall", self.value())

        crowd = Crowd()
        for vm in vms[2:10]:
            crowd.start(write_all, [vm])
        for worker in range(8):
            crowd.start(write_all, vms[14 + worker::8])
        for guest, process in zip(guests, running):
            guest.finish(process, seconds=200)
        crowd.join(200)
        status = self.guard.status()
        self.assertEqual((status["doubt"], status["pending"]["vms"]), (10, 10))
        self.assertEqual(status["counters"]["writes_unavailable"], 0)
        for guest in guests[2:]:
            self.assert_in_xapi(guest)
        self.sim.clear_faults()
        self.sim.release("apply")
        self.assert_whole(guests)

    def begin(self, action, **members):
        """A TPM with newer states pending than xapi has, and what somebody else did meanwhile."""
        (guest,) = self.start_guests(1, ["--host-uuid", HOST])
        guest.write(10)
        self.guard.wait_idle()
        self.older = self.sim.contents(guest.vm)
        self.sim.kill()
        guest.write(10)
        # Its device is gone: the VM was shut down while xapi was away.
        self.guard.ctl("vtpm-destroy", str(os.getgid()), self.guard.socket_path(guest.vm))
        self.sim.edit_while_down(action, guest.vm, **members)
        self.sim.start()
        wait_until(lambda: self.guard.status()["parked"], 60, "parked", self.guard.status)
        self.assertEqual(self.guard.status()["pending"]["entries"], 0)
        return guest

    def force(self, guest):
        done = json.loads(self.guard.ctl("deliver", "--force", guest.vm).stdout)
        self.assertGreaterEqual(done["entries"], 1)
        self.guard.create(guest.vm)
        self.assert_whole([guest])

    def test_a_vm_that_went_to_another_host_keeps_what_it_has_there(self):
        guest = self.begin("set_resident_on", host=OTHER_HOST)
        self.assertEqual(self.sim.contents(guest.vm), self.older)
        # It never really ran there: the operator knows, and the TPM goes on where it was.
        self.sim.edit("set_resident_on", guest.vm, host=HOST)
        self.force(guest)

    def test_a_vtpm_that_a_snapshot_brought_back_is_not_overwritten(self):
        guest = self.begin("replace_vtpm", vtpm=vtpm_uuid(77))
        new = self.sim.vtpm(guest.vm)
        self.assertEqual(self.sim.vtpm(guest.vm)["contents"], new["contents"])
        self.assertEqual(self.guard.status()["parked"][0]["vm"], guest.vm)
        # A new TPM begins where the snapshot's object is empty, and is not disturbed by what is parked; its own
        # newer state takes the place of that.
        self.guard.create(guest.vm)
        fresh = type(guest)(self, guest.vm)
        fresh.ledger += ".fresh"
        fresh.init()
        fresh.write(10)
        self.guard.wait_idle()
        self.assert_in_xapi(fresh)
        fresh.verify()
        self.assertEqual(self.guard.status()["parked"], [])


if __name__ == "__main__":
    main()
