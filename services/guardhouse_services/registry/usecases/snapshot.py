"""The registry's present state for its feed."""

from collections.abc import Sequence

from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services.database import Transaction
from guardhouse_services.feed import Section, read_sections
from guardhouse_services.registry import store
from guardhouse_services.registry.messages import to_event, to_profile_event

# What is used comes before what uses it.
_SECTIONS: dict[str, Section] = {
    "device_profile": (store.device_profiles.stored, to_profile_event, lambda it: it.device_profile_id),
    "registration": (store.registrations.after, to_event, lambda it: it.registration_id),
}


def snapshot(tx: Transaction, organization_id: str, after: str, limit: int) -> tuple[Sequence[pb.Event], str]:
    """A page of it, and where the next one begins."""
    return read_sections(_SECTIONS, tx, organization_id, after, limit)
