"""What the guard tells xapi of its own troubles: one message for each, on the VM or on the host, when xapi answers."""

import os
import re
import time

from guardtest import HttpClient, Scenario, main, wait_until
from metricstest import documented_table, scrape

HOST = "00000000-0000-4000-8000-000000000001"  # of xapi-sim


class Alerts(Scenario):
    direct_timeout = "5s"

    def setUp(self):
        super().setUp()
        self.guard.options += ["--host-uuid", HOST]

    def messages(self):
        """(name, class, uuid, priority) of all that xapi has."""
        found = self.sim.dump(contents=False, history=False)["messages"]
        return [(m["name"], m["class"], m["object"], m["priority"]) for m in found]

    def bodies(self):
        return [m["body"] for m in self.sim.dump(contents=False, history=False)["messages"]]

    def wait_for_messages(self, count, seconds=30):
        wait_until(lambda: len(self.messages()) >= count, seconds, "%d messages" % count, self.messages)

    def assert_stays(self, wanted, seconds=3):
        """These are all, also a while later."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.assertEqual(sorted(self.messages()), sorted(wanted))
            time.sleep(0.2)

    def events(self, event):
        return [line for line in self.guard.process.text().splitlines() if line.split(" ")[2] == event]


class Pending(Alerts):
    def test_data_that_stays_pending_is_told_once_when_xapi_is_back(self):
        vms = self.start_all(2, ["--alert-after", "2s"])
        wanted = []
        for outage in range(2):
            self.sim.kill()
            for vm in vms:
                self.guard.swtpm(vm).write("permall", self.value())
            wait_until(lambda: len(self.events("pending_long")) > outage, 30, "a line in the log")
            time.sleep(3)  # it lasts
            self.assertEqual(len(self.events("pending_long")), outage + 1)
            self.sim.start()
            self.guard.wait_idle()
            if outage == 0:
                wanted.append(("XAPI_GUARD_PENDING", "Host", HOST, 3))
            # The second comes within five minutes of the first: the log has it, xapi is not told again.
            self.wait_for_messages(1)
            self.assert_stays(wanted)
        self.assertRegex(self.bodies()[0], r"2 entries of 2 VMs, the oldest for \d+ seconds")
        figures = scrape(self.track(HttpClient(self.guard.control)))
        self.assertEqual(figures.value("xapi_guard_messages_created_total"), 1)
        self.assertEqual(figures.value("xapi_guard_messages_waiting"), 0)
        self.assertEqual(len(self.events("message_created")), 1)

    def test_a_short_outage_is_nobodys_concern(self):
        (vm,) = self.start_all(1)
        self.sim.kill()
        self.guard.swtpm(vm).write("permall", self.value())
        self.sim.start()
        self.guard.wait_idle()
        self.assert_stays([])

    def test_an_unknown_host_leaves_the_line_in_the_log(self):
        self.guard.options = []
        (vm,) = self.start_all(1, ["--alert-after", "1s"])
        self.sim.kill()
        self.guard.swtpm(vm).write("permall", self.value())
        wait_until(lambda: self.events("pending_long"), 30, "a line in the log")
        self.sim.start()
        self.guard.wait_idle()
        self.assert_stays([])


class Troubles(Alerts):
    def test_a_conflict_is_told_on_its_vm(self):
        vms = self.start_all(2)
        for vm in vms:
            self.guard.swtpm(vm).write("permall", self.value())
        self.sim.kill()
        for vm in vms:
            self.guard.swtpm(vm).write("permall", self.value())
        self.sim.edit_while_down("set_contents", vms[0], contents=self.value().decode())
        self.sim.start()
        self.wait_for_messages(1)
        self.assert_stays([("XAPI_GUARD_CONFLICT", "VM", vms[0], 2)])
        self.assertEqual(len(self.events("entries_parked")), 1)

    def test_damage_is_told_on_the_host(self):
        vms = self.start_all(2)
        self.sim.kill()
        values = [self.value(300) for _ in vms]
        for vm, value in zip(vms, values):
            self.guard.swtpm(vm).write("permall", value)
        self.guard.kill()
        found = 0
        for name in ("a", "b"):
            with open(os.path.join(self.guard.state_dir, "journal", name), "r+b") as file:
                at = file.read().find(values[0])
                if at >= 0:
                    file.seek(at + 10)
                    file.write(b"????")
                    found += 1
        self.assertEqual(found, 1)
        self.guard.start()
        self.sim.start()
        self.wait_for_messages(1)
        self.assert_stays([("XAPI_GUARD_DAMAGE", "Host", HOST, 2)])
        self.assertEqual(len(self.events("journal_damaged")), 1)

    def test_a_journal_that_cannot_be_read_is_told_on_the_host(self):
        self.start_all(1)
        self.guard.stop()
        file = os.path.join(self.guard.state_dir, "journal", "a")
        os.rename(file, file + ".kept")
        os.mkdir(file)
        self.guard.start()
        self.wait_for_messages(1)
        self.assert_stays([("XAPI_GUARD_JOURNAL_FAILED", "Host", HOST, 2)], 5)
        os.rmdir(file)
        os.rename(file + ".kept", file)
        wait_until(lambda: self.guard.status()["journal"]["state"] == "ok", 30, "the journal is read")
        self.assert_stays([("XAPI_GUARD_JOURNAL_FAILED", "Host", HOST, 2)])

    def test_a_vm_that_xapi_does_not_know_any_more_is_told_on_the_host_after_a_minute(self):
        vms = self.start_all(2)
        for vm in vms:
            self.guard.swtpm(vm).write("permall", self.value())
        self.sim.kill()
        for vm in vms:
            self.guard.swtpm(vm).write("permall", self.value())
        self.sim.edit_while_down("delete_vm", vms[0])
        self.sim.options = []
        self.sim.start()
        wait_until(lambda: self.events("lane_held"), 30, "it is held")
        begin = time.monotonic()
        self.wait_for_messages(1, 120)
        self.assertGreater(time.monotonic() - begin, 50)
        self.assert_stays([("XAPI_GUARD_HELD", "Host", HOST, 3)])
        self.assertIn(vms[0], self.bodies()[0])
        self.assertEqual(len(self.events("lane_held_long")), 1)


class Documents(Alerts):
    def test_the_table_of_the_manual_names_every_message(self):
        with open(os.path.join(os.path.dirname(__file__), "..", "..", "src", "core", "concerns.cpp"), encoding="utf-8") as file:
            text = file.read()
        wanted = [(name, priority) for name, priority in
                  re.findall(r'alert\.name = "(\w+)";\s*alert\.priority = (\d);', text)]
        self.assertEqual(len(wanted), 5)
        self.assertEqual(sorted((row[0], row[1]) for row in documented_table("Messages in xapi")), sorted(wanted))


if __name__ == "__main__":
    main()
