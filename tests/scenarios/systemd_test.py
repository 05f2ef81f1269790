"""Restarts under systemd: the sockets stay open, so that clients wait where they would have been refused."""

import os
import socket
import stat
import tempfile
import threading
import time

from guardtest import Crowd, Scenario, TransportError, main, wait_until
from systemdtest import CurlSwtpm, Systemd, SystemdGuard
from varstoretest import CallFailed

TPMS, STORES = 64, 8


class Busy:
    """So many clients, each with a write every tenth of a second and a read of what it wrote."""

    def __init__(self, scenario, tpms, stores):
        self.scenario, self.ended, self.crowd = scenario, threading.Event(), Crowd()
        self.tpms, self.stores = tpms, stores
        self.lost = []  # calls of varstored: (begin, end, reason)
        self.stall = 0.0
        for tpm in tpms:
            self.crowd.start(self.write_vtpm, tpm)
        for store in stores:
            self.crowd.start(self.write_variables, store)

    def paced(self, step):
        while not self.ended.is_set():
            begin = time.monotonic()
            step()
            took = time.monotonic() - begin
            self.stall = max(self.stall, took)
            time.sleep(max(0.0, 0.1 - took))

    def write_vtpm(self, tpm):
        def step():
            value = self.scenario.value(2000)
            tpm.write("permall", value)
            if tpm.read("permall") != value:
                raise AssertionError("a read did not give what was acknowledged")
        self.paced(step)

    def write_variables(self, store):
        def step():
            begin = time.monotonic()
            try:
                store.set(self.scenario.value(600).decode())
            except CallFailed as error:
                self.lost.append((begin, time.monotonic(), str(error)))
        self.paced(step)

    def end(self):
        self.ended.set()
        self.crowd.join(60)

    def troubles(self):
        return [trouble for tpm in self.tpms for trouble in tpm.troubles]

    def report(self, what):
        print("%s, %d vTPMs and %d varstoreds: %d requests of vTPMs, %d troubles; %d calls of varstoreds lost; longest stall"
              " %.2f s" % (what, len(self.tpms), len(self.stores), sum(len(t.latencies) for t in self.tpms),
                           len(self.troubles()), len(self.lost), self.stall))


class SystemdScenario(Scenario):
    version = 252
    watchdog = None

    def setUp(self):
        super().setUp()
        self.systemd = Systemd(self, self.version, self.watchdog)
        self.guard = SystemdGuard(self, self.systemd)

    def tpm(self, vm):
        return self.track(CurlSwtpm(self.guard.socket_path(vm)))

    def start_busy(self, tpms=TPMS, stores=STORES):
        # Writing its database at each update, xapi-sim would be the slowest of all.
        self.sim.flush_seconds = 5
        vms = self.start_all(max(tpms, stores), ["--doubt-window", "1s"])
        for vm in vms[:stores]:
            self.guard.create_varstore(vm)
        self.systemd.wait_kept(max(tpms, stores) + stores)
        return Busy(self, [self.tpm(vm) for vm in vms[:tpms]], [self.guard.varstored(vm) for vm in vms[:stores]])

    def assert_all_there(self, busy):
        self.guard.wait_idle()
        for tpm in busy.tpms:
            vm = next(s["vm"] for s in self.guard.status()["sockets"] if s["path"] == tpm.path)
            self.assert_delivered(vm, tpm.acknowledged)
        self.assertEqual(self.guard.status()["parked"], [])
        self.assertEqual(self.systemd.strangers, 0)


class Restarts(SystemdScenario):
    def test_busy_clients_do_not_notice_a_restart(self):
        busy = self.start_busy()
        for turn in range(4):
            time.sleep(1)
            if turn == 2:
                self.sim.kill()
            self.guard.restart()
        self.sim.start()
        time.sleep(1)
        busy.end()
        busy.report("4 restarts")
        self.assertEqual(busy.troubles(), [])
        self.assertEqual(busy.lost, [])
        self.assertEqual(self.guard.process.text().count("inherited=%d" % (TPMS + STORES)), 4)
        self.assert_all_there(busy)

    def test_a_crash_breaks_only_what_is_under_way(self):
        busy = self.start_busy()
        crashes = []
        for _ in range(3):
            time.sleep(1)
            crashes.append(time.monotonic())
            self.guard.crash()
        time.sleep(1)
        busy.end()
        busy.report("3 crashes")
        # swtpm tries again what was under way; nobody is refused, and nobody is answered with a failure.
        for trouble in busy.troubles():
            self.assertRegex(trouble, "^(closed without a whole answer|receive: .*reset|send: .*(Broken pipe|reset))")
        self.assertLessEqual(len(busy.troubles()), len(crashes) * TPMS)
        # varstored does not: a call under way is lost, one that begins while nobody is there waits.
        for begin, end, reason in busy.lost:
            self.assertTrue(any(begin < crash < end for crash in crashes), reason)
            self.assertNotIn("refused", reason)
        self.assertLessEqual(len(busy.lost), len(crashes) * STORES)
        self.assert_all_there(busy)

    def test_a_chain_of_varstored_that_begins_while_nobody_is_there_succeeds(self):
        (vm,) = self.start_all(1)
        self.guard.create_varstore(vm)
        store = self.guard.varstored(vm)
        store.start()
        for end in (self.guard.stop, self.guard.kill):
            end()
            crowd = Crowd()
            crowd.start(store.set, self.value(600).decode())
            time.sleep(0.5)
            self.assertTrue(crowd.threads[0].is_alive())
            self.guard.start()
            crowd.join(30)
        self.assertEqual(self.guard.varstored(vm).start(), store.value)

    def test_a_start_that_fails_loses_nobody_who_waits(self):
        (vm,) = self.start_all(1)
        tpm = self.tpm(vm)
        tpm.write("permall", self.value())
        self.guard.stop()
        crowd = Crowd()
        crowd.start(tpm.write, "permall", self.value())
        time.sleep(0.3)
        # Where the control socket should be is something else: known after the sockets listen.
        os.mkdir(self.guard.control)
        self.guard.spawn()
        self.assertEqual(self.guard.process.wait(30), 1)
        self.assertIn("control_socket_unusable", self.guard.process.text())
        os.rmdir(self.guard.control)
        # And where the runtime directory should be: known before.
        os.rename(self.guard.runtime_dir, self.guard.runtime_dir + ".aside")
        with open(self.guard.runtime_dir, "w", encoding="ascii") as file:
            file.write("x")
        self.guard.spawn()
        self.assertEqual(self.guard.process.wait(30), 1)
        os.unlink(self.guard.runtime_dir)
        os.rename(self.guard.runtime_dir + ".aside", self.guard.runtime_dir)
        self.guard.start()
        crowd.join(30)
        self.assertEqual(tpm.retries, 0)
        self.assert_delivered(vm, tpm.acknowledged)


class Restarts219(Restarts):
    version = 219


class Store(SystemdScenario):
    def test_destroyed_sockets_do_not_come_back(self):
        vms = self.start_all(3)
        gone = self.guard.socket_path(vms[0])
        self.guard.ctl("vtpm-destroy", str(os.getgid()), gone)
        self.systemd.wait_kept(2)
        for again in (self.guard.restart, self.guard.crash):
            again()
            self.assertEqual(sorted(s["vm"] for s in self.guard.status()["sockets"]), vms[1:])
            self.assertFalse(os.path.exists(gone))
            self.systemd.wait_kept(2)
        # The same path for another VM: a new socket.
        self.guard.ctl("vtpm-create", vms[2], str(os.getgid()), gone)
        self.systemd.wait_kept(3)
        self.guard.restart()
        tpm = self.track(CurlSwtpm(gone))
        tpm.write("permall", self.value())
        self.assert_delivered(vms[2], tpm.acknowledged)

    def test_the_resume_file_decides(self):
        vms = self.start_all(3)
        self.guard.stop()
        self.guard.write_resume_file(vms[:1])
        os.unlink(self.guard.socket_path(vms[0]))
        self.guard.start()
        self.systemd.wait_kept(1)
        self.assertEqual([s["vm"] for s in self.guard.status()["sockets"]], vms[:1])
        tpm = self.tpm(vms[0])  # its file was gone: bound anew
        tpm.write("permall", self.value())
        with self.assertRaises(TransportError):
            self.guard.device(vms[1]).get("permall")

    def test_foreign_and_second_descriptors_do_no_harm(self):
        vms = self.start_all(2)
        with self.systemd.lock:
            ours = [(one.fd, one.name) for one in self.systemd.store]
        for fd, name in ours:
            self.systemd.put(fd, name or "stored")
        tcp = self.track(socket.socket())
        tcp.bind(("127.0.0.1", 0))
        tcp.listen(1)
        listener = self.track(socket.socket(socket.AF_UNIX))
        listener.bind(os.path.join(self.dir, "foreign"))
        listener.listen(1)
        with tempfile.TemporaryFile() as file:
            for number, fd in enumerate((file.fileno(), tcp.fileno(), listener.fileno(), 0)):
                self.systemd.put(fd, "foreign%d" % number)
        self.guard.restart()
        self.assertEqual(self.guard.process.text().count("descriptor_refused"), 4)
        self.assertIn("inherited=2", self.guard.process.text())
        # What has a name is not passed again.
        self.systemd.wait_kept(4 if self.version >= 236 else 8)
        for vm in vms:
            tpm = self.tpm(vm)
            tpm.write("permall", self.value())
            self.assertEqual(tpm.troubles, [])
        # Whose they are, they still are.
        other = self.track(socket.socket(socket.AF_UNIX))
        other.connect(os.path.join(self.dir, "foreign"))

    def test_nonsense_in_the_environment_is_reported_and_harmless(self):
        vms = self.start_all(2)
        for environment, reported in (
                ({"LISTEN_PID": "1"}, False), ({"LISTEN_PID": "me"}, True), ({"LISTEN_FDS": "many"}, True),
                ({"LISTEN_FDS": "-1"}, True), ({"LISTEN_FDS": "5000"}, True), ({"LISTEN_FDS": "1000000"}, True),
                ({"LISTEN_FDNAMES": "only-one"}, True), ({"WATCHDOG_USEC": "soon"}, True)):
            with self.subTest(environment=environment):
                before = self.guard.process.text().count("service_environment")
                self.systemd.environment = environment
                self.guard.restart()
                self.assertEqual(self.guard.process.text().count("service_environment") > before, reported)
                for vm in vms:
                    self.tpm(vm).write("permall", self.value())
                self.systemd.environment = {}
                self.guard.restart()

    def test_the_confined_daemon_makes_sockets_where_only_their_owner_may(self):
        if os.geteuid() != 0:
            self.skipTest("needs root, to have directories of others")
        (vm,) = self.start_all(1)
        place = os.path.join(self.dir, "swtpm-root-7")
        os.mkdir(place, 0o700)
        os.chown(place, 131_079, 131_079)
        path = os.path.join(place, "socket")
        self.guard.ctl("vtpm-create", vm, "131079", path)
        status = os.stat(path)
        self.assertEqual((stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid), (0o660, 0, 131_079))
        self.guard.restart()
        tpm = self.track(CurlSwtpm(path))
        tpm.write("permall", self.value())
        self.assertEqual(tpm.troubles, [])
        with open("/proc/%d/status" % self.guard.process.pid, encoding="ascii") as file:
            confined = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
        # CAP_DAC_OVERRIDE is 1, CAP_SETGID 6.
        self.assertEqual(int(confined["CapBnd"], 16), 1 << 1 | 1 << 6)
        if self.systemd.program:
            self.assertEqual((confined["Seccomp"], confined["NoNewPrivs"]), ("2", "1"))
        self.guard.ctl("vtpm-destroy", "131079", path)
        self.assertEqual(os.listdir(place), [])


class Store219(Store):
    version = 219


class Words(SystemdScenario):
    def test_status_says_mode_pending_and_upstream(self):
        (vm,) = self.start_all(1)
        said = lambda: self.systemd.said(self.guard.process.pid, "STATUS")
        wait_until(lambda: said()[-1] == "direct, upstream up, nothing pending", 20, "the status is told", said)
        tpm = self.tpm(vm)
        self.sim.kill()
        for slot in ("permall", "savestate"):
            tpm.write(slot, self.value())
        wait_until(lambda: said()[-1] == "engaged, upstream down, 2 entries pending", 20, "the status is told", said)
        self.guard.restart()
        wait_until(lambda: said()[-1] == "engaged, upstream down, 2 entries pending", 20, "the status is told", said)
        self.sim.start()
        wait_until(lambda: said()[-1] == "direct, upstream up, nothing pending", 20, "the status is told", said)
        pid = self.guard.process.pid
        self.guard.stop()
        self.assertEqual(self.systemd.said(pid, "STOPPING"), ["1"])
        self.assertEqual(self.systemd.said(pid, "READY"), ["1"])
        self.assertEqual(self.systemd.said(pid, "WATCHDOG"), [])


class Watchdog(SystemdScenario):
    watchdog = 0.4

    def test_it_is_fed_while_the_loop_runs_and_not_while_it_does_not(self):
        (vm,) = self.start_all(1)
        fed = self.systemd.signs_of_life
        wait_until(lambda: len(fed()) >= 10, 30, "the watchdog is fed")
        os.kill(self.guard.process.pid, 19)  # SIGSTOP: no thread of it runs
        time.sleep(0.2)  # what is on its way arrives
        before = len(fed())
        time.sleep(3 * self.watchdog)
        self.assertEqual(len(fed()), before)
        os.kill(self.guard.process.pid, 18)
        wait_until(lambda: len(fed()) > before + 3, 30, "the watchdog is fed again")
        self.tpm(vm).write("permall", self.value())


class Asleep(SystemdScenario):
    def switches(self):
        """How often threads of the guard have gone to sleep."""
        count = 0
        for task in os.listdir("/proc/%d/task" % self.guard.process.pid):
            with open("/proc/%d/task/%s/status" % (self.guard.process.pid, task), encoding="ascii") as file:
                count += next(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt_switches"))
        return count

    def asleep_for(self, seconds):
        before = self.switches()
        time.sleep(seconds)
        return self.switches() == before

    def test_an_idle_guard_without_a_watchdog_does_not_wake_up(self):
        vms = self.start_all(4)
        for vm in vms:
            tpm = self.tpm(vm)
            tpm.write("permall", self.value())
            tpm.close()
        self.guard.wait_idle()
        # What follows a request (a status, the end of a connection) is over soon; then nothing happens. Rare timers (a
        # retention that ends) may fall into one stretch.
        wait_until(lambda: self.asleep_for(3), 60, "the guard sleeps for three seconds")
        self.guard.stop()
        self.systemd.watchdog = 1
        self.guard.start()
        self.assertFalse(any(self.asleep_for(3) for _ in range(3)), "a watchdog would be seen")


if __name__ == "__main__":
    main()
