"""The tables of ipam. Every change of an organization's leases takes its subnet row first.

That row is to ipam what the head is to the feed. It makes the answer "exhausted" exact and the oldest pair the next
one, and it keeps allocation flat: the queue of resting pairs is read from `rested_time` on, so no search walks over the
index entries that earlier takers left behind at its head.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.ipam.domain import KEEP_TOMBSTONE, Holding, Lease, State, Subnet

# SQLite takes 32,766 parameters in a statement, PostgreSQL 65,535.
CHUNK = 5000

_Value = str | int | sa.BindParameter[Any]

metadata = sa.MetaData()

subnet = sa.Table(
    "subnet",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("ipv4", sa.String(18), nullable=False),
    sa.Column("ipv6", sa.String(43), nullable=False),
    sa.Column("next_ipv4", sa.BigInteger, nullable=False),
    sa.Column("rested_time", sa.BigInteger, nullable=False),
)
"""One row for each organization that ever used an address."""

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("ipv4", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("ipv6", sa.String(39), nullable=False),
    sa.Column("lease_id", sa.String(40), nullable=False),
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("registration_id", sa.String(40)),
    sa.Column("device_id", sa.String(40), nullable=False),
    sa.Column("holder_id", sa.String(40), nullable=False),
    sa.Column("reserve_time", sa.BigInteger, nullable=False),
    sa.Column("ask_time", sa.BigInteger),
    sa.Column("hold_time", sa.BigInteger),
    sa.Column("claim_id", sa.String(40)),
    sa.Column("claim_time", sa.BigInteger),
    sa.Column("release_time", sa.BigInteger),
    sa.Column("rest_time", sa.BigInteger),
    sa.Index("lease_ipv6", "organization_id", "ipv6", unique=True),
    sa.Index("lease_id", "organization_id", "lease_id", unique=True),
    # A registration has at most one pair reserved and one held. Resting pairs have none, and NULLs are distinct.
    sa.Index("lease_registration", "organization_id", "registration_id", "state", unique=True),
    sa.Index("lease_device", "organization_id", "device_id", "holder_id"),
)
"""One row for each pair that was ever given out. Its row is the address's: two holders of one cannot be written."""

lease_claim = sa.Index(
    "lease_claim",
    lease.c.organization_id,
    lease.c.claim_id,
    postgresql_where=lease.c.claim_id.is_not(None),
    sqlite_where=lease.c.claim_id.is_not(None),
)

lease_resting = sa.Index(
    "lease_resting",
    lease.c.organization_id,
    lease.c.rest_time,
    postgresql_where=lease.c.rest_time.is_not(None),
    sqlite_where=lease.c.rest_time.is_not(None),
)

# For a job, so it is one of the few indexes that do not begin with the organization.
lease_asking = sa.Index(
    "lease_asking",
    lease.c.ask_time,
    postgresql_where=lease.c.ask_time.is_not(None),
    sqlite_where=lease.c.ask_time.is_not(None),
)

holding = sa.Table(
    "holding",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("lease_id", sa.String(40), primary_key=True),
    sa.Column("registration_id", sa.String(40), primary_key=True),
    sa.Column("device_id", sa.String(40), nullable=False),
    sa.Column("holder_id", sa.String(40), nullable=False),
    sa.Column("ipv4", sa.BigInteger, nullable=False),
    sa.Column("ipv6", sa.String(39), nullable=False),
    sa.Column("hold_time", sa.BigInteger, nullable=False),
    sa.Column("release_time", sa.BigInteger),
    sa.Index("holding_by_address", "organization_id", "ipv4", "hold_time"),
)
"""Who holds, and who held, which pair (decision 26). It is kept for good."""

holding_now = sa.Index(
    "holding_now",
    holding.c.organization_id,
    holding.c.lease_id,
    unique=True,
    postgresql_where=holding.c.release_time.is_(None),
    sqlite_where=holding.c.release_time.is_(None),
)

tombstone = sa.Table(
    "tombstone",
    metadata,
    sa.Column("organization_id", sa.String(40), primary_key=True),
    sa.Column("intent_id", sa.String(40), primary_key=True),
    sa.Column("bury_time", sa.BigInteger, nullable=False),
    sa.Index("tombstone_by_time", "organization_id", "bury_time"),
)
"""Intents whose reservation was given back: one that arrives late reserves nothing."""


def read_subnet(tx: Transaction, organization_id: str) -> Subnet | None:
    row = tx.execute(_subnet(organization_id)).one_or_none()
    return Subnet(*row) if row else None


def lock_subnet(tx: Transaction, organization_id: str) -> Subnet | None:
    """Comes before every change of the organization's leases; until the commit nobody else changes them."""
    row = tx.execute(_subnet(organization_id).with_for_update()).one_or_none()
    return Subnet(*row) if row else None


def add_subnet(tx: Transaction, organization_id: str, made: Subnet) -> Subnet:
    """Adds and locks the subnet, unless somebody else did at this moment; then theirs counts."""
    wanted = tx.insert(subnet).values(organization_id=organization_id, **asdict(made))
    tx.execute(wanted.on_conflict_do_nothing(index_elements=["organization_id"]))
    return Subnet(*tx.execute(_subnet(organization_id).with_for_update()).one())


def save_subnet(tx: Transaction, organization_id: str, changed: Subnet) -> None:
    values = {"next_ipv4": changed.next_ipv4, "rested_time": changed.rested_time}
    tx.execute(subnet.update().where(subnet.c.organization_id == organization_id).values(values))


def find_intent(tx: Transaction, organization_id: str, intent_id: str) -> Lease | None:
    """What the intent reserved, or its registration holds."""
    return _first(tx, _of_intent(organization_id, intent_id))


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a reservation depends on."""

    is_buried: bool
    """The intent's reservation was given back."""
    intent: Lease | None
    """What it reserved before."""
    own: Lease | None
    """The pair that the holder had on the device last, while it rests."""
    rested: Lease | None
    """The pair that has rested longest, of those that have rested long enough."""


def find_prospect(tx: Transaction, organization_id: str, wanted: Lease, rested_time: int, before: int) -> Prospect:
    """All of it in one statement: each costs a round trip, of which a reservation has few.

    `before` is when a rest must have begun; none before `rested_time` is looked for. The caller has locked the subnet.
    """
    values = {
        "organization": organization_id,
        "intent": wanted.registration_id,
        "device": wanted.device_id,
        "holder": wanted.holder_id,
        "rested_time": rested_time,
        "before": before,
    }
    found = {row.kind: row for row in tx.execute(_prospect, values)}
    intent, own, longest = (_lease(found[kind]) if kind in found else None for kind in ("intent", "own", "rested"))
    return Prospect("buried" in found, intent, own, longest)


def _of_intent(organization_id: _Value, intent_id: _Value) -> sa.Select[Any]:
    # The reserved pair, as it was answered before, rather than one that was taken over since.
    mine = _leases(organization_id, lease.c.registration_id == intent_id)
    return mine.order_by(lease.c.state.desc()).limit(1)


def _own(organization_id: _Value, device_id: _Value, holder_id: _Value) -> sa.Select[Any]:
    own = (lease.c.device_id == device_id, lease.c.holder_id == holder_id, lease.c.rest_time.is_not(None))
    return _leases(organization_id, *own).order_by(lease.c.rest_time.desc()).limit(1)


def rested(organization_id: _Value, rested_time: _Value, before: _Value) -> sa.Select[Any]:
    within = (lease.c.rest_time >= rested_time, lease.c.rest_time <= before)
    return _leases(organization_id, *within).order_by(lease.c.rest_time).limit(1)


def find_lease(tx: Transaction, organization_id: str, lease_id: str) -> Lease | None:
    return _first(tx, _leases(organization_id, lease.c.lease_id == lease_id))


def find_named(
    tx: Transaction, organization_id: str, lease_ids: Collection[str], registration_ids: Collection[str]
) -> list[Lease]:
    """The leases of these ids, and those that these registrations have or claim."""
    found: dict[int, Lease] = {}
    for column, ids in (
        (lease.c.lease_id, lease_ids),
        (lease.c.registration_id, registration_ids),
        (lease.c.claim_id, registration_ids),
    ):
        for chunk in _chunks(ids):
            for row in tx.execute(_leases(organization_id, column.in_(chunk))):
                found[row.ipv4] = _lease(row)
    return list(found.values())


def add_lease(tx: Transaction, organization_id: str, made: Lease) -> None:
    tx.execute(lease.insert().values(organization_id=organization_id, **asdict(made)))


def save_leases(tx: Transaction, organization_id: str, changed: Collection[Lease]) -> None:
    if not changed:
        return
    columns = [field.name for field in fields(Lease) if field.name not in ("ipv4", "ipv6")]
    update = (
        lease.update()
        .where(lease.c.organization_id == organization_id, lease.c.ipv4 == sa.bindparam("of_ipv4"))
        .values({name: sa.bindparam(f"new_{name}") for name in columns})
    )
    rows = [{"of_ipv4": each.ipv4, **{f"new_{name}": getattr(each, name) for name in columns}} for each in changed]
    tx.execute(update, rows)


def save_holdings(tx: Transaction, organization_id: str, changed: Collection[Holding]) -> None:
    """In their order: a hold ends before the next one of the lease begins."""
    if not changed:
        return
    insert = tx.insert(holding)
    insert = insert.on_conflict_do_update(
        index_elements=["organization_id", "lease_id", "registration_id"],
        set_={"release_time": insert.excluded.release_time},
    )
    tx.execute(insert, [{"organization_id": organization_id, **asdict(each)} for each in changed])


def find_holding(tx: Transaction, organization_id: str, ipv4: int, at: int) -> Holding | None:
    """Who held the pair at a time. Holds of a pair do not overlap, so only the newest one before can be it."""
    query = (
        _holdings(organization_id)
        .where(
            holding.c.ipv4 == ipv4,
            holding.c.hold_time <= at,
            sa.or_(holding.c.release_time.is_(None), holding.c.release_time > holding.c.hold_time),
        )
        .order_by(holding.c.hold_time.desc())
        .limit(1)
    )
    row = tx.execute(query).one_or_none()
    return Holding(*row) if row and (row.release_time is None or row.release_time > at) else None


def list_holdings(tx: Transaction, organization_id: str, after: str, limit: int) -> list[Holding]:
    """Who holds a pair now, by lease."""
    query = _holdings(organization_id).where(holding.c.lease_id > after, holding.c.release_time.is_(None))
    return [Holding(*row) for row in tx.execute(query.order_by(holding.c.lease_id).limit(limit))]


def find_asking(tx: Transaction, now: int, limit: int) -> list[tuple[str, Lease]]:
    """Leases of all organizations whose outcome is to be asked for."""
    query = sa.select(lease).where(lease.c.ask_time <= now).order_by(lease.c.ask_time).limit(limit)
    return [(row.organization_id, _lease(row)) for row in tx.execute(query)]


def find_holders(tx: Transaction, organization_id: str) -> set[str]:
    """Every registration that holds a lease."""
    held = (lease.c.organization_id == organization_id, lease.c.state == State.HELD)
    return set(tx.execute(sa.select(lease.c.registration_id).where(*held)).scalars())


def ask_about(tx: Transaction, organization_id: str, registration_ids: Collection[str]) -> None:
    """Has the registry asked what has become of these registrations, as far as they hold a lease."""
    held = (lease.c.organization_id == organization_id, lease.c.state == State.HELD)
    for chunk in _chunks(registration_ids):
        these = lease.c.registration_id.in_(chunk)
        tx.execute(lease.update().where(*held, these).values(ask_time=tx.now))


def bury(tx: Transaction, organization_id: str, intent_id: str) -> bool:
    """Refuses the intent from now on; False if it was refused already.

    What is older than a day goes on the way: nobody calls for it any more.
    """
    old = tombstone.c.bury_time <= tx.now - KEEP_TOMBSTONE
    tx.execute(tombstone.delete().where(tombstone.c.organization_id == organization_id, old))
    stone = tx.insert(tombstone).values(organization_id=organization_id, intent_id=intent_id, bury_time=tx.now)
    stone = stone.on_conflict_do_nothing(index_elements=["organization_id", "intent_id"])
    return tx.execute(stone.returning(tombstone.c.intent_id)).one_or_none() is not None


def _subnet(organization_id: str) -> sa.Select[Any]:
    columns = [subnet.c[field.name] for field in fields(Subnet)]
    return sa.select(*columns).where(subnet.c.organization_id == organization_id)


def _leases(organization_id: _Value, *conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(lease).where(lease.c.organization_id == organization_id, *conditions)


def _lease(row: Any) -> Lease:
    values = {field.name: getattr(row, field.name) for field in fields(Lease)}
    return Lease(**values | {"state": State(row.state)})


def _first(tx: Transaction, query: sa.Select[Any]) -> Lease | None:
    row = tx.execute(query).one_or_none()
    return _lease(row) if row else None


def _holdings(organization_id: str) -> sa.Select[Any]:
    columns = [holding.c[field.name] for field in fields(Holding)]
    return sa.select(*columns).where(holding.c.organization_id == organization_id)


def _chunks(items: Iterable[Any]) -> Iterable[Sequence[Any]]:
    everything = list(items)
    return (everything[start : start + CHUNK] for start in range(0, len(everything), CHUNK))


def _one_of(kind: str, query: sa.Select[Any]) -> sa.Select[Any]:
    columns: list[Any] = [sa.literal_column(f"'{kind}'").label("kind"), *query.subquery().c]
    return sa.select(*columns)


def _is_buried(organization_id: _Value, intent_id: _Value) -> sa.Select[Any]:
    columns: list[Any] = [sa.literal_column("'buried'"), *(sa.null() for _ in lease.c)]
    buried = (tombstone.c.organization_id == organization_id, tombstone.c.intent_id == intent_id)
    return sa.select(*columns).where(*buried)


_organization: sa.BindParameter[str] = sa.bindparam("organization")
_intent: sa.BindParameter[str] = sa.bindparam("intent")
_prospect = sa.union_all(
    _one_of("intent", _of_intent(_organization, _intent)),
    _one_of("own", _own(_organization, sa.bindparam("device"), sa.bindparam("holder"))),
    _one_of("rested", rested(_organization, sa.bindparam("rested_time"), sa.bindparam("before"))),
    _is_buried(_organization, _intent),
)
