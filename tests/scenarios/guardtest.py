"""Scenarios with real processes: what they share.

A scenario starts xapi-sim and xapi-guard in a directory of its own, talks to device sockets the way swtpm does,
and compares what xapi-sim holds in the end with the last value that was acknowledged. Programs are found in the
directory named by GUARD_BIN; GUARD_TEST_SEED repeats a run; GUARD_TEST_KEEP=1 keeps the directories.
"""

import base64
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

BIN = os.environ.get("GUARD_BIN", "")
SLOTS = ("permall", "savestate", "volatilestate")
EMPTY = b""


def vm_uuid(number):
    return "%08x-0000-4000-8000-00000000aaaa" % number


def vtpm_uuid(number):
    return "%08x-0000-4000-8000-00000000bbbb" % number


class TransportError(Exception):
    """The connection could not be made, or ended before a whole answer."""


class Answer:
    def __init__(self, status, headers, body, head):
        self.status, self.headers, self.body, self.head = status, headers, body, head


class HttpClient:
    """HTTP over one kept-alive connection to a unix socket, byte by byte, in swtpm's form of a request."""

    def __init__(self, path, timeout=60):
        self.path, self.timeout, self.sock = path, timeout, None
        self.buffer = b""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.buffer = b""
        try:
            self.sock.connect(self.path)
        except OSError as error:
            self.close()
            raise TransportError("connect: %s" % error) from error

    def close(self):
        if self.sock is not None:
            self.sock.close()
        self.sock = None

    def send_raw(self, data):
        if self.sock is None:
            self.connect()
        try:
            self.sock.sendall(data)
        except OSError as error:
            self.close()
            raise TransportError("send: %s" % error) from error

    def _more(self):
        try:
            data = self.sock.recv(1 << 18)
        except OSError as error:
            self.close()
            raise TransportError("receive: %s" % error) from error
        if not data:
            self.close()
            raise TransportError("closed without a whole answer")
        self.buffer += data

    def receive(self, body_expected=True):
        """One whole answer. What follows it stays for the next one."""
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        headers = {name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])}
        length = int(headers.get("content-length", "0")) if body_expected and status not in (204, 304) else 0
        while len(self.buffer) < length:
            self._more()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, headers, body, head + b"\r\n\r\n")

    def closed_by_peer(self, seconds=5):
        """True when the other side closes without another byte."""
        self.sock.settimeout(seconds)
        try:
            data = self.sock.recv(1)
        except ConnectionError:
            data = b""
        except socket.timeout:
            return False
        return data == b"" and self.buffer == b""

    def request(self, method, target, body=None, headers=()):
        lines = ["%s %s HTTP/1.1" % (method, target), "Host: xapi-depriv-socket", "Accept: */*"]
        if body is not None:
            lines += ["Content-Type: application/octet-stream", "Content-Length: %d" % len(body)]
        lines += headers
        # swtpm sends the body in a write of its own.
        self.send_raw(("\r\n".join(lines) + "\r\n\r\n").encode())
        if body:
            self.send_raw(body)
        return self.receive(body_expected=method != "HEAD")


class Device(HttpClient):
    """A device socket of a vTPM; each call is one request, without retry."""

    def put(self, slot, value):
        return self.request("PUT", "/tpm2-00." + slot, value)

    def get(self, slot):
        return self.request("GET", "/tpm2-00." + slot)

    def delete(self, slot):
        return self.request("DELETE", "/tpm2-00." + slot)

    def head(self, slot):
        return self.request("HEAD", "/tpm2-00." + slot)


class PermanentFailure(Exception):
    """What would put the TPM into failure mode."""


class Swtpm(Device):
    """A device client with swtpm's reaction to failures: 5xx and transport errors are retried after 0.1 s,
    doubling to 20 s; every other failure is for good. Keeps the last acknowledged value of each slot."""

    def __init__(self, path, timeout=60, give_up_after=60):
        super().__init__(path, timeout)
        self.give_up_after = give_up_after
        self.acknowledged = {}
        self.retries = 0
        self.latencies = []

    def _until_done(self, operation):
        begin, pause = time.monotonic(), 0.1
        while True:
            try:
                answer = operation()
                if answer.status in (200, 204):
                    self.latencies.append(time.monotonic() - begin)
                    return answer
                if answer.status < 500:
                    raise PermanentFailure("status %d" % answer.status)
                reason = "status %d" % answer.status
            except TransportError as error:
                reason = str(error)
            if time.monotonic() - begin > self.give_up_after:
                raise TimeoutError("still failing after %d s: %s" % (self.give_up_after, reason))
            self.retries += 1
            time.sleep(pause)
            pause = min(pause * 2, 20)

    def write(self, slot, value):
        self._until_done(lambda: self.put(slot, value))
        self.acknowledged[slot] = value

    def erase(self, slot):
        self._until_done(lambda: self.delete(slot))
        self.acknowledged[slot] = EMPTY

    def read(self, slot):
        return self._until_done(lambda: self.get(slot)).body


class Process:
    """A program under test with its log in a file."""

    def __init__(self, name, arguments, log_path, wrapper=(), **options):
        self.name, self.log_path = name, log_path
        self.log = open(log_path, "ab")
        self.popen = subprocess.Popen([*wrapper, os.path.join(BIN, name), *arguments], stdin=subprocess.DEVNULL,
                                      stdout=self.log, stderr=self.log, **options)

    @property
    def pid(self):
        return self.popen.pid

    def running(self):
        return self.popen.poll() is None

    def stop(self, timeout=30):
        """SIGTERM; answers the exit status."""
        if self.running():
            self.popen.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self):
        """SIGKILL: a crash."""
        if self.running():
            self.popen.kill()
        return self.wait(10)

    def wait(self, timeout=30):
        status = self.popen.wait(timeout)
        self.log.close()
        return status

    def text(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()


class SimError(Exception):
    pass


class Sim:
    """xapi-sim. Survives its own restarts: start() again after kill() or stop(). Unless flush_seconds is changed,
    what it has accepted is on its disk before it answers, so that killing it loses nothing."""

    def __init__(self, scenario, name="xapi"):
        self.scenario = scenario
        self.socket = os.path.join(scenario.dir, name + ".sock")
        self.store = os.path.join(scenario.dir, name + ".json")
        self.log = os.path.join(scenario.dir, name + ".log")
        self.options = ["--auto-provision"]
        self.flush_seconds = 0
        self.process = None

    def start(self, *more):
        arguments = ["--socket", self.socket, "--store", self.store, "--flush-seconds", str(self.flush_seconds)]
        self.process = self.scenario.launch("xapi-sim", [*arguments, *self.options, *more], self.log)
        wait_until(lambda: self.answers(), 20, "xapi-sim serves")
        return self

    def answers(self):
        try:
            self.call("sim.dump", {"contents": False, "history": False})
            return True
        except (OSError, TransportError):
            assert self.process.running(), "xapi-sim ended:\n" + self.process.text()
            return False

    def kill(self):
        self.process.kill()
        if os.path.exists(self.socket):
            os.unlink(self.socket)

    def stop(self):
        status = self.process.stop()
        assert status == 0, "xapi-sim ended with %s" % status

    def edit_while_down(self, action, vm, **members):
        """A change of the database that the guard sees when xapi is back, and not before."""
        served, self.socket = self.socket, self.socket + ".aside"
        self.start()
        self.edit(action, vm, **members)
        self.stop()
        self.socket = served

    def call(self, method, *params):
        client = HttpClient(self.socket)
        body = json.dumps({"method": method, "params": params, "id": 1}).encode()
        client.send_raw(b"POST /jsonrpc HTTP/1.1\r\nhost: sim\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        answer = client.receive()
        client.close()
        if answer.status != 200:
            raise SimError("%s: status %d" % (method, answer.status))
        reply = json.loads(answer.body)
        if reply.get("error") is not None:
            raise SimError("%s: %s" % (method, reply["error"]))
        return reply["result"]

    def fault(self, method, kind, **members):
        return self.call("sim.set_fault", {"method": method, "kind": kind, **members})

    def clear_faults(self):
        self.call("sim.clear_faults")

    def edit(self, action, vm, **members):
        return self.call("sim.edit", {"action": action, "vm": vm, **members})

    def release(self, action, **members):
        return self.call("sim.release", {"action": action, **members})

    def dump(self, **options):
        return self.call("sim.dump", options)

    def vtpm(self, vm):
        vms = self.dump(vm=vm)["vms"]
        return vms[0]["vtpms"][0] if vms and vms[0]["vtpms"] else None

    def contents(self, vm):
        """The three slots of a VM as a dictionary of bytes."""
        vtpm = self.vtpm(vm)
        if vtpm is None:
            return None
        return split_contents(vtpm["contents"])

    def all_contents(self):
        return {vm["uuid"]: split_contents(vm["vtpms"][0]["contents"])
                for vm in self.dump(history=False)["vms"] if vm["vtpms"]}

    def calls(self, method):
        return self.dump(contents=False, history=False)["calls"].get(method, 0)

    def hung(self):
        return len(self.dump(contents=False, history=False)["hung"])


def split_contents(text):
    fields = text.encode().split(b" ")
    if len(fields) == 1:
        fields += [EMPTY, EMPTY]
    assert len(fields) == 3, "contents with %d fields" % len(fields)
    return dict(zip(SLOTS, fields))


class Guard:
    """xapi-guard with its own state directory. Survives its restarts."""

    def __init__(self, scenario, name="guard", upstream=None):
        self.scenario, self.name = scenario, name
        place = lambda what: os.path.join(scenario.dir, name + what)
        self.state_dir, self.runtime_dir = place(".state"), place(".run")
        self.resume_file, self.control, self.log = place(".resume"), place(".ctl"), place(".log")
        self.upstream = upstream or "unix:" + scenario.sim.socket
        self.options = []
        self.process = None
        self.switch_socket = "none"

    def arguments(self, *more):
        given = ["--switch-socket", self.switch_socket, *self.options, *more]
        if self.scenario.direct_timeout and "--direct-timeout" not in given:
            given += ["--direct-timeout", self.scenario.direct_timeout]
        return ["--state-dir", self.state_dir, "--resume-file", self.resume_file, "--runtime-dir", self.runtime_dir,
                "--control-socket", self.control, "--upstream", self.upstream, *given]

    def start(self, *more):
        self.process = self.scenario.launch("xapi-guard", self.arguments(*more), self.log)
        wait_until(self.answers, 30, "xapi-guard serves")
        return self

    def answers(self):
        assert self.process.running(), "xapi-guard ended:\n" + self.process.text()
        return self.ctl("status", check=False).returncode == 0

    def stop(self):
        status = self.process.stop()
        assert status == 0, "xapi-guard ended with %s" % status

    def kill(self):
        self.process.kill()

    def ctl(self, *arguments, check=True):
        done = subprocess.run([os.path.join(BIN, "xapi-guardctl"), "--control-socket", self.control, "--json", *arguments],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=120, check=False)
        if check and done.returncode != 0:
            raise AssertionError("xapi-guardctl %s: %s%s" % (" ".join(arguments), done.stdout, done.stderr))
        return done

    def status(self):
        return json.loads(self.ctl("status").stdout)

    def pending(self):
        return json.loads(self.ctl("pending").stdout)

    def counter(self, name):
        return self.status()["counters"][name]

    def socket_path(self, vm):
        return os.path.join(self.scenario.dir, "vm", vm[:8])

    def create(self, vm, gid=None):
        """Creates the vTPM socket of a VM; answers its path."""
        path = self.socket_path(vm)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.ctl("vtpm-create", vm, str(os.getgid() if gid is None else gid), path)
        return path

    def write_resume_file(self, vms):
        """As if these VMs had been served before the guard starts."""
        os.makedirs(os.path.join(self.scenario.dir, "vm"), exist_ok=True)
        entries = [{"typ": "Swtpm", "gid": os.getgid(), "path": self.socket_path(vm), "vm_uuid": vm} for vm in vms]
        with open(self.resume_file, "w", encoding="utf-8") as file:
            json.dump(entries, file, separators=(",", ":"))

    def swtpm(self, vm, **options):
        return self.scenario.track(Swtpm(self.socket_path(vm), **options))

    def device(self, vm, **options):
        return self.scenario.track(Device(self.socket_path(vm), **options))

    def idle(self):
        """Nothing is pending, and writes go direct again."""
        status = self.status()
        return status["mode"] == "direct" and status["pending"]["entries"] == 0 and status["doubt"] == 0

    def wait_idle(self, seconds=60):
        wait_until(self.idle, seconds, "everything is delivered", self.status)

    def wait_up(self, seconds=30):
        wait_until(lambda: self.status()["upstream"]["state"] == "up", seconds, "the upstream is up", self.status)


def wait_until(condition, seconds, what, show=None):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("not within %g s: %s%s" % (seconds, what, "; " + str(show()) if show else ""))
        time.sleep(0.05)


class Crowd:
    """Runs one function per thread and gathers what went wrong."""

    def __init__(self):
        self.threads, self.failures = [], []

    def start(self, function, *arguments):
        def body():
            try:
                function(*arguments)
            except Exception as error:  # whatever it is, the scenario must hear of it
                self.failures.append("%s: %s" % (type(error).__name__, error))
        thread = threading.Thread(target=body, daemon=True)
        self.threads.append(thread)
        thread.start()

    def join(self, seconds):
        end = time.monotonic() + seconds
        for thread in self.threads:
            thread.join(max(0.0, end - time.monotonic()))
        assert not any(t.is_alive() for t in self.threads), "a client has not finished within %g s" % seconds
        assert not self.failures, "%d clients failed, first: %s" % (len(self.failures), self.failures[0])


class Scenario(unittest.TestCase):
    """Directory, processes, seed; shows the logs when something fails."""

    # None = the daemon's own. Scenarios in which an xapi that answers must not be mistaken for a slow one, however
    # busy the machine is, wait longer.
    direct_timeout = None

    def setUp(self):
        assert BIN and os.path.isdir(BIN), "GUARD_BIN must name the directory of the programs"
        self.dir = tempfile.mkdtemp(prefix="gt.", dir="/tmp")  # short: a socket path has at most 107 bytes
        self.processes, self.clients = [], []
        self.seed = int(os.environ.get("GUARD_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
        self.random = random.Random(self.seed)
        self.addCleanup(self._clean_up)
        self.sim = Sim(self)
        self.guard = Guard(self)

    def _clean_up(self):
        result = self._outcome.result
        failed = any(case is self for case, _ in result.failures + result.errors)
        for client in self.clients:
            client.close()
        for process in self.processes:
            process.kill()
        if failed:
            print("\n--- %s failed; seed %d" % (self.id(), self.seed), file=sys.stderr)
            for name in sorted({process.log_path for process in self.processes}):
                with open(name, encoding="utf-8", errors="replace") as log:
                    lines = log.read().splitlines()
                print("--- %s, %d lines" % (os.path.basename(name), len(lines)), file=sys.stderr)
                shown = lines if len(lines) <= 120 else lines[:60] + ["..."] + lines[-60:]
                print("\n".join(shown), file=sys.stderr)
        if os.environ.get("GUARD_TEST_KEEP"):
            print("kept: " + self.dir, file=sys.stderr)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)

    def launch(self, name, arguments, log_path, **options):
        process = Process(name, arguments, log_path, **options)
        self.processes.append(process)
        return process

    def track(self, client):
        self.clients.append(client)
        return client

    def start_all(self, vms=1, guard_options=()):
        """xapi-sim and the guard, with sockets of so many VMs; answers the uuids."""
        self.guard.options += guard_options
        self.sim.start()
        self.guard.start()
        return self.create_vms(vms)

    def create_vms(self, count):
        uuids = [vm_uuid(i + 1) for i in range(count)]
        for vm in uuids:
            self.guard.create(vm)
        return uuids

    def value(self, size=64):
        """A new base64 value whose decoded form has about `size` bytes."""
        return base64.b64encode(self.random.randbytes(max(1, size)))

    def assert_status(self, answer, *wanted):
        self.assertIn(answer.status, wanted)

    def assert_delivered(self, vm, acknowledged, seconds=10):
        """xapi-sim holds exactly what was acknowledged, or does very soon; a slot never written is empty."""
        wanted = {**dict.fromkeys(SLOTS, EMPTY), **acknowledged}
        end = time.monotonic() + seconds
        while self.sim.contents(vm) != wanted and time.monotonic() < end:
            time.sleep(0.05)
        held = self.sim.contents(vm)
        self.assertIsNotNone(held, "VM %s has no vTPM" % vm)
        for slot in SLOTS:
            self.assertEqual(held[slot], wanted[slot], "%s of %s" % (slot, vm))

    def assert_no_overlap(self):
        """The guard never had two updates of one vTPM under way."""
        for vm in self.sim.dump(contents=False, history=False)["vms"]:
            for vtpm in vm["vtpms"]:
                self.assertLessEqual(vtpm["overlap_max"], 1, vm["uuid"])

    def assert_history_never_goes_back(self, vm, values):
        """Of the contents `values`, in the order of their acknowledgement, xapi-sim never stored an older one
        after a newer one. Values must differ from each other."""
        order = {digest: i for i, digest in enumerate(self.sim.call("sim.digest", [v.decode() for v in values]))}
        newest = -1
        for digest in self.sim.vtpm(vm)["history"]:
            if digest not in order:
                continue
            self.assertGreaterEqual(order[digest], newest, "xapi went back to an older value of %s" % vm)
            newest = order[digest]


def main():
    unittest.main(verbosity=2)
