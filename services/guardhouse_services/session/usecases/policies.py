"""Gateway policies."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from guardhouse.durations import format_duration
from guardhouse.errors import DurationInvalid, InvalidField
from guardhouse.ids import POLICY, new_id
from guardhouse_services import etags, requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.directory import Directory
from guardhouse_services.paging import Page
from guardhouse_services.session import messages, store
from guardhouse_services.session.domain.policies import (
    Policy,
    PolicyWarning,
    Terms,
    check_lists,
    lists_of,
    warnings,
)
from guardhouse_services.session.replica import Replica
from guardhouse_services.session.usecases.history import begin, publish

Written = tuple[Policy, Sequence[PolicyWarning], str]
"""The policy, what to look at once more, and the revision token."""


def check_quarantine(database: Database, quarantine: int) -> None:
    """Raises DurationInvalid for one that is shorter than a policy stays open (decision 25)."""
    with database.engine.connect() as connection:
        longest = store.policies.longest_open(connection)
    if longest > quarantine:
        raise DurationInvalid(
            "quarantine",
            f"quarantine is {format_duration(quarantine)}, and a policy has a max_open of {format_duration(longest)}: "
            "make it at least as long, or shorten the policy's first",
        )


class Policies:
    """Creates, shows, changes, orders and deletes them."""

    def __init__(self, database: Database, directory: Directory, replica: Replica) -> None:
        self._database = database
        self._directory = directory
        self._replica = replica

    async def create(self, call: Call, organization_id: str, terms: Terms) -> Written:
        """Raises OrganizationNotFound, PrecedenceTaken, LimitReached, InvalidField for what such a policy cannot have
        and for an expression that cannot be used, and DurationInvalid for a staleness that cannot be."""
        self.check(terms, "policy")
        await self._directory.organization(organization_id)

        def work(tx: Transaction) -> Written:
            if (done := requests.find(tx, call.key)) is not None:
                return self._repeated(tx, organization_id, done)
            revision = begin(tx, organization_id)
            store.policies.check_room(tx, organization_id, terms.filter)
            policy_id = new_id(POLICY, tx.now)
            placed = store.policies.place(tx, organization_id, terms, policy_id)
            policy = Policy(policy_id, placed, create_time=tx.now, update_time=tx.now)
            found, names = self._look(tx, organization_id, terms)
            store.policies.insert(tx, organization_id, policy, names)
            return policy, found, self._publish(tx, call, organization_id, revision, policy)

        return await self._database.write(work)

    async def get(self, organization_id: str, policy_id: str) -> Policy:
        """Raises PolicyNotFound."""
        return await self._database.read(lambda tx: store.policies.get(tx, organization_id, policy_id))

    async def page(self, organization_id: str, page: Page) -> Sequence[Policy]:
        """The page's policies, and one more if there is one."""
        return await self._database.read(lambda tx: store.policies.page(tx, organization_id, page))

    async def update(
        self, call: Call, organization_id: str, policy_id: str, etag: str, change: Callable[[Policy], Terms]
    ) -> Written:
        """Raises PolicyNotFound, EtagMismatch, and as create for a whole that cannot be."""

        def work(tx: Transaction) -> Written:
            if (done := requests.find(tx, call.key)) is not None:
                return self._repeated(tx, organization_id, {"policy_id": policy_id, **done})
            revision = begin(tx, organization_id)
            policy = store.policies.get(tx, organization_id, policy_id)
            etags.check(messages.policy(policy).etag, etag)
            terms = change(policy)
            self.check(terms, "policy")
            if terms.filter != policy.terms.filter:
                store.policies.check_room(tx, organization_id, terms.filter)
            terms = store.policies.place(tx, organization_id, terms, policy_id)
            policy = replace(policy, terms=terms, update_time=tx.now)
            found, names = self._look(tx, organization_id, terms)
            store.policies.update(tx, organization_id, policy, names)
            return policy, found, self._publish(tx, call, organization_id, revision, policy)

        return await self._database.write(work)

    async def reorder(
        self, call: Call, organization_id: str, policy_ids: Sequence[str]
    ) -> tuple[Sequence[Policy], str]:
        """Gives the policies the precedences that they have, in this order. They, and the revision token.

        Raises PolicyNotFound.
        """

        def work(tx: Transaction) -> tuple[Sequence[Policy], str]:
            if (done := requests.find(tx, call.key)) is not None:
                return [store.policies.from_row(row) for row in done["policies"]], tx.token(
                    organization_id, done["revision"]
                )
            revision = begin(tx, organization_id)
            found = [
                store.policies.placed(tx, organization_id, store.policies.get(tx, organization_id, policy_id))
                for policy_id in policy_ids
            ]
            precedences = sorted(policy.terms.precedence or 0 for policy in found)
            ordered = [
                replace(policy, terms=replace(policy.terms, precedence=precedence), update_time=tx.now)
                for policy, precedence in zip(found, precedences, strict=True)
            ]
            store.policies.set_precedences(tx, organization_id, ordered)
            rows = [store.policies.to_row(policy) for policy in ordered]
            requests.record(tx, call, *policy_ids, policies=rows, revision=revision)
            return ordered, publish(tx, organization_id, revision, [messages.policy_event(it) for it in ordered])

        return await self._database.write(work)

    async def delete(
        self, call: Call, organization_id: str, policy_id: str, etag: str, *, validate_only: bool
    ) -> tuple[Policy | None, str]:
        """The policy as it was, and the revision token. Raises PolicyNotFound and EtagMismatch."""

        def work(tx: Transaction) -> tuple[Policy | None, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return _remembered(done), tx.token(organization_id, done["revision"])
            revision = begin(tx, organization_id)
            policy = store.policies.get(tx, organization_id, policy_id)
            etags.check(messages.policy(policy).etag, etag)
            store.policies.delete(tx, organization_id, policy_id)
            return policy, self._publish(tx, call, organization_id, revision, policy, deleted=True)

        return await self._database.write(work, validate_only=validate_only)

    def check(self, terms: Terms, field: str) -> None:
        """Raises InvalidField and DurationInvalid for what cannot be, whatever else there is."""
        terms.check(field)
        if terms.staleness is not None:
            max_open = f"{field}.staleness.max_open"
            terms.staleness.check(self._replica.max_staleness, self._replica.max_open, max_open)

    def _look(self, tx: Transaction, organization_id: str, terms: Terms) -> tuple[list[PolicyWarning], frozenset[str]]:
        """What to look at once more, and the names of the lists that the expressions use. Raises InvalidField."""
        expressions = terms.expressions("policy")
        names = lists_of(expressions)
        lists = store.lists.named(tx, organization_id, names)
        check_lists(expressions, lists, "policy")
        return warnings(terms, expressions, lists, self._replica.sign_in_hosts(organization_id)), names

    def _repeated(self, tx: Transaction, organization_id: str, done: dict[str, Any]) -> Written:
        policy = _remembered(done) or store.policies.get(tx, organization_id, done["policy_id"])
        try:
            found, _ = self._look(tx, organization_id, policy.terms)
        except InvalidField:
            found = []  # A list that it used has gone since.
        return policy, found, tx.token(organization_id, done["revision"])

    def _publish(
        self,
        tx: Transaction,
        call: Call,
        organization_id: str,
        revision: int,
        policy: Policy,
        *,
        deleted: bool = False,
    ) -> str:
        """The policy is remembered as it is now, because by the time of a repetition it may be gone."""
        policy_id, row = policy.policy_id, store.policies.to_row(policy)
        requests.record(tx, call, policy_id, policy_id=policy_id, policy=row, revision=revision)
        event = messages.policy_deleted_event(policy_id) if deleted else messages.policy_event(policy)
        return publish(tx, organization_id, revision, [event])


def _remembered(done: dict[str, Any]) -> Policy | None:
    """What a repeated request was answered. The first release remembered no policy."""
    return store.policies.from_row(done["policy"]) if "policy" in done else None
