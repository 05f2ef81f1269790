"""Plays systemd where it is not process 1: for scenarios with restarts as they really are.

Owns the notify socket, keeps the descriptors that it is sent, passes them to the next process (LISTEN_FDS), and lets
that process do what the unit in packaging/ lets it do: its capabilities, system calls and kinds of sockets. As version
252, or as version 219, which knows no names of descriptors and no removal; both drop what hangs up.
"""

import array
import ctypes
import fcntl
import os
import platform
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import threading
import time

from guardtest import Swtpm, TransportError, wait_until
from varstoretest import UefiGuard

UNIT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../packaging/varstored-guard.service")
HIGH = 500  # descriptors on their way to their places
with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as last_cap:
    CAPABILITY_LAST = int(last_cap.read())


def unit_values(key):
    with open(UNIT, encoding="utf-8") as unit:
        return [line.split("=", 1)[1].strip() for line in unit if line.startswith(key + "=")]


# --- What the unit allows ---------------------------------------------------------------------------------------------

def calls_of(word):
    """The system calls that a word of SystemCallFilter= stands for."""
    if not word.startswith("@"):
        return {word}
    text = subprocess.run(["systemd-analyze", "syscall-filter", "--no-pager", word], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, check=True).stdout
    found = set()
    for line in text.splitlines()[1:]:
        if line.strip() and not line.strip().startswith("#"):
            found |= calls_of(line.strip())
    return found


def filter_program():
    """The unit's SystemCallFilter= and RestrictAddressFamilies= as a program for the kernel; None where this is no
    x86-64 or the numbers of the calls are not known."""
    names = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"
    if platform.machine() != "x86_64" or not os.path.exists(names):
        return None
    with open(names, encoding="ascii") as file:
        numbers = dict(re.findall(r"#define __NR_(\w+) (\d+)", file.read()))
    denied = set()
    for value in unit_values("SystemCallFilter"):
        assert value.startswith("~"), value
        denied |= set().union(*map(calls_of, value[1:].split()))
    denied_numbers = sorted(int(numbers[name]) for name in denied if name in numbers)
    assert len(denied_numbers) > 50, "the groups were not found"
    assert unit_values("RestrictAddressFamilies") == ["AF_UNIX"]
    load, equal, answer = 0x20, 0x15, 0x06
    refuse = lambda error: (answer, 0, 0, 0x00050000 | error)
    program = [(load, 0, 0, 0)]
    for number in denied_numbers:
        program += [(equal, 0, 1, number), refuse(1)]
    program += [(equal, 0, 3, int(numbers["socket"])), (load, 0, 0, 16), (equal, 1, 0, socket.AF_UNIX), refuse(97),
                (answer, 0, 0, 0x7FFF0000)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


CAPABILITIES = {"CAP_DAC_OVERRIDE": 1, "CAP_SETGID": 6}


def confine(program):
    """Between fork and exec: no more than the unit's capabilities, and its filter. Dies with its parent."""
    libc = ctypes.CDLL(None, use_errno=True)
    death_signal, drop_bounding, set_seccomp, mode_filter, no_new_privileges = 1, 24, 22, 2, 38
    libc.prctl(death_signal, signal.SIGKILL, 0, 0, 0)
    if os.geteuid() == 0:
        (allowed,) = unit_values("CapabilityBoundingSet")
        kept = {CAPABILITIES[name] for name in allowed.split()}
        if not all(number in kept or libc.prctl(drop_bounding, number, 0, 0, 0) == 0 for number in range(CAPABILITY_LAST + 1)):
            os._exit(110)
    if libc.prctl(no_new_privileges, 1, 0, 0, 0):
        os._exit(111)
    if program is None:
        return
    buffer = ctypes.create_string_buffer(program)

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    wanted = Program(len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(set_seccomp, mode_filter, ctypes.byref(wanted), 0, 0):
        os._exit(112)


# --- systemd ----------------------------------------------------------------------------------------------------------

class Stored:
    def __init__(self, fd, name):
        status = os.fstat(fd)
        self.fd, self.name, self.identity = fd, name, (status.st_dev, status.st_ino)


class Systemd:
    """`watchdog`: seconds, or None. `version`: 252 or 219."""

    def __init__(self, scenario, version=252, watchdog=None):
        self.scenario, self.version, self.watchdog = scenario, version, watchdog
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
        self.path = os.path.join(scenario.dir, "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(self.path)
        self.lock = threading.Lock()
        self.messages = []  # (time, pid, [lines])
        self.store = []
        self.strangers = 0  # messages of others than the main process
        self.main_pid = None
        self.environment = {}  # what a test adds or changes
        self.program = filter_program()
        self.poll = select.poll()
        self.poll.register(self.socket, select.POLLIN)
        self.ended = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        scenario.addCleanup(self._end)

    def _end(self):
        self.ended = True
        self.thread.join()
        self.socket.close()
        for one in self.store:
            os.close(one.fd)

    def _run(self):
        while not self.ended:
            for fd, event in self.poll.poll(100):
                if fd == self.socket.fileno():
                    self._receive()
                elif event & (select.POLLHUP | select.POLLERR):
                    with self.lock:
                        self._drop([one for one in self.store if one.fd == fd])

    def _receive(self):
        text, ancillary, _, _ = self.socket.recvmsg(1 << 16, socket.CMSG_SPACE(64 * 4) + socket.CMSG_SPACE(12))
        fds, pid = array.array("i"), None
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[:len(data) - len(data) % fds.itemsize])
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid = struct.unpack("iII", data)[0]
        lines = text.decode().split("\n")
        with self.lock:
            if pid != self.main_pid:
                self.strangers += 1
            self.messages.append((time.monotonic(), pid, lines))
            self._keep(lines, list(fds))

    def _keep(self, lines, fds):
        names = [line.removeprefix("FDNAME=") for line in lines if line.startswith("FDNAME=")] or ["stored"]
        name = names[0] if self.version >= 233 else None
        if self.version >= 236 and "FDSTOREREMOVE=1" in lines:
            self._drop([one for one in self.store if one.name == name])
        for fd in fds:
            one = Stored(fd, name)
            if "FDSTORE=1" not in lines or any(one.identity == other.identity for other in self.store):
                os.close(fd)
                continue
            self._add(one)

    def _add(self, one):
        self.store.append(one)
        self.poll.register(one.fd, 0)  # hang-up is reported all the same

    def _drop(self, gone):
        for one in gone:
            self.store.remove(one)
            self.poll.unregister(one.fd)
            os.close(one.fd)

    def put(self, fd, name="stored"):
        """Something that gets into the store in another way."""
        with self.lock:
            self._add(Stored(os.dup(fd), name if self.version >= 233 else None))

    def kept(self):
        with self.lock:
            return len(self.store)

    def wait_kept(self, count):
        wait_until(lambda: self.kept() == count, 20, "%d descriptors are kept" % count, self.kept)

    def said(self, pid, key):
        """The values of a key in the messages of a process, in order."""
        with self.lock:
            return [line[len(key) + 1:] for _, who, lines in self.messages if who == pid for line in lines
                    if line.startswith(key + "=")]

    def signs_of_life(self):
        with self.lock:
            return [when for when, _, lines in self.messages if "WATCHDOG=1" in lines]

    def spawn(self, arguments, log_path):
        """Starts the guard with everything that is kept."""
        with self.lock:
            places = [fcntl.fcntl(one.fd, fcntl.F_DUPFD, HIGH) for one in self.store]
            names = [one.name for one in self.store]
        environment = {**os.environ, "NOTIFY_SOCKET": self.path}
        script = ["exec %d<&%d-" % (3 + i, fd) for i, fd in enumerate(places)] + ["export LISTEN_PID=$$"]
        if places:
            environment["LISTEN_FDS"] = str(len(places))
            if self.version >= 227:
                environment["LISTEN_FDNAMES"] = ":".join(names)
        if self.watchdog:
            environment["WATCHDOG_USEC"] = str(int(self.watchdog * 1e6))
            script.append("export WATCHDOG_PID=$$")
        script += ["export %s='%s'" % item for item in self.environment.items()]
        script.append('exec "$0" "$@"')
        try:
            process = self.scenario.launch("xapi-guard", arguments, log_path, wrapper=("bash", "-c", "\n".join(script)),
                                           env=environment, pass_fds=places,
                                           preexec_fn=lambda: confine(self.program))
        finally:
            for fd in places:
                os.close(fd)
        with self.lock:
            self.main_pid = process.pid
            self.strangers -= sum(pid == process.pid for _, pid, _ in self.messages)
        return process


class SystemdGuard(UefiGuard):
    """xapi-guard as systemd runs it."""

    def __init__(self, scenario, systemd):
        super().__init__(scenario)
        self.systemd = systemd

    def start(self, *more):
        self.spawn(*more)
        self.wait_ready()
        assert self.answers()
        return self

    def spawn(self, *more):
        self.process = self.systemd.spawn(self.arguments(*more), self.log)

    def is_ready(self):
        assert self.process.running(), "xapi-guard ended:\n" + self.process.text()
        return self.systemd.said(self.process.pid, "READY") == ["1"]

    def wait_ready(self):
        wait_until(self.is_ready, 30, "xapi-guard is ready")

    def restart(self):
        """systemctl restart."""
        self.stop()
        self.start()

    def crash(self):
        """kill -9, and what systemd does then."""
        self.kill()
        (pause,) = unit_values("RestartSec")
        time.sleep(float(pause.removesuffix("s")))
        self.start()


class CurlSwtpm(Swtpm):
    """swtpm with libcurl's handling of a kept connection: found dead before a byte of the answer has come, it is
    replaced once by a fresh one, and the request sent again; swtpm does not hear of it. What swtpm does hear of is
    noted in `troubles`."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.troubles = []

    def request(self, method, target, body=None, headers=()):
        kept = self.sock is not None
        try:
            try:
                answer = super().request(method, target, body, headers)
            except TransportError:
                if not kept or self.buffer:
                    raise
                answer = super().request(method, target, body, headers)
        except TransportError as error:
            self.troubles.append(str(error))
            raise
        if answer.status >= 400:
            self.troubles.append("status %d" % answer.status)
        return answer
