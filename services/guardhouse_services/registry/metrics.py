"""What the registry tells Prometheus: registrations, and heartbeats that came to nothing."""

from collections.abc import Callable, Iterator, Sequence

import sqlalchemy as sa

from guardhouse_services.database import Transaction
from guardhouse_services.metrics import Gauge, grouped
from guardhouse_services.registry.domain import State
from guardhouse_services.registry.store.tables import registration
from guardhouse_services.registry.usecases.heartbeats import Heartbeats


def figures(tx: Transaction, per_organization: bool) -> Sequence[Gauge]:
    counts = [sa.func.sum(sa.case((registration.c.state == state, 1), else_=0)) for state in State]
    labels, rows = grouped(tx, registration.c.organization_id, per_organization, *counts)
    samples = {
        (*key, state.lower()): float(count or 0)
        for key, values in rows.items()
        for state, count in zip(State, values, strict=True)
    }
    documentation = "Registrations; those that were aborted or deleted are remembered for a day."
    return [Gauge("guardhouse_registrations", documentation, samples, (*labels, "state"))]


def gauges(heartbeats: Heartbeats) -> Callable[[], Iterator[Gauge]]:
    def read() -> Iterator[Gauge]:
        yield Gauge(
            "guardhouse_heartbeats_dropped",
            "Heartbeats that this replica could not keep while its database was away.",
            {(): heartbeats.dropped},
            is_counter=True,
        )

    return read
