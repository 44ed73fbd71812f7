"""What a service makes of another's feed in its own database, and how far it has come.

Effects write the position in the transaction of the effect; they never take something away because a snapshot lacks it.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from guardhouse import revisions
from guardhouse.errors import EpochChanged, RevisionTokenInvalid, StateStale
from guardhouse.following import WAIT_SECONDS, Follower, GapFound, Position
from guardhouse_services.database import Database, Transaction, platform
from guardhouse_services.statements import Insert, statement, upsert

# What a call that waits in vain needs to hear so before its deadline.
ANSWER_SECONDS = 0.1

applied = sa.Table(
    "applied",
    platform,
    sa.Column("source", sa.String(16), primary_key=True),
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("epoch", sa.String(32), nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
)
"""How far the effects of each other service's feed have come."""

Effect = Callable[[Transaction, str, Sequence[Any]], None]
"""Applies events of an organization in a transaction. Applying one twice, or an old one, changes nothing."""


class Effects:
    """Writes what follows from another service's events.

    `missing` is told, at the end of a snapshot, the ids that `seen` found in its events. Without the two an omission
    means nothing.
    """

    def __init__(
        self,
        database: Database,
        source: str,
        effect: Effect,
        seen: Callable[[Any], str] | None = None,
        missing: Callable[[Transaction, str, set[str]], None] | None = None,
    ) -> None:
        self._database = database
        self._source = source
        self._effect = effect
        self._seen = seen
        self._missing = missing
        self._snapshot_ids: dict[str, set[str]] = {}
        self._began: dict[str, Position | None] = {}

    async def positions(self) -> dict[str, Position]:
        rows = await self._database.read(lambda tx: _positions(tx, self._source).all())
        return {row.organization_id: (row.epoch, row.revision) for row in rows}

    async def begin(self, organization_id: str) -> None:
        self._snapshot_ids[organization_id] = set()
        self._began[organization_id] = (await self.positions()).get(organization_id)

    async def page(self, organization_id: str, events: Sequence[Any]) -> None:
        if self._seen is not None:
            self._snapshot_ids[organization_id].update(map(self._seen, events))
        await self._database.write(lambda tx: self._effect(tx, organization_id, events))

    async def end(self, organization_id: str, position: Position) -> None:
        ids, began = self._snapshot_ids.pop(organization_id), self._began.pop(organization_id)

        def write(tx: Transaction) -> None:
            row = _lock(tx, self._source, organization_id).one_or_none()
            if (tuple(row) if row else None) != began:
                raise GapFound(f"another replica has applied {self._source} meanwhile")
            if self._missing is not None:
                self._missing(tx, organization_id, ids)
            _save(tx, self._source, organization_id, *position)

        await self._database.write(write)

    async def change(self, organization_id: str, events: Sequence[Any], before: Position, after: Position) -> None:
        def write(tx: Transaction) -> None:
            moved = _move(tx, self._source, organization_id, *before, after[1])
            if moved.rowcount != 1:
                raise GapFound(f"another replica applies {self._source} as well")
            self._effect(tx, organization_id, events)

        await self._database.write(write)


@statement
def _positions(source: str) -> sa.Select[Any]:
    return sa.select(applied).where(applied.c.source == source)


def _at(source: str, organization_id: str) -> sa.Select[Any]:
    position = sa.select(applied.c.epoch, applied.c.revision)
    return position.where(applied.c.source == source, applied.c.organization_id == organization_id)


@statement
def _position(source: str, organization_id: str) -> sa.Select[Any]:
    return _at(source, organization_id)


@statement
def _lock(source: str, organization_id: str) -> sa.Select[Any]:
    return _at(source, organization_id).with_for_update()


@upsert
def _save(insert: Insert, source: str, organization_id: str, epoch: str, revision: int) -> sa.Executable:
    values = {"epoch": epoch, "revision": revision}
    position = insert(applied).values(source=source, organization_id=organization_id, **values)
    return position.on_conflict_do_update(index_elements=["source", "organization_id"], set_=values)


@statement
def begin_anew(source: str, organization_id: str) -> sa.Executable:
    """Has whoever follows the source next take a snapshot of the organization."""
    return applied.delete().where(applied.c.source == source, applied.c.organization_id == organization_id)


@statement
def _move(source: str, organization_id: str, epoch: str, before: int, after: int) -> sa.Executable:
    """From the revision before to the one after; no row when the position is not that one any more."""
    present = (
        applied.c.source == source,
        applied.c.organization_id == organization_id,
        applied.c.epoch == epoch,
        applied.c.revision == before,
    )
    return applied.update().where(*present).values(revision=after)


class Freshness:
    """Answers calls that carry revision tokens at least that fresh, or refuses them."""

    def __init__(
        self, database: Database, service: str, views: Iterable[tuple[str, Follower]], effects: Iterable[str]
    ) -> None:
        self._database = database
        self._service = service
        self._views = tuple(views)
        # What the database is made of: its own changes, and those whose effects it holds.
        self._sources = {service, *effects}
        self._known: dict[tuple[str, str, str], int] = {}

    async def wait(self, tokens: Sequence[str], organization_id: str, left: float | None = None) -> None:
        """Waits for three seconds, or as long as a caller who has `left` seconds can hear of it.

        Raises StateStale when the tokens are not reached by then, EpochChanged for one of another history, and
        RevisionTokenInvalid for one that is none or is another organization's.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + (WAIT_SECONDS if left is None else max(min(WAIT_SECONDS, left - ANSWER_SECONDS), 0))
        for text in tokens:
            token = revisions.decode(text)
            if token.organization_id not in (organization_id, ""):
                raise RevisionTokenInvalid("at_least", "the revision token is of another organization")
            position = (token.position.epoch, token.position.revision)
            for source, follower in self._views:
                if source == token.service and not await follower.reached(
                    source, token.organization_id, position, end - loop.time()
                ):
                    raise StateStale(f"this replica has not caught up with {source} yet; try again")
            key = (token.service, token.organization_id, position[0])
            if token.service in self._sources and position[1] > self._known.get(key, -1):
                self._known[key] = await self._wait_in_database(token.service, token.organization_id, position, end)

    async def _wait_in_database(self, service: str, organization_id: str, position: Position, end: float) -> int:
        pause = 0.01
        while True:
            at = await self._database.read(lambda tx: self._position(tx, service, organization_id))
            if at is not None and at[0] != position[0]:
                raise EpochChanged("the revision token is from before a restore; drop it", service=service)
            if at is not None and at[1] >= position[1]:
                return at[1]
            if asyncio.get_running_loop().time() > end:
                raise StateStale(f"{self._service} has not caught up with {service} yet; try again")
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.1)

    def _position(self, tx: Transaction, service: str, organization_id: str) -> Position | None:
        if service == self._service:
            return tx.epoch(), tx.revision(organization_id)
        row = _position(tx, service, organization_id).one_or_none()
        return (row.epoch, row.revision) if row else None
