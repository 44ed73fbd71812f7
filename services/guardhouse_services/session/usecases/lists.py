"""Named lists."""

from collections.abc import Callable, Sequence

from guardhouse.errors import ListInUse
from guardhouse.ids import LIST, new_id
from guardhouse_services import etags, requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.directory import Directory
from guardhouse_services.paging import Page
from guardhouse_services.session import messages, store
from guardhouse_services.session.domain.lists import ValueList
from guardhouse_services.session.usecases.history import begin, publish


class Lists:
    """Creates, shows, changes and deletes them."""

    def __init__(self, database: Database, directory: Directory) -> None:
        self._database = database
        self._directory = directory

    async def create(
        self, call: Call, organization_id: str, draft: Callable[[str, int], ValueList]
    ) -> tuple[ValueList, str]:
        """The list, which is drafted with its id and the time, and the revision token.

        Raises OrganizationNotFound, ListExists and LimitReached.
        """
        await self._directory.organization(organization_id)

        def work(tx: Transaction) -> tuple[ValueList, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return store.lists.from_row(done["list"]), tx.token(organization_id, done["revision"])
            revision = begin(tx, organization_id)
            store.lists.check_room(tx, organization_id)
            made = draft(new_id(LIST, tx.now), tx.now)
            store.lists.insert(tx, organization_id, made)
            return made, _publish(tx, call, organization_id, revision, made)

        return await self._database.write(work)

    async def get(self, organization_id: str, list_id: str) -> ValueList:
        """Raises ListNotFound."""
        return await self._database.read(lambda tx: store.lists.get(tx, organization_id, list_id))

    async def page(self, organization_id: str, page: Page) -> Sequence[ValueList]:
        """The page's lists without their values, and one more if there is one."""
        return await self._database.read(lambda tx: store.lists.page(tx, organization_id, page))

    async def update(
        self,
        call: Call,
        organization_id: str,
        list_id: str,
        etag: str,
        change: Callable[[ValueList, int], ValueList],
    ) -> tuple[ValueList, str]:
        """The list, changed at the time, and the revision token. Raises ListNotFound, EtagMismatch, ListExists, and
        ListInUse for another name while a policy uses the present one."""

        def work(tx: Transaction) -> tuple[ValueList, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return store.lists.from_row(done["list"]), tx.token(organization_id, done["revision"])
            revision = begin(tx, organization_id)
            found = store.lists.get(tx, organization_id, list_id)
            etags.check(messages.value_list(found).etag, etag)
            changed = change(found, tx.now)
            if changed.name != found.name:
                _check_free(tx, organization_id, found.name)
            store.lists.update(tx, organization_id, changed)
            return changed, _publish(tx, call, organization_id, revision, changed)

        return await self._database.write(work)

    async def delete(
        self, call: Call, organization_id: str, list_id: str, etag: str, *, validate_only: bool
    ) -> tuple[ValueList, str]:
        """The list as it was, and the revision token. Raises ListNotFound, EtagMismatch and ListInUse."""

        def work(tx: Transaction) -> tuple[ValueList, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return store.lists.from_row(done["list"]), tx.token(organization_id, done["revision"])
            revision = begin(tx, organization_id)
            found = store.lists.get(tx, organization_id, list_id)
            etags.check(messages.value_list(found).etag, etag)
            _check_free(tx, organization_id, found.name)
            store.lists.delete(tx, organization_id, list_id)
            return found, _publish(tx, call, organization_id, revision, found, deleted=True)

        return await self._database.write(work, validate_only=validate_only)


def _check_free(tx: Transaction, organization_id: str, name: str) -> None:
    """Raises ListInUse while policies of the organization, which the caller has locked, use a list of this name."""
    if users := store.policies.using(tx, organization_id, name):
        message = f"{len(users)} policies use ${name}, such as {users[0]}; take it out of them first"
        raise ListInUse(message, policy_ids=",".join(users[:NAMED]))


NAMED = 100
"""How many policies a refusal names."""


def _publish(
    tx: Transaction, call: Call, organization_id: str, revision: int, of: ValueList, *, deleted: bool = False
) -> str:
    """The list is remembered as it is now, because by the time of a repetition it may be gone."""
    requests.record(tx, call, of.list_id, list=store.lists.to_row(of), revision=revision)
    event = messages.list_deleted_event(of.list_id) if deleted else messages.list_event(of)
    return publish(tx, organization_id, revision, [event])
