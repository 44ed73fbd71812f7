"""Device keys: their one canonical form, and the proof that a device holds the private one (decision 21).

A kind of key is an object with one interface, `CURVE25519` or `SECP256R1`; `KEY_TYPES` finds it by the number that the
contract gives it. Private keys are 32 bytes: what RFC 7748 calls the scalar, or the number d of FIPS 186-5, big-endian.
docs/vectors/proof_of_possession.json has the proofs and the refused keys for other implementations.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from guardhouse.errors import KeyInvalid
from guardhouse.registry.v1 import registry_pb2 as registry

ENROLLMENT_CONTEXT: Final = b"guardhouse proof of possession v1"
ROTATION_CONTEXT: Final = b"guardhouse key rotation v1"

_P: Final = 2**255 - 19
_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
# -1 modulo the order, a multiple of 8, and between 2^254 and 2^255, so that clamping leaves it as it is (RFC 7748).
_MINUS_ONE: Final = X25519PrivateKey.from_private_bytes((8 * (_ORDER - pow(8, -1, _ORDER))).to_bytes(32, "little"))
"""The order of the subgroup of every X25519 public key that has a private key (RFC 7748, section 4.1)."""
_SPKI_LENGTH: Final = 91
_SIGNATURE_LENGTH: Final = 72
"""The longest DER of an ECDSA signature on P-256."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a proof covers: the context that says what the proof is for, and behind it each part behind its length."""

    context: bytes
    data: bytes

    @classmethod
    def of(cls, context: bytes, *parts: str | bytes) -> "Transcript":
        """Text is UTF-8 and a length is 4 bytes, big-endian. So no two different calls give the same bytes."""
        raw = (part.encode() if isinstance(part, str) else part for part in parts)
        return cls(context, context + b"".join(len(part).to_bytes(4, "big") + part for part in raw))


def enrollment_transcript(
    *,
    organization_id: str,
    challenge: str,
    key_type: "KeyType",
    public_key: bytes,
    hardware_id: str,
    request_id: str,
) -> Transcript:
    """What RegisterRequest.proof covers."""
    return Transcript.of(
        ENROLLMENT_CONTEXT, organization_id, challenge, key_type.name, public_key, hardware_id, request_id
    )


def rotation_transcript(
    *,
    organization_id: str,
    challenge: str,
    key_type: "KeyType",
    public_key: bytes,
    registration_id: str,
    current_public_key: bytes,
    request_id: str,
) -> Transcript:
    """What RotateKeyRequest.proof covers."""
    return Transcript.of(
        ROTATION_CONTEXT,
        organization_id,
        challenge,
        key_type.name,
        public_key,
        registration_id,
        current_public_key,
        request_id,
    )


class KeyType(Protocol):
    """A kind of device key."""

    number: registry.KeyType.ValueType
    """As the contract numbers it."""
    name: str
    """As a transcript names it."""

    def new_private_key(self) -> bytes:
        """The 32 bytes of a new private key. The device that makes them keeps them."""

    def public_key(self, private: bytes) -> bytes:
        """The public key that belongs to a private one, in its canonical form."""

    def canonical(self, raw: bytes, field: str) -> bytes:
        """The public key, if this is its canonical form. Raises KeyInvalid."""

    def prove(self, private: bytes, server_public: bytes, transcript: Transcript) -> bytes:
        """The device's side: a proof that only a holder of the private key can make.

        `server_public` is GetEnrollmentInfoResponse.proof_key. Raises KeyInvalid when it is no canonical X25519 key.
        """

    def verify(self, server_private: bytes, device_public: bytes, transcript: Transcript, proof: bytes) -> bool:
        """The server's side: whether the proof was made with the device's private key over this transcript.

        The device's key is one that `canonical` returned.
        """


class Curve25519:
    """X25519 (RFC 7748), what WireGuard uses: 32 bytes.

    WireGuard takes any 32 bytes for a public key, so nothing behind Guardhouse notices two spellings of one key; here
    every key has one.
    """

    number = registry.KEY_TYPE_CURVE25519
    name = "KEY_TYPE_CURVE25519"

    def new_private_key(self) -> bytes:
        return X25519PrivateKey.generate().private_bytes_raw()

    def public_key(self, private: bytes) -> bytes:
        return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()

    def canonical(self, raw: bytes, field: str) -> bytes:
        """The 32 bytes of a public key if they are its canonical form; about 0.1 ms, most of it for the last check.

        Raises KeyInvalid for another length, a set bit 255, a coordinate of p = 2^255 - 19 or more, and a point outside
        the subgroup of prime order. The last refuses the points of low order, with which every exchange gives zero, and
        also a key with such a point added to it: seven more keys, each canonical, that share all secrets with the
        first. So two accepted keys never stand for one private key, and every key that was made from a private key is
        accepted.
        """
        if len(raw) != 32:
            raise KeyInvalid(field, f"a public key has 32 bytes, not {len(raw)}")
        u = int.from_bytes(raw, "little")
        if u >= _P:  # So it is where bit 255 is set, which X25519 ignores.
            raise KeyInvalid(field, "the public key is not reduced modulo 2^255 - 19: it is another spelling of a key")
        if not _has_prime_order(raw):
            raise KeyInvalid(field, "the public key is of low order or otherwise belongs to no private key")
        return raw

    def decode(self, text: str, field: str) -> bytes:
        """The 32 bytes of a canonical public key in standard base64, the form that WireGuard's tools print.

        Raises KeyInvalid as `canonical` does, and for any text but the one that encoding those bytes gives.
        """
        try:
            raw = base64.b64decode(text, validate=True)
        except ValueError:
            raw = b""
        # A decoder overlooks the unused bits of the last digit, so four texts decode to one key.
        if not raw or base64.b64encode(raw).decode() != text:
            raise KeyInvalid(field, "a public key is written in standard base64, with padding and without spaces")
        return self.canonical(raw, field)

    def prove(self, private: bytes, server_public: bytes, transcript: Transcript) -> bytes:
        """HMAC-SHA256(key, transcript): 32 bytes.

        The key is the 32 bytes of HKDF-SHA256 (RFC 5869) over the secret that X25519 gives, with the transcript's
        context as info and the salt SHA-256(device public || server public).
        """
        peer = X25519PublicKey.from_public_bytes(self.canonical(server_public, "proof_key"))
        secret = X25519PrivateKey.from_private_bytes(private).exchange(peer)
        return _mac(secret, self.public_key(private), server_public, transcript)

    def verify(self, server_private: bytes, device_public: bytes, transcript: Transcript, proof: bytes) -> bool:
        """The comparison takes the same time wherever the proof differs."""
        private = X25519PrivateKey.from_private_bytes(server_private)
        secret = private.exchange(X25519PublicKey.from_public_bytes(device_public))
        return hmac.compare_digest(_mac(secret, device_public, self.public_key(server_private), transcript), proof)


class Secp256r1:
    """ECDSA on P-256 (FIPS 186-5): the DER of a SubjectPublicKeyInfo (RFC 5480), 91 bytes."""

    number = registry.KEY_TYPE_SECP256R1
    name = "KEY_TYPE_SECP256R1"

    def new_private_key(self) -> bytes:
        return ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value.to_bytes(32, "big")

    def public_key(self, private: bytes) -> bytes:
        return _spki(_p256(private).public_key())

    def canonical(self, raw: bytes, field: str) -> bytes:
        """The 91 bytes of a public key if they are its canonical form.

        That is the named curve and the uncompressed point. Raises KeyInvalid for a compressed point, explicit curve
        parameters, bytes behind the key, a point that is not on the curve, and another curve or kind of key.
        """
        if len(raw) == _SPKI_LENGTH:
            try:
                key = load_der_public_key(raw)
            except (ValueError, UnsupportedAlgorithm):
                key = None
            if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1) and _spki(key) == raw:
                return raw
        raise KeyInvalid(
            field,
            f"a public key is the {_SPKI_LENGTH} bytes of the DER of a SubjectPublicKeyInfo, with the named curve "
            "P-256 and an uncompressed point on it",
        )

    def prove(self, private: bytes, server_public: bytes, transcript: Transcript) -> bytes:
        """An ECDSA signature over SHA-256 of the transcript, as DER: at most 72 bytes."""
        return _p256(private).sign(transcript.data, ec.ECDSA(hashes.SHA256()))

    def verify(self, server_private: bytes, device_public: bytes, transcript: Transcript, proof: bytes) -> bool:
        key = load_der_public_key(device_public)
        if not isinstance(key, ec.EllipticCurvePublicKey) or len(proof) > _SIGNATURE_LENGTH:
            return False
        try:
            key.verify(proof, transcript.data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


CURVE25519: Final = Curve25519()
SECP256R1: Final = Secp256r1()
KEY_TYPES: Final[Mapping[int, KeyType]] = {it.number: it for it in (CURVE25519, SECP256R1)}
"""Every kind of key by the number that the contract gives it."""


def new_private_key(key_type: KeyType = CURVE25519) -> bytes:
    """The 32 bytes of a new private key."""
    return key_type.new_private_key()


def public_key(private: bytes, key_type: KeyType = CURVE25519) -> bytes:
    """The public key that belongs to a private one, in its canonical form."""
    return key_type.public_key(private)


def _p256(private: bytes) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(private, "big"), ec.SECP256R1())


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _mac(secret: bytes, device_public: bytes, server_public: bytes, transcript: Transcript) -> bytes:
    salt = hashlib.sha256(device_public + server_public).digest()
    key = HKDF(hashes.SHA256(), length=32, salt=salt, info=transcript.context).derive(secret)
    return hmac.digest(key, transcript.data, "sha256")


def _has_prime_order(raw: bytes) -> bool:
    """Whether the point with this coordinate is in the subgroup of prime order.

    X25519 multiplies by multiples of 8, which takes away whatever part of a point is of low order, and one of them is
    -1 modulo the subgroup's order. It leaves the coordinate of a point of the subgroup, and of no other, as it is.
    """
    try:
        return _MINUS_ONE.exchange(X25519PublicKey.from_public_bytes(raw)) == raw
    except ValueError:  # All of the point was of low order.
        return False
