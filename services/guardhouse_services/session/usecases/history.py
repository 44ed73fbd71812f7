"""What every change begins and ends with: the organization's place in history, and the token that names it."""

from collections.abc import Sequence

from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services.database import Transaction


def begin(tx: Transaction, organization_id: str) -> int:
    """The revision of the change that is being made. From here on nobody else changes the organization's policies and
    lists, so what is read of them holds: that a precedence is free, that a list is there."""
    return tx.advance(organization_id)


def publish(tx: Transaction, organization_id: str, revision: int, events: Sequence[pb.Event]) -> str:
    """The revision token."""
    tx.publish(organization_id, events, revision)
    return tx.token(organization_id, revision)
