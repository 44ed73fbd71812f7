"""What identity tells Prometheus: seats."""

from collections.abc import Sequence

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.identity.store.tables import seat_pool
from guardhouse_services.metrics import Gauge, grouped


def figures(tx: Transaction, per_organization: bool) -> Sequence[Gauge]:
    used, purchased = sa.func.sum(seat_pool.c.used), sa.func.sum(seat_pool.c.purchased)
    unlimited = sa.func.sum(sa.case((seat_pool.c.purchased.is_(None), 1), else_=0))
    labels, rows = grouped(tx, seat_pool.c.organization_id, per_organization, used, purchased, unlimited)
    return [
        Gauge(name, documentation, {key: float(values[index] or 0) for key, values in rows.items()}, labels)
        for index, (name, documentation) in enumerate(
            (
                ("guardhouse_seats_used", "Seats that users hold, and those that undecided enrollments reserve."),
                ("guardhouse_seats_purchased", "Seats that organizations with a limit may use."),
                ("guardhouse_seats_unlimited_organizations", "Organizations without a limit of seats."),
            )
        )
    ]
