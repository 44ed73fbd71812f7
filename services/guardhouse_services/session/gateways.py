"""What a gateway sees of the feed: what it decides by, and nothing else. What is not named here does not go out."""

from guardhouse.session.v1 import session_pb2 as pb

KINDS = frozenset({"policy", "policy_deleted", "list", "list_deleted"})


def show(event: pb.Event, _organization_id: str) -> pb.Event | None:
    """The event as a gateway sees it; None is not at all."""
    return event if event.WhichOneof("kind") in KINDS else None
