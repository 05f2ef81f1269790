"""A device socket in miniature, for testing guest-tpm by itself: keeps the three states in memory, records
every request byte for byte, and misbehaves as told."""

import socket
import threading
import time

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


def answer(status, body=b""):
    return (b"HTTP/1.1 %d Something\r\ncontent-length: %d\r\n\r\n" % (status, len(body))) + body


class StateServer:
    """Serves `path` from construction until stop(). `script` is a list of misbehaviours, used up one per
    request that matches: (method or None, kind), where kind is a status to answer without acting, "close"
    (hang up without an answer), "close_after_acting", "half" (act, send half of the answer, hang up),
    "chunked" (a good answer in chunks) or "old" (a GET is answered with the state before the last PUT)."""

    def __init__(self, path):
        self.path = path
        self.states = {}
        self.before = {}
        self.script = []
        self.requests = []  # raw bytes of each request
        self.times = []  # when each arrived
        self.segments = []  # sizes of the pieces the request arrived in
        self.connections = 0
        self.silent_connections = 0
        self._open = set()
        self._lock = threading.Lock()
        self._start()

    def _start(self):
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(16)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()

    def hang_up(self):
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def contents(self):
        states = [self.states.get(name, b"") for name in ("permall", "savestate", "volatilestate")]
        return b" ".join(states)

    def lines(self):
        """What was asked for, e.g. "GET permall"."""
        words = [r.split(b" ", 2) for r in self.requests]
        return ["%s %s" % (w[0].decode(), w[1].decode().removeprefix("/tpm2-00.")) for w in words]

    def _accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with self._lock:
            self._open.add(connection)
        try:
            served = 0
            while self._serve_one(connection):
                served += 1
            if served == 0:
                self.silent_connections += 1
        except OSError:
            pass
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _serve_one(self, connection):
        data, segments = b"", []
        while b"\r\n\r\n" not in data:
            piece = connection.recv(1 << 20)
            if not piece:
                return False
            segments.append(len(piece))
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        while len(body) < length:
            piece = connection.recv(1 << 20)
            if not piece:
                return False
            segments.append(len(piece))
            body += piece
        self.requests.append(head + b"\r\n\r\n" + body)
        self.times.append(time.monotonic())
        self.segments.append(segments)
        method, target = head.split(b" ")[:2]
        reply = self._reply(method.decode(), target.decode().removeprefix("/tpm2-00."), body)
        if reply is None:
            connection.shutdown(socket.SHUT_RDWR)
            return True
        connection.sendall(reply)
        if reply.endswith(b"half"):
            connection.shutdown(socket.SHUT_RDWR)
        return True

    def _misbehaviour(self, method):
        for i, (wanted, kind) in enumerate(self.script):
            if wanted in (None, method):
                del self.script[i]
                return kind
        return None

    def _reply(self, method, name, body):
        kind = self._misbehaviour(method)
        if isinstance(kind, int):
            return answer(kind, b"as told")
        if kind == "close":
            return None
        if method == "PUT":
            self.before[name] = self.states.get(name, b"")
            self.states[name] = body
            reply = NO_CONTENT
        elif method == "DELETE":
            self.states.pop(name, None)
            reply = NO_CONTENT
        else:
            reply = answer(200, self.before.get(name, b"") if kind == "old" else self.states.get(name, b""))
        if kind == "close_after_acting":
            return None
        if kind == "half":
            return b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"
        if kind == "chunked" and method == "GET":
            state = self.states.get(name, b"")
            pieces = [state[i : i + 1000] for i in range(0, len(state), 1000)] + [b""]
            chunks = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces)
            return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
        return reply
