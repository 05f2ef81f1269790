#!/usr/bin/env python3
"""The packages hold what they should and nothing else, run on a host without any library, and are installed, removed
and purged in an empty root without losing state that was never delivered.

package_test.py SOURCE_DIRECTORY
"""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

if os.geteuid() != 0:
    # Owners and chroot need root, or a namespace in which we are.
    os.execvp("unshare", ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-B", *sys.argv])

import guardtest
from guardtest import Guard, Scenario, vm_uuid, wait_until

SOURCE = pathlib.Path(sys.argv.pop(1)).resolve()
PROGRAMS = ["usr/bin/xapi-guardctl", "usr/bin/xapi-sim", "usr/bin/xapiguard_cli", "usr/sbin/xapi-guard"]
FILES = [
    *PROGRAMS,
    "usr/lib/systemd/system/varstored-guard.service",
    "usr/sbin/varstored-guard",
    "usr/share/bash-completion/completions/xapi-guardctl",
    "usr/share/xapi-guard/grafana-dashboard.json",
    "usr/share/xapi-guard/prometheus-rules.yml",
]
STATE = "var/lib/xapi-guard"


def run(*command, check=True, **options):
    done = subprocess.run([str(word) for word in command], text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=1200, check=False, **options)
    if check and done.returncode != 0:
        raise AssertionError("%s ended with %d:\n%s" % (command, done.returncode, done.stdout))
    return done.stdout


def main_files(listed):
    """Without manual pages and documents, which must be there."""
    files = {name for name in listed if name and not name.endswith("/")}
    documents = {name for name in files if name.startswith(("usr/share/doc/xapi-guard/", "usr/share/man/"))}
    wanted = {"usr/share/man/man8/xapi-guard.8", "usr/share/man/man5/xapi-guard.toml.5", "usr/share/man/man1/xapi-guardctl.1",
              "usr/share/man/man1/xapi-sim.1", "usr/share/doc/xapi-guard/LICENSE", "usr/share/doc/xapi-guard/xapi-guard.toml",
              "usr/share/doc/xapi-guard/metrics.conf"}
    assert wanted <= documents, wanted - documents
    return sorted(files - documents)


class Packages(Scenario):
    @classmethod
    def setUpClass(cls):
        cls.place = pathlib.Path(tempfile.mkdtemp(prefix="guard-package-"))
        run(SOURCE / "scripts/package", cls.place)
        (cls.deb,) = cls.place.glob("xapi-guard_*.deb")
        (cls.rpm,) = cls.place.glob("xapi-guard-*.rpm")
        cls.tree = cls.place / "tree"
        run("dpkg-deb", "--extract", cls.deb, cls.tree)
        # The harness finds the packed programs where it looks for programs.
        guardtest.BIN = str(cls.place / "bin")
        os.mkdir(guardtest.BIN)
        for program in PROGRAMS:
            os.symlink(cls.tree / program, os.path.join(guardtest.BIN, os.path.basename(program)))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.place)

    def root(self):
        """An empty root directory; with a shell for the scripts of packages."""
        root = pathlib.Path(self.dir) / "root"
        for name in ("bin", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/log"):
            (root / name).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        shutil.copy("/bin/busybox", root / "bin/busybox")
        for tool in ("sh", "ls", "rm", "grep"):
            os.symlink("busybox", root / "bin" / tool)
        return root

    def test_both_packages_hold_the_same_files_and_no_others(self):
        in_deb = [line.split(maxsplit=5)[5].split(" -> ")[0][2:] for line in run("dpkg-deb", "--contents", self.deb).splitlines()]
        self.assertEqual(main_files(in_deb), sorted(FILES))
        in_rpm = run("rpm", "-qpl", self.rpm).split()
        self.assertEqual(sorted(in_rpm), sorted("/" + name for name in in_deb if name and not name.endswith("/")))
        for line in run("dpkg-deb", "--contents", self.deb).splitlines():
            mode, owner = line.split()[:2]
            self.assertEqual(owner, "root/root", line)
            if not mode.startswith("l"):
                self.assertNotIn("w", mode[5:], line)
        self.assertEqual(os.readlink(self.tree / "usr/sbin/varstored-guard"), "xapi-guard")

    def test_the_programs_need_no_library(self):
        for program in PROGRAMS:
            # Exit status and words of ldd differ from version to version; a dependency is always shown by an arrow.
            said = run("ldd", self.tree / program, check=False)
            self.assertRegex(said, "statically linked|not a dynamic executable")
            self.assertNotIn("=>", said)

    def test_the_guard_serves_in_a_root_with_nothing_but_itself(self):
        root = pathlib.Path(self.dir) / "empty"
        (root / "proc").mkdir(parents=True)
        shutil.copy(self.tree / "usr/sbin/xapi-guard", root)
        # Nothing but itself and the kernel's /proc, through which sockets are bound.
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", 'mount --rbind /proc "$0/proc" && exec chroot "$0" "$@"', root,
             "/xapi-guard", "--upstream", "embedded:/store.db", "--state-dir", "/state", "--runtime-dir", "/run",
             "--resume-file", "/sockets.json", "--control-socket", "/control.sock", "--switch-socket", "none"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.kill)

        def status():
            self.assertIsNone(process.poll(), "the guard ended")
            return subprocess.run([os.path.join(guardtest.BIN, "xapi-guardctl"), "--control-socket", str(root / "control.sock"),
                                   "--json", "status"], capture_output=True, text=True, check=False, timeout=60)

        wait_until(lambda: status().returncode == 0, 60, "the guard answers")
        self.assertEqual(json.loads(status().stdout)["mode"], "direct")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(60), 0, process.stderr.read())
        self.assertTrue((root / "state/journal/a").exists())

    def dpkg(self, root, *arguments):
        return run("dpkg", "--root=%s" % root, "--log=/dev/null", "--force-not-root", "--force-script-chrootless",
                   "--force-depends", *arguments)

    def guard_in(self, root):
        self.guards = getattr(self, "guards", 0) + 1
        guard = Guard(self, "guard%d" % self.guards, upstream="unix:" + os.path.join(self.dir, "no-xapi.sock"))
        guard.state_dir = str(root / STATE)
        return guard

    def leave_pending(self, root):
        """A guard that writes into the state directory of that root, and ends with a value that was never delivered."""
        guard = self.guard_in(root)
        guard.start()
        os.makedirs(os.path.dirname(guard.socket_path(vm_uuid(1))), exist_ok=True)
        guard.create(vm_uuid(1))
        guard.swtpm(vm_uuid(1)).write("permall", self.value())
        guard.stop()

    def discard(self, root):
        guard = self.guard_in(root)
        guard.start()
        guard.ctl("discard", vm_uuid(1))
        guard.stop()

    def test_a_purge_keeps_what_is_pending_and_deletes_what_is_not(self):
        root = self.root()
        self.dpkg(root, "--install", self.deb)
        for name in FILES:
            self.assertTrue(os.path.lexists(root / name), name)
        self.leave_pending(root)
        self.dpkg(root, "--remove", "xapi-guard")
        for name in FILES:
            self.assertFalse(os.path.lexists(root / name), name)
        journal = (root / STATE / "journal/a").read_bytes()
        said = self.dpkg(root, "--purge", "xapi-guard")
        self.assertIn("is kept", said)
        self.assertEqual((root / STATE / "journal/a").read_bytes(), journal)
        # Installed again, given up by an operator, and purged: now everything goes.
        self.dpkg(root, "--install", self.deb)
        self.discard(root)
        self.dpkg(root, "--remove", "xapi-guard")
        self.assertTrue((root / STATE / "journal").exists(), "only a purge deletes")
        self.dpkg(root, "--purge", "xapi-guard")
        self.assertFalse((root / STATE).exists())

    def test_a_purge_keeps_what_the_original_left_and_what_is_in_quarantine(self):
        for kept in ("Swtpm/%s/0/4617725464136" % vm_uuid(1), "quarantine/damaged"):
            root = self.root()
            self.dpkg(root, "--install", self.deb)
            self.leave_pending(root)
            self.discard(root)
            (root / STATE / kept).parent.mkdir(parents=True)
            (root / STATE / kept).write_bytes(b"QUJD")
            self.dpkg(root, "--purge", "xapi-guard")
            self.assertEqual((root / STATE / kept).read_bytes(), b"QUJD")
            shutil.rmtree(root)

    def test_the_rpm_is_installed_and_erased_and_the_state_stays(self):
        root = self.root()
        run("rpm", "--root", root, "--nodeps", "--install", self.rpm)
        for name in FILES:
            self.assertTrue(os.path.lexists(root / name), name)
        self.assertIn("xapi-guard", run("rpm", "--root", root, "-qa"))
        self.leave_pending(root)
        run("rpm", "--root", root, "--erase", "xapi-guard")
        for name in FILES:
            self.assertFalse(os.path.lexists(root / name), name)
        self.assertTrue((root / STATE / "journal/a").exists())

    def test_the_scripts_are_those_of_a_service_that_outlives_its_programs(self):
        for script in ("postinst", "prerm", "postrm"):
            text = run("dpkg-deb", "--info", self.deb, script)
            run("sh", "-n", SOURCE / "packaging/debian" / script)
            self.assertRegex(text, re.compile(r"^set -e$", re.M))
        # A restart, not a stop and a start: sockets stay in the store of systemd.
        self.assertIn("systemctl restart", run("rpm", "-qp", "--scripts", self.rpm))
        self.assertNotIn("systemctl -q stop", run("dpkg-deb", "--info", self.deb, "postinst"))


if __name__ == "__main__":
    guardtest.main()
