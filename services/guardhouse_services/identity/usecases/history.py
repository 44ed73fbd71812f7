"""What every change ends with: its events, and the token that names its place in history."""

from collections.abc import Sequence

from guardhouse.identity.v1 import identity_pb2 as pb
from guardhouse_services.database import Transaction
from guardhouse_services.identity import store


def publish(tx: Transaction, organization_id: str, events: Sequence[pb.Event] = (), revision: int = 0) -> str:
    """Writes the events as the next change, or as that of a revision that was taken. The last step of a change.

    One without events is a change all the same: an at_least must be able to name it.
    """
    return tx.token(organization_id, tx.publish(organization_id, events, revision))


def present(tx: Transaction, organization_id: str) -> str:
    """For a repeated request, which is answered from the present state: its effect is at or before this token."""
    return tx.token(organization_id, tx.revision(organization_id))


def rewrite(tx: Transaction, organization_id: str, user_id: str) -> None:
    """Takes what is said of a person, whose user the caller has locked, out of the changes that are kept.

    They stay as many and keep their revisions, so nobody who follows has to begin anew.
    """
    for revision, payload in store.changes.that_name(tx, organization_id, user_id):
        change = pb.Change.FromString(payload)
        for event in change.events:
            if event.user.user.user_id == user_id:
                event.user.user.CopyFrom(pb.User(user_id=user_id, subject=user_id))
        store.changes.replace(tx, organization_id, revision, change.SerializeToString())
