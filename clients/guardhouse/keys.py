"""Device keys on X25519 (RFC 7748): their one canonical form, and the proof that a device holds the private one.

WireGuard takes any 32 bytes for a public key, so nothing behind Guardhouse notices two spellings of one key; here every
key has one (decision 21).
"""

import base64
import hashlib
import hmac
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from guardhouse.errors import KeyInvalid

KEY_TYPE: Final = "KEY_TYPE_CURVE25519"
"""The name that the transcript of a proof gives this kind of key."""

PROOF_CONTEXT: Final = b"guardhouse proof of possession v1"

_P: Final = 2**255 - 19
_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
"""The order of the subgroup of every public key that has a private key (RFC 7748, section 4.1)."""


def canonical_x25519(raw: bytes, field: str) -> bytes:
    """Return the 32 bytes of a public key if they are its canonical form; about 2 ms, most of it for the last check.

    Raises KeyInvalid for another length, a set bit 255, a coordinate of p = 2^255 - 19 or more, and a point outside the
    subgroup of prime order. The last refuses the points of low order, with which every exchange gives zero, and also
    a key with such a point added to it: seven more keys, each canonical, that share all secrets with the first. So two
    accepted keys never stand for one private key, and every key that was made from a private key is accepted.
    """
    if len(raw) != 32:
        raise KeyInvalid(field, f"a public key has 32 bytes, not {len(raw)}")
    u = int.from_bytes(raw, "little")
    if u >= _P:  # So it is where bit 255 is set, which X25519 ignores.
        raise KeyInvalid(field, "the public key is not reduced modulo 2^255 - 19: it is another spelling of a key")
    if not _has_prime_order(u):
        raise KeyInvalid(field, "the public key is of low order or otherwise belongs to no private key")
    return raw


def decode_x25519(text: str, field: str) -> bytes:
    """Return the 32 bytes of a canonical public key in standard base64, the form that WireGuard's tools print.

    Raises KeyInvalid as canonical_x25519 does, and for any text but the one that encoding those bytes gives.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raw = b""
    # A decoder overlooks the unused bits of the last digit, so four texts decode to one key.
    if not raw or base64.b64encode(raw).decode() != text:
        raise KeyInvalid(field, "a public key is written in standard base64, with padding and without spaces")
    return canonical_x25519(raw, field)


def new_private_key() -> bytes:
    """The 32 bytes of a new private key. The device that makes them keeps them."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_key(private: bytes) -> bytes:
    """The 32 bytes of the public key that belongs to a private key; always canonical."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def transcript(*, organization_id: str, challenge: str, public_key: bytes, hardware_id: str, request_id: str) -> bytes:
    """The bytes that a proof of possession covers: PROOF_CONTEXT, then each part behind its length.

    The parts are organization_id, challenge, KEY_TYPE, public_key (raw), hardware_id and request_id; text is UTF-8 and
    a length is 4 bytes, big-endian. So no two different calls give the same bytes.
    """
    parts = (
        organization_id.encode(),
        challenge.encode(),
        KEY_TYPE.encode(),
        public_key,
        hardware_id.encode(),
        request_id.encode(),
    )
    return PROOF_CONTEXT + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def prove(private: bytes, server_public: bytes, transcript: bytes) -> bytes:
    """The device's side of a proof of possession: 32 bytes that only a holder of the private key can make.

    They are HMAC-SHA256(key, transcript), where the key is the 32 bytes of HKDF-SHA256 (RFC 5869) over the secret that
    X25519 gives, with the info PROOF_CONTEXT and the salt SHA-256(device public || server public). Raises KeyInvalid
    for a server key that is not canonical.
    """
    peer = X25519PublicKey.from_public_bytes(canonical_x25519(server_public, "proof_key"))
    secret = X25519PrivateKey.from_private_bytes(private).exchange(peer)
    return _proof(secret, public_key(private), server_public, transcript)


def verify(server_private: bytes, device_public: bytes, transcript: bytes, proof: bytes) -> bool:
    """The server's side: whether the proof was made with the device's private key over this transcript.

    The device's key is one that canonical_x25519 returned. The comparison takes the same time wherever the proof
    differs.
    """
    secret = X25519PrivateKey.from_private_bytes(server_private).exchange(
        X25519PublicKey.from_public_bytes(device_public)
    )
    return hmac.compare_digest(_proof(secret, device_public, public_key(server_private), transcript), proof)


def _proof(secret: bytes, device_public: bytes, server_public: bytes, transcript: bytes) -> bytes:
    salt = hashlib.sha256(device_public + server_public).digest()
    key = HKDF(hashes.SHA256(), length=32, salt=salt, info=PROOF_CONTEXT).derive(secret)
    return hmac.digest(key, transcript, "sha256")


def _has_prime_order(u: int) -> bool:
    """Whether the point with coordinate u, multiplied by the subgroup's order, is the neutral element.

    This is the ladder of RFC 7748, section 5, with another scalar. Its timing tells about u, which is public.
    """
    if u == 0:  # The one point for which the ladder's formulas do not hold.
        return False
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in f"{_ORDER:b}":
        if bit == "1":
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b = x2 + z2, x2 - z2
        aa, bb = a * a % _P, b * b % _P
        da, cb = (x3 - z3) * a, (x3 + z3) * b
        x3, z3 = (da + cb) ** 2 % _P, u * ((da - cb) ** 2 % _P) % _P
        x2, z2 = aa * bb % _P, (aa - bb) * (aa + 121_665 * (aa - bb)) % _P
        if bit == "1":
            x2, z2, x3, z3 = x3, z3, x2, z2
    return z2 == 0
