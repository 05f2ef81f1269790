"""A stand-in for the original daemon, as far as a change of daemons sees it: it serves the sockets of its resume file,
acknowledges writes into its cache tree, pushes what is in the tree to xapi when xapi answers, and leaves sockets, tree
and resume file behind when it is stopped.

    original_daemon.py STATE_DIR RESUME_FILE XAPI_SOCKET

SIGTERM ends it. It prints `ready` when it serves, and nothing else.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import time

SLOTS = {"/tpm2-00.permall": 0, "/tpm2-00.savestate": 1, "/tpm2-00.volatilestate": 2}


class Unreachable(Exception):
    pass


class Xapi:
    """Calls over a connection each, as the original makes them."""

    def __init__(self, path):
        self.path, self.session = path, None

    def call(self, method, *params):
        body = json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": 1}).encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(10)
                sock.connect(self.path)
                sock.sendall(b"POST /jsonrpc HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                answer = b""
                while chunk := sock.recv(1 << 16):
                    answer += chunk
            reply = json.loads(answer.split(b"\r\n\r\n", 1)[1])
        except (OSError, ValueError, IndexError) as error:
            raise Unreachable(str(error)) from error
        if reply.get("error"):
            raise Unreachable(str(reply["error"]))
        return reply["result"]

    def vtpm(self, vm):
        if self.session is None:
            self.session = self.call("session.login_with_password", "root", "", "1.0", "original")
        try:
            return self.call("VM.get_VTPMs", self.session, self.call("VM.get_by_uuid", self.session, vm))[0]
        except Unreachable:
            self.session = None
            raise

    def fields(self, vm):
        fields = self.call("VTPM.get_contents", self.session, self.vtpm(vm)).split(" ")
        return fields if len(fields) == 3 else [fields[0], "", ""]

    def push(self, vm, key, value):
        vtpm, fields = self.vtpm(vm), self.fields(vm)
        fields[key] = value.decode()
        self.call("VTPM.set_contents", self.session, vtpm, " ".join(fields))


class Daemon:
    def __init__(self, state_dir, resume_file, xapi_socket):
        self.tree = os.path.join(state_dir, "Swtpm")
        self.resume_file, self.xapi = resume_file, Xapi(xapi_socket)

    def place(self, vm, key):
        return os.path.join(self.tree, vm, str(key))

    def newest(self, vm, key):
        try:
            names = [int(name) for name in os.listdir(self.place(vm, key)) if name.isdigit()]
        except FileNotFoundError:
            return None
        return os.path.join(self.place(vm, key), str(max(names))) if names else None

    def clean_up(self):
        """At the start: the newest of each key stays; one from the future counts as of now."""
        os.makedirs(self.tree, mode=0o700, exist_ok=True)
        for vm, key in self.keys():
            newest = self.newest(vm, key)
            for name in os.listdir(self.place(vm, key)):
                if os.path.join(self.place(vm, key), name) != newest:
                    os.unlink(os.path.join(self.place(vm, key), name))
            now = time.monotonic_ns()
            if newest and int(os.path.basename(newest)) > now:
                os.rename(newest, os.path.join(self.place(vm, key), str(now)))

    def keys(self):
        return [(vm, int(key)) for vm in sorted(os.listdir(self.tree))
                for key in sorted(os.listdir(os.path.join(self.tree, vm)))]

    def write(self, vm, key, body):
        place = self.place(vm, key)
        os.makedirs(place, mode=0o700, exist_ok=True)
        older, name = os.listdir(place), str(time.monotonic_ns())
        with open(os.path.join(place, name + ".pre"), "wb") as file:
            file.write(body)
        os.rename(os.path.join(place, name + ".pre"), os.path.join(place, name))
        for old in older:
            try:
                os.unlink(os.path.join(place, old))
            except FileNotFoundError:
                pass  # pushed meanwhile

    def answer(self, vm, method, path, body):
        key = SLOTS.get(path)
        if key is None:
            return 500, b""
        if method == "PUT":
            self.write(vm, key, body)
            return 204, None
        newest = self.newest(vm, key)
        if newest:
            with open(newest, "rb") as file:
                return 200, file.read()
        try:
            return 200, self.xapi.fields(vm)[key].encode()
        except Unreachable:
            return 500, b""

    async def serve(self, vm, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ")
                length = [line.split(":")[1] for line in head if line.lower().startswith("content-length:")]
                body = await reader.readexactly(int(length[0])) if length else b""
                status, content = self.answer(vm, method, path, body)
                text = {200: "OK", 204: "No Content", 500: "Internal Server Error"}[status]
                lines = b"" if content is None else b"content-length: %d\r\n" % len(content)
                writer.write(b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (status, text.encode(), lines, content or b""))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def deliver(self):
        while True:
            await asyncio.sleep(0.1)
            try:
                for vm, key in self.keys():
                    newest = self.newest(vm, key)
                    if newest is None:
                        continue
                    with open(newest, "rb") as file:
                        value = file.read()
                    await asyncio.get_running_loop().run_in_executor(None, self.xapi.push, vm, key, value)
                    if os.path.exists(newest):
                        os.unlink(newest)
            except (Unreachable, FileNotFoundError):
                continue

    async def run(self):
        self.clean_up()
        with open(self.resume_file, encoding="utf-8") as file:
            entries = json.load(file)
        servers = []
        for entry in entries:
            if os.path.lexists(entry["path"]):
                os.unlink(entry["path"])
            servers.append(await asyncio.start_unix_server(
                lambda reader, writer, vm=entry["vm_uuid"]: self.serve(vm, reader, writer), entry["path"]))
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        pushing = asyncio.ensure_future(self.deliver())
        print("ready", flush=True)
        await stop.wait()
        pushing.cancel()
        os._exit(0)  # socket files stay, and connections end as they are


if __name__ == "__main__":
    asyncio.run(Daemon(*sys.argv[1:]).run())
