"""Users: showing, revoking and removing them."""

from collections.abc import Sequence
from dataclasses import replace

from guardhouse.errors import UserNotFound, UserNotOffboarded
from guardhouse_services import requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.failpoint import failpoint
from guardhouse_services.identity import messages, store
from guardhouse_services.identity.domain.users import Removal, User
from guardhouse_services.identity.usecases import history, removing
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
            (revoked,), token = removing.revoke(tx, organization_id, [user], revoke_registrations=revoke_registrations)
            return revoked, registrations, token

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
            removal = removing.begin(tx, organization_id, users)
            ids = [user.user_id for user in users]
            requests.record(tx, call, removal.removal_id, *ids, removal_id=removal.removal_id)
            _, token = removing.finish(tx, organization_id, users, removal.removal_id)
            return removal, token

        return await self._database.write(work, validate_only=validate_only)

    async def offboard(
        self, call: Call, organization_id: str, user_id: str, *, validate_only: bool = False
    ) -> tuple[User, Removal, str]:
        """Removes a user, and refuses the person from now on. The user, the removal, and the revision token.

        All of it is one transaction, so that a crash leaves nothing half done; a user who is off-boarded already has
        gained nothing since, and is answered the same. Raises OrganizationNotFound and UserNotFound.
        """

        def work(tx: Transaction) -> tuple[User, Removal, str]:
            if (done := requests.find(tx, call.key)) is not None:
                user = store.users.get(tx, organization_id, user_id)
                return user, store.removals.get(tx, organization_id, done["removal_id"]), present(tx, organization_id)
            store.organizations.require(tx, organization_id)
            (user,) = _lock_known(tx, organization_id, [user_id])
            if user.block_time is not None:
                requests.record(tx, call, user_id, removal_id=user.removal_id)
                return user, store.removals.get(tx, organization_id, user.removal_id), present(tx, organization_id)
            removal = removing.begin(tx, organization_id, [user])
            requests.record(tx, call, removal.removal_id, user_id, removal_id=removal.removal_id)
            (blocked,), token = removing.finish(tx, organization_id, [user], removal.removal_id, block=True)
            return blocked, removal, token

        done = await self._database.write(work, validate_only=validate_only)
        failpoint("identity.removed")
        return done

    async def reinstate(
        self, call: Call, organization_id: str, user_id: str, *, validate_only: bool = False
    ) -> tuple[User, str]:
        """Lets the policies decide about a user again. The user and the revision token. Raises UserNotFound."""

        def work(tx: Transaction) -> tuple[User, str]:
            is_new = requests.find(tx, call.key) is None
            (user,) = _lock_known(tx, organization_id, [user_id])
            if is_new:
                requests.record(tx, call, user_id)
            if not is_new or user.block_time is None:
                return user, present(tx, organization_id)
            reinstated = replace(user, block_time=None)
            store.users.save(tx, organization_id, [reinstated])
            return reinstated, publish(tx, organization_id, [messages.user_event(reinstated)])

        return await self._database.write(work, validate_only=validate_only)

    async def erase(
        self, call: Call, organization_id: str, user_id: str, *, validate_only: bool = False
    ) -> tuple[User, str]:
        """Forgets who a user was. What is left of the user, and the revision token.

        Raises UserNotFound, and UserNotOffboarded while anything is still bound to the person.
        """

        def work(tx: Transaction) -> tuple[User, str]:
            is_new = requests.find(tx, call.key) is None
            # Somebody who tried to enroll and never did is known by name as well.
            users = store.users.lock(tx, organization_id, [user_id])
            if not users:
                raise UserNotFound(user_id)
            (user,) = users
            if user.is_erased:
                if is_new:
                    requests.record(tx, call, user_id)
                return user, present(tx, organization_id)
            _check_gone(tx, organization_id, user)
            if is_new:
                requests.record(tx, call, user_id)
            erased = user.erased()
            store.users.save(tx, organization_id, [erased])
            store.intents.erase(tx, organization_id, user_id)
            store.scim.erase(tx, organization_id, user_id)
            history.rewrite(tx, organization_id, user_id)
            return erased, publish(tx, organization_id, [messages.user_event(erased)])

        return await self._database.write(work, validate_only=validate_only)

    async def removal(self, organization_id: str, removal_id: str) -> Removal:
        """Raises RemovalNotFound."""
        return await self._database.read(lambda tx: store.removals.get(tx, organization_id, removal_id))


def _check_gone(tx: Transaction, organization_id: str, user: User) -> None:
    """Raises UserNotOffboarded while a seat, a registration or an enrollment under way is the user's."""
    if user.seat_time is not None:
        what = "the user holds a seat"
    elif store.intents.undecided_of(tx, organization_id, user.user_id):
        what = "an enrollment of the user is still under way"
    elif live := store.registrations.live_of(tx, organization_id, [user.user_id]):
        what = f"{len(live)} of the user's registrations are not gone yet"
    else:
        return
    advice = "off-board the user, and erase once the removal is done"
    raise UserNotOffboarded(f"{what}; {advice}", user_id=user.user_id)


def _lock_known(tx: Transaction, organization_id: str, user_ids: Sequence[str]) -> list[User]:
    """Raises UserNotFound, also for one who tried to enroll and never did.

    Whoever has enrolled a moment ago is known: Register has answered with the id, even if the registry's feed has not
    told of it here yet. So is whoever was off-boarded before it has.
    """
    users = store.users.lock(tx, organization_id, user_ids)
    known = {user.user_id for user in users if user.authenticate_time is not None or user.block_time is not None}
    unseen = {user.user_id for user in users} - known
    known.update(intent.user_id for intent in store.intents.reserved_by(tx, organization_id, unseen))
    for user_id in user_ids:
        if user_id not in known:
            raise UserNotFound(user_id)
    return users
