"""Service tokens."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from guardhouse.ids import SERVICE_TOKEN, new_id
from guardhouse_services import etags, requests
from guardhouse_services.access import Call
from guardhouse_services.credentials import MasterKey, hash_secret
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import messages, store
from guardhouse_services.identity.domain.credentials import ServiceToken, TokenDeletion
from guardhouse_services.identity.store.tables import service_token
from guardhouse_services.identity.usecases.history import present, publish
from guardhouse_services.paging import Page

LIMIT = 1000
"""How many an organization may have."""


class ServiceTokens:
    """Creates, shows, changes and deletes tokens.

    Their secrets are derived from their ids and how often they were rotated, and stored nowhere (decision 10).
    """

    def __init__(self, database: Database, master_key: MasterKey) -> None:
        self._database = database
        self._master_key = master_key

    async def create(
        self,
        call: Call,
        organization_id: str,
        display_name: str,
        duration: int,
        expire_registrations_after: int | None = None,
    ) -> tuple[ServiceToken, str, str]:
        """The token, its secret and the revision token. Raises OrganizationNotFound and LimitReached."""

        def work(tx: Transaction) -> tuple[ServiceToken, str, str]:
            if (done := requests.find(tx, call.key)) is not None:
                service_token_id = done["service_token_id"]
                made = requests.recall(ServiceToken, done) or store.service_tokens.get(
                    tx, organization_id, service_token_id
                )
                return made, self._secret(service_token_id), present(tx, organization_id)
            store.organizations.require(tx, organization_id, lock=True)
            store.organizations.check_room(tx, organization_id, service_token, LIMIT)
            service_token_id = new_id(SERVICE_TOKEN, tx.now)
            secret = self._secret(service_token_id)
            client_id = f"{self._master_key.derive('service token client', service_token_id)[:16].hex()}.access"
            made = ServiceToken(
                service_token_id,
                display_name,
                client_id,
                hash_secret(secret),
                tx.now,
                tx.now + duration,
                expire_registrations_after=expire_registrations_after,
            )
            store.service_tokens.insert(tx, organization_id, made)
            value = requests.remember(_shown(made))
            requests.record(tx, call, service_token_id, service_token_id=service_token_id, value=value)
            return made, secret, publish(tx, organization_id)

        return await self._database.write(work)

    async def get(self, organization_id: str, service_token_id: str) -> ServiceToken:
        """Raises ServiceTokenNotFound."""
        return await self._database.read(lambda tx: store.service_tokens.get(tx, organization_id, service_token_id))

    async def page(self, organization_id: str, page: Page, display_name: str = "") -> Sequence[ServiceToken]:
        return await self._database.read(lambda tx: store.service_tokens.page(tx, organization_id, page, display_name))

    async def update(
        self, call: Call, organization_id: str, service_token_id: str, changes: dict[str, Any], etag: str = ""
    ) -> tuple[ServiceToken, str]:
        """Changes these fields. Disabling refuses both secrets from now on; enabling accepts those that are good still.

        Raises ServiceTokenNotFound and EtagMismatch.
        """

        def work(tx: Transaction) -> tuple[ServiceToken, str]:
            if (done := _done(tx, call)) is not None:
                return done, present(tx, organization_id)
            found = self._lock(tx, organization_id, service_token_id, etag)
            return self._save(tx, call, organization_id, replace(found, **changes, update_time=tx.now))

        return await self._database.write(work)

    async def rotate(
        self, call: Call, organization_id: str, service_token_id: str, grace: int, etag: str = ""
    ) -> tuple[ServiceToken, str, str]:
        """The token, its new secret and the revision token. The secret before it is good for `grace` microseconds more.

        Raises ServiceTokenNotFound and EtagMismatch.
        """

        def work(tx: Transaction) -> tuple[ServiceToken, str, str]:
            if (done := _done(tx, call)) is not None:
                return done, self._secret(service_token_id, done.secret_version), present(tx, organization_id)
            found = self._lock(tx, organization_id, service_token_id, etag)
            secret = self._secret(service_token_id, found.secret_version + 1)
            rotated = found.rotated(hash_secret(secret), grace, tx.now)
            rotated, token = self._save(tx, call, organization_id, rotated)
            return rotated, secret, token

        return await self._database.write(work)

    async def refresh(
        self, call: Call, organization_id: str, service_token_id: str, etag: str = ""
    ) -> tuple[ServiceToken, str]:
        """Has it expire a year later; the secrets stay. Raises ServiceTokenNotFound and EtagMismatch."""

        def work(tx: Transaction) -> tuple[ServiceToken, str]:
            if (done := _done(tx, call)) is not None:
                return done, present(tx, organization_id)
            found = self._lock(tx, organization_id, service_token_id, etag)
            return self._save(tx, call, organization_id, found.refreshed(tx.now))

        return await self._database.write(work)

    async def delete(
        self,
        call: Call,
        organization_id: str,
        service_token_id: str,
        etag: str = "",
        *,
        validate_only: bool = False,
    ) -> tuple[TokenDeletion, str]:
        """What goes and whom it leaves behind, and the revision token.

        Raises ServiceTokenNotFound and EtagMismatch, and ServiceTokenInUse (decision 11).
        """

        def work(tx: Transaction) -> tuple[TokenDeletion, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return requests.recall(TokenDeletion, done) or TokenDeletion(), present(tx, organization_id)
            found = self._lock(tx, organization_id, service_token_id, etag)
            store.service_tokens.delete(tx, organization_id, service_token_id)
            registrations = store.registrations.count_of_token(tx, organization_id, service_token_id)
            deletion = TokenDeletion(_shown(found), registrations)
            requests.record(tx, call, service_token_id, value=requests.remember(deletion))
            return deletion, publish(tx, organization_id)

        return await self._database.write(work, validate_only=validate_only)

    def _lock(self, tx: Transaction, organization_id: str, service_token_id: str, etag: str) -> ServiceToken:
        found = store.service_tokens.get(tx, organization_id, service_token_id, lock=True)
        etags.check(messages.service_token(found).etag, etag)
        return found

    def _save(
        self, tx: Transaction, call: Call, organization_id: str, changed: ServiceToken
    ) -> tuple[ServiceToken, str]:
        store.service_tokens.update(tx, organization_id, changed)
        requests.record(tx, call, changed.service_token_id, value=requests.remember(_shown(changed)))
        return changed, publish(tx, organization_id)

    def _secret(self, service_token_id: str, version: int = 1) -> str:
        """256 bits."""
        versions = [str(version)] if version > 1 else []
        return self._master_key.derive("service token", service_token_id, *versions).hex()


def _done(tx: Transaction, call: Call) -> ServiceToken | None:
    """The token as the same request left it."""
    done = requests.find(tx, call.key)
    return None if done is None else requests.recall(ServiceToken, done)


def _shown(token: ServiceToken) -> ServiceToken:
    """What of it may be remembered."""
    return replace(token, secret_hash=b"", previous_secret_hash=b"")
