"""The fist point: a file that switches buffering off, so that failures of xapi are seen as they are."""

import os

from guardtest import Scenario, main, wait_until


class Fist(Scenario):
    direct_timeout = "5s"

    def setUp(self):
        super().setUp()
        self.fist = os.path.join(self.dir, "fist")
        self.vms = self.start_all(2, ["--fist-file", self.fist])
        self.device = self.guard.device(self.vms[0])

    def disable(self):
        with open(self.fist, "w", encoding="utf-8"):
            pass

    def buffering(self):
        return self.guard.status()["buffering"]

    def test_failures_are_reported_while_it_is_there(self):
        self.assertEqual(self.buffering(), "enabled")
        self.disable()
        self.assertEqual(self.buffering(), "disabled")
        self.assert_status(self.device.put("permall", self.value()), 204)
        self.sim.kill()
        self.assert_status(self.device.put("permall", self.value()), 503)
        self.assert_status(self.device.delete("permall"), 503)
        self.assert_status(self.guard.device(self.vms[1]).put("permall", self.value()), 503)
        # What was accepted before is written down for retention, and counts as pending for a moment.
        wait_until(lambda: self.guard.status()["pending"]["entries"] == 0, 30, "nothing is pending", self.guard.status)
        self.assertEqual(self.guard.counter("writes_journaled"), 0)
        self.assertEqual(self.guard.status()["journal"]["state"], "ok")
        os.unlink(self.fist)
        self.assert_status(self.device.put("permall", self.value()), 204)
        self.assertEqual(self.guard.status()["pending"]["entries"], 1)

    def test_swtpm_gets_through_when_xapi_is_back(self):
        self.disable()
        self.sim.kill()
        tpm = self.guard.swtpm(self.vms[0])
        value = self.value()
        self.assert_status(tpm.put("permall", value), 503)
        self.sim.start()
        tpm.write("permall", value)
        self.guard.wait_idle()
        self.assert_delivered(self.vms[0], tpm.acknowledged)
        self.assertEqual(self.guard.counter("writes_journaled"), 0)

    def test_what_is_pending_is_delivered(self):
        tpm = self.guard.swtpm(self.vms[0])
        self.sim.kill()
        tpm.write("permall", self.value())
        self.disable()
        self.assert_status(tpm.put("savestate", self.value()), 503)
        self.assertEqual(tpm.read("permall"), tpm.acknowledged["permall"])
        self.sim.start()
        self.guard.wait_idle()
        self.assert_delivered(self.vms[0], tpm.acknowledged)

    def test_a_link_is_none(self):
        os.symlink(os.devnull, self.fist)
        self.assertEqual(self.buffering(), "enabled")
        self.sim.kill()
        self.assert_status(self.device.put("permall", self.value()), 204)

    def test_contents_are_refused_too(self):
        tpm = self.guard.swtpm(self.vms[0])
        tpm.write("permall", self.value())  # the lane knows its vTPM now
        vtpm = self.sim.vtpm(self.vms[0])["uuid"]
        self.disable()
        self.sim.kill()
        path = os.path.join(self.dir, "contents")
        with open(path, "w", encoding="utf-8") as file:
            file.write("YWFhYQ==  ")
        self.assertEqual(self.guard.ctl("vtpm-set", vtpm, path, check=False).returncode, 1)
        wait_until(lambda: self.guard.status()["pending"]["entries"] == 0, 30, "nothing is pending", self.guard.status)
        os.unlink(self.fist)
        self.assertEqual(self.guard.ctl("vtpm-set", vtpm, path, check=False).returncode, 0)


if __name__ == "__main__":
    main()
