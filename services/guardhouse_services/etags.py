"""Etags (AIP-154): which state a resource is in, so that a change can be made to that state only."""

import hashlib
from typing import Protocol

from google.protobuf.message import Message

from guardhouse.errors import EtagMismatch


class Tagged(Protocol):
    """A message with an etag."""

    etag: str


def tag(message: Message) -> None:
    """Sets the etag: a hash of everything else in the message, so the same state has the same one on every replica."""
    tagged: Tagged = message  # type: ignore[assignment]
    tagged.etag = ""
    tagged.etag = hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()[:16]


def check(present: str, sent: str) -> None:
    """Raises EtagMismatch when an etag was sent that is not the present one."""
    if sent and sent != present:
        raise EtagMismatch("it has changed since it was read; read it again, and decide anew", etag=present)
