"""The keys that application tokens are signed with: making the next one, and withdrawing what is done with."""

import asyncio
from collections.abc import Sequence

from guardhouse.applications import SigningKey
from guardhouse.errors import LimitReached
from guardhouse.ids import SIGNING_KEY, new_id
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse_services import audit, requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.directory import Directory
from guardhouse_services.leases import for_each
from guardhouse_services.session import messages, store
from guardhouse_services.session.domain.signing_keys import LIMIT, Rotation, is_published, keep, rotate
from guardhouse_services.session.usecases.history import begin, publish

LOOK_SECONDS = 60.0


class SigningKeys:
    """Shows and rotates them."""

    def __init__(self, database: Database, directory: Directory) -> None:
        self._database = database
        self._directory = directory

    async def published(self, organization_id: str) -> Sequence[SigningKey]:
        """Those in the key set, the newest first. Raises OrganizationNotFound."""
        await self._directory.organization(organization_id)

        def work(tx: Transaction) -> Sequence[SigningKey]:
            keys = store.signing_keys.all_of(tx, organization_id)
            return [key for key in reversed(keys) if is_published(key, tx.now)]

        return await self._database.read(work)

    async def rotate(self, call: Call, organization_id: str, *, revoke_previous: bool) -> tuple[SigningKey, str]:
        """The new key and the revision token. Raises OrganizationNotFound and LimitReached."""
        await self._directory.organization(organization_id)

        def work(tx: Transaction) -> tuple[SigningKey, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return store.signing_keys.from_row(done["signing_key"]), tx.token(organization_id, done["revision"])
            revision = begin(tx, organization_id)
            keys = store.signing_keys.all_of(tx, organization_id)
            if not revoke_previous and sum(is_published(key, tx.now) for key in keys) >= LIMIT:
                message = f"{LIMIT} signing keys are published already; wait until one expires, or revoke_previous"
                raise LimitReached(message, limit=str(LIMIT))
            rotation = rotate(keys, new_id(SIGNING_KEY, tx.now), tx.now, revoke_previous=revoke_previous)
            made = rotation.written[0]
            row = store.signing_keys.to_row(made)
            requests.record(tx, call, *rotation.key_ids, signing_key=row, revision=revision)
            return made, publish(tx, organization_id, revision, write(tx, organization_id, rotation))

        return await self._database.write(work)

    async def run(self) -> None:
        """Does what is due whenever it is; for ever."""
        while True:
            await self.keep()
            await asyncio.sleep(LOOK_SECONDS)

    async def keep(self) -> None:
        """Does what is due now."""
        due = await self._database.read(store.signing_keys.due)
        await for_each(due, lambda it: self._database.write(lambda tx: _keep(tx, it)), "rotate the signing keys")


def write(tx: Transaction, organization_id: str, rotation: Rotation) -> list[pb.Event]:
    """Stores what becomes of the keys of the organization, which the caller has locked, and answers the events."""
    store.signing_keys.apply(tx, organization_id, rotation)
    return [
        *map(messages.signing_key_event, rotation.written),
        *(messages.signing_key_deleted_event(key.key_id) for key in rotation.withdrawn),
    ]


def _keep(tx: Transaction, organization_id: str) -> None:
    """A replica whose lease ran out may be doing the same, so what is due is looked at once more."""
    tx.lock(organization_id)
    keys = store.signing_keys.all_of(tx, organization_id)
    rotation = keep(keys, new_id(SIGNING_KEY, tx.now), tx.now)
    if not rotation.key_ids:
        return
    revision = begin(tx, organization_id)
    audit.note_entry(tx, audit.Entry(organization_id, "job:rotate signing keys", "", rotation.key_ids))
    publish(tx, organization_id, revision, write(tx, organization_id, rotation))
