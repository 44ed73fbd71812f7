"""Recognising devices by their registration tokens (decision 22)."""

import asyncio
from contextvars import Context
from dataclasses import dataclass

from guardhouse.errors import CredentialsInvalid
from guardhouse.registry.v1 import registry_pb2 as pb
from guardhouse_services.access import Caller
from guardhouse_services.credentials import equal, hash_secret, split_secret
from guardhouse_services.database import Database
from guardhouse_services.registry import store
from guardhouse_services.registry.domain import Registration, State
from guardhouse_services.registry.usecases.device_profiles import default_etag

_SERVICE = pb.DESCRIPTOR.services_by_name["RegistrationService"]
LEAVE = f"/{_SERVICE.full_name}/{_SERVICE.methods_by_name['Leave'].name}"

Found = dict[str, tuple[Registration, str]]

GATHER_SECONDS = 0.03
"""How far apart questions are at least: a device's call takes so much longer where many call."""


@dataclass(frozen=True, slots=True)
class DeviceCaller(Caller):
    """A device, with the profile of its registration and the etag of what that says."""

    device_profile_id: str = ""
    configuration_etag: str = ""


class Callers:
    """Asks the database at every call, for what is revoked is refused at once.

    Calls that arrive while one is asked for, or a moment after one was, are asked for together, so that many cost
    little more than one.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wanted: set[str] = set()
        self._next: asyncio.Task[Found] | None = None
        self._running: asyncio.Task[Found] | None = None
        self._asked = 0.0

    async def device(self, bearer: str) -> DeviceCaller:
        """The device that a registration token belongs to. Raises CredentialsInvalid.

        The device of a registration that is gone may call Leave and nothing else: it may not have heard the answer.
        """
        _, registration_id = split_secret(bearer)
        found, etag = (await self._ask(registration_id)).get(registration_id, (None, ""))
        if found is None or not equal(found.token_hash, hash_secret(bearer)):
            raise CredentialsInvalid("the registration token is of no active registration")
        only = LEAVE if found.state == State.DELETED else ""
        organization_id = found.organization_id
        return DeviceCaller(
            "device",
            registration_id,
            organization_id,
            only=only,
            device_profile_id=found.device_profile_id,
            configuration_etag=etag or default_etag(organization_id),
        )

    async def _ask(self, registration_id: str) -> Found:
        self._wanted.add(registration_id)
        if self._next is None:
            # It is for many calls, and none of theirs.
            self._next = asyncio.create_task(self._read(self._running), context=Context())
        return await asyncio.shield(self._next)

    async def _read(self, before: "asyncio.Task[Found] | None") -> Found:
        if before is not None:
            await asyncio.wait([before])
        loop = asyncio.get_running_loop()
        # A heartbeat each few milliseconds would be a transaction each; who comes alone waits for nobody.
        await asyncio.sleep(self._asked + GATHER_SECONDS - loop.time())
        self._asked = loop.time()
        wanted, self._wanted = self._wanted, set()
        self._running, self._next = self._next, None
        return await self._database.read(lambda tx: store.registrations.of_tokens(tx, wanted))
