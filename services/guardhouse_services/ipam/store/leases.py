"""Leases, the holds that are history, and the intents that are refused."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any

import sqlalchemy as sa

from guardhouse.errors import Conflict
from guardhouse_services.database import Transaction
from guardhouse_services.ipam.domain.leases import FOREVER, KEEP_TOMBSTONE, History, Holding, Lease, Place, State
from guardhouse_services.ipam.domain.subnets import Subnet
from guardhouse_services.ipam.store.tables import holding, lease, tombstone
from guardhouse_services.statements import Insert, statement, upsert

# SQLite takes 32,766 parameters in a statement, PostgreSQL 65,535.
CHUNK = 5000
LOOK = 5000
"""How many holds a page of the history looks at for those of a time."""


def _leases(organization_id: str, *conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(lease).where(lease.c.organization_id == organization_id, *conditions)


def _holdings(organization_id: str) -> sa.Select[Any]:
    columns = [holding.c[field.name] for field in fields(Holding)]
    return sa.select(*columns).where(holding.c.organization_id == organization_id)


def find_intent(tx: Transaction, organization_id: str, intent_id: str) -> Lease | None:
    """What the intent reserved, or its registration holds."""
    row = _find_intent(tx, organization_id, intent_id).one_or_none()
    return to_lease(row) if row else None


def _of_intent(organization_id: str, intent_id: str | None) -> sa.Select[Any]:
    # The reserved pair, as it was answered before, rather than one that was taken over since.
    mine = _leases(organization_id, lease.c.registration_id == intent_id)
    return mine.order_by(lease.c.state.desc()).limit(1)


@statement
def _find_intent(organization_id: str, intent_id: str) -> sa.Select[Any]:
    return _of_intent(organization_id, intent_id)


@dataclass(frozen=True, slots=True)
class Known:
    """What reservations depend on."""

    buried: Collection[str]
    """Intents whose reservations were given back."""
    reserved: Mapping[str, Lease]
    """What intents reserved before, or their registrations hold."""
    resting: dict[tuple[str, str, int], Lease]
    """The pairs that holders had on devices last, while they rest, by device, holder and subnet."""


def find_known(tx: Transaction, organization_id: str, wanted: Iterable[tuple[str, str, str]]) -> Known:
    """Of these intents, devices and holders. The caller has locked the space.

    All of it in one statement: each costs a round trip, of which a reservation has few.
    """
    intents, devices, holders = (sorted(set(each)) for each in zip(*wanted, strict=True))
    buried: list[str] = []
    reserved: dict[str, Lease] = {}
    resting: dict[tuple[str, str, int], Lease] = {}
    # What is reserved comes behind what is held, and of pairs that rest the one that was released last comes last.
    for row in sorted(
        _known(tx, organization_id, intents, devices, holders), key=lambda it: (it.state, it.rest_time or 0)
    ):
        if row.kind == "buried":
            buried.append(row.registration_id)
        elif row.kind == "intent":
            reserved[row.registration_id] = to_lease(row)
        else:
            resting[row.device_id, row.holder_id, row.subnet] = to_lease(row)
    return Known(buried, reserved, resting)


def _one_of(kind: str, query: sa.Select[Any]) -> sa.Select[Any]:
    columns: list[Any] = [sa.literal_column(f"'{kind}'").label("kind"), *query.subquery().c]
    return sa.select(*columns)


def _are_buried(organization_id: str, intents: Sequence[str]) -> sa.Select[Any]:
    blank: dict[str, Any] = {"registration_id": tombstone.c.intent_id, "state": sa.literal_column("''")}
    columns: list[Any] = [blank.get(column.name, sa.null()) for column in lease.c]
    buried = (tombstone.c.organization_id == organization_id, tombstone.c.intent_id.in_(intents))
    return sa.select(sa.literal_column("'buried'"), *columns).where(*buried)


@statement
def _known(
    organization_id: str, intents: Sequence[str], devices: Sequence[str], holders: Sequence[str]
) -> sa.Executable:
    own = (lease.c.device_id.in_(devices), lease.c.holder_id.in_(holders), lease.c.rest_time.is_not(None))
    return sa.union_all(
        _one_of("intent", _leases(organization_id, lease.c.registration_id.in_(intents))),
        _one_of("own", _leases(organization_id, *own)),
        _are_buried(organization_id, intents),
    )


def find_rested(tx: Transaction, organization_id: str, of: Subnet, before: int, limit: int) -> list[Lease]:
    """The pairs of a subnet that have rested longest, of those whose rest began by then.

    None before the subnet's `rested_time` is looked for. The caller has locked the space.
    """
    return [to_lease(row) for row in _rested(tx, organization_id, of.number, of.rested_time, before, limit)]


def rested(organization_id: str, number: int, rested_time: int, before: int, limit: int) -> sa.Select[Any]:
    # Written so that SQLite takes the index of the subnet, not the one of all.
    place = sa.tuple_(lease.c.subnet, lease.c.rest_time)
    within = (place >= sa.tuple_(number, rested_time), place <= sa.tuple_(number, before))
    resting = _leases(organization_id, *within, lease.c.rest_time.is_not(None))
    return resting.order_by(lease.c.subnet, lease.c.rest_time).limit(limit)


@statement
def _rested(organization_id: str, number: int, rested_time: int, before: int, limit: int) -> sa.Select[Any]:
    return rested(organization_id, number, rested_time, before, limit)


def find_lease(tx: Transaction, organization_id: str, lease_id: str) -> Lease | None:
    row = _find_lease(tx, organization_id, lease_id).one_or_none()
    return to_lease(row) if row else None


@statement
def _find_lease(organization_id: str, lease_id: str) -> sa.Select[Any]:
    return _leases(organization_id, lease.c.lease_id == lease_id)


def find_named(
    tx: Transaction, organization_id: str, lease_ids: Collection[str], registration_ids: Collection[str]
) -> list[Lease]:
    """The leases of these ids, and those that these registrations have or claim."""
    found: dict[int, Lease] = {}
    for named, ids in ((_by_id, lease_ids), (_had, registration_ids), (_claimed, registration_ids)):
        for chunk in _chunks(ids):
            for row in named(tx, organization_id, chunk):
                found[row.ipv4] = to_lease(row)
    return list(found.values())


@statement
def _by_id(organization_id: str, ids: Sequence[str]) -> sa.Select[Any]:
    return _leases(organization_id, lease.c.lease_id.in_(ids))


@statement
def _had(organization_id: str, ids: Sequence[str]) -> sa.Select[Any]:
    return _leases(organization_id, lease.c.registration_id.in_(ids))


@statement
def _claimed(organization_id: str, ids: Sequence[str]) -> sa.Select[Any]:
    return _leases(organization_id, lease.c.claim_id.in_(ids))


def find_pair(tx: Transaction, organization_id: str, ipv4: int) -> Lease | None:
    """What became of the pair last; None if it was never given out."""
    found = find_pairs(tx, organization_id, ipv4, ipv4)
    return found[0] if found else None


def find_pairs(tx: Transaction, organization_id: str, first: int, last: int) -> list[Lease]:
    """The pairs between two addresses that were given out at least once."""
    return [to_lease(row) for row in _find_pairs(tx, organization_id, first, last)]


@statement
def _find_pairs(organization_id: str, first: int, last: int) -> sa.Select[Any]:
    return _leases(organization_id, lease.c.ipv4 >= first, lease.c.ipv4 <= last)


def add_leases(tx: Transaction, organization_id: str, made: Sequence[Lease]) -> None:
    if made:
        tx.execute(_ADD_LEASE, [{"organization_id": organization_id, **asdict(each)} for each in made])


_ADD_LEASE = lease.insert()


@statement
def drop_left(organization_id: str, number: int, first: int, last: int) -> sa.Executable:
    """Drops what subnets that were deleted have left of these addresses, which are another subnet's now."""
    within = (lease.c.organization_id == organization_id, lease.c.ipv4 >= first, lease.c.ipv4 <= last)
    return lease.delete().where(*within, lease.c.subnet != number, lease.c.rest_time.is_not(None))


def save_leases(tx: Transaction, organization_id: str, changed: Collection[Lease]) -> None:
    if not changed:
        return
    tx.execute(_SAVE_LEASE, _rows(organization_id, changed))


def take_rested(tx: Transaction, organization_id: str, given: Collection[Lease]) -> None:
    """Gives pairs that rest to new leases. Raises Conflict when one of them rests no more.

    The space's lock keeps that from happening; without it two would have the pair, for both only change its row.
    """
    if given:
        rows = _rows(organization_id, given)
        if tx.execute(_TAKE_RESTED, rows).rowcount != len(rows):
            raise Conflict("an address was given to somebody else at this moment; retry")


def _rows(organization_id: str, changed: Collection[Lease]) -> list[dict[str, Any]]:
    return [
        {
            "of_organization_id": organization_id,
            "of_ipv4": each.ipv4,
            **{f"new_{name}": getattr(each, name) for name in _SAVED},
        }
        for each in changed
    ]


_SAVED = [field.name for field in fields(Lease) if field.name not in ("ipv4", "ipv6")]
_SAVE_LEASE = (
    lease.update()
    .where(lease.c.organization_id == sa.bindparam("of_organization_id"), lease.c.ipv4 == sa.bindparam("of_ipv4"))
    .values({name: sa.bindparam(f"new_{name}") for name in _SAVED})
)
_TAKE_RESTED = _SAVE_LEASE.where(lease.c.rest_time.is_not(None))


def save_holdings(tx: Transaction, organization_id: str, changed: Collection[Holding]) -> None:
    """In their order: a hold ends before the next one of the lease begins."""
    if not changed:
        return
    rows = [{"organization_id": organization_id, **asdict(each)} for each in changed]
    tx.execute(_save_holding(tx.insert), rows)


@cache
def _save_holding(insert: Insert) -> sa.Executable:
    saved = insert(holding)
    return saved.on_conflict_do_update(
        index_elements=["organization_id", "lease_id", "registration_id"],
        set_={"release_time": saved.excluded.release_time},
    )


def find_holding(tx: Transaction, organization_id: str, ipv4: int, at: int) -> Holding | None:
    """Who held the pair at a time. Holds of a pair do not overlap, so only the newest one before can be it."""
    row = _find_holding(tx, organization_id, ipv4, at).one_or_none()
    return Holding(*row) if row and (row.release_time is None or row.release_time > at) else None


@statement
def _find_holding(organization_id: str, ipv4: int, at: int) -> sa.Select[Any]:
    return (
        _holdings(organization_id)
        .where(
            holding.c.ipv4 == ipv4,
            holding.c.hold_time <= at,
            sa.or_(holding.c.release_time.is_(None), holding.c.release_time > holding.c.hold_time),
        )
        .order_by(holding.c.hold_time.desc())
        .limit(1)
    )


def list_holdings(tx: Transaction, organization_id: str, after: str, limit: int) -> list[Holding]:
    """Who holds a pair now, by lease."""
    return [Holding(*row) for row in _list_holdings(tx, organization_id, after, limit)]


@statement
def _list_holdings(organization_id: str, after: str, limit: int) -> sa.Select[Any]:
    behind = _holdings(organization_id).where(holding.c.lease_id > after, holding.c.release_time.is_(None))
    return behind.order_by(holding.c.lease_id).limit(limit)


def list_history(tx: Transaction, organization_id: str, after: Place, last: int, at: int | None, limit: int) -> History:
    """Who holds and held the pairs behind a place, up to the IPv4 address `last`; or with `at` only who did then.

    Those may be few among many, so no more than LOOK holds are looked at for them.
    """
    place = after.ipv4, after.hold_time, after.registration_id
    if at is None:
        return History([Holding(*row) for row in _list_history(tx, organization_id, *place, last, 0, limit)])
    found = _list_history(tx, organization_id, *place, last, LOOK - 1, 1).one_or_none()
    end = Holding(*found).place if found is not None else None
    upto = end or Place(last, FOREVER)
    rows = _list_history_at(
        tx, organization_id, *place, upto.ipv4, upto.hold_time, upto.registration_id, at=at, limit=limit
    )
    return History([Holding(*row) for row in rows], end)


def _behind(organization_id: str, ipv4: int, hold_time: int, registration_id: str, last: int) -> sa.Select[Any]:
    later = sa.and_(holding.c.hold_time == hold_time, holding.c.registration_id > registration_id)
    behind = sa.or_(holding.c.ipv4 > ipv4, holding.c.hold_time > hold_time, later)
    found = _holdings(organization_id).where(holding.c.ipv4 >= ipv4, holding.c.ipv4 <= last, behind)
    return found.order_by(holding.c.ipv4, holding.c.hold_time, holding.c.registration_id)


@statement
def _list_history(
    organization_id: str, ipv4: int, hold_time: int, registration_id: str, last: int, skipped: int, limit: int
) -> sa.Select[Any]:
    return _behind(organization_id, ipv4, hold_time, registration_id, last).offset(skipped).limit(limit)


@statement
def _list_history_at(
    organization_id: str,
    ipv4: int,
    hold_time: int,
    registration_id: str,
    last: int,
    last_time: int,
    last_id: str,
    at: int,
    limit: int,
) -> sa.Select[Any]:
    place = sa.tuple_(holding.c.ipv4, holding.c.hold_time, holding.c.registration_id)
    held = sa.or_(holding.c.release_time.is_(None), holding.c.release_time > at)
    found = _behind(organization_id, ipv4, hold_time, registration_id, last)
    return found.where(place <= sa.tuple_(last, last_time, last_id), holding.c.hold_time <= at, held).limit(limit)


def forget_holdings(tx: Transaction, before: int, limit: int) -> int:
    """Deletes holds of any organization that had ended by then; answers how many."""
    return _forget_holdings(tx, before, limit).rowcount


@statement
def _forget_holdings(before: int, limit: int) -> sa.Executable:
    key = (holding.c.organization_id, holding.c.lease_id, holding.c.registration_id)
    old = sa.select(*key).where(holding.c.release_time <= before).order_by(holding.c.release_time).limit(limit)
    return holding.delete().where(sa.tuple_(*key).in_(old))


def find_asking(tx: Transaction, now: int, limit: int) -> list[tuple[str, Lease]]:
    """Leases of all organizations whose outcome is to be asked for."""
    return [(row.organization_id, to_lease(row)) for row in _find_asking(tx, now, limit)]


@statement
def _find_asking(now: int, limit: int) -> sa.Select[Any]:
    return sa.select(lease).where(lease.c.ask_time <= now).order_by(lease.c.ask_time).limit(limit)


def find_holders(tx: Transaction, organization_id: str) -> set[str]:
    """Every registration that holds a lease."""
    return set(_find_holders(tx, organization_id).scalars())


@statement
def _find_holders(organization_id: str) -> sa.Select[Any]:
    held = (lease.c.organization_id == organization_id, lease.c.state == State.HELD)
    return sa.select(lease.c.registration_id).where(*held)


def ask_about(tx: Transaction, organization_id: str, registration_ids: Collection[str]) -> None:
    """Has the registry asked what has become of these registrations, as far as they hold a lease."""
    for chunk in _chunks(registration_ids):
        _ask_about(tx, organization_id, chunk, tx.now)


@statement
def _ask_about(organization_id: str, registration_ids: Sequence[str], now: int) -> sa.Executable:
    held = (lease.c.organization_id == organization_id, lease.c.state == State.HELD)
    return lease.update().where(*held, lease.c.registration_id.in_(registration_ids)).values(ask_time=now)


def bury(tx: Transaction, organization_id: str, intent_id: str) -> bool:
    """Refuses the intent from now on; False if it was refused already.

    What is older than a day goes on the way: nobody calls for it any more.
    """
    _forget(tx, organization_id, tx.now - KEEP_TOMBSTONE)
    return _bury(tx, organization_id, intent_id, tx.now).one_or_none() is not None


@statement
def _forget(organization_id: str, buried: int) -> sa.Executable:
    old = tombstone.c.bury_time <= buried
    return tombstone.delete().where(tombstone.c.organization_id == organization_id, old)


@upsert
def _bury(insert: Insert, organization_id: str, intent_id: str, now: int) -> sa.Executable:
    stone = insert(tombstone).values(organization_id=organization_id, intent_id=intent_id, bury_time=now)
    stone = stone.on_conflict_do_nothing(index_elements=["organization_id", "intent_id"])
    return stone.returning(tombstone.c.intent_id)


def to_lease(row: Any) -> Lease:
    values = {field.name: getattr(row, field.name) for field in fields(Lease)}
    return Lease(**values | {"state": State(row.state)})


def _chunks(items: Iterable[Any]) -> Iterable[Sequence[Any]]:
    everything = list(items)
    return (everything[start : start + CHUNK] for start in range(0, len(everything), CHUNK))
