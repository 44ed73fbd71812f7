"""What identity says of users, as far as device profiles match it."""

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from guardhouse.decisions import Profile
from guardhouse_services.database import Transaction
from guardhouse_services.registry.store.tables import person
from guardhouse_services.statements import Insert, statement, upsert


def known(tx: Transaction, organization_id: str, user_ids: Collection[str]) -> dict[str, Profile]:
    """Those of them of whom something is known."""
    rows = _known(tx, organization_id, list(user_ids)) if user_ids else ()
    return {row.user_id: Profile(row.email, row.display_name, tuple(row.groups), tuple(row.claims)) for row in rows}


@statement
def _known(organization_id: str, user_ids: list[str]) -> sa.Select[Any]:
    return sa.select(person).where(person.c.organization_id == organization_id, person.c.user_id.in_(user_ids))


def save(tx: Transaction, organization_id: str, people: Mapping[str, Profile]) -> None:
    """In the order of their ids, which is that of everybody who locks them."""
    for user_id, of in sorted(people.items()):
        _save(tx, organization_id, user_id, of.email, of.display_name, list(of.groups), list(of.claims))


@upsert
def _save(
    insert: Insert,
    organization_id: str,
    user_id: str,
    email: str,
    display_name: str,
    groups: list[str],
    claims: list[str],
) -> sa.Executable:
    values = {"email": email, "display_name": display_name, "groups": groups, "claims": claims}
    saved = insert(person).values(organization_id=organization_id, user_id=user_id, **values)
    return saved.on_conflict_do_update(index_elements=["organization_id", "user_id"], set_=values)
