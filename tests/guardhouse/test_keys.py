"""One canonical form for each device key, and proof of its possession (decision 21)."""

import base64
import contextlib
import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from guardhouse.errors import KeyInvalid
from guardhouse.keys import (
    CURVE25519,
    KEY_TYPES,
    SECP256R1,
    KeyType,
    Transcript,
    enrollment_transcript,
    rotation_transcript,
)
from guardhouse.registry.v1 import registry_pb2 as registry
from tests.guardhouse.bad_keys import BAD_KEYS, BAD_TEXTS, GOOD_KEY, GOOD_TEXT, HIGH_BIT, LOW_ORDER, OUTSIDE_SUBGROUP

ORDER_OF_P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
VECTORS = json.loads((Path(__file__).parents[2] / "docs/vectors/proof_of_possession.json").read_text(encoding="utf-8"))
TYPES = {it.name: it for it in KEY_TYPES.values()}
SERVER = CURVE25519.new_private_key()
DEVICE = {it: it.new_private_key() for it in KEY_TYPES.values()}

each_type = pytest.mark.parametrize("key_type", KEY_TYPES.values(), ids=lambda it: it.name)


def named(key: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", VECTORS[key], ids=lambda vector: vector["name"])


def an_enrollment(key_type: KeyType, **changes: Any) -> Transcript:
    parts: dict[str, Any] = {
        "organization_id": "org_1",
        "challenge": "challenge",
        "key_type": key_type,
        "public_key": key_type.public_key(DEVICE[key_type]),
        "hardware_id": "hardware",
        "request_id": "request",
    }
    return enrollment_transcript(**(parts | changes))


def a_rotation(key_type: KeyType, **changes: Any) -> Transcript:
    parts: dict[str, Any] = {
        "organization_id": "org_1",
        "challenge": "challenge",
        "key_type": key_type,
        "public_key": key_type.public_key(DEVICE[key_type]),
        "registration_id": "reg_1",
        "current_public_key": GOOD_KEY,
        "request_id": "request",
    }
    return rotation_transcript(**(parts | changes))


def proves(key_type: KeyType, made: Transcript, wanted: Transcript, private: bytes = b"") -> bool:
    """Whether a proof over one transcript is one over the other."""
    private = private or DEVICE[key_type]
    proof = key_type.prove(private, CURVE25519.public_key(SERVER), made)
    return key_type.verify(SERVER, key_type.public_key(DEVICE[key_type]), wanted, proof)


def secret_with(public: bytes, private: bytes = SERVER) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


@pytest.mark.parametrize("text", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_bad_texts_are_refused(text: str) -> None:
    """Decision 21: the one base64 of the canonical form only."""
    with pytest.raises(KeyInvalid) as caught:
        CURVE25519.decode(text, "public_key")
    assert caught.value.field == "public_key"


def test_good_key_is_accepted() -> None:
    """Decision 21: and what is accepted comes back unchanged."""
    assert CURVE25519.canonical(GOOD_KEY, "public_key") == GOOD_KEY
    assert CURVE25519.decode(GOOD_TEXT, "public_key") == GOOD_KEY


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
    public = CURVE25519.public_key(private)
    assert CURVE25519.decode(base64.b64encode(public).decode(), "public_key") == public


@given(st.integers(1, ORDER_OF_P256 - 1))
def test_every_private_number_has_a_canonical_public_key(number: int) -> None:
    public = SECP256R1.public_key(number.to_bytes(32, "big"))
    assert SECP256R1.canonical(public, "public_key") == public


@each_type
def test_new_private_keys_differ_and_have_32_bytes(key_type: KeyType) -> None:
    made = [key_type.new_private_key() for _ in range(100)]
    assert len(set(made)) == 100
    assert {len(it) for it in made} == {32}
    for private in made[:10]:
        assert key_type.canonical(key_type.public_key(private), "public_key")


# Vectors for other implementations


def transcript_of(vector: dict[str, str]) -> Transcript:
    """The transcript that the values of a vector make."""
    make: Any = {"enrollment": enrollment_transcript, "rotation": rotation_transcript}[vector["purpose"]]
    parts: dict[str, Any] = {part: vector[part] for part in VECTORS["parts"][vector["purpose"]]}
    parts |= {part: bytes.fromhex(parts[part]) for part in ("public_key", "current_public_key") if part in parts}
    made: Transcript = make(**parts | {"key_type": TYPES[vector["key_type"]]})
    return made


@named("proofs")
def test_proofs_of_the_vectors(vector: dict[str, str]) -> None:
    """Decision 21: what the contract spells out, byte for byte. Another implementation gives and takes the same."""
    key_type, proof = TYPES[vector["key_type"]], bytes.fromhex(vector["proof"])
    private, server = bytes.fromhex(vector["private_key"]), bytes.fromhex(vector["server_private"])
    public, server_public = key_type.public_key(private), CURVE25519.public_key(server)
    assert (public.hex(), server_public.hex()) == (vector["public_key"], vector["server_public"])
    assert key_type.canonical(public, "public_key") == public
    made = transcript_of(vector)
    assert made.context.decode() == VECTORS["contexts"][vector["purpose"]]
    assert made.data.hex() == vector["transcript"]
    assert key_type.verify(server, public, made, proof)
    assert key_type.verify(server, public, made, key_type.prove(private, server_public, made))
    if key_type is CURVE25519:
        assert CURVE25519.decode(vector["public_key_base64"], "public_key") == public
        assert secret_with(public, server).hex() == vector["shared_secret"]
        assert key_type.prove(private, server_public, made) == proof


def test_the_vectors_are_of_every_kind_and_purpose() -> None:
    kinds = {(vector["key_type"], vector["purpose"]) for vector in VECTORS["proofs"]}
    assert kinds == set(product(TYPES, ("enrollment", "rotation")))
    assert kinds == {(vector["key_type"], vector["purpose"]) for vector in VECTORS["refused_proofs"]}


def test_the_vectors_are_anchored_in_published_ones() -> None:
    """RFC 7748, section 6.1, and RFC 6979, appendix A.2.5."""
    exchange = VECTORS["proofs"][0]["shared_secret"]
    assert exchange == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    (signer,) = [it for it in VECTORS["proofs"] if "RFC 6979" in it["name"]]
    assert signer["public_key"][-128:] == (
        "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
        "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
    )


@named("refused_proofs")
def test_refused_proofs_of_the_vectors(vector: dict[str, str]) -> None:
    """Decision 21: another context, order, call, key or form is no proof."""
    key_type, wanted = TYPES[vector["key_type"]], transcript_of(vector)
    assert wanted.data.hex() == vector["transcript"]
    public, server = bytes.fromhex(vector["public_key"]), bytes.fromhex(vector["server_private"])
    assert key_type.canonical(public, "public_key") == public
    assert not key_type.verify(server, public, wanted, bytes.fromhex(vector["proof"]))


@named("refused_keys")
def test_bad_keys_are_refused(vector: dict[str, str]) -> None:
    """Decision 21: the canonical form only."""
    with pytest.raises(KeyInvalid) as caught:
        TYPES[vector["key_type"]].canonical(bytes.fromhex(vector["public_key"]), "public_key")
    assert caught.value.field == "public_key"


def test_the_vectors_have_every_bad_key() -> None:
    assert {raw.hex() for raw in BAD_KEYS.values()} <= {vector["public_key"] for vector in VECTORS["refused_keys"]}


def test_libraries_load_some_of_the_refused_keys() -> None:
    """So the form has to be checked beside: some are the key of another vector once more."""
    loaded = {}
    for vector in VECTORS["refused_keys"]:
        with contextlib.suppress(ValueError, UnsupportedAlgorithm):
            key = load_der_public_key(bytes.fromhex(vector["public_key"]))
            loaded[vector["name"]] = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex()
    others = {vector["public_key"] for vector in VECTORS["proofs"]}
    aliases = {name for name, key in loaded.items() if key in others}
    assert {"compressed point", "hybrid point"} <= aliases
    assert "explicit parameters" in loaded


# What a proof covers


CHANGES: list[dict[str, Any]] = [
    {"organization_id": "org_2"},
    {"challenge": "challengf"},
    {"public_key": GOOD_KEY},
    {"request_id": "requesu"},
]


@each_type
@pytest.mark.parametrize(
    "change",
    [*CHANGES, {"hardware_id": "hardwarf"}, {"hardware_id": "hardwarer", "request_id": "equest"}],
    ids=str,
)
def test_a_proof_covers_every_part(key_type: KeyType, change: dict[str, Any]) -> None:
    """Decision 21: a proof made for one call serves no other, however the bytes are moved between the parts."""
    made = an_enrollment(key_type)
    assert proves(key_type, made, made)
    assert not proves(key_type, made, an_enrollment(key_type, **change))


@each_type
@pytest.mark.parametrize(
    "change", [*CHANGES, {"registration_id": "reg_2"}, {"current_public_key": GOOD_KEY[::-1]}], ids=str
)
def test_a_proof_of_a_rotation_covers_every_part(key_type: KeyType, change: dict[str, Any]) -> None:
    """Decision 21: among them the key that is replaced, so that a late one finds it replaced."""
    made = a_rotation(key_type)
    assert proves(key_type, made, made)
    assert not proves(key_type, made, a_rotation(key_type, **change))
    assert not proves(key_type, made, an_enrollment(key_type))


@each_type
def test_a_proof_covers_the_kind_of_key(key_type: KeyType) -> None:
    (other,) = set(KEY_TYPES.values()) - {key_type}
    public = key_type.public_key(DEVICE[key_type])
    made = an_enrollment(key_type)
    assert not proves(key_type, made, an_enrollment(other, public_key=public))


@each_type
def test_a_proof_takes_the_private_key(key_type: KeyType) -> None:
    """Decision 21: a key seen elsewhere cannot be claimed."""
    made, another = an_enrollment(key_type), key_type.new_private_key()
    assert not proves(key_type, made, made, private=another)


def test_a_proof_of_x25519_is_for_one_server() -> None:
    made, other = an_enrollment(CURVE25519), CURVE25519.new_private_key()
    proof = CURVE25519.prove(DEVICE[CURVE25519], CURVE25519.public_key(SERVER), made)
    assert not CURVE25519.verify(other, CURVE25519.public_key(DEVICE[CURVE25519]), made, proof)


@each_type
def test_part_of_a_proof_is_none(key_type: KeyType) -> None:
    """Decision 21: neither an empty proof nor its beginning is enough; nor is more than the proof."""
    made, public = an_enrollment(key_type), key_type.public_key(DEVICE[key_type])
    proof = key_type.prove(DEVICE[key_type], CURVE25519.public_key(SERVER), made)
    assert key_type.verify(SERVER, public, made, proof)
    for other in (b"", proof[:-1], proof + b"\0", proof * 2):
        assert not key_type.verify(SERVER, public, made, other)


def test_a_device_refuses_a_bad_server_key() -> None:
    """Decision 21: with a key of low order the proof's secret would be known to all."""
    with pytest.raises(KeyInvalid):
        CURVE25519.prove(DEVICE[CURVE25519], LOW_ORDER["one"], an_enrollment(CURVE25519))


def test_there_is_an_object_for_each_kind_of_the_contract() -> None:
    """By the name that the transcripts of other implementations give it."""
    known = {it.name: it.number for it in registry.KeyType.DESCRIPTOR.values if it.number}
    assert {it.name: number for number, it in KEY_TYPES.items()} == known
