"""Codes by which the user of a device may switch its client off for a while, although its profile locks the switch.

No code is stored: it is a MAC of the registration, the hour in which it was made and how long it holds.
"""

from dataclasses import dataclass

from guardhouse.durations import HOUR, MINUTE, SECOND
from guardhouse.errors import OverrideCodeInvalid, RateLimited, RegistrationNotFound, RegistrationRevoked
from guardhouse_services import audit
from guardhouse_services.access import Call
from guardhouse_services.credentials import MasterKey, equal
from guardhouse_services.database import Database, Transaction
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import LISTED, OVERRIDE_DIGITS, OVERRIDE_HOURS, OverrideCode, State

# An administrator reads codes one by one, for whoever has called.
READ_INTERVAL, READ_BURST = 2 * SECOND, 60
# Of ten million codes 46 are good at a time: whoever tries as often as this guesses one in some two and a half years.
TRY_INTERVAL, TRY_BURST = 6 * MINUTE, 10


@dataclass(frozen=True, slots=True)
class Shown:
    """The codes of this hour, the shortest first, and whether the registration's profile locks the switch at all."""

    codes: list[OverrideCode]
    switch_locked: bool


class OverrideCodes:
    """Shows the codes of a registration, and tells its device whether one is good."""

    def __init__(self, database: Database, master_key: MasterKey) -> None:
        self._database = database
        self._master_key = master_key

    async def get(self, call: Call, organization_id: str, registration_id: str) -> Shown:
        """Those that are made in this hour. It is on record who was shown them.

        Raises RegistrationNotFound, RegistrationRevoked and RateLimited.
        """

        def read(tx: Transaction) -> Shown:
            _take(tx, organization_id, call.caller.name, READ_INTERVAL, READ_BURST)
            switch_locked = _locked(tx, organization_id, registration_id)
            audit.note(tx, call, registration_id)
            hour = tx.now // HOUR
            codes = [self._code(organization_id, registration_id, hour, hours) for hours in OVERRIDE_HOURS]
            return Shown(codes, switch_locked)

        return await self._database.write(read)

    async def check(
        self, call: Call, organization_id: str, registration_id: str, code: str
    ) -> tuple[OverrideCode, bool]:
        """The code, when it is good now, and whether one is needed; of two that are the same the one that holds longer.
        It is on record.

        Raises OverrideCodeInvalid, RegistrationNotFound, RegistrationRevoked and RateLimited.
        """

        def try_it(tx: Transaction) -> tuple[OverrideCode, bool] | None:
            _take(tx, organization_id, registration_id, TRY_INTERVAL, TRY_BURST)
            switch_locked = _locked(tx, organization_id, registration_id)
            present = tx.now // HOUR
            made = (
                self._code(organization_id, registration_id, hour, hours)
                for hours in OVERRIDE_HOURS
                for hour in range(present - hours + 1, present + 1)
            )
            good = [it for it in made if equal(it.code.encode(), code.encode())]
            found = max(good, key=lambda it: it.expire_time, default=None)
            audit.note(tx, call, registration_id, reason="" if found else OverrideCodeInvalid.reason)
            return (found, switch_locked) if found else None

        found = await self._database.write(try_it)
        if found is None:
            raise OverrideCodeInvalid("code", "the code is not good for this registration now; ask for another")
        return found

    def _code(self, organization_id: str, registration_id: str, hour: int, hours: int) -> OverrideCode:
        mac = self._master_key.derive("override code", organization_id, registration_id, str(hour), str(hours))
        number = int.from_bytes(mac[:8]) % 10**OVERRIDE_DIGITS
        return OverrideCode(hours, f"{number:0{OVERRIDE_DIGITS}}", (hour + hours) * HOUR)


def _take(tx: Transaction, organization_id: str, subject: str, interval: int, burst: int) -> None:
    """Raises RateLimited."""
    missing = store.override_rates.take(tx, organization_id, subject, interval) - burst * interval
    if missing > 0:
        raise RateLimited("too many such calls; wait a moment", retry_after=missing / SECOND)


def _locked(tx: Transaction, organization_id: str, registration_id: str) -> bool:
    """Whether the profile of an active registration locks the switch."""
    found = store.registrations.find(tx, organization_id, registration_id)
    if found is None or found.state not in LISTED:
        raise RegistrationNotFound(registration_id)
    if found.state is not State.ACTIVE:
        raise RegistrationRevoked("the registration is revoked: its device cannot ask whether a code is good")
    profile = store.device_profiles.in_force(tx, organization_id, found.device_profile_id)
    return profile.settings.switch_locked
