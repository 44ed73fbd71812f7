"""How often override codes may be read and tried: what is counted is so on every replica."""

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.registry.store.tables import override_rate
from guardhouse_services.statements import Insert, statement, upsert


def take(tx: Transaction, organization_id: str, subject: str, interval: int) -> int:
    """Takes one, which comes back after the interval; answers how long it takes until everything is back.

    What is refused for that is rolled back, and so takes nothing.
    """
    return int(_take(tx, organization_id, subject, interval, tx.now).scalar_one()) - tx.now


@upsert
def _take(insert: Insert, organization_id: str, subject: str, interval: int, now: int) -> sa.Executable:
    rate = override_rate.c
    first = insert(override_rate).values(organization_id=organization_id, subject=subject, full_time=now + interval)
    # Its row is locked, so that of two at once the later one counts the earlier one.
    later = sa.case((rate.full_time > now, rate.full_time), else_=now) + interval
    taken = first.on_conflict_do_update(index_elements=["organization_id", "subject"], set_={"full_time": later})
    return taken.returning(rate.full_time)


def forget(tx: Transaction, limit: int = 1000) -> None:
    """Drops those that have everything back."""
    _forget(tx, tx.now, limit)


@statement
def _forget(now: int, limit: int) -> sa.Executable:
    key = (override_rate.c.organization_id, override_rate.c.subject)
    full = sa.select(*key).where(override_rate.c.full_time <= now).limit(limit).with_for_update(skip_locked=True)
    return override_rate.delete().where(sa.tuple_(*key).in_(full), override_rate.c.full_time <= now)
