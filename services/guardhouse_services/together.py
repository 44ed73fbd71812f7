"""Work that waits together is done together.

Calls that would wait for the same row cost a transaction each, one behind the other. What comes while a batch is under
way is the next batch, so nobody waits for company, and the more there is to do the less each costs.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from guardhouse.errors import GuardhouseError

T = TypeVar("T")
R = TypeVar("R")

LIMIT = 64
"""How much is done together at most, so that a batch takes no longer than the locks of a transaction may."""


class Together(Generic[T, R]):
    """Does what is asked for by `work`, which is given a key and what waits for it, in the order in which it came.

    It answers a result for each, or the error that is that one's own. If it raises, they are done one by one.
    """

    def __init__(self, work: Callable[[str, Sequence[T]], Awaitable[Sequence[R | GuardhouseError]]]) -> None:
        self._work = work
        self._waiting: dict[str, deque[tuple[T, asyncio.Future[R]]]] = {}
        # Kept so that what works is not collected while it does.
        self._workers: set[asyncio.Task[None]] = set()

    async def do(self, key: str, item: T) -> R:
        """Waits for the result. Once asked for, it is done even when the caller goes away."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        if key in self._waiting:
            self._waiting[key].append((item, future))
        else:
            self._waiting[key] = deque([(item, future)])
            worker = asyncio.create_task(self._run(key))
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return await future

    async def _run(self, key: str) -> None:
        waiting = self._waiting[key]
        while waiting:
            await self._finish(key, [waiting.popleft() for _ in range(min(len(waiting), LIMIT))])
        del self._waiting[key]

    async def _finish(self, key: str, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._work(key, [item for item, _ in batch])
        except Exception as error:  # noqa: BLE001  # it is the caller's
            if len(batch) > 1:
                for each in batch:
                    await self._finish(key, [each])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                # Its caller went away.
                continue
            if isinstance(result, GuardhouseError):
                future.set_exception(result)
            else:
                future.set_result(result)
