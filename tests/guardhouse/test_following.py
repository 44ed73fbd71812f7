"""A follower whose service is away. tests/guardhouse_services/test_feed.py has it beside a feed."""

import asyncio
import logging
import random
from itertools import pairwise

import grpc.aio
import pytest

from guardhouse import following
from guardhouse.following import Follower, View
from guardhouse.registry.v1 import registry_pb2, registry_pb2_grpc
from tests.clock import FakeClock
from tests.wireguard import become

ORGANIZATION = f"org_{'1' * 32}"


async def test_a_follower_ends_when_it_is_told_to_whatever_its_call_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of grpc.aio that fails in the moment in which its task is cancelled raises the failure alone, and the
    cancellation is lost. So no task that goes on after a failure may wait for one: to be told once is enough."""
    monkeypatch.setattr("guardhouse.following.random.uniform", lambda _low, _high: 0.0005)
    dice = random.Random(0)
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        watch = registry_pb2_grpc.RegistryFeedServiceStub(channel).Watch

        async def ended() -> bool:
            follower = Follower(
                "test", watch, registry_pb2.WatchRequest, View(lambda _: None), FakeClock(), [ORGANIZATION]
            )
            task = asyncio.create_task(follower.run())
            await asyncio.sleep(dice.uniform(0.001, 0.03))
            task.cancel()
            done, late = await asyncio.wait([task], timeout=10)
            for each in late:
                while not each.done():
                    each.cancel()
                    await asyncio.wait([each], timeout=0.1)
            return bool(done)

        found = [await asyncio.gather(*(ended() for _ in range(10))) for _ in range(12)]
    assert sum(map(sum, found)) == 120


async def test_a_service_that_is_away_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("guardhouse.following.random.uniform", lambda _low, _high: 0.01)
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        watch = registry_pb2_grpc.RegistryFeedServiceStub(channel).Watch
        follower = Follower("test", watch, registry_pb2.WatchRequest, View(lambda _: None), FakeClock(), [ORGANIZATION])
        with caplog.at_level(logging.DEBUG, "guardhouse.following"):
            task = asyncio.create_task(follower.run())
            await become(lambda: len(told(caplog)) > 20)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    again = [level for (_, before), (level, text) in pairwise(told(caplog)) if text == before]
    assert len(again) > 3
    assert told(caplog)[0][0] == logging.INFO
    assert set(again) == {logging.DEBUG}


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """What followers have said so far, and how loud."""
    return [(it.levelno, it.getMessage()) for it in caplog.records if it.name == following.__name__]
