"""The unit as it is shipped, under a real systemd: its sandbox lets the daemon do what it must, its descriptor store keeps
the sockets, its watchdog ends a daemon that is stuck.

Needs root, because systemd (a user's instance of it, which knows all settings of the unit) runs in namespaces of its
own: processes, mounts, and with them /run and /var/lib. Where that cannot be had these tests are skipped;
scenario.systemd_test plays systemd everywhere. GUARD_BIN names the programs' directory, GUARD_SOURCE the project's.
"""

import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import unittest

BIN, SOURCE = pathlib.Path(os.environ["GUARD_BIN"]), pathlib.Path(os.environ["GUARD_SOURCE"])
sys.path.insert(0, str(SOURCE / "tests/scenarios"))
from guardtest import Device, wait_until  # noqa: E402

IN_NAMESPACE = "GUARD_SYSTEMD_NAMESPACE"
SYSTEMD = "/lib/systemd/systemd"
UNIT = "varstored-guard.service"
PROGRAMS = pathlib.Path("/run/programs")
LOG = pathlib.Path("/run/guard.log")
VM = "%08x-0000-4000-8000-00000000aaaa"
# What a host has and this place has not; the rest is the unit's.
DROP_IN = """[Service]
ExecStart=
ExecStart=%s/xapi-guard --upstream embedded:/var/lib/xapi-guard/store.db --log-to stderr
StandardError=append:%s
# The state directory of a user's service is elsewhere.
ReadWritePaths=/var/lib/xapi-guard
# Nobody wants to wait for 30 s.
WatchdogSec=2s
""" % (PROGRAMS, LOG)


def run(*command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=100, check=False)


def furnish():
    """The parts of a host that systemd and the daemon need, in this mount namespace only."""
    for place in ("/run", "/var/lib"):
        done = run("mount", "-t", "tmpfs", "none", place)
        if done.returncode != 0:
            raise unittest.SkipTest("no mounts: " + done.stdout)
    for place in ("/run/systemd/system", "/run/systemd/inaccessible/dir", "/run/own", PROGRAMS, "/run/config/systemd/user",
                  "/var/lib/xapi-guard", "/var/lib/xcp/run"):
        os.makedirs(place)
    nowhere = pathlib.Path("/run/systemd/inaccessible")
    (nowhere / "reg").touch()
    os.mkfifo(nowhere / "fifo")
    os.mknod(nowhere / "chr", stat.S_IFCHR, 0)
    os.mknod(nowhere / "blk", stat.S_IFBLK, 0)
    os.chmod("/run/own", 0o700)  # not below /run/user, which the unit hides
    for program in ("xapi-guard", "xapi-guardctl"):
        shutil.copy(BIN / program, PROGRAMS)  # the unit hides where projects are built
    units = pathlib.Path("/run/config/systemd/user")
    shutil.copy(SOURCE / "packaging" / UNIT, units)
    (units / (UNIT + ".d")).mkdir()
    (units / (UNIT + ".d") / "test.conf").write_text(DROP_IN, encoding="utf-8")
    os.environ.update(XDG_RUNTIME_DIR="/run/own", XDG_CONFIG_HOME="/run/config", HOME="/run")


def systemctl(*words):
    done = run("systemctl", "--user", *words)
    assert done.returncode == 0, "systemctl %s: %s%s" % (" ".join(words), done.stdout, LOG.read_text() if LOG.exists() else "")
    return done.stdout


def value(name):
    return systemctl("show", UNIT, "--value", "-p", name).strip()


def ctl(*words):
    done = run(str(PROGRAMS / "xapi-guardctl"), *words)
    assert done.returncode == 0, done.stdout
    return done.stdout


class Client(threading.Thread):
    """Asks again and again, each time on a fresh connection, until it is told to end."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.ended, self.answers, self.failures, self.longest = path, False, 0, [], 0.0
        self.start()

    def run(self):
        while not self.ended:
            begin, device = time.monotonic(), Device(self.path)
            try:
                status = device.get("permall").status
                if status != 200:
                    self.failures.append("status %d" % status)
            except Exception as error:  # whatever it is, it is a failure
                self.failures.append(str(error))
            device.close()
            self.answers += 1
            self.longest = max(self.longest, time.monotonic() - begin)

    def end(self):
        self.ended = True
        self.join(60)
        assert not self.is_alive(), "it was never answered"


class RealSystemd(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if IN_NAMESPACE not in os.environ:
            raise unittest.SkipTest(os.environ.get("GUARD_SYSTEMD_MISSING", "no namespaces"))
        furnish()
        cls.systemd = subprocess.Popen([SYSTEMD, "--user", "--log-target=null"], stdin=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while run("systemctl", "--user", "list-units").returncode != 0:
            if cls.systemd.poll() is not None or time.monotonic() > end:
                raise unittest.SkipTest("systemd does not start here")
            time.sleep(0.1)

    @classmethod
    def tearDownClass(cls):
        cls.systemd.terminate()
        cls.systemd.wait(30)

    def setUp(self):
        self.number = 0
        systemctl("start", UNIT)
        self.path = self.create()

    def tearDown(self):
        for line in ctl("--json", "status").splitlines():
            for path, gid in re.findall(r'"path": ?"([^"]+)", ?"gid": ?(\d+)', line):
                ctl("vtpm-destroy", gid, path)
        systemctl("stop", UNIT)

    def create(self):
        """A vTPM socket in a directory of its own, which belongs to its swtpm and to nobody else."""
        self.number += 1
        place = "/var/lib/xcp/run/swtpm-root-%d" % (len(os.listdir("/var/lib/xcp/run")) + 1)
        os.mkdir(place, 0o700)
        os.chown(place, 131_076, 131_076)
        ctl("vtpm-create", VM % self.number, "131076", place + "/xapi-depriv-socket")
        return place + "/xapi-depriv-socket"

    def wait_kept(self, count):
        wait_until(lambda: value("NFileDescriptorStore") == str(count), 20, "%d sockets are kept" % count,
                   lambda: value("NFileDescriptorStore"))

    def test_the_confined_daemon_can_do_its_work(self):
        status = os.stat(self.path)
        self.assertEqual((stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid), (0o660, 0, 131_076))
        os.makedirs("/run/xen/varstored-root-4")  # made after the daemon was started
        ctl("varstore-create", VM % 1, "65539", "/var/run/xen/varstored-root-4/xapi-depriv-socket")
        device = Device(self.path)
        self.assertEqual(device.put("permall", b"aGVsbG8gdHBtCg==").status, 204)
        self.assertEqual(device.get("permall").body, b"aGVsbG8gdHBtCg==")
        device.close()
        ctl("varstore-destroy", "65539", "/var/run/xen/varstored-root-4/xapi-depriv-socket")
        pid = value("MainPID")
        text = pathlib.Path("/proc/%s/status" % pid).read_text(encoding="ascii")
        facts = dict(re.findall(r"^(\w+):\t(\S+)$", text, re.M))
        # CAP_DAC_OVERRIDE is 1, CAP_SETGID 6.
        self.assertEqual(int(facts["CapEff"], 16), 1 << 1 | 1 << 6)
        self.assertEqual((facts["Seccomp"], facts["NoNewPrivs"]), ("2", "1"))
        self.assertNotEqual(os.readlink("/proc/%s/ns/net" % pid), os.readlink("/proc/self/ns/net"))
        mounts = pathlib.Path("/proc/%s/mountinfo" % pid).read_text(encoding="ascii")
        self.assertRegex(mounts, r"(?m)^\S+ \S+ \S+ \S+ / ro\b")

    def test_a_restart_is_not_noticed(self):
        self.create()
        self.wait_kept(2)
        client = Client(self.path)
        for _ in range(5):
            systemctl("restart", UNIT)
        client.end()
        print("5 restarts: %d answers, longest wait %.2f s" % (client.answers, client.longest))
        self.assertEqual(client.failures, [])
        self.assertEqual(value("NFileDescriptorStore"), "2")
        self.assertEqual(LOG.read_text(encoding="utf-8").count("inherited=2"), 5)

    def test_what_is_destroyed_is_kept_no_longer(self):
        other = self.create()
        self.wait_kept(2)
        ctl("vtpm-destroy", "131076", other)
        self.wait_kept(1)
        systemctl("restart", UNIT)
        self.assertFalse(os.path.exists(other))
        self.wait_kept(1)

    def test_killed_or_stuck_it_is_started_again_and_clients_have_waited(self):
        for number in (signal.SIGKILL, signal.SIGSTOP):
            with self.subTest(signal=number.name):
                before = int(value("NRestarts"))
                process = int(value("MainPID"))
                os.kill(process, number)
                # A signal takes a moment to arrive; a connection that is accepted in it goes down with the process.
                wait_until(lambda: at_an_end(process), 20, "the signal has arrived")
                device = Device(self.path)
                self.assertEqual(device.get("permall").status, 200)
                device.close()
                self.assertEqual(int(value("NRestarts")), before + 1)
                self.wait_kept(1)

    def test_a_stop_gives_the_sockets_up_and_a_start_makes_them_anew(self):
        systemctl("stop", UNIT)
        self.assertEqual(value("NFileDescriptorStore"), "0")
        systemctl("start", UNIT)
        device = Device(self.path)
        self.assertEqual(device.get("permall").status, 200)
        device.close()
        self.wait_kept(1)
        wait_until(lambda: value("StatusText") == "direct, upstream up, nothing pending", 20, "the status is told",
                   lambda: value("StatusText"))


def at_an_end(process):
    """No thread of it runs any more."""
    try:
        for thread in os.listdir("/proc/%d/task" % process):
            with open("/proc/%d/task/%s/stat" % (process, thread), encoding="utf-8") as stat:
                if stat.read().rsplit(")", 1)[1].split()[0] not in "TXZ":
                    return False
    except (FileNotFoundError, ProcessLookupError):
        pass
    return True


def main():
    if IN_NAMESPACE not in os.environ:
        own = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
        possible = run(*own, "mount", "-t", "tmpfs", "none", "/mnt")
        if os.geteuid() != 0:
            os.environ["GUARD_SYSTEMD_MISSING"] = "needs root"
        elif not os.path.exists(SYSTEMD):
            os.environ["GUARD_SYSTEMD_MISSING"] = "no " + SYSTEMD
        elif possible.returncode != 0:
            os.environ["GUARD_SYSTEMD_MISSING"] = "no namespaces: " + possible.stdout
        else:
            os.environ[IN_NAMESPACE] = "1"
            os.execvp(own[0], [*own, sys.executable, "-B", *sys.argv])
    unittest.main(verbosity=2)


if __name__ == "__main__":
    main()
