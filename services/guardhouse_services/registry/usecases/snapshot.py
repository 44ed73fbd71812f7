"""The registry's present state for its feed."""

from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services.database import Transaction
from guardhouse_services.registry import store
from guardhouse_services.registry.messages import to_event


def snapshot(tx: Transaction, organization_id: str, after: str, limit: int) -> tuple[list[pb.Event], str]:
    """A page of it, and where the next one begins."""
    rows = store.registrations.after(tx, organization_id, after, limit)
    return [to_event(row) for row in rows], rows[-1].registration_id if len(rows) == limit else ""
