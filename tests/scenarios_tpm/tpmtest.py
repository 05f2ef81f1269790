"""What the scenarios with a real TPM share: guest-tpm as the guest of a VM."""

import hashlib
import json
import os
import subprocess

from guardtest import BIN, Scenario


class Guest:
    """The TPM of one VM and its ledger. Each command is one life of the TPM."""

    def __init__(self, scenario, vm):
        self.scenario, self.vm = scenario, vm
        self.ledger = os.path.join(scenario.dir, vm[:8] + ".ledger")
        self.saved = os.path.join(scenario.dir, vm[:8] + ".saved")

    def start(self, command, *options):
        """Starts a command and answers at once; it is killed when the scenario ends."""
        arguments = [os.path.join(BIN, "guest-tpm"), command, "--ledger", self.ledger, *map(str, options)]
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
        self.scenario.addCleanup(self._end, process)
        return process

    @staticmethod
    def _end(process):
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()

    def start_on_socket(self, command, *options):
        return self.start(command, "--socket", self.scenario.guard.socket_path(self.vm), *options)

    def finish(self, process, seconds=60, status=0):
        """Waits for a command; answers what it printed."""
        try:
            output = process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError("guest-tpm of %s has not ended within %g s" % (self.vm, seconds)) from None
        if process.returncode != status:
            raise AssertionError("guest-tpm of %s ended with %s: %s" % (self.vm, process.returncode, output))
        return output

    def run(self, command, *options, seconds=60, status=0):
        return self.finish(self.start_on_socket(command, *options), seconds, status)

    def init(self, *options):
        return self.run("init", *options)

    def write(self, count, *options):
        """So many acknowledged operations; answers the report."""
        return json.loads(self.run("write", "--count", count, "--report", "json", *options))

    def verify(self, seconds=60):
        return self.run("verify", seconds=seconds)

    def verify_contents(self):
        """Starts the TPM from what xapi-sim holds, without the guard."""
        copy = os.path.join(self.scenario.dir, self.vm[:8] + ".contents")
        with open(copy, "w", encoding="utf-8") as file:
            file.write(self.scenario.sim.vtpm(self.vm)["contents"])
        return self.finish(self.start("verify", "--contents", copy))

    def acknowledged(self):
        """SHA-256 of the permanent state acknowledged last, from the ledger."""
        sent = kept = None
        with open(self.ledger, encoding="utf-8") as file:
            for line in file:
                words = line.split()
                if words[:2] == ["begin", "permall"]:
                    sent = words[2]
                elif words[:2] == ["ack", "permall"]:
                    kept = sent
        return kept


class TpmScenario(Scenario):
    def start_guests(self, count, guard_options=(), init_options=()):
        """xapi-sim, the guard, and so many TPMs that are made and shut down."""
        guests = [Guest(self, vm) for vm in self.start_all(count, guard_options)]
        running = [guest.start_on_socket("init", *init_options) for guest in guests]
        for guest, process in zip(guests, running):
            guest.finish(process)
        return guests

    def assert_in_xapi(self, guest):
        """xapi-sim holds, byte for byte, the permanent state acknowledged last, and no volatile state."""
        held = self.sim.contents(guest.vm)
        self.assertEqual(hashlib.sha256(held["permall"]).hexdigest(), guest.acknowledged())
        self.assertEqual(held["volatilestate"], b"")
        self.assertEqual(held["savestate"], b"")
        guest.verify_contents()

    def assert_whole(self, guests):
        """After an orderly end: everything delivered, nothing parked, every TPM starts from what it acknowledged,
        from xapi's contents and from the guard."""
        self.guard.wait_idle(90)
        status = self.guard.status()
        self.assertEqual(status["parked"], [])
        self.assertEqual(status["held"], [])
        for guest in guests:
            self.assert_in_xapi(guest)
        for guest in guests:
            guest.verify()
        self.assert_no_overlap()
