"""An update whose answer nobody got takes effect late, also after the guard that sent it was killed (P2)."""

import os
import signal

from guardtest import Crowd, Scenario, main, wait_until


class Doubt(Scenario):
    def pause(self):
        self.sim.process.popen.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.sim.process.popen.send_signal(signal.SIGCONT)

    def test_a_late_effect_across_the_death_of_the_guard_is_overwritten_and_stays_so(self):
        (vm,) = self.start_all(1, ["--doubt-window", "3s"])
        tpm = self.guard.swtpm(vm)
        values = [self.value() for _ in range(3)]
        tpm.write("permall", values[0])
        self.pause()
        try:
            # Acknowledged from the journal, while the update waits in xapi's socket.
            tpm.write("permall", values[1])
            self.guard.kill()
            self.guard.start()
            self.assertEqual(self.guard.status()["doubt"], 1, "it was noted")
            tpm.write("permall", values[2])
        finally:
            self.go_on()
        wait_until(lambda: len(self.sim.vtpm(vm)["history"]) > 1, 30, "the late effect")
        self.assertEqual(self.sim.contents(vm)["permall"], values[1])
        self.assertEqual(self.guard.status()["doubt"], 1, "no update while an older one may come")
        self.guard.wait_idle()
        self.assert_delivered(vm, {"permall": values[2]})
        self.assertEqual(tpm.read("permall"), values[2])
        self.assert_history_never_goes_back(vm, values)
        self.assertEqual(self.guard.counter("parked"), 0, "a value of one's own is no conflict")

    def test_only_the_lanes_with_an_update_under_way_are_in_doubt(self):
        vms = self.start_all(4, ["--direct-timeout", "200ms", "--doubt-window", "60s"])
        tpms = [self.guard.swtpm(vm) for vm in vms]
        for tpm in tpms:
            tpm.write("permall", self.value())
        self.sim.fault("VTPM.set_contents", "hang", vm=vms[0])
        tpms[0].write("permall", self.value())
        self.guard.kill()
        self.guard.start()
        self.assertEqual(self.guard.status()["doubt"], 1)
        for vm, tpm in list(zip(vms, tpms))[1:]:
            tpm.write("permall", self.value())
            self.assert_delivered(vm, tpm.acknowledged)
        self.assertEqual(self.guard.status()["pending"]["vms"], 1)

    def test_without_the_notes_every_lane_is_in_doubt_and_with_nothing_under_way_none(self):
        (vm,) = self.start_all(1, ["--doubt-window", "2s"])
        tpm = self.guard.swtpm(vm)
        tpm.write("permall", self.value())
        self.guard.stop()
        self.guard.start()
        self.assertEqual(self.guard.status()["doubt"], 0, "after an orderly stop nothing is under way")
        notes = os.path.join(self.guard.runtime_dir, "calls-under-way")
        self.assertEqual(os.stat(notes).st_mode & 0o7777, 0o600)
        self.guard.kill()
        with open(notes, "r+b") as file:
            file.write(b"damage")
        self.guard.start()
        self.assertEqual(self.guard.status()["doubt"], 1)
        self.assertIn("all_in_doubt", self.guard.process.text())
        tpm.write("permall", self.value())
        self.assertEqual(self.guard.status()["pending"]["entries"], 1)
        self.guard.wait_idle()
        self.assert_delivered(vm, tpm.acknowledged)

    def test_a_second_guard_does_not_take_the_notes(self):
        self.start_all(1)
        other = type(self.guard)(self, "other")
        other.runtime_dir = self.guard.runtime_dir
        process = self.launch("xapi-guard", other.arguments(), other.log)
        self.assertEqual(process.wait(), 1)
        self.assertIn("runtime_dir_unusable", process.text())
        self.assertTrue(self.guard.answers())

    def test_a_thousand_vms_do_not_notice_that_ten_hang(self):
        vms = ["%08x-0000-4000-8000-00000000aaaa" % (i + 1) for i in range(1000)]
        self.sim.flush_seconds = 5
        self.guard.options += ["--direct-timeout", "5s", "--doubt-window", "3s"]
        self.guard.write_resume_file(vms)
        self.sim.start()
        self.guard.start()
        for vm in vms[:10]:
            self.sim.fault("VTPM.set_contents", "hang", vm=vm)
        tpms = [self.guard.swtpm(vm) for vm in vms]

        def write_all(mine):
            for tpm in mine:
                tpm.write("permall", self.value())

        crowd = Crowd()
        for tpm in tpms[:10]:
            crowd.start(write_all, [tpm])
        for worker in range(8):
            crowd.start(write_all, tpms[10 + worker::8])
        crowd.join(200)
        status = self.guard.status()
        self.assertEqual((status["doubt"], status["pending"]["vms"]), (10, 10))
        self.assertEqual(status["counters"]["writes_unavailable"], 0)
        held = self.sim.all_contents()
        for vm, tpm in list(zip(vms, tpms))[10:]:
            self.assertEqual(held[vm]["permall"], tpm.acknowledged["permall"])
        self.sim.clear_faults()
        self.sim.release("apply")
        self.guard.wait_idle()
        for vm, tpm in list(zip(vms, tpms))[:10]:
            self.assert_delivered(vm, tpm.acknowledged)


if __name__ == "__main__":
    main()
