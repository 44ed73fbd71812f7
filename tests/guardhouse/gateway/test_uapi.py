"""The configuration protocol of an interface, and what is said when nobody speaks it."""

import os
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from guardhouse.gateway import uapi
from guardhouse.gateway.peers import AllowedIps, Operation, Peer, difference, operations
from guardhouse.gateway.uapi import Interface, InterfaceUnavailable
from tests.wireguard import FakeInterface, wireguard_go

MANY = 10_000


def many(count: int) -> dict[bytes, AllowedIps]:
    return {
        secrets.token_bytes(32): (f"100.96.{number >> 8}.{number & 255}/32", f"fd00::{number + 1:x}/128")
        for number in range(count)
    }


async def load(interface: Interface, wanted: Mapping[bytes, AllowedIps]) -> None:
    different = difference(wanted, await interface.get())
    for start in range(0, len(different), 1000):
        await interface.set(operations(different[start : start + 1000], wanted))


async def test_what_is_set_is_what_is_read(tmp_path: Path) -> None:
    """Peers, their addresses and their handshakes; what is removed is gone."""
    wanted = many(3)
    async with FakeInterface(tmp_path) as fake:
        interface = Interface("wg0", tmp_path)
        await load(interface, wanted)
        first, *_ = wanted
        fake.handshakes[first.hex()] = 1_700_000_000
        found = await interface.get()
        assert found[first] == Peer(wanted[first], 1_700_000_000)
        assert {key: peer.allowed_ips for key, peer in found.items()} == wanted
        await interface.set([Operation(first, None)])
        assert first not in await interface.get()


async def test_it_says_what_is_wrong_with_an_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence that says what to do, whatever the system calls it."""
    interface = Interface("wg0", tmp_path)
    with pytest.raises(InterfaceUnavailable, match=r"there is no interface wg0.* start it: wireguard-go wg0"):
        await interface.get()
    fake = FakeInterface(tmp_path)
    async with fake:
        fake.errno = -22
        with pytest.raises(InterfaceUnavailable, match="wg0 refuses what it was asked: Invalid argument"):
            await interface.set([Operation(bytes(32), None)])
        fake.errno, fake.stuck = 0, True
        with monkeypatch.context() as patch, pytest.raises(InterfaceUnavailable, match="wg0 has not answered"):
            patch.setattr(uapi, "EXCHANGE_SECONDS", 0.1)
            await interface.get()
        fake.stuck = False
        await interface.get()
        os.link(fake.path, tmp_path / "left")
    (tmp_path / "left").rename(fake.path)
    with pytest.raises(InterfaceUnavailable, match="has ended and left"):
        await interface.get()


@pytest.mark.timeout(120)
async def test_a_real_interface_takes_ten_thousand_peers_in_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """And has exactly those; the second look finds nothing to do."""
    name, wanted = f"ghu{os.getpid() % 100000}", many(MANY)
    with wireguard_go(name) as folder:
        interface = Interface(name, folder)
        began = time.monotonic()
        await load(interface, wanted)
        loaded = time.monotonic()
        present = await interface.get()
        looked = time.monotonic()
        assert difference(wanted, present) == []
        await interface.set(operations(list(wanted)[:1], {}))
        removed = time.monotonic()
        assert len(await interface.get()) == MANY - 1
    with capsys.disabled():
        sys.stdout.write(
            f"\n{MANY} peers: loaded in {loaded - began:.2f} s, read in {looked - loaded:.2f} s,"
            f" one removed in {1000 * (removed - looked):.1f} ms\n"
        )
    assert loaded - began < 30
