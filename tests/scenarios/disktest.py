"""Disks for scenarios: small file systems that can be filled to the last byte, fail, and be mended.

With root and loop devices the state directory stands on ext4 in an image, and the device itself can be made to fail
(FailingDisk). Without them it stands on a tmpfs in a user namespace of our own.
All mounts are made in a mount namespace of this process, so that they and their loop devices are gone when the
process is, however it ends; the programs it has started die with it.
"""

import contextlib
import os
import re
import subprocess
import sys
import unittest

from guardtest import Process, Scenario

IN_NAMESPACE = "GUARD_DISK_NAMESPACE"
BLOCK = 4096
MIB = 1 << 20


def run(*command):
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where mkfs is, and where others than root do not look
    done = subprocess.run(command, env={**os.environ, "PATH": path}, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise OSError("%s: %s" % (" ".join(command), done.stdout.strip()))
    return done.stdout


def main():
    """Instead of guardtest.main(): in a mount namespace of our own, where the system allows one."""
    if IN_NAMESPACE not in os.environ:
        own = ["unshare", "--mount", "--propagation", "private"]
        for kind, command in (("root", own), ("user", [*own, "--user", "--map-root-user"])):
            try:
                run(*command, "mount", "-t", "tmpfs", "none", "/mnt")
            except OSError as error:
                print("%s: no mounts: %s" % (kind, error), file=sys.stderr)
                continue
            os.environ[IN_NAMESPACE] = kind
            os.execvp(command[0], [*command, sys.executable, "-B", *sys.argv])
        os.environ[IN_NAMESPACE] = "none"
    unittest.main(verbosity=2)


def write_until_full(path):
    """Appends to the file until not one byte more can be had. What is written is synced, because some file systems
    promise blocks before they look for them."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for piece in (1 << 18, BLOCK, 1):
            data = b"x" * piece
            for _ in range(1 << 20):
                try:
                    os.write(fd, data)
                except OSError:
                    break
            try:
                os.fsync(fd)
            except OSError:
                pass
    finally:
        os.close(fd)


def zeros_in(path, parts):
    """The runs of blocks with nothing but zeros in these parts of a file: [(offset, length)]."""
    runs = []
    with open(path, "rb") as file:
        for at, length in parts:
            for block in range(at, at + length, BLOCK):
                file.seek(block)
                if any(file.read(BLOCK)):
                    continue
                if runs and sum(runs[-1]) == block:
                    runs[-1] = (runs[-1][0], runs[-1][1] + BLOCK)
                else:
                    runs.append((block, BLOCK))
    return runs


class Tmpfs:
    """A file system in memory with so many bytes."""

    def __init__(self, path, size):
        self.path, self.fillers = path, []
        os.makedirs(path, exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", "mode=700,size=%d" % size, "none", path)

    def fill(self):
        # More than once: what a file system keeps back for data not yet written comes free when they are. And with more
        # than one file: the last block cannot be had by a file that would need another one to note where it is.
        for i in range(20):
            self.fillers.append(os.path.join(self.path, "filler-%d" % i))
            write_until_full(self.fillers[-1])
            run("sync", "-f", self.path)
            if os.statvfs(self.path).f_bfree == 0:
                return
        raise AssertionError("something is free: %s" % (os.statvfs(self.path),))

    def free(self):
        for name in self.fillers:
            os.unlink(name)
        self.fillers.clear()

    def remount(self, mode):
        # Of the mount, not of the file system, whose options a user namespace may not repeat.
        run("mount", "-o", "remount,bind," + mode, self.path)

    def destroy(self):
        if os.path.ismount(self.path):
            run("umount", "--lazy", self.path)


class Ext4(Tmpfs):
    """ext4 on a loop device. Nothing of it is reserved: not for root, not for the file system's own use, and it has
    no journal, so that its metadata are where they were when the disk was whole."""

    def __init__(self, path, size, image, on_error="continue"):
        # pylint: disable=super-init-not-called
        self.path, self.image, self.on_error, self.fillers = path, image, on_error, []
        os.makedirs(path, exist_ok=True)
        with open(image, "wb") as file:
            file.truncate(size)
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-b", str(BLOCK), "-O", "^has_journal", "-E",
            "lazy_itable_init=0,nodiscard", image)
        self.device = None
        self.attach()

    def attach(self, before_mount=None):
        """`before_mount` is called when the device knows its size."""
        self.device = run("losetup", "--find", "--show", self.image).strip()
        try:
            if before_mount is not None:
                before_mount()
            run("mount", "-t", "ext4", "-o", "errors=" + self.on_error, self.device, self.path)
        finally:
            # Gone with its last user.
            run("losetup", "--detach", self.device)
        self.write_setting("reserved_clusters", "0")

    def write_setting(self, name, value):
        with open("/sys/fs/ext4/%s/%s" % (os.path.basename(self.device), name), "w", encoding="ascii") as file:
            file.write(value)

    def remount(self, mode):
        run("mount", "-o", "remount," + mode, self.path)

    @contextlib.contextmanager
    def frozen(self):
        """Writes wait until the end of the block."""
        run("fsfreeze", "--freeze", self.path)
        try:
            yield
        finally:
            run("fsfreeze", "--unfreeze", self.path)

    def detach(self):
        """Nothing of the file system stays in memory. Nobody may use it any more."""
        run("umount", self.path)

    def check(self):
        """As at a boot: notes that there was an error, and mends what it finds."""
        status = subprocess.run(["/sbin/e2fsck", "-f", "-p", self.image], stdout=subprocess.DEVNULL, check=False).returncode
        assert status in (0, 1), "e2fsck: exit status %d" % status

    def extents(self, name):
        """Where the bytes of a file stand in the image: [(offset in the file, offset in the image, length)]."""
        found = []
        for line in run("filefrag", "-v", "-b%d" % BLOCK, os.path.join(self.path, name)).splitlines():
            match = re.match(r"\s*\d+:\s*(\d+)\.\.\s*\d+:\s*(\d+)\.\.\s*\d+:\s*(\d+):", line)
            if match:
                found.append(tuple(int(number) * BLOCK for number in match.groups()))
        assert found, "no extents of " + name
        return found


class FailingDisk(Ext4):
    """ext4 on a device that can fail, without device-mapper: the image is a file on another ext4. What the loop driver
    cannot do with that file, it reports as an error of the device."""

    def __init__(self, path, size, outer):
        self.outer = Ext4(outer, size + 4 * MIB, outer + ".img")
        self.cut = None
        self.mend = None
        super().__init__(path, size, os.path.join(outer, "image"))

    def fail_writes(self):
        """All writes are I/O errors: of an immutable file, also one that is open, no byte can be changed."""
        run("sync", "-f", self.path)
        run("chattr", "+i", self.image)
        self.mend = lambda: run("chattr", "-i", self.image)

    def out_of_blocks(self, name=None):
        """As on a thin device that can get no more blocks: whatever stands there can be overwritten, but not where only
        zeros are, in one file or anywhere. Giving the blocks of zeros back changes no byte."""
        run("sync", "-f", self.path)
        parts = [(0, os.path.getsize(self.image))] if name is None else [part[1:] for part in self.extents(name)]
        for at, length in zeros_in(self.image, parts):
            run("fallocate", "--punch-hole", "--offset", str(at), "--length", str(length), self.image)
        self.outer.fill()
        self.mend = self.outer.free

    def fail_reads_from(self, place):
        """Nothing can be read of what stands at `place` in the image and behind it. What is written there meanwhile is
        lost when it is mended."""
        with open(self.image, "r+b") as image:
            image.seek(place)
            self.cut = (place, image.read())
        os.truncate(self.image, place)
        self.mend = self._restore

    def _restore(self):
        place, data = self.cut
        with open(self.image, "r+b") as image:
            image.seek(place)
            image.write(data)

    def destroy(self):
        super().destroy()
        self.outer.destroy()


class DiskScenario(Scenario):
    """The guard's state directory on a disk of its own, its journal as small as the daemon allows."""

    journal_mib = 4
    # Both files of the journal, and what the guard needs beside them; the rest can be filled.
    disk_bytes = (2 * journal_mib + 3) * MIB
    direct_timeout = "5s"

    def setUp(self):
        super().setUp()
        self.place = os.path.join(self.dir, "disk")
        self.guard.state_dir = os.path.join(self.place, "state")
        self.guard.options += ["--journal-size", "%dMiB" % self.journal_mib]

    def launch(self, name, arguments, log_path, wrapper=(), **options):
        # So that nothing keeps the mounts alive when this process is killed. What is confined (systemdtest) sees to that itself.
        if "preexec_fn" not in options:
            wrapper = ("setpriv", "--pdeathsig", "KILL", *wrapper)
        process = Process(name, arguments, log_path, wrapper, **options)
        self.processes.append(process)
        return process

    def ext4(self, on_error="continue"):
        """None where the system has no loop devices for us."""
        return self._made(lambda: Ext4(self.place, self.disk_bytes, self.place + ".img", on_error))

    def need_ext4(self, on_error="continue"):
        return self.ext4(on_error) or self.skip_without_loop_devices()

    def failing_disk(self):
        disk = self._made(lambda: FailingDisk(self.place, self.disk_bytes, self.place + ".outer"))
        return disk or self.skip_without_loop_devices()

    def skip_without_loop_devices(self):
        """Not even in CI a failure: the same troubles are had, in greater number, on a simulated disk."""
        self.skipTest("no loop devices; engine_test and journal_test let a simulated disk fail")

    def any_disk(self):
        """ext4 where possible, else a tmpfs. What needs no more than that must run where it counts."""
        disk = self.ext4() or self._made(lambda: Tmpfs(self.place, self.disk_bytes))
        if disk is None:
            if os.environ.get("GUARD_CI") == "1":
                self.fail("nothing can be mounted here, so nothing was tested")
            self.skipTest("nothing can be mounted here")
        return disk

    def _made(self, make):
        if os.environ[IN_NAMESPACE] == "none":
            return None
        try:
            disk = make()
        except OSError as error:
            print("no disk: %s" % error, file=sys.stderr)
            return None
        self.addCleanup(disk.destroy)
        return disk

    def journal(self):
        return self.guard.status()["journal"]

    def try_to_write(self, tpm, slot, value):
        """One request; answers its status, 204 or 503, and nothing else is right on any disk."""
        tpm.close()  # the guard may have been restarted
        status = tpm.put(slot, value).status
        self.assertIn(status, (204, 503))
        if status == 204:
            tpm.acknowledged[slot] = value
        else:
            tpm.refused = value
        return status

    def assert_reads_what_was_acknowledged(self, tpms):
        for tpm in tpms:
            for slot, value in tpm.acknowledged.items():
                self.assertEqual(tpm.read(slot), value, "%s of %s" % (slot, tpm.path))

    def assert_all_delivered(self, vms, tpms):
        """With xapi back: it holds, byte for byte, what was acknowledged and nothing else."""
        self.guard.wait_idle()
        for vm, tpm in zip(vms, tpms):
            self.assert_delivered(vm, tpm.acknowledged)
