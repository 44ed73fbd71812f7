"""What Prometheus is told of what waits."""

import sqlalchemy as sa

from guardhouse_services.breaker.domain import HeldState
from guardhouse_services.database import Transaction
from guardhouse_services.metrics import Gauge, grouped


def held_actions(tx: Transaction, table: sa.Table, per_organization: bool) -> Gauge:
    waiting = sa.func.coalesce(sa.func.sum(sa.case((table.c.state == HeldState.WAITING, 1), else_=0)), 0)
    labels, rows = grouped(tx, table.c.organization_id, per_organization, waiting)
    return Gauge(
        "guardhouse_held_actions",
        "Automatic actions on many at once that wait for approval.",
        {key: float(values[0]) for key, values in rows.items()},
        labels,
    )
