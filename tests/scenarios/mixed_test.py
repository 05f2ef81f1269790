"""Random reads, writes and deletions of all three slots against the model "last acknowledged value per slot"."""

from guardtest import EMPTY, SLOTS, Crowd, Scenario, main


class Mixed(Scenario):
    direct_timeout = "5s"

    def one_operation(self, connections, model, known):
        """One random request on one of the connections. `known` = slots whose value must be answerable."""
        device = self.random.choice(connections)
        slot = self.random.choice(SLOTS)
        kind = self.random.choice(("put", "put", "get", "get", "delete", "head"))
        if kind == "put":
            value = self.value(self.random.choice((3, 100, 6000, 60_000)))
            self.assert_status(device.put(slot, value), 204)
            model[slot] = value
            known.add(slot)
        elif kind == "delete":
            self.assert_status(device.delete(slot), 204)
            model[slot] = EMPTY
            known.add(slot)
        elif kind == "get":
            answer = device.get(slot)
            if answer.status == 503:
                self.assertNotIn(slot, known)
            else:
                self.assert_status(answer, 200)
                self.assertEqual(answer.body, model.get(slot, EMPTY), "read of " + slot)
        else:
            answer = device.head(slot)
            if answer.status == 503:
                self.assertNotIn(slot, known)
            else:
                self.assertEqual(answer.status, 200 if model.get(slot, EMPTY) else 404, "head of " + slot)

    def play(self, operations, vms, between=lambda step: None):
        state = [([self.guard.device(vm), self.guard.device(vm)], {}, set()) for vm in vms]
        for step in range(operations):
            between(step)
            self.one_operation(*self.random.choice(state))
        return [model for _, model, _ in state]

    def check(self, vms, models):
        self.guard.wait_idle()
        for vm, model in zip(vms, models):
            self.assert_delivered(vm, model)
        self.assert_no_overlap()
        self.assertEqual(self.guard.status()["parked"], [])

    def test_with_xapi_down_all_the_time(self):
        print("seed", self.seed)
        self.guard.start()
        vms = self.create_vms(3)
        models = self.play(600, vms)
        self.sim.start()
        self.check(vms, models)

    def test_with_xapi_up_all_the_time(self):
        print("seed", self.seed)
        vms = self.start_all(3)
        self.check(vms, self.play(600, vms))

    def test_with_xapi_coming_and_going(self):
        print("seed", self.seed)
        vms = self.start_all(3)

        def between(step):
            if step % 60 == 30:
                self.sim.kill()
            elif step % 60 == 0 and step > 0:
                self.sim.start()

        models = self.play(480, vms, between)
        if not self.sim.process.running():
            self.sim.start()
        self.check(vms, models)

    def test_with_the_guard_killed_in_between(self):
        print("seed", self.seed)
        self.guard.start()
        vms = self.create_vms(2)
        models = [{}, {}]
        for _ in range(6):
            connections = [[self.guard.device(vm), self.guard.device(vm)] for vm in vms]
            for _ in range(60):
                i = self.random.randrange(2)
                self.one_operation(connections[i], models[i], set(models[i]))
            self.guard.kill()
            self.guard.start()
        self.sim.start()
        self.check(vms, models)

    def test_two_connections_at_the_same_time(self):
        print("seed", self.seed)
        (vm,) = self.start_all()
        self.sim.kill()
        first, second = self.guard.swtpm(vm), self.guard.swtpm(vm)

        def work(tpm, slots, rounds):
            for _ in range(rounds):
                for slot in slots:
                    tpm.write(slot, self.value(300))
                    if tpm.read(slot) != tpm.acknowledged[slot]:
                        raise AssertionError("a read did not give the last acknowledged value")
                tpm.erase(slots[-1])

        crowd = Crowd()
        crowd.start(work, first, ["permall"], 40)
        crowd.start(work, second, ["savestate", "volatilestate"], 40)
        crowd.join(60)
        self.sim.start()
        self.check([vm], [{**first.acknowledged, **second.acknowledged}])
        self.assertEqual((first.retries, second.retries), (0, 0))


if __name__ == "__main__":
    main()
