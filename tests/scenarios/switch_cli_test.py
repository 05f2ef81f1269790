"""The command line tools as clients of the message switch."""

import json
import os
import subprocess

from guardtest import BIN, Crowd, main, vm_uuid, wait_until
from switchtest import QUEUE, SwitchScenario


class Cli(SwitchScenario):
    def start(self):
        self.sim.start()
        self.switch.start()
        self.guard.start()

    def run_tool(self, *words):
        return subprocess.run([os.path.join(BIN, words[0]), "--switch", self.switch.path, *words[1:]], check=False,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)

    def ctl(self, *words):
        return self.run_tool("xapi-guardctl", *words)

    def cli(self, *words):
        return self.run_tool("xapiguard_cli", *words)

    def test_guardctl_speaks_through_the_switch(self):
        self.start()
        path, gid = self.guard.socket_path(vm_uuid(1)), str(os.getgid())
        done = self.ctl("vtpm-create", vm_uuid(1), gid, path)
        self.assertEqual((done.returncode, done.stdout), (0, "serving %s\n" % path), done.stderr)
        done = self.ctl("vtpm-create", vm_uuid(1), gid, path)
        self.assertEqual((done.returncode, done.stderr), (1, "xapi-guardctl: Path %s is already in use\n" % path))
        status = json.loads(self.ctl("--json", "status").stdout)
        self.assertEqual([socket["path"] for socket in status["sockets"]], [path])
        self.assertEqual(self.ctl("pending").stdout, "nothing is pending\n")
        done = self.ctl("drain")
        self.assertEqual((done.returncode, "control socket only" in done.stderr), (1, True))
        self.assertEqual(self.ctl("quarantine", "list").returncode, 2)
        self.assertEqual(self.ctl("vtpm-destroy", gid, path).returncode, 0)
        self.assertEqual(self.guard.status()["sockets"], [])
        wait_until(lambda: list(self.switch.queues) == [QUEUE] and not self.switch.queued(), 10, "nothing stays behind")

    def test_the_tool_of_the_original(self):
        self.start()
        path, gid = self.guard.socket_path(vm_uuid(1)), str(os.getgid())
        for uuid, dbg in (('"%s"' % vm_uuid(1), "VM.start R:1"), (vm_uuid(1), "")):
            done = self.cli("vtpm_create", dbg, uuid, gid, path)
            self.assertEqual((done.returncode, done.stdout), (0, "N\n"), done.stderr)
            done = self.cli("vtpm_create", dbg, uuid, gid, path)
            self.assertEqual((done.returncode, done.stdout),
                             (1, "[S(InternalError);S(Path %s is already in use)]\n" % path))
            done = self.cli("vtpm_destroy", dbg, gid, path)
            self.assertEqual((done.returncode, done.stdout), (0, "N\n"), done.stderr)

    def test_wrong_command_lines(self):
        for words in ((), ("nothing",), ("vtpm_create", "d", "no uuid", "1", "/a"), ("vtpm_destroy", "d", "x", "/a"),
                      ("vtpm_destroy", "d"), ("vtpm_get_contents", "d", '"7c9e6679"')):
            self.assertEqual(self.cli(*words).returncode, 124, words)
        self.assertEqual(self.cli("--help").returncode, 0)
        self.assertEqual(self.cli("--version").stdout, "1.0.0\n")

    def test_without_a_switch_or_a_daemon_they_give_up_in_the_end(self):
        crowd, path = Crowd(), os.path.join(self.dir, "vm", "s")
        nowhere = os.path.join(self.dir, "nowhere")
        self.switch.start()

        def no_daemon():
            done = self.cli("vtpm_destroy", "d", "1", path)
            self.assertEqual((done.returncode, done.stdout), (3, ""))
            self.assertIn("stays in the message switch", done.stderr)

        def no_switch():
            done = subprocess.run([os.path.join(BIN, "xapi-guardctl"), "--switch", nowhere, "vtpm-destroy", "1", path],
                                  check=False, capture_output=True, text=True, timeout=120)
            self.assertEqual((done.returncode, "cannot connect" in done.stderr), (3, True))

        crowd.start(no_daemon)
        crowd.start(no_switch)
        crowd.join(100)
        self.assertEqual(self.switch.queued(), [0])


if __name__ == "__main__":
    main()
