"""Users: showing, revoking and removing them."""

from collections.abc import Sequence
from dataclasses import replace

from guardhouse.errors import UserNotFound
from guardhouse.ids import REMOVAL, new_id
from guardhouse_services import requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import messages, store
from guardhouse_services.identity.domain.enrollments import IntentState
from guardhouse_services.identity.domain.users import Removal, User
from guardhouse_services.identity.usecases.history import present, publish
from guardhouse_services.paging import Page


class Users:
    """What administrators do with users (decision 5)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, organization_id: str, user_id: str) -> User:
        """A user who has authenticated. Raises UserNotFound."""
        user = await self._database.read(lambda tx: store.users.get(tx, organization_id, user_id))
        if user.authenticate_time is None:
            raise UserNotFound(user_id)
        return user

    async def page(self, organization_id: str, page: Page, email: str, has_seat: bool | None) -> Sequence[User]:
        return await self._database.read(lambda tx: store.users.page(tx, organization_id, page, email, has_seat))

    async def revoke(
        self,
        call: Call,
        organization_id: str,
        user_id: str,
        revoke_registrations: bool,
        *,
        validate_only: bool = False,
    ) -> tuple[User, int, str]:
        """Ends the user's sessions; the seat stays (decision 35).

        The user, of how many live registrations the sessions end, and the revision token. Raises UserNotFound. Who
        follows the feed orders it against authentications and registrations by its revision.
        """

        def work(tx: Transaction) -> tuple[User, int, str]:
            if (done := requests.find(tx, call.key)) is not None:
                user = store.users.get(tx, organization_id, user_id)
                return user, done.get("registrations", 0), present(tx, organization_id)
            (user,) = _lock_known(tx, organization_id, [user_id])
            registrations = len(store.registrations.live_of(tx, organization_id, [user_id]))
            requests.record(tx, call, user_id, registrations=registrations)
            revision = tx.advance(organization_id)
            revoked = replace(user, revoked_revision=revision)
            if revoke_registrations:
                revoked = replace(revoked, registrations_revoked_revision=revision)
            store.users.save(tx, organization_id, [revoked])
            return revoked, registrations, publish(tx, organization_id, [messages.user_event(revoked)], revision)

        return await self._database.write(work, validate_only=validate_only)

    async def remove(
        self,
        call: Call,
        organization_id: str,
        user_ids: Sequence[str],
        everybody: bool,
        *,
        validate_only: bool = False,
    ) -> tuple[Removal, str]:
        """Removes these users, or everybody: all of them or, when an id is unknown, nobody.

        Frees their seats at once, and refuses their enrollments under way. The removal and the revision token. Raises
        OrganizationNotFound and UserNotFound.
        """

        def work(tx: Transaction) -> tuple[Removal, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return store.removals.get(tx, organization_id, done["removal_id"]), present(tx, organization_id)
            store.organizations.require(tx, organization_id)
            if everybody:
                users = store.users.lock_everybody(tx, organization_id)
            else:
                users = _lock_known(tx, organization_id, user_ids)
            ids = [user.user_id for user in users]
            reserved = store.intents.reserved_by(tx, organization_id, ids)
            intents = [intent.intent_id for intent in reserved]
            seated = {user.user_id for user in users if user.seat_time is not None}
            seated.update(intent.user_id for intent in reserved)
            store.intents.move(tx, organization_id, intents, IntentState.REMOVED)
            store.organizations.free_seats(tx, organization_id, len(seated))
            removal = Removal(new_id(REMOVAL, tx.now), tx.now, len(users), len(seated))
            registrations = store.registrations.live_of(tx, organization_id, ids)
            store.removals.insert(tx, organization_id, removal, {*registrations, *intents})
            removal = store.removals.get(tx, organization_id, removal.removal_id)
            requests.record(tx, call, removal.removal_id, *ids, removal_id=removal.removal_id)
            revision = tx.advance(organization_id)
            removed = [
                replace(user, seat_time=None, removed_revision=revision, removal_id=removal.removal_id)
                for user in users
            ]
            store.users.save(tx, organization_id, removed)
            return removal, publish(tx, organization_id, [messages.user_event(user) for user in removed], revision)

        return await self._database.write(work, validate_only=validate_only)

    async def removal(self, organization_id: str, removal_id: str) -> Removal:
        """Raises RemovalNotFound."""
        return await self._database.read(lambda tx: store.removals.get(tx, organization_id, removal_id))


def _lock_known(tx: Transaction, organization_id: str, user_ids: Sequence[str]) -> list[User]:
    """Raises UserNotFound, also for one who tried to enroll and never did.

    Whoever has enrolled a moment ago is known: Register has answered with the id, even if the registry's feed has not
    told of it here yet.
    """
    users = store.users.lock(tx, organization_id, user_ids)
    known = {user.user_id for user in users if user.authenticate_time is not None}
    unseen = {user.user_id for user in users} - known
    known.update(intent.user_id for intent in store.intents.reserved_by(tx, organization_id, unseen))
    for user_id in user_ids:
        if user_id not in known:
            raise UserNotFound(user_id)
    return users
