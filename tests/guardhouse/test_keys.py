"""One canonical form for each device key, and proof of its possession (decision 21)."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from guardhouse import keys
from guardhouse.errors import KeyInvalid
from tests.guardhouse.bad_keys import BAD_KEYS, BAD_TEXTS, GOOD_KEY, GOOD_TEXT, HIGH_BIT, LOW_ORDER, OUTSIDE_SUBGROUP

VECTORS = json.loads(Path(__file__).with_name("proof_vectors.json").read_text(encoding="utf-8"))
SERVER = keys.new_private_key()
DEVICE = keys.new_private_key()


def a_transcript(**changes: str | bytes) -> bytes:
    parts = {
        "organization_id": "org_1",
        "challenge": "challenge",
        "public_key": keys.public_key(DEVICE),
        "hardware_id": "hardware",
        "request_id": "request",
    }
    return keys.transcript(**(parts | changes))  # type: ignore[arg-type]


def secret_with(public: bytes, private: bytes = SERVER) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


@pytest.mark.parametrize("raw", BAD_KEYS.values(), ids=BAD_KEYS)
def test_bad_keys_are_refused(raw: bytes) -> None:
    """Decision 21: the canonical form only."""
    with pytest.raises(KeyInvalid) as caught:
        keys.canonical_x25519(raw, "public_key")
    assert caught.value.field == "public_key"


@pytest.mark.parametrize("text", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_bad_texts_are_refused(text: str) -> None:
    """Decision 21: the one base64 of the canonical form only."""
    with pytest.raises(KeyInvalid) as caught:
        keys.decode_x25519(text, "public_key")
    assert caught.value.field == "public_key"


def test_good_key_is_accepted() -> None:
    """Decision 21: and what is accepted comes back unchanged."""
    assert keys.canonical_x25519(GOOD_KEY, "public_key") == GOOD_KEY
    assert keys.decode_x25519(GOOD_TEXT, "public_key") == GOOD_KEY


def test_bad_keys_are_what_their_names_say() -> None:
    """Decision 21: without the check the library would take these keys, as aliases of others or as no key at all."""
    for raw in LOW_ORDER.values():
        with pytest.raises(ValueError, match="computing shared key"):
            secret_with(raw)
    assert HIGH_BIT["good-key-high-bit"] != GOOD_KEY != OUTSIDE_SUBGROUP["good-key-plus-order-2"]
    assert secret_with(HIGH_BIT["good-key-high-bit"]) == secret_with(GOOD_KEY)
    assert secret_with(OUTSIDE_SUBGROUP["good-key-plus-order-2"]) == secret_with(GOOD_KEY)
    texts = {BAD_TEXTS[f"unused-bits-{bits}"] for bits in (1, 2, 3)}
    assert {base64.b64decode(text, validate=True) for text in texts | {GOOD_TEXT}} == {GOOD_KEY}
    assert len(texts) == 3


@given(st.binary(min_size=32, max_size=32))
def test_every_private_key_has_a_canonical_public_key(private: bytes) -> None:
    """Decision 21: no device that follows RFC 7748 is ever refused."""
    public = keys.public_key(private)
    assert keys.decode_x25519(base64.b64encode(public).decode(), "public_key") == public


def test_new_private_keys_differ() -> None:
    assert len({keys.new_private_key() for _ in range(100)}) == 100


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_proof_vectors(vector: dict[str, str]) -> None:
    """Decision 21: what the contract spells out, byte for byte. Another implementation gives the same proofs."""
    device, server = bytes.fromhex(vector["device_private"]), bytes.fromhex(vector["server_private"])
    device_public, server_public = keys.public_key(device), keys.public_key(server)
    assert keys.decode_x25519(vector["device_public_base64"], "public_key") == device_public
    assert (device_public.hex(), server_public.hex()) == (vector["device_public"], vector["server_public"])
    assert secret_with(device_public, server).hex() == vector["shared_secret"]
    assert (keys.PROOF_CONTEXT.decode(), keys.KEY_TYPE) == (VECTORS["context"], vector["key_type"])
    made = keys.transcript(
        organization_id=vector["organization_id"],
        challenge=vector["challenge"],
        public_key=device_public,
        hardware_id=vector["hardware_id"],
        request_id=vector["request_id"],
    )
    assert made.hex() == vector["transcript"]
    assert keys.prove(device, server_public, made).hex() == vector["proof"]
    assert keys.verify(server, device_public, made, bytes.fromhex(vector["proof"]))


def test_first_vector_is_the_exchange_of_the_rfc() -> None:
    """RFC 7748, section 6.1 anchors the vectors in a published one."""
    assert VECTORS["vectors"][0]["shared_secret"] == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


@pytest.mark.parametrize(
    "change",
    [
        {"organization_id": "org_2"},
        {"challenge": "challengf"},
        {"public_key": GOOD_KEY},
        {"hardware_id": "hardwarf"},
        {"request_id": "requesu"},
        {"hardware_id": "hardwarer", "request_id": "equest"},
    ],
    ids=str,
)
def test_a_proof_covers_every_part(change: dict[str, str | bytes]) -> None:
    """Decision 21: a proof made for one call serves no other, however the bytes are moved between the parts."""
    proof = keys.prove(DEVICE, keys.public_key(SERVER), a_transcript())
    assert keys.verify(SERVER, keys.public_key(DEVICE), a_transcript(), proof)
    assert not keys.verify(SERVER, keys.public_key(DEVICE), a_transcript(**change), proof)


def test_a_proof_takes_the_private_key() -> None:
    """Decision 21: a key seen elsewhere cannot be claimed, and a proof for one server is none for another."""
    device_public, server_public, other = keys.public_key(DEVICE), keys.public_key(SERVER), keys.new_private_key()
    proof = keys.prove(DEVICE, server_public, a_transcript())
    assert not keys.verify(SERVER, device_public, a_transcript(), keys.prove(other, server_public, a_transcript()))
    assert not keys.verify(SERVER, keys.public_key(other), a_transcript(), proof)
    assert not keys.verify(other, device_public, a_transcript(), proof)


@pytest.mark.parametrize("cut", [0, 31])
def test_part_of_a_proof_is_none(cut: int) -> None:
    """Decision 21: neither an empty proof nor its beginning is enough; nor is more than the proof."""
    proof = keys.prove(DEVICE, keys.public_key(SERVER), a_transcript())
    assert not keys.verify(SERVER, keys.public_key(DEVICE), a_transcript(), proof[:cut])
    assert not keys.verify(SERVER, keys.public_key(DEVICE), a_transcript(), proof + b"\0")


def test_a_device_refuses_a_bad_server_key() -> None:
    """Decision 21: with a key of low order the proof's secret would be known to all."""
    with pytest.raises(KeyInvalid):
        keys.prove(DEVICE, LOW_ORDER["one"], a_transcript())
