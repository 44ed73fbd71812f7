"""Replacing a registration's key (decision 21)."""

from dataclasses import dataclass

from guardhouse.errors import KeyAlreadyRegistered, KeyNotCurrent, RegistrationNotFound, RegistrationRevoked
from guardhouse.keys import KEY_TYPES, rotation_transcript
from guardhouse_services import requests
from guardhouse_services.access import Call
from guardhouse_services.credentials import equal
from guardhouse_services.database import Database, Transaction
from guardhouse_services.failpoint import failpoint
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import LISTED, Registration, State
from guardhouse_services.registry.messages import to_event
from guardhouse_services.registry.usecases.proofs import Proofs


def check_never_held(tx: Transaction, public_key: bytes) -> None:
    """Raises KeyAlreadyRegistered for a key that a registration had before: what was replaced may have leaked.

    Asked once the key is held, so that nobody can hold it and replace it in between.
    """
    if store.former_keys.is_former(tx, public_key):
        raise KeyAlreadyRegistered("a registration had this public key before and replaced it; make a fresh one")


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a device asks for: the key that it replaces, and the one that comes."""

    organization_id: str
    registration_id: str
    current_public_key: bytes
    key_type: int
    public_key: bytes
    challenge: str
    proof: bytes


class Rotations:
    """The new key is live and the old one refused when the transaction commits."""

    def __init__(self, database: Database, proofs: Proofs) -> None:
        self._database = database
        self._proofs = proofs

    async def rotate(self, call: Call, wanted: Rotation) -> tuple[Registration, str]:
        """The registration and the revision token. Raises what RotateKey's comment names.

        The key is compared under the row's lock, so of several rotations of one key a single one is made, and one that
        comes late finds its key replaced.
        """
        organization_id, registration_id = wanted.organization_id, wanted.registration_id
        key_type = KEY_TYPES[wanted.key_type]
        self._proofs.check_key(organization_id, wanted.challenge, key_type, wanted.public_key)
        transcript = rotation_transcript(
            organization_id=organization_id,
            challenge=wanted.challenge,
            key_type=key_type,
            public_key=wanted.public_key,
            registration_id=registration_id,
            current_public_key=wanted.current_public_key,
            request_id=call.key.request_id,
        )
        self._proofs.check_proof(key_type, wanted.public_key, transcript, wanted.proof)

        def rotate(tx: Transaction) -> tuple[Registration, str]:
            if requests.find(tx, call.key) is not None:
                found = store.registrations.find(tx, organization_id, registration_id)
                if found is None or found.state not in LISTED:
                    raise RegistrationNotFound(registration_id)
                return found, tx.token(organization_id, tx.revision(organization_id))
            present = store.registrations.lock(tx, organization_id, [registration_id]).get(registration_id)
            if present is None:
                raise RegistrationNotFound(registration_id)
            if present.state != State.ACTIVE:
                raise RegistrationRevoked("the registration is revoked; an admin can restore it, or enroll again")
            if not equal(present.public_key, wanted.current_public_key):
                raise KeyNotCurrent(
                    "the key has been replaced since; read the registration, and decide anew",
                    registration_id=registration_id,
                )
            self._proofs.check_fresh(wanted.challenge, tx.now)
            if store.registrations.key_is_held(tx, wanted.public_key):
                raise KeyAlreadyRegistered("a live registration holds this public key; make a fresh one")
            rotated = store.registrations.rotate(
                tx, organization_id, registration_id, wanted.key_type, wanted.public_key
            )
            store.former_keys.retire(tx, present)
            check_never_held(tx, wanted.public_key)
            requests.record(tx, call, registration_id)
            revision = tx.publish(organization_id, [to_event(rotated)])
            failpoint("registry.rotate")
            return rotated, tx.token(organization_id, revision)

        return await self._database.write(rotate)
