"""The message switch: what is asked through it is done once, in order and answered, whatever the switch does."""

import json
import os

from guardtest import main, vm_uuid, wait_until
from switchtest import QUEUE, Client, Refused, SwitchScenario


class SwitchCase(SwitchScenario):
    def connected(self):
        return self.guard.status()["switch"]["state"] == "connected"

    def wait_connected(self):
        wait_until(self.connected, 30, "the guard is connected to the switch")

    def start_with_switch(self):
        self.sim.start()
        self.switch.start()
        self.guard.start()
        self.wait_connected()
        return self.client()

    def client(self, token="xenopsd-xc:2345"):
        return self.track(Client(self.switch.path, token))

    def served(self):
        return {socket["path"]: socket["vm"] for socket in self.guard.status()["sockets"]}

    def payload(self, method, **named):
        return json.dumps({"method": method, "params": [named], "id": 1})

    def create_payload(self, number, path=None):
        vm = vm_uuid(number)
        return self.payload("vtpm_create", dbg="", vm_uuid=vm, gid=os.getgid(), path=path or self.guard.socket_path(vm))


class Protocol(SwitchCase):
    def test_speaks_to_the_switch_as_the_original_does(self):
        client = self.start_with_switch()
        vm = vm_uuid(1)
        self.assertIsNone(client.create(vm, self.guard.socket_path(vm)))
        self.assertEqual(self.served(), {self.guard.socket_path(vm): vm})
        wait_until(lambda: self.switch.queued() == [], 10, "the request is acknowledged")
        own = [(kind, target, body) for (kind, target, body), head in zip(self.switch.requests, self.switch.heads)
               if b"2345" not in target.encode() or kind == "response"]
        pid = str(self.guard.process.pid)
        self.assertEqual(own[0][:2], ("login", "/login/" + pid))
        self.assertEqual(own[1][:2], ("login", "/login/" + pid))
        self.assertEqual(own[2][:2], ("persistent", "/persistent/" + QUEUE))
        polls = [body.decode() for kind, _, body in own if kind == "transfer" and b"xenopsd" not in body]
        self.assertEqual(polls[0], '{"timeout":0.0,"queues":["%s"]}' % QUEUE)
        self.assertEqual(polls[1], '{"from":"-1","timeout":30.0,"queues":["%s"]}' % QUEUE)
        wait_until(lambda: any(b'{"from":"0","timeout":30.0' in body for _, _, body in list(self.switch.requests)), 10,
                   "the next poll")
        answers = [(kind, target, body) for kind, target, body in own if kind in ("response", "ack")]
        self.assertEqual(answers, [("response", "/response/xenopsd-xc:2345/%s/0" % QUEUE,
                                    b'{"result":null,"error":null,"id":0}'),
                                   ("ack", "/ack/%s/0" % QUEUE, b"")])
        self.assertEqual(self.switch.heads[0].decode(),
                         "GET /login/%s HTTP/1.1\r\nuser-agent: cohttp\r\ncontent-length: 0\r\n"
                         "connection: keep-alive\r\nhost: localhost\r\n\r\n" % pid)

    def test_requests_are_executed_in_the_order_of_their_arrival(self):
        self.sim.start()
        self.switch.start()
        client = self.client()
        path = self.guard.socket_path(vm_uuid(1))
        numbers = [client.post_raw(self.create_payload(1, path)),
                   client.post_raw(self.payload("vtpm_destroy", dbg="", gid=os.getgid(), path=path)),
                   client.post_raw(self.create_payload(2, path))]
        self.guard.start()
        for number in numbers:
            self.assertIsNone(client.wait(number))
        self.assertEqual(self.served(), {path: vm_uuid(2)})

    def test_requests_that_make_no_sense_are_answered_and_delay_nobody(self):
        client = self.start_with_switch()
        for payload, text in (("no json", "Cannot parse"), ("", "Cannot parse"), ('{"method":"foo","params":[],"id":1}',
                              'Idl.UnknownMethod("foo")'), (self.payload("vtpm_destroy"), "Expecting named argument"),
                              (self.payload("drain"), "control socket only"),
                              (self.payload("discard", vm_uuid=vm_uuid(1)), "control socket only")):
            with self.assertRaises(Refused) as refused:
                client.wait(client.post_raw(payload))
            self.assertIn(text, str(refused.exception))
        self.assertEqual(client.call("status")["version"], self.guard.status()["version"])
        self.switch.put_message({"payload": 7, "kind": ["Request", "nobody"]})
        self.switch.put_message({"payload": "", "kind": ["Response", [QUEUE, 1]]})
        self.assertIsNone(client.create(vm_uuid(1), self.guard.socket_path(vm_uuid(1))))
        wait_until(lambda: self.switch.queued() == [], 10, "nothing stays behind")

    def test_a_path_in_use_is_refused_and_an_unknown_one_is_gone_already(self):
        client = self.start_with_switch()
        path = self.guard.socket_path(vm_uuid(1))
        client.create(vm_uuid(1), path)
        with self.assertRaises(Refused) as refused:
            client.create(vm_uuid(2), path)
        self.assertEqual(str(refused.exception), "Path %s is already in use" % path)
        self.assertIsNone(client.destroy(path + "x"))
        self.assertIsNone(client.destroy(path))
        self.assertEqual(self.served(), {})

    def test_a_destroyed_socket_serves_nobody_any_more_and_stays_gone(self):
        client = self.start_with_switch()
        vm, path = vm_uuid(1), self.guard.socket_path(vm_uuid(1))
        client.create(vm, path)
        device = self.guard.device(vm)
        self.assert_status(device.put("permall", self.value()), 204)
        with self.assertRaises(Refused) as refused:
            client.destroy(path, gid=os.getgid() + 1)
        self.assertIn("belongs to gid", str(refused.exception))
        self.assert_status(device.get("permall"), 200)
        client.call("varstore_destroy", dbg="", gid=os.getgid(), path=path)
        self.assert_status(device.get("permall"), 200)
        client.destroy(path)
        self.assertTrue(device.closed_by_peer())
        self.assertFalse(os.path.exists(path))
        self.guard.kill()
        self.guard.start()
        self.assertFalse(os.path.exists(path))
        self.assertEqual(self.served(), {})

    def test_numbers_may_be_text_and_members_stand_in_any_order(self):
        client = self.start_with_switch()
        path = self.guard.socket_path(vm_uuid(1))
        payload = ('{"id":"x","extra":[1],"params":[{"color":7,"gid":"%d","path":"%s","vm_uuid":"%s and more",'
                   '"dbg":"a\\ntrace"},"unnamed"],"method":"vtpm_create"}' % (os.getgid(), path, vm_uuid(1).upper()))
        self.assertIsNone(client.wait(client.post_raw(payload)))
        self.assertEqual(self.served(), {path: vm_uuid(1)})

    def test_many_requests_at_once_are_all_answered(self):
        client = self.start_with_switch()
        numbers = {client.post_raw(self.create_payload(i + 1)): i for i in range(400)}
        for number in numbers:
            self.assertIsNone(client.wait(number, 60))
        self.assertEqual(len(self.served()), 400)


class Trouble(SwitchCase):
    def test_every_failure_of_the_switch_at_every_point_is_survived(self):
        self.start_with_switch()
        created = 0
        for kind in ("login", "persistent", "transfer", "response", "ack"):
            for how in ("eof", "late-eof", "reset", "late-reset", "half", "error", "garbage"):
                if kind in ("login", "persistent", "ack") and how == "garbage":
                    continue  # nobody looks at these bodies
                with self.subTest(kind=kind, how=how):
                    created += 1
                    vm, path = vm_uuid(created), self.guard.socket_path(vm_uuid(created))
                    client = self.client()
                    fault = self.switch.fault(kind, how)
                    if kind in ("login", "persistent"):
                        client.close()
                        self.switch.stop(keep=True)
                        self.switch.start()
                        client = self.client()
                    number = client.post_raw(self.create_payload(created))
                    wait_until(lambda path=path: path in self.served(), 30, "the socket is there")
                    wait_until(lambda: self.switch.queued() == [], 30, "the request is gone from the queue")
                    wait_until(lambda fault=fault: fault.happened == 1, 10, "the fault happened")
                    self.assertEqual(self.served()[path], vm)
                    self.assertIsNone(client.wait(number))
                    client.close()
        self.assertEqual(self.guard.status()["counters"]["bugs"], 0)
        wait_until(lambda: self.switch.open_connections() <= 2, 10, "old connections are closed")

    def test_a_request_whose_answer_was_lost_is_not_executed_twice(self):
        client = self.start_with_switch()
        path = self.guard.socket_path(vm_uuid(1))
        self.switch.fault("ack", "eof")
        self.assertIsNone(client.create(vm_uuid(1), path))
        # Executed again it would be refused: the path is in use.
        wait_until(lambda: self.switch.queued() == [], 20, "acknowledged in the end")
        for response in client.responses(0.2).values():
            self.assertIsNone(client.result(response))
        self.assertEqual(self.guard.status()["switch"]["duplicates"], 1)

    def test_the_switch_restarts_without_its_queues(self):
        client = self.start_with_switch()
        for i in range(1, 4):
            client.create(vm_uuid(i), self.guard.socket_path(vm_uuid(i)))
        self.switch.stop()
        self.switch.start()
        self.wait_connected()
        client = self.client()
        # Numbers begin at 0 again: a position kept from before would skip it.
        self.assertIsNone(client.create(vm_uuid(4), self.guard.socket_path(vm_uuid(4))))
        self.assertEqual(len(self.served()), 4)

    def test_the_switch_restarts_with_its_queues(self):
        client = self.start_with_switch()
        client.create(vm_uuid(1), self.guard.socket_path(vm_uuid(1)))
        self.switch.stop(keep=True)
        number = self.switch.put(self.create_payload(2))
        self.switch.start()
        self.wait_connected()
        wait_until(lambda: len(self.served()) == 2, 10, "what was queued meanwhile is executed")
        wait_until(lambda: number not in self.switch.queued(), 10, "and acknowledged")

    def test_without_a_switch_everything_else_works_and_it_is_found_later(self):
        self.sim.start()
        self.guard.start()
        vm = self.create_vms(1)[0]
        self.guard.swtpm(vm).write("permall", self.value())
        self.assertEqual(self.guard.status()["switch"]["state"], "away")
        self.guard.stop()
        self.guard.start()
        self.assertEqual(self.guard.device(vm).get("permall").status, 200)
        self.switch.start()
        self.wait_connected()
        self.assertIsNone(self.client().create(vm_uuid(2), self.guard.socket_path(vm_uuid(2))))

    def test_a_switch_that_hangs_is_left_for_another_connection(self):
        client = self.start_with_switch()
        fault = self.switch.fault("response", "hang")
        number = client.post_raw(self.create_payload(1))
        wait_until(lambda: fault.happened == 1, 10, "the fault happened")
        self.assertIsNone(client.wait(number, 60))

    def test_a_queue_that_cannot_be_read_is_made_anew(self):
        client = self.start_with_switch()
        self.switch.fault("transfer", "huge", count=3, size=17 << 20)
        self.switch.put(self.create_payload(1))
        wait_until(lambda: self.guard.status()["switch"]["discarded_queues"] == 1, 60, "the queue is made anew")
        self.wait_connected()
        self.assertEqual((self.switch.queued(), self.served()), ([], {}))
        self.assertIsNone(client.create(vm_uuid(2), self.guard.socket_path(vm_uuid(2))))

    def test_the_guard_stops_in_order_and_another_takes_over(self):
        client = self.start_with_switch()
        client.create(vm_uuid(1), self.guard.socket_path(vm_uuid(1)))
        self.guard.stop()
        number = client.post_raw(self.create_payload(2))
        self.guard.start()
        self.assertIsNone(client.wait(number))
        self.guard.kill()
        number = client.post_raw(self.create_payload(3))
        self.guard.start()
        self.assertIsNone(client.wait(number))
        self.assertEqual(len(self.served()), 3)


class Age(SwitchCase):
    def test_a_create_whose_caller_has_given_up_fails_and_leaves_nothing(self):
        self.sim.start()
        self.switch.start()
        gone = os.path.join(self.dir, "gone", "socket")
        self.switch.put(self.create_payload(1, gone))
        self.switch.put(self.create_payload(2), age=25)
        recent = self.guard.socket_path(vm_uuid(3))
        self.switch.put(self.create_payload(3), age=2)
        self.guard.start()
        wait_until(lambda: self.switch.queued() == [], 20, "everything was dealt with")
        self.assertEqual(self.served(), {recent: vm_uuid(3)})
        self.assertFalse(os.path.exists(self.guard.socket_path(vm_uuid(2))))
        self.assertFalse(os.path.exists(gone))


if __name__ == "__main__":
    main()
