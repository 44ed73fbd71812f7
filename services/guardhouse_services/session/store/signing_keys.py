"""The keys that application tokens are signed with: what is public of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from guardhouse.applications import SigningKey
from guardhouse_services.database import Transaction
from guardhouse_services.paging import Page
from guardhouse_services.session.domain.signing_keys import EVERY, Rotation
from guardhouse_services.session.store.tables import signing_key
from guardhouse_services.statements import Insert, statement, upsert


def apply(tx: Transaction, organization_id: str, rotation: Rotation) -> None:
    """Writes what is new or changed, and deletes what goes."""
    for key in rotation.written:
        _put(tx, organization_id, key.key_id, key.create_time, key.sign_time, key.expire_time)
    for key in rotation.withdrawn:
        _delete(tx, organization_id, key.key_id)


@upsert
def _put(
    insert: Insert, organization_id: str, key_id: str, create_time: int, sign_time: int, expire_time: int | None
) -> sa.Executable:
    wanted = insert(signing_key).values(
        organization_id=organization_id,
        key_id=key_id,
        create_time=create_time,
        sign_time=sign_time,
        expire_time=expire_time,
    )
    return wanted.on_conflict_do_update(index_elements=["organization_id", "key_id"], set_={"expire_time": expire_time})


@statement
def _delete(organization_id: str, key_id: str) -> sa.Executable:
    return signing_key.delete().where(signing_key.c.organization_id == organization_id, signing_key.c.key_id == key_id)


def all_of(tx: Transaction, organization_id: str) -> Sequence[SigningKey]:
    """By creation, those that have expired and are still here among them."""
    return list(map(from_row, _all_of(tx, organization_id).mappings()))


@statement
def _all_of(organization_id: str) -> sa.Select[Any]:
    query = sa.select(signing_key).where(signing_key.c.organization_id == organization_id)
    return query.order_by(signing_key.c.key_id)


def page(tx: Transaction, organization_id: str, wanted: Page) -> Sequence[SigningKey]:
    """The page's keys by creation, and one more if there is one."""
    return [key for key in all_of(tx, organization_id) if key.key_id > wanted.after][: wanted.size + 1]


def due(tx: Transaction) -> Sequence[str]:
    """The organizations, of all that there are, with a key that is to be followed by the next or withdrawn."""
    return [row.organization_id for row in _due(tx, tx.now - EVERY, tx.now)]


@statement
def _due(created: int, expired: int) -> sa.Select[Any]:
    query = sa.select(signing_key.c.organization_id).group_by(signing_key.c.organization_id)
    newest, first_to_go = sa.func.max(signing_key.c.create_time), sa.func.min(signing_key.c.expire_time)
    return query.having(sa.or_(newest <= created, first_to_go <= expired))


def to_row(of: SigningKey) -> dict[str, Any]:
    """As the table has it, without the organization; only what JSON can hold."""
    return {
        "key_id": of.key_id,
        "create_time": of.create_time,
        "sign_time": of.sign_time,
        "expire_time": of.expire_time,
    }


def from_row(row: Mapping[Any, Any]) -> SigningKey:
    return SigningKey(row["key_id"], row["create_time"], row["sign_time"], row["expire_time"])
