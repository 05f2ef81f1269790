"""The change itself: the original is stopped under busy clients in the middle of an outage, the guard takes its
place; and back."""

import os
import sys
import time

from guardtest import Crowd, Process, Scenario, main, vm_uuid, wait_until
from originaltest import CacheTree, state

SOCKETS = 64
WRITES_PER_SECOND = 10


class Original:
    """The stand-in, over the state directory and the resume file of a guard."""

    def __init__(self, scenario):
        self.scenario = scenario
        self.log = os.path.join(scenario.dir, "original.log")
        self.process = None

    def start(self):
        guard = self.scenario.guard
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "original_daemon.py")
        ready = self.text().count("ready")
        self.process = Process(script, [guard.state_dir, guard.resume_file, self.scenario.sim.socket], self.log,
                               wrapper=(sys.executable, "-B"))
        self.scenario.processes.append(self.process)
        wait_until(lambda: self.running() and self.text().count("ready") > ready, 30, "the original serves", self.text)

    def running(self):
        assert self.process.running(), self.text()
        return True

    def text(self):
        if not os.path.exists(self.log):
            return ""
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def stop(self):
        assert self.process.stop() == 0, self.text()


class Change(Scenario):
    direct_timeout = "5s"

    def setUp(self):
        super().setUp()
        os.makedirs(self.guard.state_dir, mode=0o700)
        self.guard.options += ["--doubt-window", "3s"]
        self.tree = CacheTree(self.guard.state_dir)
        self.original = Original(self)

    def make_vms(self, count):
        self.vms = [vm_uuid(i + 1) for i in range(count)]
        self.guard.write_resume_file(self.vms)
        self.written = {vm: [] for vm in self.vms}
        self.clients = [self.guard.swtpm(vm, give_up_after=120) for vm in self.vms]

    def write(self, client, vm):
        value = state(self.random, 60)
        client.write("permall", value)
        self.written[vm].append(value)

    def keep_writing(self, client, vm, until):
        due = time.monotonic() + self.random.random() / WRITES_PER_SECOND
        while not until():
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due + 1 / WRITES_PER_SECOND, time.monotonic())
            self.write(client, vm)

    def assert_all_in_xapi(self):
        contents = self.sim.all_contents()
        for vm, client in zip(self.vms, self.clients):
            self.assertEqual(contents[vm]["permall"], client.acknowledged["permall"], vm)
            self.assert_history_never_goes_back(vm, [value + b"  " for value in self.written[vm]])

    def test_under_64_busy_clients_and_an_outage(self):
        self.make_vms(SOCKETS)
        self.original.start()
        crowd, over = Crowd(), []
        for client, vm in zip(self.clients, self.vms):
            crowd.start(self.keep_writing, client, vm, lambda: bool(over))
        time.sleep(3)
        before = sum(map(len, self.written.values()))
        self.original.stop()
        taken_over = len(self.tree.newest())
        self.guard.start()
        time.sleep(3)
        self.assertEqual(self.guard.status()["upstream"]["state"], "down")
        self.sim.start()
        self.guard.wait_up()
        time.sleep(2)
        over.append(True)
        crowd.join(120)
        self.guard.wait_idle()
        self.assert_all_in_xapi()
        self.assertEqual(taken_over, SOCKETS)
        self.assertFalse(os.path.exists(self.tree.root))
        print("%d writes before the change and %d after it, %d states taken over; none failed, %d attempts were "
              "repeated, longest stall %.2f s" %
              (before, sum(map(len, self.written.values())) - before, taken_over,
               sum(client.retries for client in self.clients), max(max(c.latencies) for c in self.clients)))

    def test_there_and_back_and_there_again(self):
        self.make_vms(8)
        self.original.start()
        for client, vm in zip(self.clients, self.vms):
            self.write(client, vm)
        self.original.stop()
        self.guard.start()
        for client, vm in list(zip(self.clients, self.vms))[:4]:
            self.write(client, vm)
        # A VM that comes meanwhile: the original finds its socket in the resume file that the guard wrote.
        self.vms.append(vm_uuid(100))
        self.written[self.vms[-1]] = []
        self.guard.create(self.vms[-1])
        self.clients.append(self.guard.swtpm(self.vms[-1], give_up_after=120))
        self.write(self.clients[-1], self.vms[-1])
        self.clients[0].erase("permall")
        self.clients[1].write("volatilestate", b"c2hvcnQ=")
        # Back: what the guard took over and what it has acknowledged itself.
        self.guard.stop()
        exported = self.guard.ctl("export-cache", self.guard.state_dir).stdout
        self.assertIn('"entries":10', exported)
        self.assertEqual(len(self.tree.newest()), 10)
        self.original.start()
        for client in self.clients:
            for slot, value in client.acknowledged.items():
                self.assertEqual(client.read(slot), value)
        self.sim.start()
        wait_until(lambda: not self.tree.newest(), 60, "the original delivers")
        for client, vm in zip(self.clients, self.vms):
            self.assert_delivered(vm, client.acknowledged)
        # While the original serves, newer states; some of them are pending when it is stopped.
        for client, vm in list(zip(self.clients, self.vms))[:2]:
            self.write(client, vm)
        wait_until(lambda: not self.tree.newest(), 60, "the original delivers")
        self.sim.stop()
        for client, vm in list(zip(self.clients, self.vms))[2:4]:
            self.write(client, vm)
        self.original.stop()
        # And there again: nothing old comes back.
        self.sim.start()
        self.guard.start()
        self.guard.wait_idle()
        for client, vm in zip(self.clients, self.vms):
            self.assert_delivered(vm, client.acknowledged)
        self.assertEqual(self.guard.status()["parked"], [])

    def test_going_back_while_something_cannot_be_handed_over_is_refused(self):
        self.make_vms(2)
        self.sim.start()
        self.guard.start()
        first, second = self.clients
        first.write("permall", self.value())
        second.write("permall", self.value())
        self.sim.kill()
        first.write("permall", self.value())
        second.write("permall", self.value())
        self.sim.edit_while_down("set_contents", self.vms[0], contents="Zm9yZWlnbg==")
        self.sim.start()
        wait_until(lambda: self.guard.status()["parked"], 30, "it is parked", self.guard.status)
        self.sim.kill()
        second.write("permall", self.value())
        self.guard.stop()
        refused = self.guard.ctl("export-cache", self.guard.state_dir, check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn(self.vms[0], refused.stdout)
        self.assertNotIn(self.vms[1], refused.stdout)
        self.assertFalse(os.path.exists(self.tree.root))
        self.guard.ctl("export-cache", "--lossy", self.guard.state_dir)
        self.assertEqual(list(self.tree.newest()), [(self.vms[1], "permall")])
        # What was left behind is still parked after the next upgrade.
        self.original.start()
        self.sim.start()
        wait_until(lambda: not self.tree.newest(), 60, "the original delivers")
        self.original.stop()
        self.guard.start()
        wait_until(lambda: self.guard.status()["parked"], 30, "it is parked", self.guard.status)
        self.assert_delivered(self.vms[1], second.acknowledged)
        self.assertEqual(self.sim.contents(self.vms[0])["permall"], b"Zm9yZWlnbg==")

    def test_export_is_refused_while_the_guard_runs(self):
        self.make_vms(1)
        self.guard.start()
        self.assertEqual(self.guard.ctl("export-cache", self.guard.state_dir, check=False).returncode, 1)


if __name__ == "__main__":
    main()
