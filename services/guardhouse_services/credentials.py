"""Secrets that are derived, so that a repeated request can answer the same secret although nothing stores it.

A secret is HMAC-SHA256 under the installation's key over what it is for. The key is 32 bytes in a file outside every
database; whoever reads a database learns only SHA-256 of secrets of 256 bits.
"""

import base64
import hashlib
import hmac
import os
from pathlib import Path

from guardhouse.errors import CredentialsInvalid
from guardhouse_services.config import CannotStart

API_KEY_PREFIX = "ghk"
REGISTRATION_PREFIX = "ghr"
KEY_BYTES = 32


class MasterKey:
    """The installation's key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def read(cls, path: Path) -> "MasterKey":
        """Raises CannotStart for a file that holds no key, and OSError for none that can be read."""
        try:
            key = bytes.fromhex(path.read_text().strip())
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise CannotStart(f"{path} does not hold the installation's key, {KEY_BYTES} bytes in hex")
        return cls(key)

    @classmethod
    def create(cls, path: Path) -> "MasterKey":
        """Reads the key, or makes it when there is none yet."""
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(os.urandom(KEY_BYTES).hex() + "\n")
        return cls.read(path)

    def derive(self, purpose: str, *parts: str) -> bytes:
        """32 bytes. The parts are separated by a character that none of our ids has."""
        return hmac.digest(self._key, "\0".join((purpose, *parts)).encode(), hashlib.sha256)


def format_secret(prefix: str, object_id: str, secret: bytes) -> str:
    """The bearer value: what kind it is, whose it is, and 256 bits."""
    return f"{prefix}_{object_id}_{base64.urlsafe_b64encode(secret).rstrip(b'=').decode()}"


def split_secret(bearer: str) -> tuple[str, str]:
    """The prefix and the object's id of a bearer value. Raises CredentialsInvalid when it has another form."""
    parts = bearer.split("_", 3)
    if len(parts) != 4 or len(bearer) > 200:
        raise CredentialsInvalid("not an API key or registration token of Guardhouse")
    return parts[0], f"{parts[1]}_{parts[2]}"


def hash_secret(bearer: str) -> bytes:
    """SHA-256. A slow hash would add nothing to 256 random bits but a lever for exhausting the server."""
    return hashlib.sha256(bearer.encode()).digest()


def equal(a: bytes, b: bytes) -> bool:
    """In constant time."""
    return hmac.compare_digest(a, b)
