"""API keys."""

from collections.abc import Sequence
from dataclasses import replace

from guardhouse.common.v1 import access_pb2
from guardhouse.errors import InvalidField
from guardhouse.ids import API_KEY, new_id
from guardhouse_services import audit, requests
from guardhouse_services.access import Call
from guardhouse_services.config import CannotStart
from guardhouse_services.credentials import API_KEY_PREFIX, MasterKey, equal, format_secret, hash_secret
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import messages, store
from guardhouse_services.identity.domain.credentials import ApiKey
from guardhouse_services.identity.usecases.history import present, publish
from guardhouse_services.paging import Page

INSTALLATION = ""
LIMIT = 1000
"""How many keys an organization may have that are not revoked. Every replica of every service holds them all."""
# The same in every installation, so that replicas that start together make one key; its secret differs.
BOOTSTRAP = f"{API_KEY}_{'0' * 12}70008{'0' * 15}"


class ApiKeys:
    """Creates, shows and revokes keys. Their secrets are derived from their ids and stored nowhere (invariant I-31)."""

    def __init__(self, database: Database, master_key: MasterKey) -> None:
        self._database = database
        self._master_key = master_key

    async def create(
        self, call: Call, organization_id: str, display_name: str, role: int, expire_time: int | None
    ) -> tuple[ApiKey, str, str]:
        """The key, its secret and the revision token. Raises OrganizationNotFound, LimitReached and InvalidField."""

        def work(tx: Transaction) -> tuple[ApiKey, str, str]:
            if (done := requests.find(tx, call.key)) is not None:
                # As it was created: a key changes by being revoked, and in no other way.
                key = replace(store.api_keys.get(tx, organization_id, done["api_key_id"]), revoke_time=None)
                return key, self._secret(key.api_key_id), present(tx, organization_id)
            if organization_id != INSTALLATION:
                store.organizations.require(tx, organization_id, lock=True)
            store.api_keys.check_room(tx, organization_id, LIMIT)
            if expire_time is not None and expire_time <= tx.now:
                raise InvalidField("api_key.expire_time", "expire_time is in the past")
            key = self._make(new_id(API_KEY, tx.now), organization_id, display_name, role, tx.now, expire_time)
            store.api_keys.insert(tx, key)
            requests.record(tx, call, key.api_key_id, api_key_id=key.api_key_id)
            token = publish(tx, organization_id, [messages.api_key_event(key)])
            return key, self._secret(key.api_key_id), token

        return await self._database.write(work)

    async def page(self, organization_id: str, page: Page) -> Sequence[ApiKey]:
        return await self._database.read(lambda tx: store.api_keys.page(tx, organization_id, page))

    async def revoke(
        self, call: Call, organization_id: str, api_key_id: str, *, validate_only: bool = False
    ) -> tuple[ApiKey, str]:
        """The key and the revision token; a second time changes nothing. Raises ApiKeyNotFound."""

        def work(tx: Transaction) -> tuple[ApiKey, str]:
            is_new = requests.find(tx, call.key) is None
            key = store.api_keys.get(tx, organization_id, api_key_id, lock=True)
            if is_new:
                requests.record(tx, call, api_key_id)
            if key.revoke_time is not None:
                return key, present(tx, organization_id)
            store.api_keys.revoke(tx, organization_id, api_key_id)
            revoked = replace(key, revoke_time=tx.now)
            return revoked, publish(tx, organization_id, [messages.api_key_event(revoked)])

        return await self._database.write(work, validate_only=validate_only)

    async def ensure_admin_key(self) -> str:
        """The bearer of the installation's first ADMIN key, which is made when there never was one.

        An empty string once that key has been revoked: it does not come back. Raises CannotStart when the bearer would
        be one that nobody accepts.
        """

        def work(tx: Transaction) -> str:
            key = self._make(BOOTSTRAP, INSTALLATION, "bootstrap", access_pb2.ROLE_ADMIN, tx.now, None)
            if store.api_keys.insert(tx, key):
                audit.note_entry(tx, audit.Entry(INSTALLATION, "job:bootstrap", "", [BOOTSTRAP]))
                publish(tx, INSTALLATION, [messages.api_key_event(key)])
                return self._secret(BOOTSTRAP)
            present = store.api_keys.get(tx, INSTALLATION, BOOTSTRAP)
            if present.revoke_time is not None:
                return ""
            if not equal(present.secret_hash, key.secret_hash):
                raise CannotStart(
                    "this is not the installation's key of this database, whose first ADMIN key was made with another: "
                    "put that back (docs/operations.md says what to do when it is lost)"
                )
            return self._secret(BOOTSTRAP)

        return await self._database.write(work)

    def _make(
        self, api_key_id: str, organization_id: str, display_name: str, role: int, now: int, expire_time: int | None
    ) -> ApiKey:
        secret_hash = hash_secret(self._secret(api_key_id))
        return ApiKey(api_key_id, organization_id, display_name, role, now, expire_time, None, secret_hash)

    def _secret(self, api_key_id: str) -> str:
        return format_secret(API_KEY_PREFIX, api_key_id, self._master_key.derive("api key", api_key_id))
