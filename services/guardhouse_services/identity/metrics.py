"""What identity tells Prometheus: seats."""

from collections.abc import Sequence

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.identity.store.tables import seat_pool
from guardhouse_services.metrics import Gauge, grouped


def figures(tx: Transaction, per_organization: bool) -> Sequence[Gauge]:
    used, purchased = sa.func.coalesce(sa.func.sum(seat_pool.c.used), 0), sa.func.sum(seat_pool.c.purchased)
    # An organization without a limit is left out: 0 would say that it may have no seat at all.
    unlimited = sa.func.count() - sa.func.count(seat_pool.c.purchased)
    labels, rows = grouped(tx, seat_pool.c.organization_id, per_organization, used, purchased, unlimited)
    return [
        Gauge(
            name,
            documentation,
            {key: float(values[index]) for key, values in rows.items() if values[index] is not None},
            labels,
        )
        for index, (name, documentation) in enumerate(
            (
                ("guardhouse_seats_used", "Seats that users hold, and those that undecided enrollments reserve."),
                ("guardhouse_seats_purchased", "Seats that organizations with a limit may use."),
                ("guardhouse_seats_unlimited_organizations", "Organizations without a limit of seats."),
            )
        )
    ]
