"""The registry's own database, a module for each kind of thing.

Functions take the transaction first, and take and return domain values. Locks are taken in the order breaker, fence,
person, matching, device, registration, head. Who gives a person another name or address
locks their registrations as well.
"""

from guardhouse_services.registry.store import (
    device_profiles,
    devices,
    enrollments,
    fences,
    former_keys,
    gateways,
    heartbeats,
    lifetimes,
    matchings,
    os_sessions,
    override_rates,
    people,
    postures,
    registrations,
)
from guardhouse_services.registry.store.tables import metadata

__all__ = [
    "device_profiles",
    "devices",
    "enrollments",
    "fences",
    "former_keys",
    "gateways",
    "heartbeats",
    "lifetimes",
    "matchings",
    "metadata",
    "os_sessions",
    "override_rates",
    "people",
    "postures",
    "registrations",
]
