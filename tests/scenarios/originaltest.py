"""What the original daemon leaves behind: its cache tree and its resume file."""

import base64
import json
import os


def state(random, size=60):
    """A state in swtpm's form, as base64: version, least version, length of the header, flags, total length."""
    head = bytes([2, 1, 0, 10, 0, 0]) + size.to_bytes(4, "big")
    return base64.b64encode(head + random.randbytes(size - len(head)))


class CacheTree:
    """Swtpm/<vm uuid>/<key>/<timestamp> in a state directory."""

    SLOTS = {"permall": 0, "savestate": 1, "volatilestate": 2}

    def __init__(self, state_dir):
        self.root = os.path.join(state_dir, "Swtpm")

    def path(self, vm, slot, name):
        return os.path.join(self.root, vm, str(self.SLOTS.get(slot, slot)), str(name))

    def put(self, vm, slot, name, value):
        path = self.path(vm, slot, name)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(path, "wb") as file:
            file.write(value)
        return path

    def newest(self):
        """{(vm, slot): value} as the original would push it."""
        values = {}
        for vm in os.listdir(self.root) if os.path.isdir(self.root) else ():
            for slot, key in self.SLOTS.items():
                place = os.path.join(self.root, vm, str(key))
                names = [name for name in (os.listdir(place) if os.path.isdir(place) else ()) if name.isdigit()]
                if names:
                    with open(os.path.join(place, max(names, key=int)), "rb") as file:
                        values[(vm, slot)] = file.read()
        return values

    def files(self):
        return [os.path.join(place, name) for place, _, names in os.walk(self.root) for name in names]


def write_resume_file(path, sockets):
    """As the original writes it. `sockets` is a list of (typ, gid, path, vm)."""
    entries = [{"typ": typ, "gid": gid, "path": place, "vm_uuid": vm} for typ, gid, place, vm in sockets]
    with open(path, "w", encoding="utf-8") as file:
        json.dump(entries, file, separators=(",", ":"))
