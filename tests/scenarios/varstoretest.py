"""varstored and its tools as clients, for scenarios: byte for byte what they send, and as strict about answers.

They open one connection per call, read until it ends, never ask twice, and take whatever is no success for final. An
answer is read as they read it: the number behind the first space, then whatever follows the first blank line as XML;
the value of the first member is the status and that of the second one the result, whatever the names. Of answers
longer than their buffer the rest is lost.
"""

import os
import socket
import xml.etree.ElementTree as ElementTree
from xml.sax.saxutils import escape

from guardtest import Guard

BUFFER = 262_143
SESSION, VM = "DUMMYSESSION", "DUMMYVM"


class CallFailed(Exception):
    """The operation has failed, for good: a device error in the guest, or a VM that does not start."""


def string(text):
    return "<string>%s</string>" % escape(text, {'"': "&quot;"})


def method_call(method, *values):
    """The body of a call; values are the insides of value elements."""
    params = "".join("<param><value>%s</value></param>" % value for value in values)
    return ("<?xml version='1.0'?><methodCall><methodName>%s</methodName><params>%s</params></methodCall>" %
            (method, params)).encode()


def request(body):
    return (b"POST / HTTP/1.1\r\nHost: _var_lib_xcp_xapi\r\nAccept-Encoding: identity\r\nUser-Agent: varstored/0.1\r\n"
            b"Connection: close\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n" % len(body)) + body


def parse(answer):
    """The element of the result. Raises CallFailed unless the real one would see a success."""
    answer = answer[:BUFFER]
    if b"\0" in answer:
        answer = answer[:answer.index(b"\0")]
    status = answer.split(b" ", 1)[1][:3] if b" " in answer else b""
    if status != b"200":
        raise CallFailed("status %r in %d bytes" % (status, len(answer)))
    if b"\r\n\r\n" not in answer:
        raise CallFailed("no end of the head")
    try:
        root = ElementTree.fromstring(answer.split(b"\r\n\r\n", 1)[1])
    except ElementTree.ParseError as error:
        raise CallFailed("no XML: %s" % error) from error
    members = root.findall("./params/param/value/struct/member")
    if root.tag != "methodResponse" or len(members) < 2:
        raise CallFailed("no response")
    values = [member.find("value") for member in members]
    if values[0] is None or values[0].text != "Success":
        raise CallFailed([text for text in values[1].itertext()][-1] if values[1] is not None else "no reason")
    return values[1]


class Varstored:
    """One VM's varstored. Keeps the variables it has in memory, as the real one does: the last value that was
    reported as stored. `between` is called between two connections of an operation."""

    def __init__(self, path, uuid, timeout=60, between=None):
        self.path, self.uuid, self.timeout = path, uuid, timeout
        self.between = between or (lambda: None)
        self.value = None
        self.attempted = []
        self.looked_up = False

    def exchange(self, data):
        """Sends bytes on a connection of their own; everything that comes until it ends."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(self.timeout)
            try:
                sock.connect(self.path)
                sock.sendall(data)
                answer = b""
                while True:
                    more = sock.recv(1 << 16)
                    if not more:
                        return answer
                    answer += more
            except socket.timeout as error:
                raise AssertionError("the connection was not closed within %g s" % self.timeout) from error
            except OSError as error:
                raise CallFailed("connection: %s" % error) from error

    def call(self, method, *values):
        return parse(self.exchange(request(method_call(method, *values))))

    def _login(self):
        result = self.call("session.login_with_password", string("root"), string(""), string(""), string(""))
        if result.text != SESSION:
            raise CallFailed("session %r" % result.text)
        self.between()

    def _look_up(self):
        if self.looked_up:
            return
        if self.call("VM.get_by_uuid", string(SESSION), string(self.uuid)).text != VM:
            raise CallFailed("VM")
        self.looked_up = True
        self.between()

    def _logout(self):
        self.between()
        self.call("session.logout", string(SESSION))

    def _chain(self, method, *values, look_up=True):
        self._login()
        if look_up:
            self._look_up()
        result = self.call(method, *values)
        self._logout()
        return result

    def start(self):
        """Reads the variables as at the start of a VM, or of a tool; None = first boot."""
        self.looked_up = False
        result = self._chain("VM.get_NVRAM", string(SESSION), string(VM))
        self.value = None
        for member in result.findall("./struct/member"):
            if member.find("name").text == "EFI-variables":
                self.value = member.find("value").text or ""
        return self.value

    def set(self, value):
        """Stores the variables, as at each change of one. What was attempted may take effect, also if it failed."""
        self.attempted.append(value)
        self._chain("VM.set_NVRAM_EFI_variables", string(SESSION), string(VM), string(value))
        self.value = value

    def set_v2(self, value, update):
        self.attempted.append(value)
        self._chain("VM.set_NVRAM_EFI_variables_v2", string(SESSION), string(VM), string(value), string(update))
        self.value = value

    def secureboot_state(self):
        return self._chain("VM.get_secureboot_certificates_state", string(SESSION), string(VM)).text

    def alert(self, body="The VM failed to pass Secure Boot verification.", priority=5):
        self._chain("message.create", string(SESSION), string("VM_SECURE_BOOT_FAILED"), "<int>%d</int>" % priority,
                    string("VM"), string(self.uuid), string(body), look_up=False)


class UefiGuard(Guard):
    """xapi-guard that also serves UEFI variables."""

    def varstore_path(self, vm):
        return os.path.join(self.scenario.dir, "vm", vm[:8] + ".uefi")

    def create_varstore(self, vm, gid=None):
        path = self.varstore_path(vm)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.ctl("varstore-create", vm, str(os.getgid() if gid is None else gid), path)
        return path

    def varstored(self, vm, **options):
        return Varstored(self.varstore_path(vm), vm, **options)
