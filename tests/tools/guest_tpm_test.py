"""guest-tpm by itself: that it speaks as swtpm does, retries as swtpm does, and notices every kind of loss."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import unittest

from state_server import StateServer

GUEST_TPM = os.path.join(os.environ["GUARD_BIN"], "guest-tpm")
HOST = b"Host: xapi-depriv-socket\r\nAccept: */*\r\n"


class GuestTpmTest(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="guest-tpm.")
        self.addCleanup(shutil.rmtree, self.dir)
        self.ledger = os.path.join(self.dir, "ledger")
        self.server = StateServer(os.path.join(self.dir, "socket"))
        self.addCleanup(self.server.hang_up)

    def start(self, command, *options, socket=True):
        place = ["--socket", self.server.path] if socket else []
        arguments = [GUEST_TPM, command, "--ledger", self.ledger, *place, *map(str, options)]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run_tpm(self, command, *options, status=0, socket=True):
        process = self.start(command, *options, socket=socket)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, status, out + err)
        return out + err

    def initialised(self, *options):
        self.run_tpm("init", *options)
        self.server.requests.clear()
        self.server.times.clear()
        self.server.segments.clear()

    def test_a_first_start_manufactures_and_every_later_start_finds_the_same_tpm(self):
        self.assertIn("a new TPM was made", self.run_tpm("init"))
        self.assertEqual(self.server.lines()[:3], ["GET permall", "GET permall", "PUT permall"])
        self.assertIn("100 TPM operations", self.run_tpm("write", "--count", 100))
        self.server.requests.clear()
        out = self.run_tpm("verify")
        self.assertEqual(self.server.lines()[:4], ["GET permall", "GET permall", "GET volatilestate", "PUT permall"])
        for sentence in ("came back as it was stored", "the NV counter is", '"operation 99"', "same public key",
                         "OpenSSL verified"):
            self.assertIn(sentence, out)

    def test_the_request_bytes_are_those_of_swtpm(self):
        self.initialised()
        self.run_tpm("write", "--count", 3)
        self.run_tpm("suspend", "--saved", self.dir + "/saved")
        seen = set()
        for request, segments in zip(self.server.requests, self.server.segments):
            head, _, body = request.partition(b"\r\n\r\n")
            head += b"\r\n\r\n"
            method = head.split(b" ")[0]
            seen.add(method)
            target = re.match(rb"[A-Z]+ (/tpm2-00\.(permall|savestate|volatilestate)) HTTP/1\.1\r\n", head)
            self.assertTrue(target, head)
            expected = method + b" " + target[1] + b" HTTP/1.1\r\n" + HOST
            if method == b"PUT":
                expected += b"Content-Type: application/octet-stream\r\nContent-Length: %d\r\n" % len(body)
            self.assertEqual(head, expected + b"\r\n")
            if method == b"PUT":
                self.assertGreater(len(base64.b64decode(body, validate=True)), 1000)
            else:
                self.assertEqual(body, b"")
        self.assertEqual(seen, {b"GET", b"PUT", b"DELETE"})

    def test_a_state_has_the_envelope_of_swtpm(self):
        self.initialised()
        blob = base64.b64decode(self.server.states["permall"], validate=True)
        self.assertEqual(blob[:6], bytes([2, 1, 0, 10, 0, 0]))
        self.assertEqual(int.from_bytes(blob[6:10], "big"), len(blob))
        self.assertEqual(int.from_bytes(blob[10:12], "big"), 1)
        self.assertEqual(int.from_bytes(blob[12:16], "big"), len(blob) - 16)

    def test_one_connection_serves_a_whole_life_and_one_operation_is_one_put(self):
        self.initialised()
        before = self.server.connections
        report = json.loads(self.run_tpm("write", "--count", 50, "--no-shutdown", "--report", "json"))
        self.assertEqual(self.server.connections, before + 1)
        self.assertEqual(report["connections"], 1)
        self.assertEqual(report["retries"], 0)
        puts = self.server.lines().count("PUT permall")
        self.assertEqual(puts, report["puts"]["count"])
        self.assertEqual(puts, 51, "TPM2_Startup and 50 operations")
        digest = hashlib.sha256(self.server.states["permall"]).hexdigest()
        self.assertEqual(report["permall_sha256"], digest)
        latency = report["puts"]
        self.assertLessEqual(0, latency["min_us"])
        self.assertLessEqual(latency["min_us"], latency["p50_us"])
        self.assertLessEqual(latency["p50_us"], latency["p99_us"])
        self.assertLessEqual(latency["p99_us"], latency["max_us"])

    def test_5xx_is_retried_after_a_tenth_of_a_second_doubling(self):
        self.initialised()
        self.server.script = [("PUT", 500), ("PUT", 503), ("PUT", 599)]
        out = self.run_tpm("write", "--count", 2)
        self.assertIn("3 retried", out)
        puts = [t for t, line in zip(self.server.times, self.server.lines()) if line == "PUT permall"]
        pauses = [b - a for a, b in zip(puts, puts[1:])][:3]
        for pause, expected in zip(pauses, (0.1, 0.2, 0.4)):
            self.assertGreaterEqual(pause, expected - 0.01)
            self.assertLess(pause, expected + 0.5)
        bodies = [r.partition(b"\r\n\r\n")[2] for r in self.server.requests if r.startswith(b"PUT")]
        self.assertEqual(len(set(bodies[:4])), 1, "the same state was sent again")
        self.run_tpm("verify")

    def test_a_lost_connection_is_retried_and_a_half_or_chunked_answer_understood(self):
        self.initialised()
        self.server.script = [("GET", "half"), ("GET", "close"), ("GET", "chunked"), ("PUT", "close"),
                              ("PUT", "close_after_acting")]
        self.run_tpm("write", "--count", 6)
        self.assertEqual(self.server.script, [])
        self.run_tpm("verify")

    def test_a_put_that_ends_without_an_answer_opens_one_silent_connection(self):
        self.initialised()
        silent = self.server.silent_connections
        self.server.script = [("PUT", "close")]
        self.run_tpm("write", "--count", 2)
        time.sleep(0.05)
        self.assertEqual(self.server.silent_connections, silent + 1)

    def test_a_tpm_waits_for_a_socket_that_is_not_there(self):
        self.initialised()
        self.server.stop()
        os.unlink(self.server.path)
        process = self.start("write", "--count", 4)
        time.sleep(0.5)
        self.assertIsNone(process.poll())
        self.server._start()
        out, err = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 0, out + err)
        self.assertNotIn(" 0 retried", out)

    def test_every_status_but_200_204_and_5xx_ends_in_failure_mode(self):
        self.initialised()
        for status in (201, 302, 400, 404, 405, 413, 429, 499):
            with self.subTest(status=status):
                self.server.script = [("GET", 200), ("GET", 200)]  # used up below
                self.server.script = [("PUT", status)]
                out = self.run_tpm("write", "--count", 2, status=1)
                self.assertIn("failure mode", out)
                self.assertIn("was refused with %d" % status, out)
                self.assertIn("ok ", self.run_tpm("verify"))

    def test_give_up_after_ends_the_retries_and_the_silence(self):
        self.initialised()
        self.server.script = [("PUT", 500)] * 50
        start = time.monotonic()
        self.assertIn("given up", self.run_tpm("write", "--count", 1, "--give-up-after", 1, status=1))
        self.assertLess(time.monotonic() - start, 5)

    def test_an_older_state_is_noticed_before_the_tpm_sees_it(self):
        self.initialised()
        self.run_tpm("write", "--count", 4)
        for method_seen in range(2):
            self.server.script = [("GET", "old")]
            out = self.run_tpm("verify", status=1)
            self.assertIn("neither the last acknowledged", out)
        self.assertIn("ok ", self.run_tpm("verify"))

    def test_a_missing_state_is_noticed_and_nothing_is_manufactured_over_it(self):
        self.initialised()
        kept = self.server.states.pop("permall")
        self.assertIn("is gone", self.run_tpm("verify", status=1))
        self.assertNotIn("permall", self.server.states)
        self.server.states["permall"] = kept
        self.run_tpm("verify")

    def test_a_state_with_a_flipped_or_missing_byte_is_noticed(self):
        self.initialised()
        kept = self.server.states["permall"]
        for broken in (kept[:-4], kept[:100] + (b"A" if kept[100:101] != b"A" else b"B") + kept[101:]):
            self.server.states["permall"] = broken
            self.assertIn("WRONG", self.run_tpm("verify", status=1))
        self.server.states["permall"] = kept
        self.run_tpm("verify")

    def test_another_tpm_in_its_place_is_noticed(self):
        self.initialised()
        mine, self.ledger = self.ledger, os.path.join(self.dir, "other-ledger")
        kept, self.server.states = self.server.states, {}
        self.run_tpm("init")
        self.ledger = mine
        # Even if the bytes were not compared: forget them, so that only counter, NV memory and key speak.
        with open(mine) as file:
            lines = [line for line in file if not line.startswith(("begin", "ack"))]
        with open(mine, "w") as file:
            file.writelines(lines)
        self.assertIn("WRONG the persistent key is another one", self.run_tpm("verify", status=1))

    def test_a_counter_that_went_back_is_noticed_by_the_tpm_itself(self):
        self.initialised()
        self.run_tpm("write", "--count", 3)
        older = dict(self.server.states)
        self.run_tpm("write", "--count", 4)
        self.server.states = older
        with open(self.ledger) as file:
            lines = [line for line in file if not line.startswith(("begin", "ack"))]
        with open(self.ledger, "w") as file:
            file.writelines(lines)
        self.assertIn("it went back", self.run_tpm("verify", status=1))

    def test_a_killed_guest_is_understood_whether_its_last_operation_took_effect_or_not(self):
        self.initialised()
        for kind in ("close", "close_after_acting"):
            for count in (1, 2):  # the last operation is an NV write, an increment
                with self.subTest(kind=kind, count=count):
                    # The PUTs are those of TPM2_Startup and of the operations; the last is never answered well.
                    self.server.script = [("PUT", "chunked")] * count + [("PUT", kind)] + [("PUT", "close")] * 1000
                    process = self.start("write", "--count", count)
                    deadline = time.monotonic() + 10
                    while len(self.server.script) > 998 and time.monotonic() < deadline:
                        time.sleep(0.01)
                    process.kill()
                    process.communicate()
                    self.server.script = []
                    out = self.run_tpm("verify")
                    self.assertIn("did not take effect" if kind == "close" else "under way", out)
                    self.assertNotIn("under way", self.run_tpm("verify"), "settled once")

    def test_an_interrupted_init_is_completed_by_the_next(self):
        self.run_tpm("init")
        writes = self.server.lines().count("PUT permall") - 1  # but for that of TPM2_Shutdown
        for puts in range(1, writes):  # libtpms overlooks that its very first PUT is refused
            self.server.states.clear()
            if os.path.exists(self.ledger):
                os.unlink(self.ledger)
            self.server.script = [("PUT", "chunked")] * puts + [("PUT", 404)]
            self.run_tpm("init", status=1)
            self.server.script = []
            self.run_tpm("init")
            self.run_tpm("verify")

    def test_suspend_and_resume_carry_the_volatile_state(self):
        self.initialised()
        saved = os.path.join(self.dir, "saved")
        self.run_tpm("suspend", "--saved", saved, "--count", 5)
        lines = self.server.lines()
        self.assertEqual(lines[-5:], ["GET permall", "PUT volatilestate", "GET volatilestate",
                                      "DELETE volatilestate", "GET savestate"])
        self.server.requests.clear()
        out = self.run_tpm("resume", "--saved", saved)
        self.assertIn("PCR 10 has the value", out)
        self.assertEqual(self.server.lines()[:3], ["GET permall", "PUT permall", "DELETE volatilestate"])
        self.run_tpm("verify")

    def test_a_volatile_state_that_stays_behind_is_noticed(self):
        self.initialised()
        saved = os.path.join(self.dir, "saved")
        self.run_tpm("suspend", "--saved", saved)
        self.server.states["volatilestate"] = self.server.before.get("volatilestate") or b"c3RhbGU="
        self.assertIn("WRONG", self.run_tpm("verify", status=1))

    def test_a_copy_of_the_contents_is_verified_without_a_socket(self):
        self.initialised()
        self.run_tpm("write", "--count", 7)
        copy = os.path.join(self.dir, "contents")
        for end in (b"", b"\n"):
            with open(copy, "wb") as file:
                file.write(self.server.contents() + end)
            self.run_tpm("verify", "--contents", copy, socket=False)
        out = self.run_tpm("verify", "--contents", copy, socket=False)
        self.assertIn("the contents hold the permanent state as it was stored", out)
        self.run_tpm("verify")
        out = self.run_tpm("verify", "--contents", copy, socket=False, status=1)
        self.assertIn("neither the last acknowledged", out)

    def test_filled_nv_memory_makes_a_large_state(self):
        self.initialised("--fill", 112000)
        self.assertGreater(len(self.server.states["permall"]), 150000)
        self.run_tpm("write", "--count", 4, "--size", 100)
        self.run_tpm("verify")

    def test_rate_spaces_the_operations(self):
        self.initialised()
        report = json.loads(self.run_tpm("write", "--count", 11, "--rate", 20, "--report", "json"))
        self.assertGreaterEqual(report["seconds"], 0.45)

    def test_usage_errors_have_a_status_of_their_own(self):
        self.run_tpm("verify", status=2)
        self.run_tpm("write", "--count", 1, "--rate", 0, status=2)
        self.run_tpm("verify", socket=False, status=2)
        self.initialised()
        self.run_tpm("init", status=2)
        self.run_tpm("write", "--count", 1, "--size", 1000, status=2)
        self.run_tpm("resume", "--saved", self.dir + "/none", status=2)
        with open(self.ledger, "a") as file:
            file.write("done 99\n")
        self.run_tpm("verify", status=2)


if __name__ == "__main__":
    unittest.main()
