"""Codes by which the user of a device may switch its client off for a while, although its profile locks the switch.

Nothing is stored: a code is a MAC of the registration, the hour in which it was made and how long it holds.
"""

from guardhouse.clock import Clock
from guardhouse.durations import HOUR
from guardhouse.errors import OverrideCodeInvalid, RegistrationNotFound, RegistrationRevoked
from guardhouse_services import audit
from guardhouse_services.access import Call
from guardhouse_services.credentials import MasterKey, equal
from guardhouse_services.database import Database, Transaction
from guardhouse_services.rate_limit import RateLimit
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import LISTED, OVERRIDE_DIGITS, OVERRIDE_HOURS, OverrideCode, State

# An administrator reads codes one by one, for whoever has called.
READ_RATE, READ_BURST = 0.5, 60
# Of ten million codes 46 are good at a time: whoever tries as often as this guesses one in some two and a half years.
TRY_RATE, TRY_BURST = 10 / 3600, 10


class OverrideCodes:
    """Shows the codes of a registration, and tells its device whether one is good."""

    def __init__(self, clock: Clock, database: Database, master_key: MasterKey) -> None:
        self._clock = clock
        self._database = database
        self._master_key = master_key
        self._reads = RateLimit(READ_RATE, READ_BURST)
        self._tries = RateLimit(TRY_RATE, TRY_BURST)

    async def get(self, call: Call, organization_id: str, registration_id: str) -> list[OverrideCode]:
        """Those that are made in this hour, the shortest first. It is on record who was shown them.

        Raises RegistrationNotFound, RegistrationRevoked and RateLimited.
        """
        self._reads.take(f"{organization_id} {call.caller.name}")

        def read(tx: Transaction) -> list[OverrideCode]:
            _check(tx, organization_id, registration_id)
            audit.note(tx, call, registration_id)
            hour = tx.now // HOUR
            return [self._code(organization_id, registration_id, hour, hours) for hours in OVERRIDE_HOURS]

        return await self._database.write(read)

    async def check(self, call: Call, organization_id: str, registration_id: str, code: str) -> OverrideCode:
        """The code, when it is good now; of two that are the same the one that holds longer. It is on record.

        Raises OverrideCodeInvalid, RegistrationNotFound, RegistrationRevoked and RateLimited.
        """
        self._tries.take(registration_id)

        def try_it(tx: Transaction) -> OverrideCode | None:
            _check(tx, organization_id, registration_id)
            present = tx.now // HOUR
            made = (
                self._code(organization_id, registration_id, hour, hours)
                for hours in OVERRIDE_HOURS
                for hour in range(present - hours + 1, present + 1)
            )
            good = [it for it in made if equal(it.code.encode(), code.encode())]
            found = max(good, key=lambda it: it.expire_time, default=None)
            audit.note(tx, call, registration_id, reason="" if found else OverrideCodeInvalid.reason)
            return found

        found = await self._database.write(try_it)
        if found is None:
            raise OverrideCodeInvalid("code", "the code is not good for this registration now; ask for another")
        return found

    def _code(self, organization_id: str, registration_id: str, hour: int, hours: int) -> OverrideCode:
        mac = self._master_key.derive("override code", organization_id, registration_id, str(hour), str(hours))
        number = int.from_bytes(mac[:8]) % 10**OVERRIDE_DIGITS
        return OverrideCode(hours, f"{number:0{OVERRIDE_DIGITS}}", (hour + hours) * HOUR)


def _check(tx: Transaction, organization_id: str, registration_id: str) -> None:
    found = store.registrations.find(tx, organization_id, registration_id)
    if found is None or found.state not in LISTED:
        raise RegistrationNotFound(registration_id)
    if found.state is not State.ACTIVE:
        raise RegistrationRevoked("the registration is revoked: its device cannot ask whether a code is good")
