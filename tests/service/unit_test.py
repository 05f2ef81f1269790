"""The unit of systemd: right in systemd's eyes, tight, in step with the limits of the program, and understood by
version 219 as by today's. GUARD_BIN names the programs' directory, GUARD_SOURCE the project's."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

BIN, SOURCE = pathlib.Path(os.environ["GUARD_BIN"]), pathlib.Path(os.environ["GUARD_SOURCE"])
UNIT = SOURCE / "packaging/varstored-guard.service"
PROGRAM = "/usr/sbin/xapi-guard"
# Tenths.
EXPOSURE_MAX = 16
EXPOSURE_MAX_WITH_METRICS = 22


def read_unit(path=UNIT):
    """[(section, key, value)] in order."""
    found, section = [], None
    for line in path.read_text(encoding="utf-8").splitlines():
        if re.fullmatch(r"\[\w+\]", line):
            section = line[1:-1]
        elif line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.append((section, key, value))
    return found


def help_of(program):
    return subprocess.run([str(BIN / program), "--help"], stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout


def limit(name):
    text = (SOURCE / "src/base/limits.h").read_text(encoding="utf-8")
    return int(re.search(r"\b%s = ([\d']+);" % name, text)[1].replace("'", ""))


class Unit(unittest.TestCase):
    def setUp(self):
        self.entries = read_unit()
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="guard-unit-"))
        self.addCleanup(shutil.rmtree, self.place)

    def values(self, key, section="Service"):
        return [value for where, name, value in self.entries if (where, name) == (section, key)]

    def value(self, key, section="Service"):
        (value,) = self.values(key, section)
        return value

    def analyze(self, *arguments):
        done = subprocess.run(["systemd-analyze", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=100, check=False)
        return done.returncode, done.stdout

    def exposure(self, unit, threshold):
        status, text = self.analyze("security", "--offline=true", "--no-pager", "--threshold=%d" % threshold, str(unit))
        print(text.splitlines()[-1])
        return status

    def test_systemd_finds_nothing_wrong(self):
        unit = self.place / UNIT.name
        unit.write_text(UNIT.read_text(encoding="utf-8").replace(PROGRAM, str(BIN / "xapi-guard")), encoding="utf-8")
        status, text = self.analyze("verify", "--man=no", str(unit))
        self.assertEqual((status, text), (0, ""))
        # And it would say so.
        unit.write_text(unit.read_text(encoding="utf-8").replace("WatchdogSec=30s", "WatchdogSec=soon"), encoding="utf-8")
        self.assertIn("Failed to parse", self.analyze("verify", "--man=no", str(unit))[1])

    def test_it_is_exposed_no_more_than_it_says(self):
        self.assertEqual(self.exposure(UNIT, EXPOSURE_MAX), 0)
        open_unit = self.place / UNIT.name
        open_unit.write_text(re.sub(r"\n(Protect|Private|Restrict)\w+=.*", "", UNIT.read_text(encoding="utf-8")), encoding="utf-8")
        self.assertNotEqual(self.exposure(open_unit, EXPOSURE_MAX), 0)

    def test_each_exception_is_explained_beside_it(self):
        status, text = self.analyze("security", "--offline=true", "--no-pager", "--json=short", str(UNIT))
        self.assertEqual(status, 0, text)
        exceptions = {row["name"] for row in json.loads(text) if row["set"] is False and row["exposure"] not in (None, "0.0")}
        # What systemd-analyze complains of, and the words that explain it in a comment.
        explained = {
            "User=/DynamicUser=": "root, but without the powers of root",
            "CapabilityBoundingSet=~CAP_(DAC_*|FOWNER|IPC_OWNER)": "CAP_DAC_OVERRIDE  ",
            "CapabilityBoundingSet=~CAP_SET(UID|GID|PCAP)": "CAP_SETGID  ",
            "RestrictAddressFamilies=~AF_UNIX": "Unix sockets only",
            "PrivateUsers=": "No PrivateUsers=",
            "PrivateTmp=": "No PrivateTmp=",
            "RootDirectory=/RootImage=": "No RootDirectory=",
            "DeviceAllow=": "ProtectClock= lets it read the clock's device",
        }
        self.assertEqual(exceptions, set(explained))
        comments = " ".join(line.lstrip("# ") if not line.startswith("#   ") else line[1:].strip()
                            for line in UNIT.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
        for name, words in explained.items():
            self.assertIn(words, comments, name)

    def test_its_numbers_are_those_of_the_program(self):
        kept = int(self.value("FileDescriptorStoreMax"))
        self.assertGreater(kept, limit("device_sockets"))
        self.assertLess(kept, limit("inherited_descriptors"), "what systemd passes is looked at as a whole")
        self.assertEqual(self.value("LimitNOFILE"), "16384")
        self.assertGreater(16384, kept + limit("descriptors_wanted"))
        self.assertEqual(self.value("LimitCORE"), "0")

    def test_it_is_started_again_for_ever(self):
        self.assertEqual((self.value("Type"), self.value("Restart"), self.value("RestartSec")), ("notify", "always", "1s"))
        self.assertEqual(self.value("StartLimitIntervalSec", "Unit"), "0")
        self.assertEqual(self.value("StartLimitInterval"), "0", "the spelling of version 219, in its section")
        self.assertEqual(self.value("WatchdogSec"), "30s")

    def test_it_stands_where_the_original_stands_in_the_order_of_things(self):
        for key in ("Wants", "After"):
            self.assertEqual(self.value(key, "Unit"), "message-switch.service syslog.target")
        self.assertEqual(self.value("Before", "Unit"), "xapi-domains.service xenopsd-xc.service")
        self.assertEqual(self.value("PartOf", "Unit"), "toolstack.target")
        self.assertEqual(self.value("WantedBy", "Install"), "multi-user.target")
        self.assertEqual(self.value("Alias", "Install"), "xapi-guard.service")

    def test_an_old_systemd_does_no_harm(self):
        # Version 219 removes the runtime directory at each restart.
        self.assertEqual(self.values("RuntimeDirectory"), [])
        # It knows no groups of system calls: of a list of what is allowed nothing would remain.
        for value in self.values("SystemCallFilter"):
            self.assertTrue(value.startswith("~"), value)


    def test_the_drop_in_for_metrics_adds_a_port_and_no_more(self):
        unit = self.place / UNIT.name
        shutil.copy(UNIT, unit)
        drop_in = self.place / (UNIT.name + ".d") / "metrics.conf"
        drop_in.parent.mkdir()
        shutil.copy(SOURCE / "packaging/metrics.conf", drop_in)
        self.assertEqual(self.exposure(unit, EXPOSURE_MAX_WITH_METRICS), 0)
        for file in (unit, drop_in):
            file.write_text(file.read_text(encoding="utf-8").replace(PROGRAM, str(BIN / "xapi-guard")), encoding="utf-8")
        self.assertEqual(self.analyze("verify", "--man=no", str(unit)), (0, ""))
        commands = [value.split() for _, key, value in read_unit(drop_in) if key == "ExecStart"]
        self.assertEqual([command[:1] for command in commands], [[], [str(BIN / "xapi-guard")]])
        for word in commands[1][1:]:
            if word.startswith("--"):
                self.assertIn("\n  %s " % word, help_of("xapi-guard"))


class Beside(unittest.TestCase):
    """What else is installed for operators."""

    def test_the_example_configuration_names_every_option_with_its_default(self):
        said = {}
        for name, default in re.findall(r"\n  --([a-z-]+) (?:TEXT|UINT)=(\S+)", help_of("xapi-guard")):
            said[name] = default
        self.assertGreater(len(said), 15)
        text = (SOURCE / "packaging/xapi-guard.toml").read_text(encoding="utf-8")
        keys = dict(re.findall(r'^#([a-z-]+) = "?([^"\n]*)"?$', text, re.M))
        self.assertEqual(sorted(keys), sorted(said))
        # Where the help says in words what the default is.
        said["control-socket"] = said["control-socket"].replace("<runtime-dir>", said["runtime-dir"])
        said["host-uuid"] = keys["host-uuid"]
        self.assertEqual(keys, said)
        # Each is explained above it.
        for key in keys:
            self.assertRegex(text, r"\n# [^\n]+\n(#[a-z-]+ = [^\n]+\n)?#%s = " % key)

    def complete(self, *words):
        """What bash offers for the last of these words."""
        script = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _xapi_guardctl; '
                  'printf "%s\\n" "${COMPREPLY[@]}"')
        done = subprocess.run(["bash", "-c", script, "bash", str(SOURCE / "packaging/xapi-guardctl.bash"),
                               str(BIN / "xapi-guardctl"), *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=60, check=True)
        self.assertEqual(done.stderr, "")
        return done.stdout.split()

    def test_bash_completes_what_the_program_knows(self):
        commands = re.findall(r"\n  ([a-z][a-z-]+) ", help_of("xapi-guardctl").split("Subcommands:")[1])
        self.assertGreater(len(commands), 10)
        self.assertEqual(self.complete(""), commands)
        self.assertEqual(self.complete("stat"), ["status"])
        self.assertEqual(self.complete("--json", ""), commands)
        self.assertEqual(self.complete("--control-socket", ""), [], "a file")
        self.assertEqual(self.complete("--control-socket", "status", ""), commands, "that was the name of a file")
        self.assertEqual(self.complete("--contr"), ["--control-socket"])
        self.assertIn("verify", self.complete("journal", ""))
        self.assertEqual(self.complete("quarantine", "pu"), ["purge"])
        self.assertIn("--timeout", self.complete("drain", "--"))
        self.assertEqual(self.complete("drain", "--timeout", ""), [])
        self.assertEqual(self.complete("vtpm-create", ""), [])
        self.assertEqual(self.complete("nonsense", "sta"), ["status"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
