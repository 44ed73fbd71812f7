"""What waits together is done together (performance.md: 1.2 → 5.8 times one client)."""

import asyncio
from collections.abc import Sequence

import pytest

from guardhouse.errors import Conflict, GuardhouseError, NotFound
from guardhouse_services.together import LIMIT, Together


class Work:
    """Doubles numbers in batches that take a moment. Odd ones are not found; a batch with a 13 fails as a whole."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.together: Together[int, int] = Together(self.work)

    async def work(self, key: str, items: Sequence[int]) -> list[int | GuardhouseError]:
        self.batches.append((key, list(items)))
        await asyncio.sleep(0.01)
        if 13 in items:
            raise Conflict("all of it")
        return [item * 2 if item % 2 == 0 else NotFound(str(item)) for item in items]

    async def do(self, *items: int) -> list[int | BaseException]:
        return await asyncio.gather(*(self.together.do("a", item) for item in items), return_exceptions=True)


async def test_what_comes_while_a_batch_is_under_way_is_the_next_one() -> None:
    work = Work()
    first = asyncio.create_task(work.together.do("a", 0))
    await asyncio.sleep(0.001)
    assert await work.do(2, 4, 6) == [4, 8, 12]
    assert await first == 0
    assert work.batches == [("a", [0]), ("a", [2, 4, 6])]


async def test_keys_do_not_wait_for_each_other() -> None:
    work = Work()
    assert list(await asyncio.gather(work.together.do("a", 2), work.together.do("b", 4))) == [4, 8]
    assert sorted(work.batches) == [("a", [2]), ("b", [4])]


async def test_an_error_is_the_callers_whose_it_is() -> None:
    work = Work()
    answers = await work.do(2, 3, 4)
    assert (answers[0], answers[2]) == (4, 8)
    assert isinstance(answers[1], NotFound)


async def test_a_batch_that_fails_is_done_one_by_one() -> None:
    work = Work()
    answers = await work.do(2, 13, 4)
    assert (answers[0], answers[2]) == (4, 8)
    assert isinstance(answers[1], Conflict)
    assert work.batches == [("a", [2, 13, 4]), ("a", [2]), ("a", [13]), ("a", [4])]


async def test_a_batch_is_bounded() -> None:
    work = Work()
    await work.do(*range(0, 4 * LIMIT, 2))
    assert [len(items) for _, items in work.batches] == [LIMIT, LIMIT]


async def test_who_goes_away_keeps_nobody_from_being_answered() -> None:
    work = Work()
    gone = asyncio.create_task(work.together.do("a", 2))
    stays = asyncio.create_task(work.together.do("a", 4))
    await asyncio.sleep(0.001)
    gone.cancel()
    assert await stays == 8
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert await work.together.do("a", 6) == 12
