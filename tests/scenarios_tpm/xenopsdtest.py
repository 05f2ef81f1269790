"""xenopsd as the guard sees it: its calls in their order, for UEFI VMs whose TPM is a real one.

A host has a guard, a message switch and directories for its domains; all hosts share one xapi-sim, as the hosts of a
pool share a database.
"""

import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools"))

from guardtest import Guard, vm_uuid, vtpm_uuid, wait_until  # noqa: E402
from state_server import StateServer  # noqa: E402
from switchtest import Client, MessageSwitch  # noqa: E402
from tpmtest import Guest, TpmScenario  # noqa: E402
from varstoretest import Varstored  # noqa: E402


class Vm:
    """A VM with a real TPM and UEFI variables; `path` is its TPM's socket while it has one, `store` its varstored."""

    def __init__(self, scenario, number):
        self.scenario = scenario
        self.uuid, self.vtpm = vm_uuid(number), vtpm_uuid(number)
        self.guest, self.path, self.store = Guest(scenario, self.uuid), None, None
        self.variables = None  # None: there are none yet

    def change_variables(self):
        variables = self.scenario.value(600).decode()
        self.store.set(variables)
        self.variables = variables

    def run(self, command, *options, **more):
        process = self.guest.start(command, "--socket", self.path, *options)
        return self.guest.finish(process, **more)


class Host:
    def __init__(self, scenario, name):
        self.scenario, self.name, self.last_domain = scenario, name, 0
        self.guard = Guard(scenario, name)
        self.switch = MessageSwitch(os.path.join(scenario.dir, name + ".sw"))
        self.guard.switch_socket = self.switch.path
        scenario.addCleanup(self.switch.stop)
        self.paths = {}

    def start(self):
        self.switch.start()
        self.start_guard()
        self.xenopsd = self.scenario.track(Client(self.switch.path))
        return self

    def start_guard(self):
        self.guard.start()
        wait_until(lambda: self.guard.status()["switch"]["state"] == "connected", 30, "the switch is there")

    # --- Steps of xenopsd ---------------------------------------------------------------------------------------

    def start_vm(self, vm, record=None, forgotten=False):
        """Restore, if there is a record, then start; the TPM itself is up to the scenario. `forgotten`: its host died,
        so that variables may be those from before."""
        if record:
            self.xenopsd.set_contents(vm.vtpm, record)
        self.last_domain += 1
        chroot = os.path.join(self.scenario.dir, "%s-%d" % (self.name, self.last_domain))
        path, store_path = (os.path.join(chroot + kind, "xapi-depriv-socket") for kind in ("", "-varstored"))
        for kind in ("-varstored", ""):
            os.mkdir(chroot + kind, 0o750)
        named = {"dbg": "VM.start R:1a2b3c", "vm_uuid": vm.uuid, "gid": os.getgid(), "path": store_path}
        self.xenopsd.call("varstore_create", **named)
        vm.store = Varstored(store_path, vm.uuid)
        if not record:  # else it has them from the image
            found = vm.store.start()
            assert forgotten or found == vm.variables, "the variables are not those that were stored"
        vm.change_variables()
        self.xenopsd.create(vm.uuid, path)
        if self.xenopsd.get_contents(vm.vtpm) == "":
            self.xenopsd.set_contents(vm.vtpm, self._manufacture(vm))
        self.paths[path] = chroot
        vm.path = path
        return path

    def _manufacture(self, vm):
        """As swtpm_setup does, beside the guard; answers the permanent state."""
        place = os.path.join(self.scenario.dir, "made")
        server = StateServer(place)
        vm.guest.finish(vm.guest.start("init", "--socket", place))
        server.stop()
        os.unlink(place)
        return server.states["permall"].decode()

    def save_vm(self, vm):
        """After the TPM was suspended: read twice, the second one counts."""
        self.xenopsd.get_contents(vm.vtpm)
        return self.xenopsd.get_contents(vm.vtpm)

    def stop_vm(self, path):
        """The varstored first; then, after QEMU, the TPM."""
        chroot = self.paths.pop(path)
        store_path = os.path.join(chroot + "-varstored", "xapi-depriv-socket")
        self.xenopsd.call("varstore_destroy", dbg="stop domid 4", gid=os.getgid(), path=store_path)
        assert not os.path.exists(store_path)
        shutil.rmtree(chroot + "-varstored")
        self.xenopsd.destroy(path)
        assert not os.path.exists(path)
        shutil.rmtree(chroot)


class XenopsdScenario(TpmScenario):
    direct_timeout = "5s"

    def setUp(self):
        super().setUp()
        self.sim.options = []
        for number in (1, 2):
            self.sim.options += ["--vm", "%s=%s" % (vm_uuid(number), vtpm_uuid(number))]
        self.vm = Vm(self, 1)

    def assert_variables(self, vm):
        """xapi-sim has, or has soon, those that were stored last."""
        stored = lambda: self.sim.dump(vm=vm.uuid)["vms"][0]["nvram"].get("EFI-variables")
        wait_until(lambda: stored() == vm.variables, 30, "the variables are in xapi", stored)

    def host(self, name="a"):
        return Host(self, name).start()
