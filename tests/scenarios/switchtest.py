"""A stand-in of the message switch, and a client of it, for scenarios.

The switch keeps named queues. Persistent ones stay until destroyed; transient ones go when the last connection of
their owner's session closes. A poll lists messages newest first and everything that is not acknowledged; numbers are
per queue and, after a restart, begin one above the highest message that is still queued. Whether queues survive a
restart is the scenario's choice. Faults happen at a chosen request: before or after it took effect.
"""

import collections
import json
import os
import re
import socket
import threading
import time
import urllib.parse

from guardtest import Scenario

QUEUE = "org.xen.xapi.xapi_depriv"


class Fault:
    """At the next requests of a server, of `kind` (login, persistent, transfer, response, ack, ...) and after
    `skip` of them: "eof" closes before the request took effect, "late-eof" after it; "reset" and "late-reset" reset
    instead; "half" breaks the answer off in the middle; "error" answers 500; "hang" never answers; "garbage" answers
    200 with nonsense; "huge" with `size` bytes of it."""

    def __init__(self, kind, how, count=1, skip=0, size=0):
        self.kind, self.how, self.count, self.skip, self.size = kind, how, count, skip, size
        self.happened = 0


class Queue:
    def __init__(self, owner=None):
        self.owner, self.next, self.messages = owner, 0, {}


class Connection:
    def __init__(self, sock):
        self.sock, self.buffer, self.session = sock, b"", None

    def read_request(self):
        """(method, target, head, body), or None at the end."""
        while b"\r\n\r\n" not in self.buffer:
            if not self._more():
                return None
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        length = int(re.search(rb"\r\ncontent-length: (\d+)", head)[1])
        while len(self.buffer) < length:
            if not self._more():
                return None
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        return method, target, head + b"\r\n\r\n", body

    def _more(self):
        try:
            data = self.sock.recv(1 << 16)
        except OSError:
            return False
        self.buffer += data
        return bool(data)

    def end(self, reset=False):
        """Wakes whoever reads from it, too. A unix socket that is closed with unread bytes resets its peer."""
        try:
            if not reset:
                self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()


class MessageSwitch:
    """start(), stop(keep=True or False), start() again."""

    def __init__(self, path):
        self.path = path
        self.condition = threading.Condition()
        self.queues = {}
        self.connections, self.sessions = set(), collections.Counter()
        self.faults = []
        self.requests = []  # (kind, target, body) in order of arrival
        self.heads = []
        self.listener = None
        self.run = 0
        self.started = 0

    # --- Life ---------------------------------------------------------------------------------------------------

    def start(self, started_ago=600.0):
        """`started_ago`: for how many seconds it claims to run."""
        self.run += 1
        self.started = self.now() - int(started_ago * 1e9)
        for queue in self.queues.values():
            queue.next = max(queue.messages, default=-1) + 1
            # What comes back from the disk bears a new date.
            queue.messages = {n: (self.now(), origin, m) for n, (_, origin, m) in queue.messages.items()}
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.listener.bind(self.path)
        self.listener.listen(64)
        threading.Thread(target=self._accept, args=(self.listener, self.run), daemon=True).start()
        return self

    def stop(self, keep=False, reset=False):
        with self.condition:
            self.run += 1
            listener, self.listener = self.listener, None
            if listener is not None:
                listener.shutdown(socket.SHUT_RDWR)
                listener.close()
            if os.path.exists(self.path):
                os.unlink(self.path)
            for connection in list(self.connections):
                connection.end(reset)
            self.connections.clear()
            self.sessions.clear()
            if not keep:
                self.queues = {}
            self.condition.notify_all()

    @staticmethod
    def now():
        return time.monotonic_ns()

    def _accept(self, listener, run):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            connection = Connection(sock)
            with self.condition:
                if self.run != run:
                    connection.end()
                    return
                self.connections.add(connection)
            threading.Thread(target=self._serve, args=(connection, run), daemon=True).start()

    def _serve(self, connection, run):
        try:
            while True:
                request = connection.read_request()
                if request is None or not self._handle(connection, run, *request):
                    return
        except OSError:
            pass
        finally:
            connection.end()
            with self.condition:
                if self.run == run:
                    self._closed(connection)

    def _closed(self, connection):
        self.connections.discard(connection)
        if connection.session is None:
            return
        self.sessions[connection.session] -= 1
        if self.sessions[connection.session] == 0:
            self.queues = {name: q for name, q in self.queues.items() if q.owner != connection.session}

    # --- Requests -----------------------------------------------------------------------------------------------

    def _handle(self, connection, run, method, target, head, body):
        """False when the connection is to be closed."""
        parts = [urllib.parse.unquote(part) for part in urllib.parse.unquote(target).split("/")[1:]]
        kind = parts[0] or "diagnostics"
        with self.condition:
            if self.run != run:
                return False
            self.requests.append((kind, target, body))
            self.heads.append(head)
            # A poll fails when it has something to say, not when it begins.
            fault = self._fault(kind, connection, parts) if kind != "transfer" else None
        if fault is not None and fault.how in ("eof", "reset"):
            connection.end(fault.how == "reset")
            return False
        if fault is not None and fault.how == "hang":
            connection.read_request()
            return False
        if fault is None or fault.how != "error":
            status, text = self._act(connection, run, method, kind, parts, body)
            if text is None:
                return False
        if kind == "transfer":
            with self.condition:
                fault = self._fault(kind, connection, parts)
        if fault is not None and fault.how in ("eof", "reset", "late-eof", "late-reset"):
            connection.end(fault.how in ("reset", "late-reset"))
            return False
        if fault is not None and fault.how == "error":
            status, text = 500, "Error: Internal Server Error"
        if fault is not None and fault.how in ("garbage", "huge"):
            text = "x" * max(fault.size, 20)
        words = {200: "OK", 404: "Not Found", 500: "Internal Server Error"}[status]
        data = text.encode("utf-8", "surrogateescape")
        answer = b"HTTP/1.1 %d %s\r\ncontent-length: %d\r\n\r\n" % (status, words.encode(), len(data)) + data
        if fault is not None and fault.how == "half":
            connection.sock.sendall(answer[:len(answer) // 2])
            return False
        connection.sock.sendall(answer)
        return True

    def _fault(self, kind, connection, parts):
        token = parts[1] if kind == "login" else connection.session
        if token is None or not token.isdigit():  # a client's
            return None
        for fault in self.faults:
            if fault.kind != kind or fault.count == 0:
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            fault.count -= 1
            fault.happened += 1
            return fault
        return None

    def _act(self, connection, run, method, kind, parts, body):
        with self.condition:
            if kind == "diagnostics" and method == "GET":
                return 200, json.dumps(self._diagnostics(), separators=(",", ":"))
            if kind == "login" and method == "GET":
                if connection.session is None:
                    connection.session = parts[1]
                    self.sessions[parts[1]] += 1
                return 200, ""
            if connection.session is None:
                return 404, "Please log in."
            if method == "GET":
                return self._get(connection, kind, parts)
            if kind == "transfer":
                return self._transfer(connection, run, body)
            if kind in ("request", "response"):
                payload = body.decode("utf-8", "surrogateescape")
                about = ["Request", parts[2]] if kind == "request" else ["Response", [parts[2], int(parts[3])]]
                return 200, json.dumps(self._put(parts[1], {"payload": payload, "kind": about}, connection.session))
        return 404, "Not found"

    def _get(self, connection, kind, parts):
        if kind == "persistent":
            self.queues.setdefault(parts[1], Queue())
            return 200, parts[1]
        if kind == "transient":
            self.queues.setdefault(parts[1], Queue(connection.session))
            return 200, parts[1]
        if kind == "destroy":
            self.queues.pop(parts[1], None)
            return 200, ""
        if kind == "ack":
            queue = self.queues.get(parts[1])
            if queue is not None:
                queue.messages.pop(int(parts[2]), None)
            return 200, ""
        if kind == "list":
            return 200, json.dumps([name for name in self.queues if name.startswith(parts[-1])])
        return 404, "Not found"

    def _put(self, name, message, origin):
        queue = self.queues.get(name)
        if queue is None:
            return []
        number, queue.next = queue.next, queue.next + 1
        queue.messages[number] = (self.now(), origin, message)
        self.condition.notify_all()
        return [[name, number]]

    def _transfer(self, connection, run, body):
        asked = json.loads(body)
        assert isinstance(asked["timeout"], float), "the switch takes only a float"
        after = int(asked.get("from", "-1"))
        end = time.monotonic() + asked["timeout"]
        while True:
            found = []
            for name in asked["queues"]:
                queue = self.queues.get(name)
                for number in sorted(queue.messages if queue else (), reverse=True):
                    if number > after:
                        found.append([[name, number], queue.messages[number][2]])
            left = end - time.monotonic()
            if found or left <= 0:
                break
            self.condition.wait(left)
            if self.run != run:
                return 0, None
        following = max([after, *(item[0][1] for item in found)])
        return 200, json.dumps({"messages": found, "next": str(following)}, separators=(",", ":"), ensure_ascii=False)

    def _diagnostics(self):
        def contents(name, queue):
            return {"next_transfer_expected": [], "queue_contents": [
                [[name, number], {"origin": ["Name", origin], "time": when, "message": message}]
                for number, (when, origin, message) in sorted(queue.messages.items(), reverse=True)]}
        chosen = lambda transient: {n: contents(n, q) for n, q in self.queues.items() if (q.owner is not None) == transient}
        return {"start_time": self.started, "current_time": self.now(), "permanent_queues": chosen(False),
                "transient_queues": chosen(True)}

    # --- For scenarios ------------------------------------------------------------------------------------------

    def fault(self, kind, how, **members):
        fault = Fault(kind, how, **members)
        with self.condition:
            self.faults.append(fault)
        return fault

    def clear_faults(self):
        with self.condition:
            self.faults = []

    def put(self, payload, reply_queue="nobody:1", age=0.0):
        """A request whose caller does not wait; queued as if `age` seconds ago. Answers its number."""
        with self.condition:
            self.queues.setdefault(QUEUE, Queue())
            (_, number), = self._put(QUEUE, {"payload": payload, "kind": ["Request", reply_queue]}, "test")
            when, origin, message = self.queues[QUEUE].messages[number]
            self.queues[QUEUE].messages[number] = (when - int(age * 1e9), origin, message)
            return number

    def put_message(self, message):
        with self.condition:
            self._put(QUEUE, message, "test")

    def queued(self, name=QUEUE):
        with self.condition:
            return sorted(self.queues[name].messages) if name in self.queues else []

    def open_connections(self):
        def is_open(connection):
            try:
                return connection.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
            except BlockingIOError:
                return True
            except OSError:
                return False
        with self.condition:
            return sum(is_open(connection) for connection in self.connections)

    def kinds(self):
        with self.condition:
            return [kind for kind, _, _ in self.requests]


class CallerGivesUp(Exception):
    """No response in time; the request stays where it is."""


class Refused(Exception):
    """The response was an error."""


class Client:
    """Calls the privileged interface as xenopsd does: two connections, a reply queue of its own, 20 s."""

    def __init__(self, path, token="xenopsd-xc:2345"):
        self.path, self.token = path, token
        self.last_id, self.unclaimed = 0, {}
        self.calls, self.events = self._connect(), self._connect()
        self._get(self.calls, "transient", token)
        self.after = None

    def _connect(self):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(60)
        sock.connect(self.path)
        connection = Connection(sock)
        self._get(connection, "login", self.token)
        return connection

    def close(self):
        self.calls.end()
        self.events.end()

    def _exchange(self, connection, method, path, body):
        connection.sock.sendall(b"%s %s HTTP/1.1\r\nuser-agent: cohttp\r\ncontent-length: %d\r\nconnection: keep-alive\r\n"
                                b"host: localhost\r\n\r\n" % (method.encode(), path.encode(), len(body)) + body)
        while b"\r\n\r\n" not in connection.buffer:
            if not connection._more():
                raise ConnectionError("the switch has gone")
        head, connection.buffer = connection.buffer.split(b"\r\n\r\n", 1)
        length = int(re.search(rb"content-length: (\d+)", head)[1])
        while len(connection.buffer) < length:
            if not connection._more():
                raise ConnectionError("the switch has gone")
        answer, connection.buffer = connection.buffer[:length], connection.buffer[length:]
        assert b" 200 " in head, head
        return answer

    def _get(self, connection, *names):
        return self._exchange(connection, "GET", "/" + "/".join(names), b"")

    def post(self, method, *unnamed, **named):
        """Sends a request; answers its number."""
        self.last_id += 1
        # The original writes named parameters in the reverse of the order in which they are declared.
        payload = {"method": method, "params": [dict(reversed(named.items())), *unnamed], "id": self.last_id}
        return self.post_raw(json.dumps(payload, separators=(",", ":")))

    def post_raw(self, payload):
        self._get(self.calls, "persistent", QUEUE)
        answer = self._exchange(self.calls, "POST", "/request/%s/%s" % (QUEUE, self.token), payload.encode())
        return json.loads(answer)[0][1]

    def responses(self, timeout):
        """{number of the request: response} of what arrives until `timeout`, or at once."""
        asked = {"timeout": float(timeout), "queues": [self.token]}
        if self.after is not None:
            asked = {"from": self.after, **asked}
        answer = json.loads(self._exchange(self.events, "POST", "/transfer", json.dumps(asked).encode()))
        self.after = answer["next"]
        found = {}
        for (_, number), message in answer["messages"]:
            self._get(self.events, "ack", self.token, str(number))
            assert message["kind"][0] == "Response" and message["kind"][1][0] == QUEUE
            request = message["kind"][1][1]
            response = json.loads(message["payload"])
            assert found.get(request, response) == response, "different responses to request %d" % request
            found[request] = response
        return found

    def wait(self, number, timeout=20):
        end = time.monotonic() + timeout
        while number not in self.unclaimed and time.monotonic() < end:
            self.unclaimed.update(self.responses(max(0.1, end - time.monotonic())))
        if number in self.unclaimed:
            return self.result(self.unclaimed.pop(number))
        raise CallerGivesUp("request %d" % number)

    @staticmethod
    def result(response):
        assert set(response) == {"result", "error", "id"} and response["id"] == 0, response
        if response["error"] is not None:
            assert response["result"] is None and response["error"][0] == "InternalError", response
            raise Refused(response["error"][1])
        return response["result"]

    def call(self, method, *unnamed, timeout=20, **named):
        return self.wait(self.post(method, *unnamed, **named), timeout)

    def create(self, vm, path, gid=None, dbg="VM.start R:1a2b3c"):
        return self.call("vtpm_create", dbg=dbg, vm_uuid=vm, gid=os.getgid() if gid is None else gid, path=path)

    def destroy(self, path, gid=None, dbg="stop domid 4"):
        return self.call("vtpm_destroy", dbg=dbg, gid=os.getgid() if gid is None else gid, path=path)

    def get_contents(self, vtpm):
        return self.call("vtpm_get_contents", dbg="VM.start R:1a2b3c", vtpm_uuid=vtpm)

    def set_contents(self, vtpm, contents):
        return self.call("vtpm_set_contents", contents, dbg="VM.start R:1a2b3c", vtpm_uuid=vtpm)


class SwitchScenario(Scenario):
    """A scenario with a switch that the guard is told of; nothing is started yet."""

    def setUp(self):
        super().setUp()
        self.switch = MessageSwitch(os.path.join(self.dir, "switch.sock"))
        self.addCleanup(self.switch.stop)
        self.guard.switch_socket = self.switch.path
        os.makedirs(os.path.join(self.dir, "vm"))
