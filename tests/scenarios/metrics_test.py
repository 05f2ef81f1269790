"""Metrics: what monitoring sees of an outage is what happened, on the control socket and over TCP."""

import socket
import time

from guardtest import HttpClient, Scenario, TransportError, main, vm_uuid, wait_until
from metricstest import Scrape, documented_table, scrape


class TcpClient(HttpClient):
    """The same client for a loopback port."""

    def __init__(self, port, timeout=60):
        super().__init__("127.0.0.1:%d" % port, timeout)
        self.port = port

    def connect(self):
        try:
            self.sock = socket.create_connection(("127.0.0.1", self.port), self.timeout)
        except OSError as error:
            raise TransportError("connect: %s" % error) from error
        self.buffer = b""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Metrics(Scenario):
    direct_timeout = "5s"

    def scrape(self):
        return scrape(self.track(HttpClient(self.guard.control)))


class Outage(Metrics):
    def test_the_figures_are_what_was_done(self):
        vms = self.start_all(3)
        clients = [self.guard.swtpm(vm) for vm in vms]
        for client in clients:
            client.write("permall", self.value())
        up = self.scrape()
        self.assertEqual(up.state("xapi_guard_upstream_state"), "up")
        self.assertEqual(up.state("xapi_guard_mode"), "direct")
        self.assertEqual(up.value("xapi_guard_writes_total", outcome="direct"), 3)
        self.assertEqual(up.value("xapi_guard_acknowledge_seconds_count", path="direct"), 3)
        self.assertEqual(up.value("xapi_guard_acknowledge_seconds_count", path="journal"), 0)
        self.assertEqual(up.value("xapi_guard_journal_batch_seconds_count"), 0)
        self.assertEqual(up.value("xapi_guard_pending_entries"), 0)
        self.assertEqual(up.value("xapi_guard_pending_oldest_seconds"), 0)
        self.assertEqual(up.value("xapi_guard_device_sockets"), 3)

        self.sim.kill()
        began = time.monotonic()
        sizes = {}
        for number, client in enumerate(clients):
            for slot in ("permall", "volatilestate"):
                value = self.value(100 + number)
                client.write(slot, value)
                sizes[(number, slot)] = len(value)
        for client in clients[:2]:
            client.read("permall")
        down = self.scrape()
        self.assertEqual(down.state("xapi_guard_upstream_state"), "down")
        self.assertEqual(down.state("xapi_guard_mode"), "engaged")
        self.assertEqual(down.value("xapi_guard_pending_entries"), 6)
        self.assertEqual(down.value("xapi_guard_pending_vms"), 3)
        self.assertEqual(down.value("xapi_guard_pending_bytes"), sum(sizes.values()))
        self.assertLessEqual(down.value("xapi_guard_pending_oldest_seconds"), time.monotonic() - began + 0.001)
        self.assertEqual(down.value("xapi_guard_writes_total", outcome="journaled"), 6)
        self.assertEqual(down.value("xapi_guard_acknowledge_seconds_count", path="journal"), 6)
        self.assertEqual(down.value("xapi_guard_reads_total", source="pending"), 2)
        self.assertEqual(down.value("xapi_guard_requests_total", method="PUT", result="success"), 9)
        batches = down.value("xapi_guard_journal_batch_seconds_count")
        self.assertGreaterEqual(batches, 1)
        self.assertEqual(batches, down.value("xapi_guard_journal_batch_seconds_bucket", le="+Inf"))
        self.assertGreater(down.value("xapi_guard_journal_batch_seconds_sum"), 0)

        self.sim.start()
        self.guard.wait_idle()
        after = self.scrape()
        self.assertEqual(after.value("xapi_guard_pending_entries"), 0)
        self.assertEqual(after.value("xapi_guard_pending_bytes"), 0)
        self.assertEqual(after.state("xapi_guard_mode"), "direct")
        self.assertEqual(after.value("xapi_guard_updates_total", outcome="delivered"), 6, "one update for each VM")
        self.assertGreaterEqual(after.value("xapi_guard_update_calls_total", kind="delivery"), 3)
        self.assertEqual(after.value("xapi_guard_bugs_total"), 0)

    def test_held_and_parked_entries_show(self):
        vms = self.start_all(2)
        for vm in vms:
            self.guard.swtpm(vm).write("permall", self.value())
        self.sim.kill()
        for vm in vms:
            self.guard.swtpm(vm).write("permall", self.value())
        self.sim.edit_while_down("set_contents", vms[0], contents=self.value().decode())
        self.sim.edit_while_down("delete_vm", vms[1])
        self.sim.options = []
        self.sim.start()
        wait_until(lambda: self.guard.status()["parked"] and self.guard.status()["held"], 60, "parked and held",
                   self.guard.status)
        seen = self.scrape()
        self.assertEqual(seen.value("xapi_guard_parked_entries"), 1)
        self.assertEqual(seen.value("xapi_guard_parked_total"), 1)
        self.assertEqual(seen.value("xapi_guard_updates_total", outcome="conflict"), 1)
        self.assertEqual(seen.value("xapi_guard_held_lanes"), 1)
        self.assertGreaterEqual(seen.value("xapi_guard_updates_total", outcome="lane"), 1)

    def test_the_number_of_series_is_the_same_on_every_host(self):
        self.start_all(0)
        before = self.scrape()
        self.create_vms(20)
        self.sim.kill()
        for number in range(20):
            self.guard.swtpm(vm_uuid(number + 1)).write("permall", self.value())
        after = self.scrape()
        self.assertEqual(set(after.series), set(before.series))


class Documents(Metrics):
    def test_the_table_of_the_manual_names_exactly_what_there_is(self):
        self.start_all(0)
        seen = self.scrape()
        rows = documented_table("Metrics")
        self.assertEqual([row[0] for row in rows], list(seen.types), "names, in the order of the scrape")
        for name, kind, meaning in rows:
            self.assertEqual(kind, seen.types[name], name)
            self.assertEqual(meaning, seen.helps[name], name)


class OverTcp(Metrics):
    def start_with_tcp(self):
        self.port = free_port()
        self.start_all(1, ["--metrics", "127.0.0.1:%d" % self.port])

    def test_the_same_text_and_nothing_else_is_served(self):
        self.start_with_tcp()
        client = self.track(TcpClient(self.port))
        self.assertEqual(set(scrape(client).series), set(self.scrape().series))
        self.assertEqual(client.request("HEAD", "/metrics").status, 200)
        self.assertEqual(client.request("GET", "/").status, 404)
        self.assertEqual(client.request("GET", "/metrics/x").status, 404)
        self.assertEqual(client.request("POST", "/metrics").status, 405)
        answer = client.request("POST", "/", b'{"method":"status","params":[],"id":1}')
        self.assertEqual(answer.status, 413, "commands are taken on the control socket only")
        with socket.socket() as outside:
            outside.settimeout(5)
            address = socket.gethostbyname(socket.gethostname())
            if not address.startswith("127."):
                self.assertNotEqual(outside.connect_ex((address, self.port)), 0, "reachable from outside")

    def test_those_who_only_connect_keep_nobody_from_anything(self):
        self.start_with_tcp()
        idle = [self.track(TcpClient(self.port)) for _ in range(20)]
        for client in idle:
            client.connect()
        self.guard.swtpm(vm_uuid(1)).write("permall", self.value())
        self.assertGreater(len(self.scrape().series), 50)
        for client in idle:
            client.close()
        wait_until(lambda: scrape(self.track(TcpClient(self.port))), 20, "there is room again")

    def test_a_port_that_is_taken_costs_the_metrics_only(self):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            vms = self.start_all(1, ["--metrics", "127.0.0.1:%d" % other.getsockname()[1]])
            self.guard.swtpm(vms[0]).write("permall", self.value())
            self.assertIn("metrics_unusable", self.guard.process.text())
            self.assertGreater(len(self.scrape().series), 50)


class Parser(Metrics):
    def test_it_sees_what_is_wrong(self):
        head = "# HELP xapi_guard_a A.\n# TYPE xapi_guard_a gauge\n"
        Scrape(head + "xapi_guard_a 1\n")
        for bad in ("xapi_guard_a 1", head + "xapi_guard_b 1\n", head + "xapi_guard_a 1\nxapi_guard_a 2\n", head + head,
                    "# TYPE xapi_guard_a gauge\n", head + 'xapi_guard_a{x="1} 1\n', head + "\n"):
            with self.assertRaises((AssertionError, KeyError)):
                Scrape(bad)


if __name__ == "__main__":
    main()
