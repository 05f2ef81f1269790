"""The guard ends in every way and comes back: sockets, pending entries, values."""

import json
import os
import signal
import stat
import time

from guardtest import Crowd, Guard, Scenario, TransportError, main, vm_uuid, wait_until


class Restart(Scenario):
    direct_timeout = "5s"

    def test_killed_with_entries_pending_everything_is_there_again(self):
        vms = self.start_all(6)
        tpms = [self.guard.swtpm(vm) for vm in vms]
        for tpm in tpms:
            tpm.write("permall", self.value(6000))
        self.sim.kill()
        for tpm in tpms:
            tpm.write("permall", self.value(6000))
            tpm.write("volatilestate", self.value())
            tpm.erase("volatilestate")
            tpm.write("savestate", self.value())
        self.guard.kill()
        self.guard.start()
        status = self.guard.status()
        self.assertEqual(sorted(s["vm"] for s in status["sockets"]), vms)
        self.assertEqual(status["pending"]["entries"], 18)
        for vm, tpm in zip(vms, tpms):
            mode = os.stat(self.guard.socket_path(vm))
            self.assertTrue(stat.S_ISSOCK(mode.st_mode))
            self.assertEqual(stat.S_IMODE(mode.st_mode), 0o660)
            for slot, value in tpm.acknowledged.items():
                self.assertEqual(tpm.read(slot), value)
        self.sim.start()
        self.guard.wait_idle()
        for vm, tpm in zip(vms, tpms):
            self.assert_delivered(vm, tpm.acknowledged)
        self.assertEqual(self.guard.status()["parked"], [])

    def let_deliver(self):
        if not self.sim.process.running():
            self.sim.start()
        wait_until(lambda: self.guard.status()["pending"]["entries"] == 0, 60, "nothing is pending", self.guard.status)

    def test_killed_again_and_again_under_writers_while_xapi_comes_and_goes(self):
        vms = self.start_all(6, ["--direct-timeout", "100ms", "--doubt-window", "1s"])
        tpms = [self.guard.swtpm(vm, timeout=5, give_up_after=40) for vm in vms]
        end = time.monotonic() + 20
        written = [[] for _ in vms]

        def write_on(tpm, values):
            while time.monotonic() < end:
                value = self.value(self.random.choice((30, 3000)))
                # Attempted counts too: a write whose answer was lost is repeated, and may have taken effect.
                values.append(value)
                tpm.write("permall", value)
                if tpm.read("permall") != value:
                    raise AssertionError("a read did not give the last acknowledged value")

        crowd = Crowd()
        for tpm, values in zip(tpms, written):
            crowd.start(write_on, tpm, values)
        turns = 0
        while time.monotonic() < end:
            # A record remembers fifteen values, so that more restarts than that without any delivery in between
            # would make an own value foreign (decision 0025).
            if turns % 9 == 8:
                self.let_deliver()
            time.sleep(self.random.uniform(0.2, 1.2))
            if turns % 3 == 0:
                self.sim.kill()
            elif turns % 3 == 1:
                self.sim.start()
            self.guard.kill()
            self.guard.start()
            turns += 1
        crowd.join(60)
        if not self.sim.process.running():
            self.sim.start()
        self.guard.wait_idle(90)
        self.assertGreater(turns, 5)
        for vm, tpm, values in zip(vms, tpms, written):
            self.assertGreater(len(values), 10)
            self.assert_delivered(vm, tpm.acknowledged)
        self.assertEqual(self.guard.status()["parked"], [])

    def test_sigterm_during_writes_is_a_delay_and_no_failure(self):
        vms = self.start_all(4, ["--doubt-window", "1s"])
        tpms = [self.guard.swtpm(vm) for vm in vms]
        stop = []

        def write_on(tpm):
            while not stop:
                tpm.write("permall", self.value(3000))

        crowd = Crowd()
        for tpm in tpms:
            crowd.start(write_on, tpm)
        for turn in range(4):
            time.sleep(0.4)
            if turn == 2:
                self.sim.kill()
            self.guard.stop()
            self.guard.start()
        stop.append(True)
        crowd.join(30)  # a permanent failure of a client would show here
        self.sim.start()
        self.guard.wait_idle()
        for vm, tpm in zip(vms, tpms):
            self.assert_delivered(vm, tpm.acknowledged)

    def test_a_request_under_way_at_sigterm_is_answered(self):
        (vm,) = self.start_all(guard_options=["--direct-timeout", "2s"])
        tpm = self.guard.swtpm(vm)
        tpm.write("permall", self.value())
        self.sim.fault("VTPM.set_contents", "delay", ms=800, count=1)
        value = self.value()
        crowd = Crowd()
        crowd.start(tpm.write, "permall", value)
        time.sleep(0.3)
        self.guard.stop()
        crowd.join(10)
        self.assertEqual(tpm.retries, 0)
        self.guard.start()
        self.assertEqual(tpm.read("permall"), value)
        self.guard.wait_idle()
        self.assert_delivered(vm, {"permall": value})

    def test_2000_entries_are_there_soon_after_the_start(self):
        vms = [vm_uuid(i + 1) for i in range(667)]
        self.guard.write_resume_file(vms)
        self.guard.start()
        acknowledged = {}
        for vm in vms:
            tpm = self.guard.swtpm(vm)
            for slot in ("permall", "savestate", "volatilestate"):
                tpm.write(slot, self.value(3000))
            tpm.close()
            acknowledged[vm] = tpm.acknowledged
        self.assertEqual(self.guard.status()["pending"]["entries"], 2001)
        self.guard.kill()
        begin = time.monotonic()
        self.guard.start()
        self.assertLess(time.monotonic() - begin, 5)
        status = self.guard.status()
        self.assertEqual((status["pending"]["entries"], status["pending"]["vms"]), (2001, 667))
        self.assertEqual(len(status["sockets"]), 667)
        for vm in (vms[0], vms[300], vms[-1]):
            tpm = self.guard.swtpm(vm)
            for slot, value in acknowledged[vm].items():
                self.assertEqual(tpm.read(slot), value)
        self.sim.flush_seconds = 5
        self.sim.start("--latency", "1ms")
        begin = time.monotonic()
        self.guard.wait_idle(60)
        held = self.sim.all_contents()
        self.assertEqual({vm: held[vm] for vm in vms}, acknowledged)
        # One update carries all three slots of a VM.
        self.assertEqual(self.sim.calls("VTPM.set_contents"), 667)
        self.assert_no_overlap()

    def test_a_second_guard_on_the_same_state_directory_refuses(self):
        (vm,) = self.start_all()
        tpm = self.guard.swtpm(vm)
        tpm.write("permall", self.value())
        second = Guard(self, "second")
        second.state_dir = self.guard.state_dir
        process = self.launch("xapi-guard", second.arguments(), second.log)
        self.assertNotEqual(process.wait(30), 0)
        self.assertIn(self.guard.state_dir, process.text())
        # The first one has not noticed.
        tpm.write("permall", self.value())
        self.assertEqual(tpm.retries, 0)
        self.assert_delivered(vm, tpm.acknowledged)

    def test_the_state_directory_of_a_killed_guard_is_free_again(self):
        self.start_all()
        self.guard.kill()
        self.guard.start()

    def test_a_truncated_resume_file_loses_only_what_is_cut_off(self):
        vms = self.start_all(5)
        self.guard.stop()
        with open(self.guard.resume_file, encoding="utf-8") as file:
            text = file.read()
        self.assertEqual(len(json.loads(text)), 5)
        with open(self.guard.resume_file, "w", encoding="utf-8") as file:
            file.write(text[:text.rindex("{") + 20])
        self.guard.start()
        served = self.guard.status()["sockets"]
        self.assertEqual(len(served), 4)
        self.assertIn("resume", self.guard.process.text())
        tpm = self.guard.swtpm(served[0]["vm"])
        tpm.write("permall", self.value())
        # The broken file was kept for inspection, and a new one is whole.
        beside = [name for name in os.listdir(self.dir) if name.startswith("guard.resume") and name != "guard.resume"]
        self.assertTrue(beside, os.listdir(self.dir))
        missing = next(vm for vm in vms if vm not in {s["vm"] for s in served})
        self.guard.create(missing)
        self.guard.kill()
        self.guard.start()
        self.assertEqual(sorted(s["vm"] for s in self.guard.status()["sockets"]), vms)

    def test_a_foreign_resume_file_does_not_stop_the_daemon(self):
        for text in ("", "null", "{}", "\x00" * 4096, "<html>", '[{"typ":"Qemu","gid":1,"path":"/x","vm_uuid":"y"}]'):
            with open(self.guard.resume_file, "w", encoding="utf-8") as file:
                file.write(text)
            self.guard.start()
            self.assertEqual(self.guard.status()["sockets"], [])
            self.guard.stop()

    def test_a_resume_file_of_the_original_is_understood(self):
        self.sim.start()
        vm = vm_uuid(1)
        path = self.guard.socket_path(vm)
        os.makedirs(os.path.dirname(path))
        with open(self.guard.resume_file, "w", encoding="utf-8") as file:
            file.write('[{"vm_uuid":"%s","PATH":"%s","gid":"%d","typ":"swtpm","more":[1]},' % (vm, path, os.getgid()))
            file.write('{"typ":"Swtpm","gid":1,"path":"%s/gone/s","vm_uuid":"%s"}]' % (self.dir, vm_uuid(2)))
        self.guard.start()
        tpm = self.guard.swtpm(vm)
        tpm.write("permall", self.value())
        self.assert_delivered(vm, tpm.acknowledged)

    def test_a_destroyed_socket_does_not_come_back(self):
        vms = self.start_all(2)
        path = self.guard.socket_path(vms[0])
        self.guard.ctl("vtpm-destroy", str(os.getgid()), path)
        self.assertFalse(os.path.exists(path))
        with self.assertRaises(TransportError):
            self.guard.device(vms[0]).get("permall")
        self.guard.kill()
        self.guard.start()
        self.assertEqual([s["vm"] for s in self.guard.status()["sockets"]], [vms[1]])
        self.assertFalse(os.path.exists(path))

    def test_entries_of_a_destroyed_socket_are_delivered_all_the_same(self):
        vms = self.start_all(2)
        tpm = self.guard.swtpm(vms[0])
        tpm.write("permall", self.value())
        self.sim.kill()
        tpm.write("permall", self.value())
        self.guard.ctl("vtpm-destroy", str(os.getgid()), self.guard.socket_path(vms[0]))
        self.sim.start()
        self.guard.wait_idle()
        self.assert_delivered(vms[0], tpm.acknowledged)

    def test_clients_queue_while_the_guard_is_stopped_by_a_debugger(self):
        (vm,) = self.start_all()
        tpm = self.guard.swtpm(vm)
        tpm.write("permall", self.value())
        os.kill(self.guard.process.pid, signal.SIGSTOP)
        crowd = Crowd()
        crowd.start(tpm.write, "permall", self.value())
        time.sleep(1)
        os.kill(self.guard.process.pid, signal.SIGCONT)
        crowd.join(20)
        self.assertEqual(tpm.retries, 0)
        self.assert_delivered(vm, tpm.acknowledged)


if __name__ == "__main__":
    main()
