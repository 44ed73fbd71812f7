"""Everything that the four databases hold, to show that a refused call has changed nothing."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa

from guardhouse_services.breaker.store import HeldActions
from guardhouse_services.database import Transaction
from guardhouse_services.feed import read_heads
from guardhouse_services.follower import applied
from guardhouse_services.identity.store import held_actions
from guardhouse_services.node import Node
from guardhouse_services.registry.store import lifetimes
from guardhouse_services.registry.store.tables import is_under_way, profile_matching
from tests.plane import Plane

# What is written whether or not anything changes: refusals on record, who runs which job, how far followers have come.
ASIDE = {"audit_record", "audit_export", "job_lease", "applied", "gateway", "alembic_version"}

HELD = {"identity": held_actions, "registry": lifetimes.held_actions}

QUIET_SECONDS = 40.0

State = dict[str, Any]
Heads = dict[str, dict[str, int]]
"""The newest revision of each organization, by service."""


async def quiet(plane: Plane) -> None:
    """Waits until every service has written what follows from what the others did, whichever replica does that."""
    await plane.nodes["registry"].servicer.registry.heartbeats.flush()  # type: ignore[attr-defined]
    heads: Heads = {}
    async with asyncio.timeout(QUIET_SECONDS):
        while True:
            before, heads = heads, {name: await it.database.read(_revisions) for name, it in plane.nodes.items()}
            behind = [await node.database.read(_behind(node, heads)) for node in plane.nodes.values()]
            matching = await plane.nodes["registry"].database.read(_is_matching)
            approved = [await plane.nodes[service].database.read(_is_approved(held)) for service, held in HELD.items()]
            # What one service writes is news to another.
            if heads == before and not any(behind) and not matching and not any(approved):
                return
            await asyncio.sleep(0.005)


def _is_matching(tx: Transaction) -> bool:
    """Whether a change of device profiles is still to reach a registration."""
    return tx.execute(sa.select(profile_matching.c.organization_id).where(is_under_way)).first() is not None


def _is_approved(held: HeldActions) -> Callable[[Transaction], bool]:
    """Whether an approved action is still to be carried out."""
    return lambda tx: bool(held.approved(tx, 1))


def _revisions(tx: Transaction) -> dict[str, int]:
    return read_heads(tx).revisions


def _behind(node: Node, heads: Heads) -> Callable[[Transaction], bool]:
    """Whether the effects of another service's changes are still to come."""

    def read(tx: Transaction) -> bool:
        rows = tx.execute(sa.select(applied.c.source, applied.c.organization_id, applied.c.revision))
        known = {(source, organization_id): revision for source, organization_id, revision in rows}
        return any(
            known.get((source, organization_id), 0) < revision
            for source in node.effects
            for organization_id, revision in heads[source.partition(" ")[0]].items()
        )

    return read


async def state(plane: Plane, services: Iterable[str] = ("identity", "registry", "ipam", "session")) -> State:
    """The rows of every table by its name."""
    return {service: await plane.nodes[service].database.read(_tables(plane.nodes[service])) for service in services}


def difference(before: State, after: State) -> str:
    """What is not the same, in a line; empty when nothing is."""
    changed = []
    for service, tables in after.items():
        for name, rows in tables.items():
            gone, new = before[service][name] - rows, rows - before[service][name]
            if gone or new:
                changed.append(f"{service}.{name}: -{sorted(gone, key=repr)} +{sorted(new, key=repr)}"[:600])
    return "; ".join(changed)


def _tables(node: Node) -> Any:
    names = sorted(set(sa.inspect(node.database.engine).get_table_names()) - ASIDE)
    # What is left of them goes by and by.
    gone = set(node.directory.deleted())

    def read(tx: Transaction) -> dict[str, frozenset[Any]]:
        tables = {name: map(_plain, tx.execute(sa.text(_query(name)))) for name in names}
        return {name: frozenset(row for row in rows if gone.isdisjoint(row)) for name, rows in tables.items()}

    return read


def _query(name: str) -> str:
    match name:
        # Of the feed's changes the newest tells whether there is another.
        case "change":
            return "SELECT organization_id, max(revision) FROM change GROUP BY organization_id"
        # A refusal takes the head of whom it is of, and leaves it where it was.
        case "head":
            return "SELECT * FROM head WHERE revision > 0"
    return f'SELECT * FROM "{name}"'  # names are those of the database itself


def _plain(row: sa.Row[Any]) -> tuple[Any, ...]:
    return tuple(repr(value) if isinstance(value, dict | list) else value for value in row)
