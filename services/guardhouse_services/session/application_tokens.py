"""Tokens for applications (decision 31): JWTs (RFC 7519) signed with ES256 (RFC 7518), and the key set to check them.

A signing key is derived from the installation's key, so no database holds it; what is replicated is its id and its
times.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from joserfc.jwk import ECKey

from guardhouse.applications import Outcome, SigningKey
from guardhouse.durations import MINUTE, SECOND
from guardhouse_services.credentials import MasterKey
from guardhouse_services.session.domain.signing_keys import is_published

LIFE: Final = 15 * MINUTE
"""The longest that a token is good for: what ended a session reaches applications within this time."""
ALGORITHM: Final = "ES256"
CACHED_KEYS: Final = 1000

_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of P-256 (SP 800-186, section 3.2.1.3)."""


class ApplicationTokens:
    """Signs for every organization; `issuer` is what their own begin with."""

    def __init__(self, master_key: MasterKey, issuer: str) -> None:
        self._master_key = master_key
        self._issuer = issuer
        self._key = lru_cache(CACHED_KEYS)(self._derive)

    def sign(
        self,
        organization_id: str,
        application_id: str,
        outcome: Outcome,
        registration_id: str,
        keys: Iterable[SigningKey],
        now: int,
    ) -> tuple[str, int]:
        """A token for what was allowed, and when it expires: whole seconds, so never later than the session.

        Both are empty where nobody was asked for (BYPASS), and while no key signs yet.
        """
        session, end = outcome.session, outcome.verdict.session_expire_time
        signing = [key for key in keys if key.sign_time <= now and is_published(key, now)]
        if session is None or end is None or not signing:
            return "", 0
        key = max(signing, key=lambda it: (it.sign_time, it.key_id))
        expires, issued = min(end, now + LIFE) // SECOND, now // SECOND
        claims: dict[str, Any] = {
            "iss": f"{self._issuer}/{organization_id}",
            "aud": application_id,
            "sub": session.user_id or session.service_token_id,
            "iat": issued,
            "nbf": issued,
            "exp": expires,
            "auth_time": session.authenticate_time // SECOND,
            "type": "app",
        }
        if session.user is not None and (profile := session.user.profile) is not None and profile.email:
            claims["email"] = profile.email
        if outcome.of_device:
            claims["registration_id"] = registration_id
        header = {"alg": ALGORITHM, "kid": key.key_id, "typ": "JWT"}
        token = jwt.encode(header, claims, self._key(organization_id, key.key_id), algorithms=[ALGORITHM])
        return token, expires * SECOND

    def key_set(self, organization_id: str, keys: Iterable[SigningKey], now: int) -> Mapping[str, Any]:
        """The public halves of those that are published (RFC 7517), the newest first."""
        published = sorted((key.key_id for key in keys if is_published(key, now)), reverse=True)
        return {"keys": [self._key(organization_id, key_id).as_dict(private=False) for key_id in published]}

    def _derive(self, organization_id: str, key_id: str) -> ECKey:
        """From more bits than a key has, so that none is likelier than another (FIPS 186-5, A.2.1)."""
        parts = (self._master_key.derive("application token", organization_id, key_id, half) for half in ("0", "1"))
        scalar = int.from_bytes(b"".join(parts)) % (_ORDER - 1) + 1
        private = ec.derive_private_key(scalar, ec.SECP256R1())
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return ECKey.import_key(pem, {"kid": key_id, "use": "sig", "alg": ALGORITHM})
