"""The registry's own database, a module for each kind of thing.

Functions take the transaction first, and take and return domain values. Locks are taken in the order breaker, fence,
device, registration, head.
"""

from guardhouse_services.registry.store import (
    devices,
    enrollments,
    fences,
    heartbeats,
    lifetimes,
    postures,
    registrations,
)
from guardhouse_services.registry.store.tables import metadata

__all__ = ["devices", "enrollments", "fences", "heartbeats", "lifetimes", "metadata", "postures", "registrations"]
