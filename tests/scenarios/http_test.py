"""Odd bodies and odd clients on a device socket of the real daemon."""

import subprocess

from guardtest import EMPTY, HttpClient, Scenario, TransportError, main, wait_until


class Bodies(Scenario):
    direct_timeout = "5s"

    def test_what_can_never_be_stored_is_refused_and_nothing_is_changed(self):
        (vm,) = self.start_all()
        tpm = self.guard.swtpm(vm)
        tpm.write("permall", self.value())
        for up in (True, False):
            if not up:
                self.sim.kill()
            device = self.guard.device(vm)
            self.assert_status(device.put("permall", b"QUFB QUFB"), 400)
            self.assert_status(device.put("permall", b"QUFB "), 400)
            self.assert_status(device.put("permall", b"QUFB\n"), 400)
            self.assert_status(device.put("permall", EMPTY), 400)
            self.assert_status(device.put("permall", b"QUF"), 400)
            self.assert_status(device.put("permall", b"\x00\xff\x80!"), 400)
            self.assert_status(device.put("permall", b"A" * (320 * 1024 + 4)), 413)
            device = self.guard.device(vm)
            self.assert_status(device.request("PUT", "/tpm2-00.permall"), 411)
            # An unknown path and method, too, are for good.
            device = self.guard.device(vm)
            self.assert_status(device.get("foo"), 404)
            self.assert_status(device.request("POST", "/tpm2-00.permall", b"QUFB"), 405)
            self.assertEqual(tpm.read("permall"), tpm.acknowledged["permall"])
        # What was accepted before is written down for retention when xapi goes, which takes a moment.
        wait_until(lambda: self.guard.status()["pending"]["entries"] == 0, 30, "nothing was kept", self.guard.status)
        self.sim.start()
        self.guard.wait_idle()
        self.assert_delivered(vm, tpm.acknowledged)

    def test_what_xapi_can_never_take_is_refused_before_it_is_acknowledged(self):
        (vm,) = self.start_all()
        tpm = self.guard.swtpm(vm)
        tpm.write("permall", b"A" * 200_000)
        for up in (True, False):
            if not up:
                self.sim.kill()
            # Each alone would fit, both together do not.
            self.assert_status(tpm.put("volatilestate", b"B" * 120_000), 413)
            tpm.write("volatilestate", b"C" * 80_000)
        self.sim.start()
        self.guard.wait_idle()
        self.assert_delivered(vm, tpm.acknowledged)
        self.assertEqual(self.guard.status()["held"], [])

    def test_the_largest_value_that_fits(self):
        (vm,) = self.start_all()
        tpm = self.guard.swtpm(vm)
        fits, above = 300_000, 307_200
        while above - fits > 4:
            middle = (fits + above) // 8 * 4
            answer = tpm.put("permall", b"A" * middle)
            self.assert_status(answer, 204, 413)
            if answer.status == 204:
                fits = middle
            else:
                above = middle
        # xapi takes about 307,040 bytes of contents.
        self.assertGreater(fits, 306_900)
        tpm.write("permall", b"B" * fits)
        self.assert_delivered(vm, tpm.acknowledged)
        self.sim.kill()
        tpm.write("permall", b"D" * fits)
        self.sim.start()
        self.guard.wait_idle()
        self.assert_delivered(vm, tpm.acknowledged)

    def test_half_a_request_changes_nothing(self):
        (vm,) = self.start_all()
        tpm = self.guard.swtpm(vm)
        tpm.write("permall", self.value())
        head = b"PUT /tpm2-00.permall HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        for part in (head[:10], head, head + b"A" * 996):
            device = self.guard.device(vm)
            device.send_raw(part)
            device.close()
        device = self.guard.device(vm)
        device.send_raw(b"NONSENSE\r\n\r\n")
        self.assertTrue(device.closed_by_peer())
        self.assertEqual(tpm.read("permall"), tpm.acknowledged["permall"])
        self.assert_delivered(vm, tpm.acknowledged)

    def test_answers_are_those_that_swtpm_knows(self):
        (vm,) = self.start_all()
        device = self.guard.device(vm)
        self.assertEqual(device.put("permall", b"aGVsbG8gdHBtCg==").head, b"HTTP/1.1 204 No Content\r\n\r\n")
        answer = device.get("permall")
        self.assertEqual(answer.body, b"aGVsbG8gdHBtCg==")
        self.assertEqual(answer.headers, {"content-type": "application/octet-stream", "content-length": "16"})
        self.assertEqual(device.get("savestate").headers["content-length"], "0")
        self.assertEqual(device.head("permall").status, 200)
        self.assertEqual(device.head("savestate").status, 404)
        self.assertEqual(device.delete("savestate").head, b"HTTP/1.1 204 No Content\r\n\r\n")

    def test_three_requests_pipelined_and_the_connection_closed_when_asked(self):
        (vm,) = self.start_all()
        device = self.guard.device(vm)
        device.send_raw(b"PUT /tpm2-00.permall HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nQUFB"
                        b"GET /tpm2-00.permall?x=1 HTTP/1.1\r\nHost: x\r\n\r\n"
                        b"DELETE /tpm2-00.permall HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        self.assertEqual(device.receive().status, 204)
        self.assertEqual(device.receive().body, b"QUFB")
        self.assertEqual(device.receive().status, 204)
        self.assertTrue(device.closed_by_peer())
        device = self.guard.device(vm)
        device.send_raw(b"GET /tpm2-00.permall HTTP/1.0\r\n\r\n")
        self.assertEqual(device.receive().status, 200)
        self.assertTrue(device.closed_by_peer())

    def test_a_body_in_chunks_and_in_single_bytes(self):
        (vm,) = self.start_all()
        device = self.guard.device(vm)
        device.send_raw(b"PUT /tpm2-00.permall HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                        b"4\r\nQUFB\r\n4\r\nQkJC\r\n0\r\n\r\n")
        self.assert_status(device.receive(), 204)
        for byte in b"PUT /tpm2-00.savestate HTTP/1.1\r\nhost: x\r\nCONTENT-LENGTH: 20\r\n\r\nQUFBQUFBQUFBQUFBQUFB":
            device.send_raw(bytes([byte]))
        self.assert_status(device.receive(), 204)
        self.assert_delivered(vm, {"permall": b"QUFBQkJC", "savestate": b"QUFBQUFBQUFBQUFBQUFB"})

    def test_bodies_of_every_small_length(self):
        (vm,) = self.start_all()
        tpm = self.guard.swtpm(vm)
        for length in range(4, 132, 4):
            tpm.write("permall", b"A" * length)
            self.assertEqual(tpm.read("permall"), b"A" * length)
        self.assertEqual(tpm.retries, 0)

    def test_more_connections_than_are_served_at_a_time(self):
        (vm,) = self.start_all()
        devices = [self.guard.device(vm) for _ in range(4)]
        for device in devices:
            self.assert_status(device.put("permall", b"QUFB"), 204)
        fifth = self.guard.device(vm, timeout=1)
        with self.assertRaises(TransportError):
            fifth.put("permall", b"QkJC")
        fifth = self.guard.device(vm, timeout=20)
        fifth.send_raw(b"GET /tpm2-00.permall HTTP/1.1\r\nHost: x\r\n\r\n")
        devices[0].close()
        self.assertEqual(fifth.receive().status, 200)


class Curl(Scenario):
    direct_timeout = "5s"

    def curl(self, vm, *arguments, stdin=None):
        done = subprocess.run(["curl", "--silent", "--show-error", "--max-time", "20", "--unix-socket",
                               self.guard.socket_path(vm), *arguments], input=stdin, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_curl_as_a_client(self):
        (vm,) = self.start_all()
        url = "http://xapi-depriv-socket/tpm2-00."
        status = ["--output", "/dev/null", "--write-out", "%{http_code}"]
        for up in (True, False):
            if not up:
                self.sim.kill()
            value = self.value(100_000)  # large enough for curl to ask with Expect
            self.assertEqual(self.curl(vm, *status, "--upload-file", "-", url + "permall", stdin=value), b"204")
            self.assertEqual(self.curl(vm, url + "permall"), value)
            self.assertEqual(self.curl(vm, *status, "-X", "PUT", "--data-binary", "@-", url + "permall", stdin=value), b"204")
            self.assertEqual(self.curl(vm, *status, "-X", "PUT", "-H", "Content-Type: application/octet-stream",
                                       "--data-binary", "QUFB", url + "volatilestate"), b"204")
            # Several on one connection.
            self.assertEqual(self.curl(vm, url + "volatilestate", url + "volatilestate"), b"QUFBQUFB")
            self.assertEqual(self.curl(vm, *status, "-X", "DELETE", url + "volatilestate"), b"204")
            self.assertEqual(self.curl(vm, *status, "-I", url + "volatilestate"), b"404")
            self.assertEqual(self.curl(vm, *status, "-I", url + "permall"), b"200")
            self.assertEqual(self.curl(vm, *status, "-X", "PUT", "--data", "QUFB QUFB", url + "permall"), b"400")
            self.assertEqual(self.curl(vm, *status, "-X", "PUT", "--data-binary", "@-", url + "permall",
                                       stdin=b"A" * 400_000), b"413")
        self.sim.start()
        self.guard.wait_idle()
        self.assert_delivered(vm, {"permall": value})

    def test_the_control_socket_speaks_http_too(self):
        self.start_all(2)
        client = self.track(HttpClient(self.guard.control))
        self.assertEqual(client.request("GET", "/metrics").status, 200)


if __name__ == "__main__":
    main()
