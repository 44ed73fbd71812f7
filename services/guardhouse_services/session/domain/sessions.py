"""Sessions: when they have ended before their time, and when they will have become too old."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from guardhouse.decisions import Policy, PolicyAction, PolicyFilter, Registration, User

ASKED_AGAIN = 20
"""How many policies a session is shown with."""


class Limit(NamedTuple):
    """How old a session may be for an enabled policy; in this order the strictest comes first."""

    timeout: int
    policy_id: str


@dataclass(frozen=True, slots=True)
class Session:
    """A registration with its timer, whether its session was revoked, and the policies that will ask for a new one."""

    registration: Registration
    revoked: bool
    limits: tuple[Limit, ...]


def limits(policies: Iterable[Policy]) -> tuple[Limit, ...]:
    """Those of the policies that enforce a session (decision 28), strictest first, as many as are shown."""
    return tuple(
        heapq.nsmallest(
            ASKED_AGAIN,
            (
                Limit(policy.timeout, policy.policy_id)
                for policy in policies
                if policy.timeout is not None
                and policy.enabled
                and policy.action is PolicyAction.ALLOW
                and policy.filter is not PolicyFilter.DNS
            ),
        )
    )


def is_expired(registration: Registration, limits: tuple[Limit, ...], now: int) -> bool:
    """Whether the strictest asks for a new authentication already."""
    return bool(limits) and not 0 <= now - registration.authenticate_time < limits[0].timeout


def is_removed(registration: Registration, user: User | None) -> bool:
    """Whether the registration's user was removed at or after the enrollment's revision (decision 5)."""
    return user is not None and user.removed_revision != 0 and user.removed_revision >= registration.authorize_revision


def is_revoked(registration: Registration, user: User | None) -> bool:
    """Whether the session has ended before its time: it was revoked, or the user was at or after the newest
    authentication's revision (decision 35), or removed, which ends sessions as well (decision 5)."""
    if user is None or registration.session_revoked:
        return registration.session_revoked
    revoked = user.revoked_revision != 0 and user.revoked_revision >= registration.authenticate_revision
    return revoked or is_removed(registration, user)
