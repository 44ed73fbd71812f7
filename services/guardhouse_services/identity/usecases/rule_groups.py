"""Rule groups: rules that policies share."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from guardhouse.ids import RULE_GROUP, new_id
from guardhouse_services import etags, requests
from guardhouse_services.access import Call
from guardhouse_services.database import Database, Transaction
from guardhouse_services.identity import messages, store
from guardhouse_services.identity.domain import policy_checks
from guardhouse_services.identity.domain.enrollment_policies import RuleGroup
from guardhouse_services.identity.store.tables import rule_group
from guardhouse_services.identity.usecases.history import present, publish
from guardhouse_services.paging import Page

LIMIT = 300
"""How many an organization may have. Every enrollment evaluates those that a policy names."""


class RuleGroups:
    """Creates, shows, changes and deletes groups. A change counts for whoever enrolls next."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, call: Call, organization_id: str, draft: RuleGroup) -> tuple[RuleGroup, str]:
        """The group and the revision token.

        Raises OrganizationNotFound, LimitReached, and InvalidField for rules that could never match.
        """

        def work(tx: Transaction) -> tuple[RuleGroup, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return _recalled(tx, organization_id, done["rule_group_id"], done), present(tx, organization_id)
            store.organizations.require(tx, organization_id, lock=True)
            rule_group_id = new_id(RULE_GROUP, tx.now)
            made = replace(draft, rule_group_id=rule_group_id, create_time=tx.now, update_time=tx.now)
            _check(made)
            store.organizations.check_room(tx, organization_id, rule_group, LIMIT)
            store.rule_groups.insert(tx, organization_id, made)
            requests.record(tx, call, rule_group_id, rule_group_id=rule_group_id, value=requests.remember(made))
            return made, publish(tx, organization_id)

        return await self._database.write(work)

    async def get(self, organization_id: str, rule_group_id: str) -> RuleGroup:
        """Raises RuleGroupNotFound."""
        return await self._database.read(lambda tx: store.rule_groups.get(tx, organization_id, rule_group_id))

    async def page(self, organization_id: str, page: Page) -> Sequence[RuleGroup]:
        return await self._database.read(lambda tx: store.rule_groups.page(tx, organization_id, page))

    async def update(
        self, call: Call, organization_id: str, rule_group_id: str, changes: dict[str, Any], etag: str = ""
    ) -> tuple[RuleGroup, str]:
        """Changes these fields. Raises RuleGroupNotFound, EtagMismatch and InvalidField as `create` does."""

        def work(tx: Transaction) -> tuple[RuleGroup, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return _recalled(tx, organization_id, rule_group_id, done), present(tx, organization_id)
            found = store.rule_groups.get(tx, organization_id, rule_group_id, lock=True)
            etags.check(messages.rule_group(found).etag, etag)
            changed = replace(found, **changes, update_time=tx.now)
            _check(changed)
            store.rule_groups.update(tx, organization_id, changed)
            requests.record(tx, call, rule_group_id, value=requests.remember(changed))
            return changed, publish(tx, organization_id)

        return await self._database.write(work)

    async def delete(
        self, call: Call, organization_id: str, rule_group_id: str, etag: str = "", *, validate_only: bool = False
    ) -> tuple[RuleGroup, str]:
        """What goes, and the revision token. Raises RuleGroupNotFound, EtagMismatch and RuleGroupInUse."""

        def work(tx: Transaction) -> tuple[RuleGroup, str]:
            if (done := requests.find(tx, call.key)) is not None:
                return _recalled(tx, organization_id, rule_group_id, done), present(tx, organization_id)
            found = store.rule_groups.get(tx, organization_id, rule_group_id, lock=True)
            etags.check(messages.rule_group(found).etag, etag)
            store.rule_groups.delete(tx, organization_id, rule_group_id)
            requests.record(tx, call, rule_group_id, value=requests.remember(found))
            return found, publish(tx, organization_id)

        return await self._database.write(work, validate_only=validate_only)


def _check(group: RuleGroup) -> None:
    """Raises InvalidField for rules that could never match."""
    group.check()
    policy_checks.check(group, "rule_group")


def _recalled(tx: Transaction, organization_id: str, rule_group_id: str, done: dict[str, Any]) -> RuleGroup:
    return requests.recall(RuleGroup, done) or store.rule_groups.get(tx, organization_id, rule_group_id)
