"""Challenges: when a re-authentication was asked for (decision 33)."""

import base64

from guardhouse.clock import Clock
from guardhouse.durations import MINUTE
from guardhouse.errors import ChallengeInvalid
from guardhouse_services.credentials import MasterKey, equal

CHALLENGE_LIFE = 10 * MINUTE
"""Identity judges it, for it alone knows whether an older one comes with a request that is repeated."""


class Challenges:
    """Nothing is stored: a challenge is a time in microseconds and a MAC of it for its registration."""

    def __init__(self, clock: Clock, master_key: MasterKey) -> None:
        self._clock = clock
        self._master_key = master_key

    def new(self, organization_id: str, registration_id: str) -> tuple[str, int]:
        """A challenge, and when it expires."""
        now = self._clock.now()
        return f"{now}.{self._mac(organization_id, registration_id, str(now))}", now + CHALLENGE_LIFE

    def asked_time(self, organization_id: str, registration_id: str, challenge: str) -> int:
        """When it was made. Raises ChallengeInvalid for one that was never made for the registration."""
        asked, _, mac = challenge.partition(".")
        if not (asked.isascii() and asked.isdigit() and len(asked) <= 18):
            raise ChallengeInvalid("challenge", "not a challenge; ask for one with StartReauthentication")
        if not equal(mac.encode(), self._mac(organization_id, registration_id, asked).encode()):
            raise ChallengeInvalid("challenge", "the challenge is not of this registration; ask for a new one")
        return int(asked)

    def _mac(self, organization_id: str, registration_id: str, asked: str) -> str:
        mac = self._master_key.derive("reauthentication", organization_id, registration_id, asked)
        return base64.urlsafe_b64encode(mac[:18]).decode()
