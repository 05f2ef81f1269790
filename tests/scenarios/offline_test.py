"""Journals that cannot be read, are set aside, or were damaged: what the guard does, and what operators can do."""

import json
import os
import time

from guardtest import Guard, Scenario, main, wait_until


class Offline(Scenario):
    direct_timeout = "5s"

    def journal(self, name=""):
        return os.path.join(self.guard.state_dir, "journal", name)

    def unread(self):
        return self.guard.status()["journal"]["state"] == "unread"

    def leave_entries_pending(self):
        """A stopped guard, xapi away, one acknowledged write of each of three VMs in the journal."""
        vms = self.start_all(3)
        tpms = [self.guard.swtpm(vm) for vm in vms]
        self.sim.kill()
        for tpm in tpms:
            tpm.write("permall", self.value(3000))
        self.guard.stop()
        return vms, tpms

    def put_a_directory_in_the_way(self):
        os.rename(self.journal("a"), self.journal("a.kept"))
        os.mkdir(self.journal("a"))

    def take_it_out_of_the_way(self):
        os.rmdir(self.journal("a"))
        os.rename(self.journal("a.kept"), self.journal("a"))

    def assert_everything_is_refused(self, vm):
        device = self.guard.device(vm)
        for answer in (device.get("permall"), device.put("permall", self.value()), device.delete("permall")):
            self.assertEqual(answer.status, 503)

    def test_a_plain_file_in_place_of_the_journal_is_waited_out(self):
        os.makedirs(self.guard.state_dir)
        with open(self.journal()[:-1], "w", encoding="utf-8") as file:
            file.write("not a directory")
        vms = self.start_all(1)
        self.assertTrue(self.unread())
        status = self.guard.status()
        self.assertIn("journal", status["journal"]["error"])
        self.assertEqual(status["quarantine_bytes"], 0)
        check = self.guard.ctl("status", "--check", check=False)
        self.assertEqual(check.returncode, 2)
        self.assert_everything_is_refused(vms[0])
        self.assertNotEqual(self.guard.ctl("quarantine", "list", check=False).returncode, 0)
        time.sleep(7)  # two more attempts
        self.assertTrue(self.unread())
        self.assertEqual(self.guard.process.text().count("journal_unreadable"), 1)
        os.unlink(self.journal()[:-1])
        wait_until(lambda: not self.unread(), 30, "the journal is read", self.guard.status)
        self.assertIn("journal_readable", self.guard.process.text())
        tpm = self.guard.swtpm(vms[0])
        tpm.write("permall", self.value())
        self.assert_delivered(vms[0], tpm.acknowledged)

    def test_what_was_pending_is_there_when_the_journal_can_be_read_again(self):
        vms, tpms = self.leave_entries_pending()
        self.put_a_directory_in_the_way()
        self.sim.start()
        self.guard.start()
        self.assertTrue(self.unread())
        for vm in vms:
            self.assert_everything_is_refused(vm)
        for command in ("inspect", "verify"):
            looked = self.guard.ctl("journal", command, self.guard.state_dir, check=False)
            self.assertEqual(looked.returncode, 3)
            seen = json.loads(looked.stdout)
            self.assertEqual(seen["state"], "unreadable")
            self.assertEqual(seen["in_use_by"], self.guard.process.pid)
        self.take_it_out_of_the_way()
        self.guard.wait_idle()
        for vm, tpm in zip(vms, tpms):
            self.assertEqual(tpm.read("permall"), tpm.acknowledged["permall"])
            self.assert_delivered(vm, tpm.acknowledged)

    def test_a_journal_set_aside_under_a_waiting_guard_lets_it_go_on_without_a_restart(self):
        vms, tpms = self.leave_entries_pending()
        self.put_a_directory_in_the_way()
        self.sim.start()
        self.guard.start()
        self.assertTrue(self.unread())
        pid = self.guard.process.pid
        done = json.loads(self.guard.ctl("journal", "set-aside", self.guard.state_dir).stdout)
        self.assertIsNone(done["live"])
        wait_until(lambda: not self.unread(), 30, "an empty journal is begun", self.guard.status)
        self.assertEqual(self.guard.process.pid, pid)
        self.assertTrue(self.guard.process.running())
        self.assertEqual(self.guard.pending(), [])
        # Reads and writes go on from what xapi has.
        self.assertEqual(tpms[0].read("permall"), b"")
        tpms[0].write("permall", self.value())
        self.assert_delivered(vms[0], tpms[0].acknowledged)
        # The new journal is a real one.
        self.sim.kill()
        tpms[1].write("permall", self.value())
        self.guard.kill()
        self.guard.start()
        self.assertEqual(tpms[1].read("permall"), tpms[1].acknowledged["permall"])
        # What was set aside is whole.
        aside = done["set_aside"]
        self.assertEqual(os.path.dirname(aside), self.guard.state_dir)
        listed = json.loads(self.guard.ctl("quarantine", "list").stdout)
        self.assertEqual(listed["set_aside"], [os.path.basename(aside)])
        os.rmdir(os.path.join(aside, "a"))
        os.rename(os.path.join(aside, "a.kept"), os.path.join(aside, "a"))
        seen = json.loads(self.guard.ctl("journal", "inspect", aside).stdout)
        self.assertEqual(seen["state"], "good")
        self.assertEqual(sorted(entry["vm"] for entry in seen["live"]), vms)

    def test_a_journal_in_use_is_not_set_aside(self):
        vms = self.start_all(1)
        refused = self.guard.ctl("journal", "set-aside", self.guard.state_dir, check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("in use", refused.stderr)
        refused = self.guard.ctl("journal", "set-aside", "--force", self.journal(), check=False)
        self.assertEqual(refused.returncode, 1)
        # The daemon that is asked is another one.
        other = Guard(self, "other")
        other.start()
        refused = other.ctl("journal", "set-aside", self.guard.state_dir, check=False)
        self.assertEqual(refused.returncode, 1)
        other.stop()
        # No daemon can be asked, but the lock says that there is one.
        unreachable = other.ctl("journal", "set-aside", self.guard.state_dir, check=False)
        self.assertEqual(unreachable.returncode, 3)
        self.assertTrue(os.path.isdir(self.journal()))
        self.guard.swtpm(vms[0]).write("permall", self.value())

    def test_the_daemon_that_waits_sets_aside_only_its_own_journal(self):
        vms, _ = self.leave_entries_pending()
        self.put_a_directory_in_the_way()
        self.guard.start()
        other = Guard(self, "other")
        os.makedirs(other.state_dir)
        with open(os.path.join(other.state_dir, "journal"), "w", encoding="utf-8") as file:
            file.write("not a directory")
        other.start()
        refused = other.ctl("journal", "set-aside", self.guard.state_dir, check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn(other.state_dir, refused.stderr)
        self.assertTrue(os.path.exists(os.path.join(other.state_dir, "journal")))
        self.take_it_out_of_the_way()
        wait_until(lambda: not self.unread(), 30, "the journal is read", self.guard.status)
        self.assertEqual(sorted(entry["vm"] for entry in self.guard.pending()), vms)

    def test_without_a_daemon_only_what_cannot_be_read_is_set_aside_unless_forced(self):
        vms, tpms = self.leave_entries_pending()
        refused = self.guard.ctl("journal", "set-aside", self.guard.state_dir, check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("3 live entries", refused.stderr)
        self.assertTrue(os.path.isdir(self.journal()))
        self.put_a_directory_in_the_way()
        done = json.loads(self.guard.ctl("journal", "set-aside", self.journal()).stdout)
        self.assertFalse(os.path.exists(self.journal()))
        os.rename(done["set_aside"], self.journal())
        self.take_it_out_of_the_way()
        done = json.loads(self.guard.ctl("journal", "set-aside", "--force", self.guard.state_dir).stdout)
        self.assertEqual(done["live"], 3)
        os.rename(done["set_aside"], self.journal())
        self.sim.start()
        self.guard.start()
        self.guard.wait_idle()
        for vm, tpm in zip(vms, tpms):
            self.assert_delivered(vm, tpm.acknowledged)

    def test_what_damage_left_behind_is_counted_listed_and_purged(self):
        vms, tpms = self.leave_entries_pending()
        seen = json.loads(self.guard.ctl("journal", "inspect", "--records", self.guard.state_dir).stdout)
        writes = [r for b in seen["batches"] for r in b["records"] if r["type"] == "write"]
        with open(self.journal(seen["replayed"]), "r+b") as file:
            file.seek(writes[0]["at"] + 500)
            file.write(b"\0\0\0\0")
        verified = self.guard.ctl("journal", "verify", self.guard.state_dir, check=False)
        self.assertEqual(verified.returncode, 1)
        place = json.loads(verified.stdout)["damage"][0]
        self.assertEqual(place["lost"]["vm"], writes[0]["vm"])
        self.guard.start()
        status = self.guard.status()
        self.assertEqual(status["journal"]["corrupt_records"], 1)
        self.assertEqual(status["quarantine_bytes"], place["to"] - place["from"])
        listed = json.loads(self.guard.ctl("quarantine", "list").stdout)
        self.assertEqual(listed["bytes"], status["quarantine_bytes"])
        self.assertEqual(len(listed["files"]), 1)
        self.guard.kill()
        self.guard.start()
        self.assertEqual(self.guard.status()["quarantine_bytes"], listed["bytes"], "also after a restart")
        offline = json.loads(self.guard.ctl("quarantine", "list", "--dir", self.guard.state_dir).stdout)
        self.assertEqual(offline, listed)
        refused = self.guard.ctl("quarantine", "purge", "--dir", self.guard.state_dir, check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("--dir", refused.stderr)
        purged = json.loads(self.guard.ctl("quarantine", "purge").stdout)
        self.assertEqual((purged["files"], purged["bytes"], purged["left"]), (1, listed["bytes"], 0))
        self.assertEqual(self.guard.status()["quarantine_bytes"], 0)
        self.assertEqual(json.loads(self.guard.ctl("quarantine", "list").stdout)["files"], [])
        # Without a daemon.
        self.guard.stop()
        with open(os.path.join(self.journal("quarantine"), "a-1-2-0-10"), "wb") as file:
            file.write(b"0123456789")
        os.mkdir(os.path.join(self.journal("quarantine"), "odd"))
        purged = self.guard.ctl("quarantine", "purge", "--dir", self.journal(), check=False)
        self.assertEqual(purged.returncode, 1, "something is left")
        self.assertEqual(json.loads(purged.stdout)["bytes"], 10)
        self.assertEqual(json.loads(purged.stdout)["left"], 1)


if __name__ == "__main__":
    main()
