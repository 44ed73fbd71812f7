"""A machine that several people share: who is at the desk decides whose the tunnel is (decision 19)."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guardhouse.agent.agent import Agent, EventInvalid, Shared
from guardhouse.agent.events import LINE_BYTES, SOCKET, listening, take, tell
from guardhouse.agent.folder import Folder, FolderUnusable
from guardhouse.agent.keeper import Means
from guardhouse.durations import SECOND
from guardhouse.os_sessions import Desk
from guardhouse.registry.v1 import registry_pb2 as pb
from tests.guardhouse.agent.test_agent import Machine
from tests.plane import Plane
from tests.system.people import World
from tests.wireguard import become


class Desktop:
    """A Windows machine with an agent, and whoever sits at it."""

    def __init__(self, plane: Plane, world: World, path: Path, shared: Shared) -> None:
        self.world = world
        about = Machine(plane, path, Means())
        claims = pb.DeviceClaims(hardware_id="desktop", platform=pb.PLATFORM_WINDOWS, client_version="2025.2.460.1")
        self.orders = replace(about.orders, claims=claims)
        self.folder = Folder(path)
        self.shared = shared
        self.agent = Agent(self.orders, self.folder, plane.clock, Means(), shared=shared)

    @contextlib.asynccontextmanager
    async def on(self) -> AsyncIterator[None]:
        async with listening(self.agent, self.folder.path / SOCKET):
            running = asyncio.create_task(self.agent.run())
            try:
                yield
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    async def tell(self, event: str, user: str = "") -> dict[str, Any]:
        said = {"event": event, "user": user}
        if event == "sign-in":
            said["id_token"] = self.world.id_token(user).id_token
        return await tell(self.folder.path / SOCKET, said)

    @property
    def current(self) -> str:
        """The account whose the tunnel is, login for the login screen's."""
        found = self.agent.current
        if found is None:
            return ""
        return found.whose.os_user or "login"

    async def agreed(self) -> str:
        """The same, once the registry says so, too."""
        async with asyncio.timeout(40):
            while True:
                held = {it.registration_id for it in await self.world.live() if it.current}
                mine = self.agent.current
                if not self.agent._reports and held == ({mine.kept.registration_id} if mine and mine.kept else set()):
                    return self.current
                await asyncio.sleep(0.05)


async def test_the_tunnel_is_whose_the_desk_is(plane: Plane, world: World, tmp_path: Path) -> None:
    desktop = Desktop(plane, world, tmp_path, Shared(await world.service_token()))
    async with desktop.on():
        await become(lambda: desktop.current == "login")
        assert (await desktop.tell("log-in", "alice")) == {"current_registration_id": "", "asks_to_register": True}
        await desktop.tell("sign-in", "alice")
        await become(lambda: desktop.current == "alice")
        assert await desktop.agreed() == "alice"
        assert (await desktop.tell("switch", "bob"))["asks_to_register"]
        assert desktop.current == ""
        await desktop.tell("sign-in", "bob")
        await become(lambda: desktop.current == "bob")
        for event, user, whose in (
            ("switch", "alice", "alice"),
            ("lock", "", "login"),
            ("log-in", "bob", "bob"),
            ("log-out", "alice", "bob"),
            ("log-out", "bob", "login"),
        ):
            answer = await desktop.tell(event, user)
            assert not answer["asks_to_register"]
            assert desktop.current == whose
            assert await desktop.agreed() == whose
        assert len(await world.live()) == 3


async def test_it_switches_while_nobody_can_be_told_and_tells_it_later(
    plane: Plane, world: World, tmp_path: Path
) -> None:
    """In order, so that at any time an address was one account's."""
    desktop = Desktop(plane, world, tmp_path, Shared())
    async with desktop.on():
        for who in ("alice", "bob"):
            await desktop.tell("switch", who)
            await desktop.tell("sign-in", who)
            await become(lambda who=who: desktop.current == who)  # type: ignore[misc]
        assert await desktop.agreed() == "bob"
        await plane.stop("registry")
        for who in ("alice", "bob", "alice"):
            await desktop.tell("switch", who)
            assert desktop.current == who
    # Started anew it knows who is there.
    again = Desktop(plane, world, tmp_path, Shared())
    assert again.current == "alice"
    async with again.on():
        await again.tell("switch", "bob")
        await again.tell("switch", "alice")
        assert len(again.agent._reports) == 3
        await plane.start("registry")
        assert await again.agreed() == "alice"
        (device_id,) = {it.device_id for it in await world.live()}
        request = pb.ListOsSessionsRequest(organization_id=plane.organization, device_id=device_id)
        listed = (await world.devices.ListOsSessions(request)).os_sessions
        assert [it.os_user for it in listed][:4] == ["alice", "bob", "alice", "bob"]


async def test_a_clock_that_was_set_back_hides_no_event(plane: Plane, world: World, tmp_path: Path) -> None:
    desktop = Desktop(plane, world, tmp_path, Shared(await world.service_token()))
    async with desktop.on():
        await desktop.tell("log-in", "alice")
        await desktop.tell("sign-in", "alice")
        await become(lambda: desktop.current == "alice")
        assert await desktop.agreed() == "alice"
    # What it knew of its own events is lost as well.
    (tmp_path / "desk.json").write_text("{}")
    plane.clock.jump(-3600)
    again = Desktop(plane, world, tmp_path, Shared(desktop.shared.pre_login))
    plane.clock.jump(3600)
    again.agent._clock = type("Set", (), {"now": lambda _: plane.clock.now() - 3600 * SECOND})()
    again.agent._desk = Desk("alice", at_login_screen=False)
    async with again.on():
        await again.tell("lock")
        assert await again.agreed() == "login"


async def test_what_is_no_event_is_refused_in_words(plane: Plane, world: World, tmp_path: Path) -> None:
    desktop = Desktop(plane, world, tmp_path, Shared())
    for line, said in (
        (b"{", "an object of JSON"),
        (b"[]", "an object of JSON"),
        (b"{}", "the event is one of log-in, log-out, switch, lock, sign-in"),
        (b'{"event": ["lock"]}', "the event is one of"),
        (b'{"event": "log-in"}', "it needs the user"),
        (b'{"event": "log-in", "user": 7}', "user is a string"),
        (json.dumps({"event": "log-in", "user": "x" * 256}).encode(), "at most 255"),
        (b'{"event": "sign-in", "user": "ada"}', "it needs the id_token"),
        (b'{"event": "sign-in", "id_token": "x"}', "it needs the user"),
    ):
        assert said in take(desktop.agent, line)["error"], line
    async with listening(desktop.agent, tmp_path / SOCKET):
        assert (tmp_path / SOCKET).stat().st_mode & 0o777 == 0o600
        with pytest.raises(EventInvalid, match="it needs the user"):
            await tell(tmp_path / SOCKET, {"event": "log-in"})
        # A line that never ends does not fill the memory, and the next who comes is served.
        reader, writer = await asyncio.open_unix_connection(tmp_path / SOCKET)
        writer.write(b"x" * 2 * LINE_BYTES)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        assert (await tell(tmp_path / SOCKET, {"event": "lock"}))["current_registration_id"] == ""
    assert not (tmp_path / SOCKET).exists()
    await desktop.agent.close()


async def test_a_machine_of_one_person_has_no_desk(plane: Plane, tmp_path: Path) -> None:
    machine = Machine(plane, tmp_path, Means())
    assert "not in multi-user mode" in take(machine.agent, b'{"event": "lock"}')["error"]
    assert "has no user" in take(machine.agent, b'{"event": "sign-in", "user": "ada", "id_token": "x"}')["error"]
    long = tmp_path / ("x" * 120)
    long.mkdir()
    with pytest.raises(FolderUnusable, match="short path"):
        async with listening(machine.agent, long / SOCKET):
            pytest.fail("it listens")
    await machine.agent.close()
