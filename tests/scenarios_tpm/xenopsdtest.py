"""xenopsd as the guard sees it: its calls in their order, for VMs whose TPM is a real one.

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


class Vm:
    """A VM with a real TPM; `path` is its device socket while it has one."""

    def __init__(self, scenario, number):
        self.uuid, self.vtpm = vm_uuid(number), vtpm_uuid(number)
        self.guest, self.path = Guest(scenario, self.uuid), None

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

    def start_vm(self, vm, record=None):
        """Restore, if there is a record, then start; the TPM itself is up to the scenario."""
        if record:
            self.xenopsd.set_contents(vm.vtpm, record)
        self.last_domain += 1
        chroot = os.path.join(self.scenario.dir, "%s-%d" % (self.name, self.last_domain))
        os.mkdir(chroot, 0o750)
        path = os.path.join(chroot, "xapi-depriv-socket")
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
        self.xenopsd.destroy(path)
        assert not os.path.exists(path)
        shutil.rmtree(self.paths.pop(path))


class XenopsdScenario(TpmScenario):
    direct_timeout = "5s"

    def setUp(self):
        super().setUp()
        self.sim.options = []
        for number in (1, 2):
            self.sim.options += ["--vm", "%s=%s" % (vm_uuid(number), vtpm_uuid(number))]
        self.vm = Vm(self, 1)

    def host(self, name="a"):
        return Host(self, name).start()
