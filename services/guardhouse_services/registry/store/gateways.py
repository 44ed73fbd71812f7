"""How far the gateways have come, as far as they said so to any replica."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.registry.domain import MAX_GATEWAYS, Gateway
from guardhouse_services.registry.store.tables import gateway
from guardhouse_services.statements import Insert, statement, upsert

FORGET_ROWS = 1000


def page(tx: Transaction, organization_id: str) -> list[Gateway]:
    """All of an organization, by name."""
    return [
        Gateway(
            organization_id,
            row.name,
            row.api_key_id,
            (row.epoch, row.revision),
            row.seen_time,
            row.instance,
            tuple(row.former),
            row.shared_time,
        )
        for row in _of(tx, organization_id)
    ]


def write(tx: Transaction, organization_id: str, gateways: Iterable[Gateway]) -> tuple[list[str], list[str]]:
    """Notes what they said; what another replica has heard since stays.

    Answers the names that there is no room for, and those of which it shows now that several processes share them.
    """
    known = {it.name: it for it in page(tx, organization_id)}
    refused, shared = [], []
    # In one order, for two replicas may write at the same time; and of one name as it was said.
    for said in sorted(gateways, key=lambda it: (it.name, it.seen_time)):
        before = known.get(said.name)
        if before is None and len(known) >= MAX_GATEWAYS:
            refused.append(said.name)
            continue
        if before is not None and before.seen_time > said.seen_time:
            continue
        it = known[said.name] = said.behind(before) if before is not None else said
        if before is not None and it.is_shared(it.seen_time) and not before.is_shared(it.seen_time):
            shared.append(it.name)
        _save(
            tx,
            organization_id,
            it.name,
            it.api_key_id,
            *it.applied,
            it.seen_time,
            it.instance,
            list(it.former),
            it.shared_time,
        )
    return refused, shared


def forget(tx: Transaction, before: int) -> int:
    """Forgets some that were last heard of before that, and answers how many."""
    return _forget(tx, before).rowcount


@statement
def _of(organization_id: str) -> sa.Select[Any]:
    return sa.select(gateway).where(gateway.c.organization_id == organization_id).order_by(gateway.c.name)


@upsert
def _save(
    insert: Insert,
    organization_id: str,
    name: str,
    api_key_id: str,
    epoch: str,
    revision: int,
    seen_time: int,
    instance: str,
    former: list[str],
    shared_time: int,
) -> sa.Executable:
    values = {
        "api_key_id": api_key_id,
        "epoch": epoch,
        "revision": revision,
        "seen_time": seen_time,
        "instance": instance,
        "former": former,
        "shared_time": shared_time,
    }
    row = insert(gateway).values(organization_id=organization_id, name=name, **values)
    return row.on_conflict_do_update(
        index_elements=["organization_id", "name"], set_=values, where=gateway.c.seen_time <= seen_time
    )


@statement
def _forget(before: int) -> sa.Executable:
    key = sa.tuple_(gateway.c.organization_id, gateway.c.name)
    old = sa.select(gateway.c.organization_id, gateway.c.name).where(gateway.c.seen_time < before).limit(FORGET_ROWS)
    return gateway.delete().where(key.in_(old))
