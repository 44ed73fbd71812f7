"""Ipam's own database, a module for each kind of thing.

Functions take the transaction first, and take and return domain values. Every change of what an organization has takes
its space first. That row is to ipam what the head is to the feed: it makes the answer "exhausted" exact and the oldest
pair the next one, and it keeps allocation flat, for the queue of a subnet's resting pairs is read from `rested_time`
on, so no search walks over the index entries that earlier takers left behind at its head.
"""

from guardhouse_services.ipam.store import addresses, ip_profiles, leases, pins, subnets
from guardhouse_services.ipam.store.tables import metadata

__all__ = ["addresses", "ip_profiles", "leases", "metadata", "pins", "subnets"]
