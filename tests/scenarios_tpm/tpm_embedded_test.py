"""Real TPMs on a host without xapi: everything in one SQLite file, which is killed under, locked, moved and spoilt."""

import contextlib
import hashlib
import os
import sqlite3
import time
import uuid

from guardtest import EMPTY, SLOTS, main, wait_until
from tpmtest import Guest, TpmScenario

TPMS = 4


class TpmEmbedded(TpmScenario):
    def setUp(self):
        super().setUp()
        self.store = os.path.join(self.dir, "state.db")
        self.guard.upstream = "embedded:" + self.store

    def start_on_store(self, count, *guard_options):
        self.guard.options += guard_options
        self.guard.start()
        guests = [Guest(self, vm) for vm in self.create_vms(count)]
        for guest in guests:
            guest.init()
        return guests

    @contextlib.contextmanager
    def connect(self):
        with contextlib.closing(sqlite3.connect(self.store, timeout=30, isolation_level=None)) as connection:
            yield connection

    def stored(self, vm):
        with self.connect() as connection:
            rows = connection.execute("SELECT value.id % 4, bytes FROM value JOIN device ON device.id = value.id / 4 "
                                      "WHERE vm = ? AND device = 0", (uuid.UUID(vm).bytes,)).fetchall()
        return {**dict.fromkeys(SLOTS, EMPTY), **{SLOTS[slot]: value for slot, value in rows}}

    def assert_stored(self, guests):
        """Everything delivered; the store holds the state acknowledged last, byte for byte; every TPM starts from it."""
        self.guard.wait_idle(90)
        status = self.guard.status()
        self.assertEqual((status["parked"], status["held"]), ([], []))
        self.assertEqual(status["upstream"]["uri"], self.guard.upstream)
        self.assertEqual(status["upstream"]["state"], "up")
        for guest in guests:
            held = self.stored(guest.vm)
            self.assertEqual(hashlib.sha256(held["permall"]).hexdigest(), guest.acknowledged())
            self.assertEqual((held["savestate"], held["volatilestate"]), (EMPTY, EMPTY))
        for guest in guests:
            guest.verify()

    def wait_down(self, *words):
        def says_so():
            upstream = self.guard.status()["upstream"]
            return upstream["state"] == "down" and all(word in (upstream["last_error"] or "") for word in words)
        wait_until(says_so, 30, "the store is down and status says why", lambda: self.guard.status()["upstream"])

    def write_through_trouble(self, guests):
        """Each TPM works on and notices nothing; what it writes is in the journal."""
        running = [guest.start_on_socket("write", "--count", 30) for guest in guests]
        for guest, process in zip(guests, running):
            self.assertIn(" 0 retried", guest.finish(process))
        self.assertEqual(self.guard.status()["pending"]["vms"], len(guests))

    def test_killed_again_and_again_nothing_is_lost(self):
        guests = self.start_on_store(TPMS)
        running = [guest.start_on_socket("write", "--count", 120, "--rate", 15, "--no-shutdown") for guest in guests]
        kills = 0
        end = time.monotonic() + 8
        while time.monotonic() < end:
            time.sleep(self.random.uniform(0.1, 0.7))
            self.guard.kill()
            kills += 1
            self.guard.start()
        print("killed %d times; seed %d" % (kills, self.seed), flush=True)
        self.assertGreater(kills, 3)
        for guest, process in zip(guests, running):
            self.assertIn("TPM operations acknowledged", guest.finish(process, 120))
            guest.write(1)  # ends with a shutdown
        self.assertEqual(self.guard.counter("bugs"), 0)
        self.assert_stored(guests)

    def test_in_normal_times_the_journal_is_not_touched(self):
        (guest,) = self.start_on_store(1, "--direct-timeout", "10s")
        guest.write(20)
        self.assertEqual(self.guard.counter("writes_journaled"), 0)
        self.assert_stored([guest])
        self.guard.stop()
        self.assertEqual(sorted(name for name in os.listdir(self.dir) if name.startswith("state.db")), ["state.db"],
                         "an orderly stop leaves one file")
        self.assertEqual(os.stat(self.store).st_mode & 0o777, 0o600)

    def test_while_another_process_holds_the_lock_writes_are_kept(self):
        guests = self.start_on_store(2)
        with self.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            guests[0].write(1)
            self.wait_down("locked")
            self.write_through_trouble(guests)
            self.guard.kill()
            self.guard.start()
            connection.execute("ROLLBACK")
        self.assert_stored(guests)

    def test_a_store_that_is_gone_is_missed_and_never_begun_anew(self):
        guests = self.start_on_store(2)
        for guest in guests:
            guest.write(5)
        aside = self.store + ".aside"
        running = guests[0].start_on_socket("write", "--count", 40, "--rate", 20)
        time.sleep(1)
        os.rename(self.store, aside)
        self.wait_down("gone")
        self.assertIn(" 0 retried", guests[0].finish(running))
        self.assertEqual(self.guard.status()["pending"]["vms"], 1)
        self.guard.stop()
        self.guard.start()
        # Its state is nowhere to be had now; a new identity would be the worst of answers.
        process = guests[1].start_on_socket("verify")
        time.sleep(1.5)
        self.assertIsNone(process.poll(), "it must wait")
        self.assertFalse(os.path.exists(self.store))
        os.rename(aside, self.store)
        self.assertIn("came back as it was stored", guests[1].finish(process))
        self.assert_stored(guests)

    def test_a_store_that_was_replaced_is_not_used(self):
        guests = self.start_on_store(2)
        for guest in guests:
            guest.write(5)
        self.guard.stop()
        aside = self.store + ".aside"
        os.rename(self.store, aside)
        for content, said in ((b"not a database " * 1000, "not a database"), (b"", "empty")):
            with open(self.store, "wb") as file:
                file.write(content)
            self.guard.start()
            self.wait_down(said)
            self.assertEqual(self.guard.device(guests[0].vm).get("volatilestate").status, 503)
            self.write_through_trouble_unread(guests[0])
            with open(self.store, "rb") as file:
                self.assertTrue(file.read().startswith(content), "it is left alone")
            self.guard.stop()
        os.replace(aside, self.store)
        self.guard.start()
        self.guard.wait_idle()
        self.assertEqual(self.stored(guests[0].vm)["savestate"], b"cGVuZGluZw==")
        self.assertEqual(self.guard.device(guests[0].vm).delete("savestate").status, 204)
        self.assert_stored(guests)

    def write_through_trouble_unread(self, guest):
        self.assertEqual(self.guard.device(guest.vm).put("savestate", b"cGVuZGluZw==").status, 204)
        self.assertEqual(self.guard.device(guest.vm).get("savestate").body, b"cGVuZGluZw==")


if __name__ == "__main__":
    main()
