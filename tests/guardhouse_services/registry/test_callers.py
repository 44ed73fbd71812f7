"""Recognising devices, many at a time, on both engines (decision 22)."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from guardhouse.errors import CredentialsInvalid
from guardhouse_services.database import Transaction
from guardhouse_services.registry.usecases.callers import GATHER_SECONDS
from tests.guardhouse_services.registry.world import World, name


async def test_calls_that_come_one_behind_the_other_ask_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat each few milliseconds is no transaction each."""
    made = [await world.enroll() for _ in range(3)]
    reads, read = 0, world.database.read

    async def counted(function: Callable[[Transaction], Any]) -> Any:
        nonlocal reads
        reads += 1
        return await read(function)

    monkeypatch.setattr(world.database, "read", counted)
    began, calls = time.monotonic(), []
    for number in range(90):
        calls.append(asyncio.create_task(world.registry.callers.device(made[number % 3].token)))
        await asyncio.sleep(0.002)
    callers = await asyncio.gather(*calls)
    assert [it.id for it in callers[:3]] == [name(it) for it in made]
    assert reads <= (time.monotonic() - began) / GATHER_SECONDS + 2


async def test_what_is_revoked_is_refused_by_the_next_call(world: World) -> None:
    """I-09: also where many were asked for a moment ago."""
    enrolled = await world.enroll()
    await asyncio.gather(*(world.registry.callers.device(enrolled.token) for _ in range(5)))
    await world.revoke(name(enrolled))
    with pytest.raises(CredentialsInvalid):
        await world.registry.callers.device(enrolled.token)
