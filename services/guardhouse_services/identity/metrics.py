"""What identity tells Prometheus: seats and service tokens, those that are about to expire, and actions that wait."""

from collections.abc import Callable, Iterator, Sequence

import sqlalchemy as sa

from guardhouse.durations import DAY
from guardhouse_services.breaker.metrics import held_actions
from guardhouse_services.database import Transaction
from guardhouse_services.identity.scim.tally import Tally
from guardhouse_services.identity.store.tables import held_action, organization, seat_pool, service_token, users
from guardhouse_services.metrics import Gauge, grouped

EXPIRES_SOON = 7 * DAY


def figures(tx: Transaction, per_organization: bool) -> Sequence[Gauge]:
    return [
        *_seats(tx, per_organization),
        _expiring_seats(tx, per_organization),
        _expiring_tokens(tx, per_organization),
        held_actions(tx, held_action, per_organization),
    ]


def gauges(scim: Tally) -> Callable[[], Iterator[Gauge]]:
    def read() -> Iterator[Gauge]:
        yield Gauge(
            "guardhouse_scim_requests",
            "Requests of SCIM clients that this replica has answered, by the HTTP status.",
            dict(scim.requests),
            ("method", "status"),
            is_counter=True,
        )
        yield Gauge(
            "guardhouse_scim_request_seconds",
            "How long those requests took together.",
            dict(scim.seconds),
            ("method",),
            is_counter=True,
        )

    return read


def _expiring_tokens(tx: Transaction, per_organization: bool) -> Gauge:
    expire_time = service_token.c.expire_time
    is_expiring = sa.and_(
        service_token.c.disabled.is_(False), expire_time > tx.now, expire_time <= tx.now + EXPIRES_SOON
    )
    expiring = sa.func.coalesce(sa.func.sum(sa.case((is_expiring, 1), else_=0)), 0)
    labels, rows = grouped(tx, service_token.c.organization_id, per_organization, expiring)
    return Gauge(
        "guardhouse_service_tokens_expiring",
        "Service tokens that are accepted now and expire within a week.",
        {key: float(values[0]) for key, values in rows.items()},
        labels,
    )


def _expiring_seats(tx: Transaction, per_organization: bool) -> Gauge:
    """Of organizations whose seats expire; those who wait for a sweep, or for an approval, among them."""
    since = tx.now + EXPIRES_SOON - organization.c.seat_expiration
    is_expiring = sa.and_(
        users.c.organization_id == organization.c.organization_id,
        users.c.seat_time.is_not(None),
        users.c.authenticate_time < since,
        sa.func.coalesce(users.c.seen_time, 0) < since,
    )
    counted = sa.select(organization.c.organization_id, sa.func.count(users.c.user_id).label("seats"))
    counted = counted.select_from(organization.outerjoin(users, is_expiring)).group_by(organization.c.organization_id)
    each = counted.subquery()
    seats = sa.func.coalesce(sa.func.sum(each.c.seats), 0)
    labels, rows = grouped(tx, each.c.organization_id, per_organization, seats)
    return Gauge(
        "guardhouse_seats_expiring",
        "Seats that expire within a week unless their users become active, or that have expired already.",
        {key: float(values[0]) for key, values in rows.items()},
        labels,
    )


def _seats(tx: Transaction, per_organization: bool) -> Sequence[Gauge]:
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
