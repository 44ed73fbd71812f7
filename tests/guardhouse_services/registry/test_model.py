"""Whatever is done in whatever order, the registry is as a model of its rules has it (I-03, I-12, decision 18)."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from guardhouse.errors import DeviceHeldByAnotherUser, DeviceNotFound
from guardhouse.identity.v1 import identity_pb2
from guardhouse.ids import USER
from tests.clock import FakeClock
from tests.guardhouse_services.registry.world import World, machine, name, prepare, user

T = TypeVar("T")


@dataclass
class Made:
    """A registration as it should be."""

    registration_id: str
    holder: str
    device_id: str
    lease_id: str
    revision: int
    state: str = "ACTIVE"

    @property
    def is_live(self) -> bool:
        return self.state != "DELETED"


class Forest(RuleBasedStateMachine):
    """Two users and a service token on three machines."""

    registrations = Bundle("registrations")

    def __init__(self, world: World, runner: asyncio.Runner) -> None:
        super().__init__()
        self.world, self._runner = world, runner
        self.made: list[Made] = []
        self.known: dict[str, tuple[int, int]] = {}
        """The newest removal and revocation of each user that the registry was told."""
        self.facts: list[identity_pb2.Event] = []

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    @initialize()
    def start(self) -> None:
        self.holders = (user(), user(), machine())
        self.world.organization = self.run(self.world.add_organization())

    def place(self, device_id: str) -> Made | None:
        """The user's registration that is active on the device."""
        found = [
            it for it in self.made if (it.state, it.device_id) == ("ACTIVE", device_id) and it.holder.startswith(USER)
        ]
        assert len(found) <= 1
        return found[0] if found else None

    def device(self, hardware: str) -> str:
        found = [it.device_id for it in self.run(self.world.devices()) if it.claims.hardware_id == hardware]
        return found[0] if found else ""

    # What devices do

    @rule(target=registrations, holder=st.integers(0, 2), hardware=st.sampled_from("abc"))
    def enroll(self, holder: int, hardware: str) -> Made | None:
        who, device_id = self.holders[holder], self.device(hardware)
        present = self.place(device_id) if who.startswith(USER) else None
        try:
            enrolled = self.run(self.world.enroll(who, hardware))
        except DeviceHeldByAnotherUser:
            assert present is not None
            assert present.holder != who
            return None
        assert present is None or present.holder == who
        assert device_id in ("", enrolled.device.device_id)
        made = enrolled.registration
        if present is not None:
            present.state = "DELETED"
            assert made.lease.lease_id == present.lease_id
        else:
            assert made.lease.lease_id not in {it.lease_id for it in self.made}
        self.made.append(
            Made(name(enrolled), who, made.device_id, made.lease.lease_id, self.world.identity.revision + 1)
        )
        return self.made[-1]

    # What admins do

    @rule(chosen=st.lists(registrations, min_size=1, max_size=3))
    def revoke(self, chosen: list[Made | None]) -> None:
        items = unique(chosen)
        outcomes = self.run(self.world.revoke(*(it.registration_id for it in items)))
        for it in items:
            if it.is_live:
                it.state = "REVOKED"
            assert outcomes[it.registration_id] == (it.state if it.is_live else "REGISTRATION_NOT_FOUND")

    @rule(chosen=st.lists(registrations, min_size=1, max_size=3))
    def unrevoke(self, chosen: list[Made | None]) -> None:
        items = unique(chosen)
        outcomes = self.run(self.world.unrevoke(*(it.registration_id for it in items)))
        expected = dict.fromkeys((it.registration_id for it in items), "REGISTRATION_NOT_FOUND")
        for it in sorted(items, key=lambda it: it.registration_id):
            if not it.is_live:
                continue
            there = self.place(it.device_id) if it.holder.startswith(USER) else None
            if it.state == "REVOKED" and there is not None:
                whose = "REGISTRATION" if there.holder == it.holder else "USER"
                expected[it.registration_id] = f"DEVICE_HELD_BY_ANOTHER_{whose}"
            else:
                it.state = expected[it.registration_id] = "ACTIVE"
        assert outcomes == expected

    @rule(chosen=st.lists(registrations, min_size=1, max_size=3))
    def delete(self, chosen: list[Made | None]) -> None:
        items = unique(chosen)
        outcomes = self.run(self.world.delete(*(it.registration_id for it in items)))
        for it in items:
            assert outcomes[it.registration_id] == ("DELETED" if it.is_live else "REGISTRATION_NOT_FOUND")
            it.state = "DELETED"

    @rule(hardware=st.sampled_from("abc"))
    def delete_device(self, hardware: str) -> None:
        if device_id := self.device(hardware):
            of_it = [it for it in self.made if it.is_live and it.device_id == device_id]
            assert self.run(self.world.delete_device(device_id)) == len(of_it)
            for it in of_it:
                it.state = "DELETED"
            with pytest.raises(DeviceNotFound):
                self.run(self.world.delete_device(device_id))

    @rule(holder=st.integers(0, 1), kind=st.sampled_from(["removal", "revocation"]))
    def decide(self, holder: int, kind: str) -> None:
        """Identity decides; the registry is told later, or never."""
        self.facts.append(getattr(self.world.identity, kind)(self.holders[holder]))

    @rule(data=st.data())
    def tell(self, data: st.DataObject) -> None:
        """Events, of whatever age and in whatever order."""
        if not self.facts:
            return
        events = data.draw(st.lists(st.sampled_from(self.facts), min_size=1, max_size=3))
        self.run(self.world.follow(*events))
        for event in events:
            who, record = event.user.user.user_id, event.user
            removed, revoked = self.known.get(who, (0, 0))
            for it in self.made:
                if it.holder != who:
                    continue
                if removed < record.removed_revision >= it.revision:
                    it.state = "DELETED"
                if revoked < record.registrations_revoked_revision >= it.revision and it.state == "ACTIVE":
                    it.state = "REVOKED"
            self.known[who] = (
                max(removed, record.removed_revision),
                max(revoked, record.registrations_revoked_revision),
            )

    @rule()
    def sweep(self) -> None:
        self.world.clock.advance(40)
        self.run(self.world.registry.enrollments.sweep_once())

    # What is so

    @invariant()
    def the_registry_is_as_the_model_has_it(self) -> None:
        if not self.made:
            return
        snapshot = self.run(self.world.snapshot(3))
        found = {key: (it.lease_id, it.registration.HasField("revoke_time")) for key, it in snapshot.items()}
        assert found == {it.registration_id: (it.lease_id, it.state == "REVOKED") for it in self.made if it.is_live}
        for device in self.run(self.world.devices()):
            active = [it for it in self.made if (it.state, it.device_id) == ("ACTIVE", device.device_id)]
            assert device.active_registrations == len(active)

    def teardown(self) -> None:
        self.run(self.world.audit())


def unique(chosen: list[Made | None]) -> list[Made]:
    return list({it.registration_id: it for it in chosen if it is not None}.values())


def test_the_registry_does_what_its_model_does(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        url = f"sqlite:///{tmp_path}/registry.db"
        prepare(url)
        world = World(url, FakeClock())
        runner.run(world.start())
        run_state_machine_as_test(
            lambda: Forest(world, runner),  # type: ignore[arg-type]  # it takes what makes one as well
            settings=settings(
                max_examples=20,
                stateful_step_count=20,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
        world.close()
