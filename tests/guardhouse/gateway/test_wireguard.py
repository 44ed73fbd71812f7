"""What a gateway makes of its feed, step by step, beside an interface of ours."""

import secrets
from collections.abc import Sequence
from pathlib import Path

import pytest

from guardhouse.durations import HOUR, SECOND
from guardhouse.errors import DurationInvalid
from guardhouse.following import Position
from guardhouse.gateway.peers import Operation
from guardhouse.gateway.uapi import Interface
from guardhouse.gateway.wireguard import SET_PEERS, Gateway, parse_max_staleness
from guardhouse.profile import Profile, ProfileInvalid
from guardhouse.registry.v1 import registry_pb2 as pb
from tests.clock import FakeClock
from tests.wireguard import FakeInterface, on

ORGANIZATION = "org_" + "0" * 32
PROFILE = Profile(registry="127.0.0.1:1", organization_id=ORGANIZATION, key="ghk_key")
NEW: Position = ("epoch", 1)


def registration(number: int) -> pb.Event:
    event = pb.Event()
    event.registration.registration.CopyFrom(
        pb.Registration(
            registration_id=f"reg_{number:032x}",
            state=pb.REGISTRATION_STATE_ACTIVE,
            key_type=pb.KEY_TYPE_CURVE25519,
            public_key=secrets.token_bytes(32),
            ipv4=f"100.96.{number >> 8}.{number & 255}",
            ipv6=f"fd00::{number:x}",
        )
    )
    return event


async def fed(gateway: Gateway, events: Sequence[pb.Event]) -> Gateway:
    await gateway.begin(ORGANIZATION)
    await gateway.page(ORGANIZATION, events)
    await gateway.end(ORGANIZATION, NEW)
    return gateway


def gateway_at(interface: Interface) -> Gateway:
    return Gateway(PROFILE, interface, FakeClock(), "edge", 30 * SECOND)


async def test_a_whole_state_is_read_once_and_sent_in_parts(tmp_path: Path) -> None:
    """A revocation waits for no more than one part, and what is there already is not sent again."""
    events = [registration(number) for number in range(1, 2 * SET_PEERS + 501)]
    async with FakeInterface(tmp_path) as fake:
        known = events[0].registration.registration
        fake.peers = {known.public_key.hex(): {f"{known.ipv4}/32", f"{known.ipv6}/128"}}
        gateway = await fed(gateway_at(on(fake)), events)
        await gateway.turn()
        assert (fake.gets, len(fake.sets), len(fake.peers)) == (1, 3, len(events))
        assert f"public_key={known.public_key.hex()}" not in {line for lines in fake.sets for line in lines}
        assert gateway.applied == NEW


async def test_what_is_missed_while_it_looks_is_looked_for_again(tmp_path: Path) -> None:
    """It acknowledges nothing that the interface may lack."""
    first, second = registration(1), registration(2)
    fake = FakeInterface(tmp_path)

    class Interrupted(Interface):
        """A change comes while the first operation is under way."""

        async def set(self, operations: Sequence[Operation]) -> None:
            if self.name in missing:
                missing.clear()
                await gateway.change(ORGANIZATION, [second], NEW, ("epoch", 2))
            await super().set(operations)

    missing = {"wg0"}
    gateway = await fed(gateway_at(Interrupted("wg0", tmp_path)), [first])
    # There is no interface yet, so what comes is not sent as it comes.
    await gateway.turn()
    async with fake:
        await gateway.turn()
        assert list(fake.peers) == [first.registration.registration.public_key.hex()]
        assert gateway.applied is None
        await gateway.turn()
        assert len(fake.peers) == 2
        assert gateway.applied == ("epoch", 2)


def test_how_long_it_may_be_cut_off_has_bounds() -> None:
    assert parse_max_staleness("24h") == 24 * HOUR
    for text in ("1s", "25h"):
        with pytest.raises(DurationInvalid, match="2s to 24h"):
            parse_max_staleness(text)


async def test_it_says_what_a_profile_lacks(tmp_path: Path) -> None:
    for profile, lacks in ((Profile(key="k"), "organization_id"), (Profile(organization_id=ORGANIZATION), "key_file")):
        with pytest.raises(ProfileInvalid, match=lacks):
            Gateway(profile, Interface("wg0", tmp_path), FakeClock(), "edge", 30 * SECOND)
