#!/usr/bin/env python3
"""What `cmake --install` installs is whole: each public header compiles alone, a stranger's project finds the package,
builds the example as C++20 and as C++23 without anything of the source tree, and the example keeps its promise when
it is killed with -9 while its upstream is away.

install_test.py --build BUILD_DIRECTORY --compiler CXX [SEED]
"""
import argparse
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
import uuid

ARGUMENTS = None


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=300, **options)
    if done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


class InstallTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.place = pathlib.Path(tempfile.mkdtemp(prefix="guard-install-"))
        cls.prefix = cls.place / "prefix"
        run("cmake", "--install", ARGUMENTS.build, "--prefix", cls.prefix)
        # The sources of the example too are those that were installed.
        (cls.example,) = cls.prefix.glob("share/doc/*/examples")
        cls.programs = {}
        for standard in (20, 23):
            build = cls.place / f"build{standard}"
            run("cmake", "-S", cls.example, "-B", build, f"-DCMAKE_PREFIX_PATH={cls.prefix}",
                f"-DCMAKE_CXX_COMPILER={ARGUMENTS.compiler}", f"-DCMAKE_CXX_STANDARD={standard}",
                "-DCMAKE_CXX_STANDARD_REQUIRED=ON", "-DCMAKE_CXX_EXTENSIONS=OFF",
                "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror")
            run("cmake", "--build", build)
            cls.programs[standard] = build / "spool"

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.place)

    def test_each_header_compiles_alone_with_nothing_but_the_standard_library(self):
        headers = sorted((self.prefix / "include").rglob("*.h"))
        self.assertIn(self.prefix / "include/guard/buffer.h", headers)
        for header in headers:
            for standard in (20, 23):
                with self.subTest(header=header.name, standard=standard):
                    run(ARGUMENTS.compiler, f"-std=c++{standard}", "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic",
                        "-Werror", "-I", self.prefix / "include", "-x", "c++", "-", input=f'#include "{header}"\n')

    def test_the_programs_run_from_where_they_were_installed(self):
        for program in ("sbin/xapi-guard", "sbin/varstored-guard", "bin/xapi-guardctl", "bin/xapi-sim", "bin/xapiguard_cli"):
            self.assertIn("Usage", run(self.prefix / program, "--help"))

    def test_the_unit_starts_the_program_that_was_installed(self):
        unit = (self.prefix / "lib/systemd/system/varstored-guard.service").read_text()
        self.assertIn(f"\nExecStart={self.prefix}/sbin/xapi-guard\n", unit)

    def test_what_else_an_operator_needs_is_there(self):
        (docs,) = self.prefix.glob("share/doc/*")
        self.assertIn(f"\nExecStart={self.prefix}/sbin/xapi-guard --metrics", (docs / "metrics.conf").read_text())
        self.assertTrue((docs / "xapi-guard.toml").is_file())
        for name in ("grafana-dashboard.json", "prometheus-rules.yml"):
            self.assertTrue((self.prefix / "share/xapi-guard" / name).is_file(), name)
        self.assertTrue((self.prefix / "share/bash-completion/completions/xapi-guardctl").is_file())

    def test_the_example_is_small(self):
        lines = (self.example / "spool.cpp").read_text().splitlines()
        self.assertLessEqual(len(lines), 50)

    def test_what_was_acknowledged_before_a_kill_is_delivered_by_the_next_run(self):
        for standard, program in self.programs.items():
            with self.subTest(standard=standard):
                self.kill_and_deliver(program, self.place / f"run{standard}")

    def kill_and_deliver(self, program, place):
        state, target = place / "state", place / "target"
        place.mkdir()
        kept = {}
        for start in (0, 1000, 2000):
            self.killed_run(program, state, target, start, kept)
        self.assertGreater(len(kept), 30)
        self.assertFalse(target.exists(), "the upstream was away all the time")
        done = run(program, state, target, input="")
        self.assertEqual(done, "the rest waits\n", "it is still away, and that is no reason to fail")
        target.mkdir()
        self.assertEqual(run(program, state, target, input=""), "all delivered\n")
        for name, text in kept.items():
            file = target / str(uuid.UUID(bytes=name.encode().ljust(16, b"\0")))
            self.assertEqual(file.read_text(), text, name)
        # With the upstream there, a line is delivered at once.
        self.assertEqual(run(program, state, target, input="now here\n"), "kept now\nall delivered\n")
        self.assertEqual((target / str(uuid.UUID(bytes=b"now".ljust(16, b"\0")))).read_text(), " here")

    def killed_run(self, program, state, target, start, kept):
        """Writes lines until the program has acknowledged some, then kills it while it works on others."""
        spool = subprocess.Popen([program, state, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        lines = {f"line{i}": f" text {i} " + "x" * random.randrange(4000) for i in range(start, start + 300)}
        feeder = os.fork()
        if feeder == 0:  # the pipe is smaller than the lines: somebody else fills it
            try:
                for name, text in lines.items():
                    spool.stdin.write(name + text + "\n")
                    spool.stdin.flush()
                signal.pause()
            finally:
                os._exit(0)
        spool.stdin.close()
        for _ in range(random.randrange(20, 100)):
            verdict, name = spool.stdout.readline().split()
            self.assertEqual(verdict, "kept")
            kept[name] = lines[name]
        spool.send_signal(signal.SIGKILL)
        for line in spool.stdout:  # what it had said before it died counts too
            if line.endswith("\n"):
                kept[line.split()[1]] = lines[line.split()[1]]
        self.assertEqual(spool.wait(), -signal.SIGKILL)
        spool.stdout.close()
        os.kill(feeder, signal.SIGKILL)
        os.waitpid(feeder, 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--compiler", required=True)
    parser.add_argument("seed", nargs="?", type=int, default=random.SystemRandom().randrange(1 << 32))
    ARGUMENTS = parser.parse_args()
    print("seed", ARGUMENTS.seed)
    random.seed(ARGUMENTS.seed)
    unittest.main(argv=sys.argv[:1], verbosity=2)
