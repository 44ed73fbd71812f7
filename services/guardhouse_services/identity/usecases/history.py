"""What every change ends with: its events, and the token that names its place in history."""

from collections.abc import Sequence

from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse_services.database import Transaction


def publish(tx: Transaction, organization_id: str, events: Sequence[pb.Event] = (), revision: int = 0) -> str:
    """Writes the events as the next change, or as that of a revision that was taken. The last step of a change.

    One without events is a change all the same: an at_least must be able to name it.
    """
    return tx.token(organization_id, tx.publish(organization_id, events, revision))


def present(tx: Transaction, organization_id: str) -> str:
    """For a repeated request, which is answered from the present state: its effect is at or before this token."""
    return tx.token(organization_id, tx.revision(organization_id))
