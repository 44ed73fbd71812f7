"""Challenges, and proofs that a device holds the private key of what it registers (decision 21)."""

import base64

from guardhouse.clock import Clock
from guardhouse.durations import MINUTE, SECOND
from guardhouse.errors import ChallengeInvalid, KeyInvalid, ProofInvalid
from guardhouse.keys import CURVE25519, KeyType, Transcript
from guardhouse_services.credentials import MasterKey, equal

CHALLENGE_LIFE = 5 * MINUTE
CHALLENGE_SKEW = 1 * MINUTE


class Proofs:
    """Nothing is stored: a challenge is a time and a MAC of it."""

    def __init__(self, clock: Clock, master_key: MasterKey) -> None:
        self._clock = clock
        self._master_key = master_key
        self._private = master_key.derive("proof of possession")
        self.proof_key = CURVE25519.public_key(self._private)

    def challenge(self, organization_id: str) -> tuple[str, int]:
        """A challenge for a device of the organization, and when it expires."""
        now = self._clock.now()
        return f"{now // SECOND}.{self._mac(organization_id, now // SECOND)}", now + CHALLENGE_LIFE

    def check_key(self, organization_id: str, challenge: str, key_type: KeyType, public_key: bytes) -> None:
        """Raises ChallengeInvalid for a challenge that was never issued to the organization, and KeyInvalid."""
        issued, _, mac = challenge.partition(".")
        if not (issued.isascii() and issued.isdigit() and len(issued) <= 12):
            raise ChallengeInvalid("challenge", "not a challenge; ask for one with GetEnrollmentInfo")
        if not equal(mac.encode(), self._mac(organization_id, int(issued)).encode()):
            raise ChallengeInvalid("challenge", "the challenge is not of this organization; ask for a new one")
        if equal(key_type.canonical(public_key, "public_key"), self.proof_key):
            raise KeyInvalid("public_key", "the key is the server's own")

    def check_proof(self, key_type: KeyType, public_key: bytes, transcript: Transcript, proof: bytes) -> None:
        """Raises ProofInvalid. The key is one that `check_key` has seen."""
        if not key_type.verify(self._private, public_key, transcript, proof):
            raise ProofInvalid("proof", "the proof does not show possession of the private key of public_key")

    def check_fresh(self, challenge: str, now: int) -> None:
        """Raises ChallengeInvalid for one that has expired.

        A repeated request may be older than its challenge's life; only what is new needs a fresh one.
        """
        age = now - int(challenge.partition(".")[0]) * SECOND
        if not -CHALLENGE_SKEW <= age <= CHALLENGE_LIFE:
            raise ChallengeInvalid("challenge", "the challenge has expired; ask for a new one")

    def _mac(self, organization_id: str, issued: int) -> str:
        mac = self._master_key.derive("challenge", organization_id, str(issued))
        return base64.urlsafe_b64encode(mac[:18]).decode()
