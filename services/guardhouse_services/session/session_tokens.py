"""What says who signed in to applications, and when. Nothing is stored: a token holds all of it, with a MAC."""

import base64
import binascii
from typing import Final, NamedTuple

from guardhouse.ids import SERVICE_TOKEN, USER
from guardhouse_services.credentials import KEY_BYTES, MasterKey, equal

_MAX_LENGTH: Final = 512
_PARTS: Final = 5


class SessionToken(NamedTuple):
    """A session of LogIn: whose, at which identity provider (empty for a machine), since when, and by which revision of
    identity."""

    organization_id: str
    holder_id: str
    identity_provider_id: str
    authenticate_time: int
    authenticate_revision: int

    @property
    def user_id(self) -> str:
        return self.holder_id if self.holder_id.startswith(USER) else ""

    @property
    def service_token_id(self) -> str:
        return self.holder_id if self.holder_id.startswith(SERVICE_TOKEN) else ""


class SessionTokens:
    """A token is base64url of a MAC and what it is of; its binding is another MAC of it."""

    def __init__(self, master_key: MasterKey) -> None:
        self._master_key = master_key

    def write(self, of: SessionToken) -> str:
        parts = tuple(map(str, of))
        return _encoded(self._mac(*parts) + "\0".join(parts).encode())

    def read(self, organization_id: str, token: str) -> SessionToken | None:
        """None for whatever `write` did not make for the organization, to the last bit."""
        raw = _decoded(token)
        if raw is None or len(raw) <= KEY_BYTES:
            return None
        parts = raw[KEY_BYTES:].decode(errors="replace").split("\0")
        if not equal(raw[:KEY_BYTES], self._mac(*parts)) or len(parts) != _PARTS or parts[0] != organization_id:
            return None
        return SessionToken(parts[0], parts[1], parts[2], int(parts[3]), int(parts[4]))

    def binding(self, token: str) -> str:
        """What ties a token to a browser, as a cookie of its own."""
        return _encoded(self._master_key.derive("application binding", token))

    def is_bound(self, token: str, binding: str) -> bool:
        return equal(binding.encode(), self.binding(token).encode())

    def _mac(self, *parts: str) -> bytes:
        return self._master_key.derive("application session", *parts)


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(token: str) -> bytes | None:
    """None for what `_encoded` did not make: the last character may have bits that decoding drops."""
    if len(token) > _MAX_LENGTH:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if _encoded(raw) == token else None
