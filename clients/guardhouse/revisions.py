"""Revision tokens: opaque to callers, a guardhouse.common.v1.RevisionToken in base64url inside."""

import base64
import binascii
import threading

from google.protobuf.message import DecodeError

from guardhouse.common.v1 import feed_pb2
from guardhouse.errors import RevisionTokenInvalid


def encode(service: str, organization_id: str, epoch: str, revision: int) -> str:
    token = feed_pb2.RevisionToken(
        service=service,
        organization_id=organization_id,
        position=feed_pb2.Position(epoch=epoch, revision=revision),
    )
    return base64.urlsafe_b64encode(token.SerializeToString(deterministic=True)).rstrip(b"=").decode()


def decode(text: str, field: str = "at_least") -> feed_pb2.RevisionToken:
    """Raises RevisionTokenInvalid for anything that encode did not make."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        token = feed_pb2.RevisionToken.FromString(raw)
    except (binascii.Error, DecodeError, ValueError):
        raise RevisionTokenInvalid(field, "not a revision token of this installation") from None
    if not token.service or not token.position.epoch or token.position.revision < 0:
        raise RevisionTokenInvalid(field, "not a revision token of this installation")
    return token


class Tokens:
    """The newest token of each service and organization: what a client sends so that it never sees an older world.

    Threads may share one.
    """

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str], tuple[feed_pb2.Position, str]] = {}
        self._lock = threading.Lock()

    def keep(self, text: str) -> None:
        """Raises RevisionTokenInvalid for anything that encode did not make."""
        token = decode(text, "revision_token")
        key, position = (token.service, token.organization_id), token.position
        with self._lock:
            kept, _ = self._newest.get(key, (position, ""))
            # Revisions of two epochs cannot be compared: the one that was answered last is the living one.
            if kept.epoch != position.epoch or kept.revision <= position.revision:
                self._newest[key] = (position, text)

    def forget(self, service: str = "") -> None:
        """Start anew with one service, or with all: after a restore the tokens of the old history are refused."""
        with self._lock:
            self._newest = {key: value for key, value in self._newest.items() if service not in ("", key[0])}

    def of(self, organization_id: str) -> list[str]:
        """The tokens that matter to a call about the organization: its own, and the installation's."""
        with self._lock:
            return [text for (_, owner), (_, text) in self._newest.items() if owner in (organization_id, "")]
