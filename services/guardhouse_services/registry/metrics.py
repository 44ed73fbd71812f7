"""What the registry tells Prometheus: registrations, what became of some, and heartbeats that came to nothing."""

from collections.abc import Callable, Iterator, Sequence

import sqlalchemy as sa

from guardhouse_services.breaker.metrics import held_actions
from guardhouse_services.database import Transaction
from guardhouse_services.metrics import Gauge, grouped
from guardhouse_services.registry.domain import SECOND, State
from guardhouse_services.registry.store.tables import held_action, is_under_way, profile_matching, registration
from guardhouse_services.registry.usecases.heartbeats import Heartbeats
from guardhouse_services.registry.usecases.lifetimes import Lifetimes


def figures(tx: Transaction, per_organization: bool) -> Sequence[Gauge]:
    counts = [sa.func.sum(sa.case((registration.c.state == state, 1), else_=0)) for state in State]
    labels, rows = grouped(tx, registration.c.organization_id, per_organization, *counts)
    samples = {
        (*key, state.lower()): float(count or 0)
        for key, values in rows.items()
        for state, count in zip(State, values, strict=True)
    }
    since = sa.func.min(sa.case((is_under_way, profile_matching.c.request_time)))
    labels_of_passes, begun = grouped(tx, profile_matching.c.organization_id, per_organization, since)
    passes = {key: (tx.now - time) / SECOND if time is not None else 0.0 for key, (time,) in begun.items()}
    documentation = "Registrations; those that were aborted or deleted are remembered for a day."
    return [
        Gauge("guardhouse_registrations", documentation, samples, (*labels, "state")),
        held_actions(tx, held_action, per_organization),
        Gauge(
            "guardhouse_device_profile_pass_seconds",
            "For how long registrations have been matched with changed device profiles; 0 when all are.",
            passes,
            labels_of_passes,
        ),
    ]


def gauges(heartbeats: Heartbeats, lifetimes: Lifetimes) -> Callable[[], Iterator[Gauge]]:
    def read() -> Iterator[Gauge]:
        yield Gauge(
            "guardhouse_heartbeats_dropped",
            "Heartbeats that this replica could not keep while its database was away.",
            {(): heartbeats.dropped},
            is_counter=True,
        )
        yield Gauge(
            "guardhouse_registrations_ended",
            "Registrations that this replica has deleted because they were revoked or silent for too long.",
            {(end.name.lower(),): number for end, number in lifetimes.deleted.items()},
            ("because",),
            is_counter=True,
        )

    return read
