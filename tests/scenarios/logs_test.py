"""Logs: what operators read. The test is journald, or syslogd."""

import json
import os
import re
import select
import socket
import time

from guardtest import HttpClient, Scenario, main, vm_uuid, wait_until
from metricstest import ROOT, documented_table, scrape

HOSTILE = "VM.start R:1\x1b[2J\x07 \"quoted\" \\ \x9b=\u00e9\u2028 PRIORITY=0\nVM_UUID=forged\n<0>forged"


class LogDaemon:
    """A datagram socket; take() gives what came since the last time."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(path)
        self.path = path

    def take(self, seconds=0.0):
        found = []
        while select.select([self.sock], [], [], seconds if not found else 0)[0]:
            found.append(self.sock.recv(1 << 16).decode("ascii"))
        return found

    def close(self):
        self.sock.close()
        os.unlink(self.path)


def fields(datagram):
    assert datagram.endswith("\n"), datagram
    found = {}
    for line in datagram.splitlines():
        name, value = line.split("=", 1)
        assert name not in found, datagram
        found[name] = value
    return found


class Logs(Scenario):
    direct_timeout = "5s"
    control = None

    def log_daemon(self, kind, name="log"):
        daemon = LogDaemon(os.path.join(self.dir, name))
        self.addCleanup(daemon.sock.close)
        self.guard.options += ["--log-to", "%s:%s" % (kind, daemon.path)]
        return daemon

    def command(self, method, *more, **named):
        if self.control is None:
            self.control = self.track(HttpClient(self.guard.control))
        body = json.dumps({"method": method, "params": [named, *more], "id": 1}).encode()
        return json.loads(self.control.request("POST", "/", body).body)

    def lines(self):
        """Of standard error: (level, event, rest)."""
        return [tuple(line.split(" ", 3)[1:]) for line in self.guard.process.text().splitlines()]


class Journald(Logs):
    def test_fields_are_indexed_and_the_callers_words_are_harmless(self):
        log = self.log_daemon("journal")
        self.sim.start()
        self.guard.start()
        started = [fields(d) for d in log.take(5)]
        self.assertIn("started", [f["MESSAGE"].split()[0] for f in started])
        for line in started:
            self.assertEqual(line["SYSLOG_IDENTIFIER"], "xapi-guard")
            self.assertEqual(line["SYSLOG_FACILITY"], "21")
        vm, path = vm_uuid(1), self.guard.socket_path(vm_uuid(1))
        os.makedirs(os.path.dirname(path))
        named = {"vm_uuid": vm, "gid": os.getgid(), "path": path}
        self.command("vtpm_create", dbg=HOSTILE, **named)
        (created,) = [fields(d) for d in log.take(5)]
        self.assertEqual(created["VM_UUID"], vm)
        self.assertEqual(created["PRIORITY"], "6")
        self.assertTrue(created["TASK"].startswith("VM.start R:1\\x1b[2J\\x07 \\\"quoted\\\" "), created)
        self.assertNotIn("forged", created["TASK"])
        self.assertIn("socket_created", created["MESSAGE"])
        self.assertIn(" task=\"VM.start R:1\\x1b[2J", created["MESSAGE"])
        # A command that fails, with names that nobody should have to read.
        self.command("vtpm_create", dbg="again", **named)
        self.command("vtpm_destroy", dbg="gone\r", gid=0, path="/" + "\x1b\n" * 3000)
        self.command("vtpm_get_contents", dbg="nobody", vtpm_uuid=vm_uuid(77))
        failed = [fields(d) for d in log.take(5)]
        self.assertEqual([f.get("TASK") for f in failed], ["again", "gone\\x0d", "nobody"], failed)
        self.assertEqual(self.guard.process.text(), "", "nothing goes to standard error")

    def test_a_journal_that_takes_nothing_stops_nobody(self):
        log = self.log_daemon("journal")
        vms = self.start_all(1)
        client = self.guard.swtpm(vms[0])
        bad = self.track(HttpClient(self.guard.control))
        for _ in range(400):  # far more than a datagram socket holds
            bad.request("POST", "/", b'{"method":"x","params":[],"id":1}')
        for _ in range(20):
            client.write("permall", self.value())
        self.assertGreater(scrape(bad).value("xapi_guard_log_lines_lost_total"), 0)
        kept = len(log.take())
        self.assertGreater(kept, 0)
        self.guard.stop()
        after = [fields(d)["MESSAGE"] for d in log.take(5)]
        self.assertRegex(after[0], r"log_lines_lost count=\d+")
        self.assertIn("stopping", [line.split()[0] for line in after], after)

    def test_a_journal_that_is_restarted_is_found_again(self):
        log = self.log_daemon("journal")
        self.start_all(0)
        log.close()
        self.command("vtpm_get_contents", dbg="lost", vtpm_uuid=vm_uuid(77))
        again = LogDaemon(log.path)
        self.addCleanup(again.close)
        self.command("vtpm_get_contents", dbg="seen", vtpm_uuid=vm_uuid(77))
        messages = [fields(d)["MESSAGE"] for d in again.take(5)]
        self.assertEqual(messages[0], "log_lines_lost count=1")
        self.assertIn("task=seen", messages[1])


class Syslogd(Logs):
    def test_lines_have_facility_local5_and_the_name_of_the_program(self):
        log = self.log_daemon("syslog")
        vms = self.start_all(1)
        form = re.compile(r"<(\d+)>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d xapi-guard\[%d\]: (\S+)" % self.guard.process.pid)
        seen = {}
        for line in log.take(5):
            found = form.match(line)
            self.assertTrue(found, line)
            seen[found[2]] = int(found[1])
        self.assertEqual(seen["started"], 21 * 8 + 5)
        self.assertEqual(seen["socket_created"], 21 * 8 + 6)
        self.assertIn(vms[0], self.guard.status()["sockets"][0]["vm"])


class Outage(Logs):
    def test_an_outage_has_two_lines(self):
        vms = self.start_all(8)
        clients = [self.guard.swtpm(vm) for vm in vms]
        for client in clients:
            client.write("permall", self.value())
        for restart in range(2):
            before = len(self.lines())
            self.sim.kill()
            for client in clients:
                client.write("permall", self.value())
                client.write("volatilestate", self.value())
                client.read("savestate")
            self.sim.start()
            self.guard.wait_idle()
            self.assertEqual([(level, event) for level, event, *_ in self.lines()[before:]],
                             [("warning", "upstream_down"), ("notice", "upstream_up")], "outage %d" % restart)

    def test_a_stop_says_what_is_left_behind(self):
        vms = self.start_all(3)
        self.guard.stop()
        self.assertIn(("notice", "stopping", "pending_entries=0 pending_vms=0 oldest_seconds=0"), self.lines())
        self.guard.start()
        self.sim.kill()
        for vm in vms:
            self.guard.swtpm(vm).write("permall", self.value())
            self.guard.swtpm(vm).write("savestate", self.value())
        time.sleep(1.1)
        self.guard.stop()
        (level, _, rest) = [line for line in self.lines() if line[1] == "stopping"][-1]
        self.assertEqual(level, "warning")
        self.assertRegex(rest, r"^pending_entries=6 pending_vms=3 oldest_seconds=[1-9]\d*$")


class Floods(Logs):
    def test_a_vm_writes_ten_lines_a_second_and_then_how_many_are_missing(self):
        """Its sockets come and go without end; another VM's lines are all there."""
        self.start_all(0)
        vm, path = vm_uuid(1), self.guard.socket_path(vm_uuid(1))
        os.makedirs(os.path.dirname(path))
        begin, pairs = time.monotonic(), 0
        while pairs < 100 or time.monotonic() - begin < 2:
            for method, named in (("vtpm_create", {"vm_uuid": vm}), ("vtpm_destroy", {})):
                reply = self.command(method, dbg=HOSTILE, gid=os.getgid(), path=path, **named)
                self.assertIsNone(reply["error"])
            pairs += 1
        other = vm_uuid(2)
        self.guard.create(other)
        lasted = time.monotonic() - begin
        wait_until(lambda: self.counted(vm) == 2 * pairs, 10, "every line was written or counted",
                   lambda: (pairs, self.counted(vm)))
        mine = [line for line in self.lines() if vm in line[2] and line[1].startswith("socket_")]
        self.assertGreaterEqual(len(mine), 10)
        self.assertLessEqual(len(mine), 10 * (lasted + 2))
        self.assertEqual(sum(1 for line in self.lines() if other in line[2]), 1)
        left_out = scrape(self.track(HttpClient(self.guard.control))).value("xapi_guard_log_lines_suppressed_total")
        self.assertEqual(left_out, 2 * pairs - len(mine))
        self.assertTrue(all(ord(c) < 127 for c in self.guard.process.text()))

    def counted(self, vm):
        """How many events of its sockets the log tells of, in lines and in numbers."""
        mine = [line for line in self.lines() if vm in line[2]]
        left_out = sum(int(line[2].split("suppressed=")[1]) for line in mine if line[1] == "log_lines_suppressed")
        return left_out + sum(1 for line in mine if line[1].startswith("socket_"))


class Documents(Logs):
    def events_of_the_sources(self):
        """{event: levels} of everything the daemon can log."""
        found = {}
        for folder, _, names in os.walk(os.path.join(ROOT, "src")):
            if os.path.basename(folder) in ("sim", "cli", "buffer"):
                continue
            for name in names:
                if not name.endswith((".cpp", ".h")) or name.endswith("_test.cpp"):
                    continue
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    text = file.read()
                for level, event in re.findall(r'LogLevel::(\w+),\s*(?:log_line\()?"([^"]+)"', text):
                    found.setdefault(event, set()).add(level)
                for event in re.findall(r'\blogged\("([^"]+)"', text):
                    found.setdefault(event, set()).add("notice")
        return found

    def test_the_table_of_the_manual_names_every_event(self):
        wanted = {event: levels for event, levels in self.events_of_the_sources().items() if levels != {"debug"}}
        self.assertGreater(len(wanted), 50, "the search finds something")
        rows = {row[0]: row for row in documented_table("Log")}
        self.assertEqual(sorted(rows), sorted(wanted))
        for event, levels in wanted.items():
            self.assertEqual(rows[event][1].split(", "), sorted(levels), event)
            self.assertTrue(all(len(cell) > 10 for cell in rows[event][2:3]), event)

    def test_names_of_events_are_one_word(self):
        for event in self.events_of_the_sources():
            self.assertRegex(event, r"^[a-z][a-z0-9_]*$")


if __name__ == "__main__":
    main()
